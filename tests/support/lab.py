"""Labs for tests: real guests in a sandbox with our hooks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.guest import image
from libvirt_guestnet.sandbox import Sandbox

PINGS = """
import sys
from libvirt_guestnet.lab import run
from libvirt_guestnet.libvirtd.connection import connect
with connect() as connection, run.guest_agent(connection, sys.argv[1]) as agent:
    print("ready", flush=True)
    ping = agent.ping(sys.argv[2], int(sys.argv[3]), 0.25, 20)
    print(ping.sent, ping.received)
"""
LABS = Path(__file__).parents[2] / "labs"


class Lab:
    """A topology's lab, up, in a sandbox of its own."""

    def __init__(self, sandbox: Sandbox, topology: Path) -> None:
        self.sandbox, self.topology = sandbox, topology

    def guestnet(self, *argv: str, stdin: str = "", timeout: float = 480) -> subprocess.CompletedProcess[str]:
        """Runs `guestnet` inside; the topology goes in on standard input where `-` stands for it."""
        command = self.sandbox.python(["-m", "libvirt_guestnet.cli", "--topology-name", str(self.topology), *argv])
        text = stdin or self.topology.read_text()
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)

    def verify(self, text: str = "") -> list[dict[str, Any]]:
        done = self.guestnet("lab", "verify", "--here", "--json", "-", stdin=text)
        assert done.stdout, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        assert done.returncode == (1 if any(row["result"] != "ok" for row in rows) else 0)
        return rows

    def unexpected(self, text: str = "") -> set[str]:
        """What `verify` finds wrong, as "from > to check [family]"."""
        bad = [row for row in self.verify(text) if row["result"] != "ok"]
        print(*bad, sep="\n")  # pytest shows it if the test fails
        return {f"{row['from']} > {row['to']} {row['check']} {row['family']}".strip() for row in bad}

    def virsh(self, *argv: str) -> str:
        return self.sandbox.run(["virsh", "-q", *argv], timeout=240).stdout

    def python(self, code: str, *argv: str, text: str = "") -> str:
        """Runs Python inside, with the topology (in `text`, or the lab's own) loaded as `topology`."""
        head = (
            "import sys; from libvirt_guestnet import topology as t; from libvirt_guestnet.lab import run; "
            "from libvirt_guestnet.libvirtd.connection import connect; topology = t.loads(sys.stdin.read(), 'test')\n"
        )
        command = self.sandbox.python(["-c", head + code, *argv])
        topology = text or self.topology.read_text()
        done = subprocess.run(command, input=topology, capture_output=True, text=True, timeout=480)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pings(self, guest: str, address: str, count: int) -> subprocess.Popen[str]:
        """A guest pings, four times a second, while other things happen; it prints how many were sent and answered."""
        command = self.sandbox.python(["-c", PINGS, guest, address, str(count)])
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        return started

    def agent(self, guest: str, call: str) -> str:
        """One call on a guest's agent, for example `set_forwarding(False)`; prints what it returns."""
        return self.python(f"with connect() as c, run.guest_agent(c, sys.argv[1]) as a: print(a.{call})", guest)

    def await_guest(self, guest: str) -> None:
        self.agent(guest, "ready(60)")


def lab_up(name: str, topology: Path) -> Iterator[Lab]:
    image.ensure_image()
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    with sandboxes.start(f"{name}-{os.getpid()}", prepare=[install]) as sandbox:
        lab = Lab(sandbox, topology)
        up = lab.guestnet("lab", "up", "--here", "-")
        assert up.returncode == 0, up.stdout + up.stderr
        yield lab


def without(text: str, *lines: str) -> str:
    """A topology without the lines that contain any of the given words."""
    return "".join(f"{line}\n" for line in text.splitlines() if not any(word in line for word in lines))

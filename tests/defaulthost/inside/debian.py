"""The Debian host that this runs on, with what tests of real libvirt daemons know to ask (support/libvirt_host.py)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.libvirt_host import Guests

LIBRARY, COPIED = Path("/opt/libvirt-guestnet"), Path("/opt/copied/bin/python3")
PYTHON = LIBRARY / ".venv/bin/python3"
HOOKS = [Path(f"/etc/libvirt/hooks/{driver}.d/50-guestnet") for driver in ("qemu", "network")]
UNIT = Path("/etc/systemd/system/libvirt-guestnet.service")
NETWORKD = Path("/etc/systemd/network/0-libvirt-guestnet.network")
NETWORK_MANAGER = Path("/etc/NetworkManager/conf.d/99-libvirt-guestnet.conf")
APPARMOR = Path("/etc/apparmor.d/local/usr.sbin.libvirtd")
BRIDGE = "gn-lan"
_SECONDS = 600
_LAST = (
    "journalctl --no-pager -q -b -u libvirtd | tail -n 40",
    "journalctl --no-pager -q -b -u libvirt-guestnet | tail -n 40",
    "journalctl --no-pager -q -b -t libvirt-guestnet | tail -n 20",
    "systemctl --no-pager --failed",
    "nft list tables; ip -br link; virsh -q list --all; virsh -q net-list --all",
    "journalctl --no-pager -q -k -g apparmor=.DENIED | tail -n 20",
)


class Here:
    """Runs programs here, as `Sandbox.run` does there."""

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = _SECONDS, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
        said = f"{' '.join(map(str, argv))} ended with status {done.returncode}:\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
        return done


class DebianHost(Guests):
    """This host."""

    virsh_seconds = soon_seconds = float(_SECONDS)

    def __init__(self) -> None:
        super().__init__(Here())

    def sh(self, script: str) -> str:
        return self.sandbox.run(["sh", "-euc", script]).stdout.strip()

    def guestnet(self, *words: str, python: Path = PYTHON) -> tuple[int, str]:
        """Exit status of the command line, and what it says."""
        argv = ["env", "-u", "PYTHONPATH", "-C", str(LIBRARY), str(python), "-m", "libvirt_guestnet.cli", *words]
        done = self.sandbox.run(argv, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def well(self, *words: str, python: Path = PYTHON) -> str:
        """What it says, where that has to go well."""
        status, said = self.guestnet(*words, python=python)
        assert status == 0, f"guestnet {' '.join(words)} ended with status {status}:\n{said}"
        return said

    def must(self, python: Path = PYTHON) -> dict[tuple[str, str], str]:
        """What has to be done, as `doctor` says it: (check, about) and what it has found."""
        rows = json.loads(self.guestnet("doctor", "--json", python=python)[1])
        return {(row["check"], row["about"]): row["found"] for row in rows if row["level"] == "must"}

    def soon_guarded(self, guest: str = "g") -> str:
        """Waits until each of a guest's taps is guarded, and in its bridge."""
        self.soon(lambda: self.is_guarded(guest), f"the NICs of {guest} are guarded")
        return f"guarded: {', '.join(self.nics(guest))}"

    def is_guarded(self, guest: str) -> bool:
        taps = self.nics(guest)
        ports = {path.name for path in Path("/sys/class/net", BRIDGE, "brif").glob("*")}
        return bool(taps) and self.guarded() == taps and ports >= set(taps) and not self.files("plugging")

    def chains(self) -> set[tuple[str, str, str]]:
        """Our chains in the kernel: family, table, name."""
        text = self.sandbox.run(["nft", "list", "chains"]).stdout
        tables = re.findall(r"^table (\S+) (\S+) {\n(.*?)^}", text, re.M | re.S)
        found = ((family, table, re.findall(r"^\tchain (\S+)", body, re.M)) for family, table, body in tables)
        return {(family, table, name) for family, table, names in found if "guestnet" in table for name in names}

    def addresses(self) -> set[str]:
        """Those of the network's bridge, but for what follows from its MAC address."""
        shown = json.loads(self.sandbox.run(["ip", "-j", "address", "show", "dev", BRIDGE]).stdout)
        return {each["local"] for each in shown[0]["addr_info"] if each["scope"] == "global"}


def same(found: object, wanted: object) -> None:
    """Raises AssertionError that says what was found instead."""
    assert found == wanted, f"{found!r} is not {wanted!r}"


def last_seen() -> str:
    """What libvirtd and our service have logged last, and how things are."""
    return "\n".join(_shown(each) for each in _LAST)


def _shown(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=_SECONDS)
    return f"--- {command}\n{done.stdout}{done.stderr}"

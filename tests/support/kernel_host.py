"""The host of tests that have a kernel and taps alone. Of libvirt there is what tests call the hooks with, and what it
would have on record in /run."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from support.hooks import Hooks
from support.killed import ALTERED_CALL

# Folders of notes of those that are at work.
NOTES = "connecting changing incoming plugging reconnect repairing settling"


class Host(Hooks):
    """What guests have, and what hooks have left running."""

    def all(self) -> str:
        """Everything that guests have, in the kernel and in receipts; not the map that is made of these. Not every
        kernel has VLANs and VRFs: the lab VM has."""
        commands = (
            "nft -s list ruleset; iptables-save | grep -v '^[#:]'; ip -4 route show table all proto 71",
            "ip neigh show proxy; ip -br link; ip -br address",
            "cd /run/libvirt-guestnet; for f in $(find . -name '*.json' ! -name network.json | sort); "
            "do echo $f; tr -d , <$f | sort; done",
            "cat /run/libvirt-guestnet/lock",
        )
        return "".join(self.box.ok("sh", "-c", command) for command in commands)

    def chain(self, tap: str) -> str:
        """The guard of a tap; "" if it has none."""
        return self.box.run("nft", "list", "chain", "netdev", "guestnet", f"tap-{tap}").stdout.decode()

    def routed(self) -> set[str]:
        lines = self.box.ok("sh", "-c", "ip -4 route show table all proto 71").splitlines()
        return {" ".join(line.split()[:5]) for line in lines}

    def soon(self, true: Callable[[], bool], what: str = "") -> None:
        """Waits for something that a process does on its own."""
        end = time.monotonic() + 240
        while not true():
            assert time.monotonic() < end, what
            time.sleep(0.02)

    def processes(self) -> list[tuple[int, str]]:
        """Those of ours inside, each with its command line."""
        inside = self.box.processes().items()
        return [(pid, words) for pid, words in inside if "main.py" in words or "main.run" in words]

    def settled(self) -> None:
        """What a start leaves behind, a moment later, is done."""
        self.soon(lambda: self.processes() == [], "done")

    def kill(self, of: str) -> None:
        """The process whose command line has this; there is exactly one."""
        found = [pid for pid, words in self.processes() if of in words]
        assert len(found) == 1, self.processes()
        os.kill(found[0], signal.SIGKILL)
        self.soon(lambda: found[0] not in [pid for pid, _ in self.processes()], "killed")

    def signal_helper(self, which: signal.Signals) -> int:
        """To the one process that a plugged NIC's hook has left; its number."""
        (helper,) = [pid for pid, words in self.processes() if "port-created" in words]
        os.kill(helper, which)
        return helper

    def notes(self) -> list[str]:
        """All that a process is at, or was."""
        listed = f"cd /run/libvirt-guestnet; ls -d $(echo {NOTES} | tr ' ' '\\n' | sed 's|$|/*|') 2>/dev/null; true"
        return self.box.ok("sh", "-c", listed).split()

    def altered(self, change: str, operation: str, xml: bytes, hook: str = "qemu") -> int:
        """How a call ends in which something of ours is another."""
        argv = [sys.executable, "-IS", "-c", ALTERED_CALL.format(change), hook, "a", operation, "begin", "-"]
        return self.box.run("sh", "-c", '"$@"; exit $?', "sh", *argv, stdin=xml).returncode

"""A box to run root programs in: network and mount namespaces of its own, an empty /run, gone with the test."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

_HOLD = 'mount -t tmpfs -o mode=755 run /run && mount -t sysfs sys /sys && ip link set lo up && echo ready && exec "$@"'


class Box:
    """`run` runs inside; the holder process dies with this process, and the namespaces with it."""

    def __init__(self, seconds: int = 600) -> None:
        hold = [
            "unshare",
            "--net",
            "--mount",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _HOLD,
            "box",
            "sleep",
            str(seconds),
        ]
        self.holder = subprocess.Popen(hold, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n", "no namespaces: these tests need root"
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        self.pid = children[0]

    def run(self, *argv: str, stdin: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", "-t", self.pid, "--net", "--mount", "--", *argv]
        return subprocess.run(enter, input=stdin, capture_output=True, timeout=timeout)

    def ok(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def add_taps(self, *names: str) -> None:
        for name in names:
            self.ok("ip", "tuntap", "add", name, "mode", "tap")

    def processes(self) -> dict[int, str]:
        """The command lines of those that run inside, by number; other tests' run beside them."""
        home, found = Path(f"/proc/{self.pid}/ns/net").readlink(), {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                if (process / "ns/net").readlink() == home:
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()

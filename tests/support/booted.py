"""A Debian that systemd has booted, in a sandbox: libvirt, firewalls and Docker as their own units start them.

::

    sandbox (its own libvirtd is held back)
      └─ systemd in a PID, mount and cgroup namespace of its own; the sandbox's network, files and host name
           ├─ libvirtd.service, libvirt-guestnet.service as `guestnet hooks install` makes it
           └─ nftables.service, firewalld.service, ufw.service, docker.service: off until a test starts them

It ends with the sandbox, and a process of its own takes its control groups away then, also when the tests are killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from libvirt_guestnet.sandbox import Sandbox, python_inside
from libvirt_guestnet.sandbox.registry import Process

FIREWALLS = ("docker.service", "docker.socket", "containerd.service", "firewalld.service", "ufw.service", "nftables.service")  # fmt: skip  # noqa: E501
_BOOT = """
mount -t tmpfs -o mode=755 run /run && mkdir /run/lock
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=sandbox PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""
_JOIN = 'echo 0 >"$0/cgroup.procs"; exec "$@"'
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--cgroup", "--kill-child", "--mount-proc")
_TIDY = """
tail --pid="$1" -f /dev/null
for try in $(seq 100); do
    find "$2" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$2" ] || exit 0
    sleep 0.1
done
"""
_BOOT_SECONDS = 240
# libvirt 12's daemon waits for a key to encrypt secrets with, which systemd-creds cannot make in a sandbox.
_WITHOUT_SECRETS = (
    "mkdir -p /etc/systemd/system/libvirtd.service.d"
    " && ln -sf /dev/null /etc/systemd/system/libvirtd.service.d/10-secret.conf"
)


@dataclass(frozen=True)
class Booted(Sandbox):
    """The host that systemd has booted; `first` is systemd. It ends with its sandbox."""

    def restart_libvirtd(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.run(["systemctl", "kill", f"--signal={with_signal.name}", "libvirtd"])
        self.run(["systemctl", "restart", "libvirtd"])

    def guestnet(self, *argv: str, check: bool = True) -> str:
        """What `guestnet` says when it is run there."""
        command = python_inside(["-m", "libvirt_guestnet.cli", *argv], self.root)
        return self.run(command, check=check, timeout=480).stdout


@contextmanager
def booted(sandbox: Sandbox) -> Iterator[Booted]:
    """Boots the system that a sandbox stands on, with nothing running that a test has not asked for. The sandbox should
    have been prepared with WITHOUT_NODEDEV: its libvirtd is stopped as soon as it runs."""
    sandbox.stop_libvirtd()
    sandbox.run(["systemctl", "disable", *FIREWALLS])
    sandbox.run(["sh", "-c", _WITHOUT_SECRETS])
    group = _cgroup()
    argv = ["sh", "-c", _JOIN, str(group), *sandbox.command([*_NAMESPACES, "sh", "-c", _BOOT])]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        subprocess.Popen(["sh", "-c", _TIDY, "tidy", str(process.pid), str(group)], start_new_session=True)
        try:
            host = Booted(sandbox.name, sandbox.root, sandbox.keep, Process.of(_systemd(process.pid)))
            _wait(host)
            yield host
        finally:
            process.kill()


def _cgroup() -> Path:
    """A new control group; systemd wants version 2, wherever that is mounted."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    root = next(Path(words[4]) for words in mounts if words[words.index("-") + 1] == "cgroup2")
    group = root / f"guestnet-test-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    return group


def _systemd(nsenter: int) -> int:
    """The process under nsenter, setpriv and unshare, once it is there."""
    pid = nsenter
    for _ in range(2):
        children, deadline = list[str](), time.monotonic() + 240
        while not children:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pid = int(children[0])
    return pid


def _wait(host: Booted) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS
    while (state := host.run(["systemctl", "is-system-running"], check=False).stdout.strip()) != "running":
        assert state != "degraded", host.run(["systemctl", "--failed", "--no-pager"]).stdout
        assert time.monotonic() < deadline, state
        time.sleep(0.1)

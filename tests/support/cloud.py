"""The image of a Debian guest with cloud-init, and SSH to such a guest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/make-cloud-image"
BOOT_SECONDS = 2400
"""Without KVM and beside other tests."""

CMDLINE = (
    "root=/dev/vda rw console=ttyS0 quiet audit=0 apparmor=0 mitigations=off nokaslr tsc=reliable no_timer_check "
    "random.trust_cpu=on"
)

USER_DATA = "#cloud-config\nssh_genkeytypes: [ed25519]\nwrite_files: [{ path: /etc/told, content: hello }]\n"
"""No RSA key, which takes a minute without KVM."""


class CloudImage(NamedTuple):
    """A disk, and what boots it."""

    disk: Path
    kernel: Path
    initrd: Path

    @property
    def domain_xml(self) -> str:
        """The user's <domain>: it has no boot loader."""
        boot = f"<kernel>{self.kernel}</kernel><initrd>{self.initrd}</initrd><cmdline>{CMDLINE}</cmdline>"
        return f"<domain><os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os></domain>"


def cloud_image() -> CloudImage:
    """The image that scripts/make-cloud-image has made."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--path"], capture_output=True, text=True, timeout=60)
    folder = Path(done.stdout.strip())
    if done.returncode:
        pytest.skip("no image of a Debian guest: run scripts/make-cloud-image")
    return CloudImage(folder / "disk.raw", folder / "kernel", folder / "initrd")


def make_key(folder: Path) -> Path:
    """A new SSH key; the public one is beside it."""
    key = folder / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test@example", "-f", str(key)]
    subprocess.run(argv, check=True, timeout=60)
    return key


def ssh(key: Path, address: str, *command: str, source: str = "", by: str = "") -> list[str]:
    """The command line that runs a command in a guest as its default user, by way of another guest at `by`."""
    quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=120")
    options = [word for option in (*quiet, "LogLevel=ERROR") for word in ("-o", option)]
    if by:
        options += ["-o", f"ProxyCommand={' '.join([*ssh(key, by), '-W', '[%h]:%p'])}"]
    bind = ["-b", source] if source else []
    return ["ssh", "-F", "none", "-i", str(key), *options, *bind, f"debian@{address}", *command]


def await_login(login: Callable[[], subprocess.CompletedProcess[str]], console: Callable[[], str]) -> None:
    """Waits until a guest lets its user in."""
    deadline = time.monotonic() + BOOT_SECONDS
    while (done := login()).returncode != 0:
        assert time.monotonic() < deadline, f"{done.stderr}\n{console()[-6000:]}"
        time.sleep(3)

"""The hooks' Python inside of libvirtd's profile, as Debian writes it and Debian's kernel enforces it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_guestnet.install import apparmor, hook_files
from libvirt_guestnet.install.apparmor import Confined
from libvirt_guestnet.metadata.policy import NAMESPACE

PROFILE, LOCAL = Path("/etc/apparmor.d/usr.sbin.libvirtd"), Path("/etc/apparmor.d/local/usr.sbin.libvirtd")
HOOK = Path("/etc/libvirt/hooks/qemu.d/50-guestnet")
COPIED = "/opt/copied/bin/python3"
PLAIN = "<domain type='qemu'><name>g</name></domain>"
OURS = f"<domain type='qemu'><name>g</name><metadata><domain xmlns='{NAMESPACE}'/></metadata></domain>"
# Into the profile, as what libvirtd itself executes is in it.
ENTER = 'printf %s "changeprofile libvirtd" >/proc/self/attr/current; '


@pytest.fixture
def confined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A daemon that AppArmor confines, and hooks of a Python that it may not execute."""
    subprocess.run("mountpoint -q /sys/kernel/security || mount -t securityfs s /sys/kernel/security", shell=True)
    before = LOCAL.read_text() if LOCAL.exists() else ""
    LOCAL.touch()
    assert apparmor.load(PROFILE) == ""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--copies", "--without-pip", "/opt/copied"], check=True)
    monkeypatch.setattr(sys, "executable", COPIED)
    with subprocess.Popen(["sh", "-c", f"{ENTER}read end"], stdin=subprocess.PIPE) as daemon:
        Path("/run/libvirtd.pid").write_text(f"{daemon.pid}\n")
        while Path(f"/proc/{daemon.pid}/attr/current").read_text() != "libvirtd (enforce)\n":
            assert daemon.poll() is None
        for hook in hook_files.HOOKS:
            hook_files._write(hook_files._path(Path("/"), hook), hook_files.filled_in(hook))
        try:
            yield
        finally:
            daemon.kill()
            Path("/run/libvirtd.pid").unlink()
            hook_files.uninstall()
            LOCAL.write_text(before)
            # Other tests' libvirtd would be confined, too.
            subprocess.run(["apparmor_parser", "-R", str(PROFILE)], check=True)


def called(xml: str) -> tuple[int, str]:
    """What becomes of a guest's start, as libvirtd has the hook run."""
    argv = ["sh", "-c", f'{ENTER}exec "$0" g start begin -', str(HOOK)]
    done = subprocess.run(argv, input=xml, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stderr


def denials() -> int:
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.count('apparmor="DENIED"')


@pytest.mark.usefixtures("confined")
def test_a_python_that_apparmor_forbids_is_found_and_allowed_by_a_rule() -> None:
    assert Path(COPIED).resolve() == Path(apparmor.interpreter())
    assert os.access(COPIED, os.X_OK)
    assert apparmor.executes("libvirtd", "/usr/bin/python3") is True
    assert apparmor.executes("libvirtd", apparmor.interpreter()) is False
    assert apparmor.executes("no-such-profile", "/usr/bin/python3") is None
    assert apparmor.denied() == [Confined("libvirtd", "libvirtd", apparmor.interpreter())]
    assert called(PLAIN)[0] == 0
    status, said = called(OURS)
    assert (status, "its Python cannot be run (exit 126)" in said) == (1, True)

    (told,) = apparmor.allow()
    assert told.startswith(f"{LOCAL}: lets libvirtd run ")
    before = denials()
    assert apparmor.denied() == []
    assert called(PLAIN) == (0, "")
    assert "its Python cannot be run" not in called(OURS)[1]
    assert denials() == before

    assert len(apparmor.take_back()) == 1
    assert [each.daemon for each in apparmor.denied()] == ["libvirtd"]

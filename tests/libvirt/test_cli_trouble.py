"""What the command line says on a host whose libvirtd is down, or whose copy of guestnet others could change."""

from __future__ import annotations

from pathlib import Path

import libvirt_guestnet
from libvirt_guestnet.sandbox import Sandbox

LIBRARY = Path(libvirt_guestnet.__file__).parents[1]


def guestnet(sandbox: Sandbox, *argv: str) -> tuple[int, str]:
    done = sandbox.run(sandbox_python("-m", "libvirt_guestnet.cli", *argv), check=False)
    return done.returncode, done.stderr


def sandbox_python(*argv: str) -> list[str]:
    from libvirt_guestnet.sandbox import python_inside

    return python_inside(list(argv))


def test_libvirtd_is_down(sandbox: Sandbox) -> None:
    sandbox.stop_libvirtd()
    try:
        status, said = guestnet(sandbox, "status")
    finally:
        sandbox.start_libvirtd()
    first, second = said.splitlines()
    assert status == 1
    assert first.startswith("guestnet: connecting to qemu:///system: Failed to connect socket to ")
    assert second == (
        "guestnet: Is libvirtd running? `systemctl start libvirtd` starts it; `guestnet sandbox start` makes a private "
        "one instead, for `guestnet --sandbox default ...`"
    )
    assert guestnet(sandbox, "status") == (0, "")


def test_hooks_of_a_checkout_that_others_own_are_refused(sandbox: Sandbox) -> None:
    sandbox.run(["cp", "-r", str(LIBRARY / "libvirt_guestnet"), str(LIBRARY / "hooks"), "/opt"])
    sandbox.run(["chown", "-R", "1000", "/opt/libvirt_guestnet"])
    install = ["env", "PYTHONPATH=/opt", "PYTHONDONTWRITEBYTECODE=1", *sandbox_python()[3:]]
    done = sandbox.run([*install, "-m", "libvirt_guestnet.cli", "hooks", "install"], check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "guestnet: /opt/libvirt_guestnet/hook/main.py can be changed by others than root, and libvirt would run it as "
        "root: install libvirt-guestnet in a folder owned by root, or say --any-owner if that is what you want\n",
    )
    assert sandbox.run(["ls", "/etc/libvirt/hooks/qemu.d"], check=False).stdout == ""

"""What the command line says on a host whose libvirtd is down, or whose copy of guestnet others could change."""

from __future__ import annotations

import json
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
        "guestnet: Is libvirtd running? `systemctl start libvirtd` starts it (package libvirt-daemon-system); "
        "`guestnet sandbox start` makes a private one instead, for `guestnet --sandbox default ...`"
    )
    assert guestnet(sandbox, "status") == (0, "")


NETWORK = """<network><name>{name}</name><metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1"
  topology="t" name="{name}" guarded="{guarded}"/></metadata><bridge name="br-{name}"/></network>"""


def test_status_says_where_unguarded_ports_are_silenced_and_where_the_kernel_cannot(hooked_sandbox: Sandbox) -> None:
    for name, guarded in (("one", "yes"), ("open", "no"), ("down", "yes")):
        xml = NETWORK.format(name=name, guarded=guarded)
        hooked_sandbox.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=xml)
        if name != "down":
            hooked_sandbox.run(["virsh", "-q", "net-start", name])
    rule = 'add table bridge t; add chain bridge t c; add rule bridge t c meta ibrname "one" drop'
    can = hooked_sandbox.run(["nft", "-c", rule], check=False).returncode == 0
    done = hooked_sandbox.run(sandbox_python("-m", "libvirt_guestnet.cli", "status", "--json"))
    said = {row["name"]: row["bridge_guard"] for row in json.loads(done.stdout) if row["kind"] == "network"}
    assert said == {"one": "on" if can else "kernel cannot", "open": "not wanted", "down": ""}
    table = hooked_sandbox.run(sandbox_python("-m", "libvirt_guestnet.cli", "status")).stdout
    assert "BRIDGE GUARD" in table.splitlines()[0]
    assert said["one"] in next(line for line in table.splitlines() if " one " in line)


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

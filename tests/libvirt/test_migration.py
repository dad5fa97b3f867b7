"""A guest moves between two hosts, and its guard with it; nothing is left where it came from."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from support.libvirt_host import Host, mac
from support.sandboxes import install_hooks

from libvirt_guestnet.sandbox import Sandbox

ADDRESSES = {"left": "192.0.2.1", "right": "192.0.2.2"}
VERSIONS = [pytest.param("/", id="9.0"), pytest.param("trixie_root", id="11.3", marks=pytest.mark.trixie)]


@pytest.fixture(params=VERSIONS)
def hosts(request: pytest.FixtureRequest, new_sandbox: Callable[..., Sandbox]) -> Iterator[dict[str, Host]]:
    """Two hosts joined by a cable, each with the same networks."""
    options = {} if request.param == "/" else {"root": request.getfixturevalue(request.param)}
    prepare = install_hooks(*options.values())
    found = {name: Host(new_sandbox(name, prepare=prepare, **options)) for name in ADDRESSES}
    left, right = (str(host.sandbox.first.pid) for host in found.values())
    # Made right inside the two: nothing of it is ever in the machine's own namespace.
    ends = ["name", "cable", "netns", left, "type", "veth", "peer", "name", "cable", "netns", right]
    subprocess.run(["ip", "link", "add", *ends], check=True, timeout=120)
    names = "".join(f"{address} {found[name].sandbox.name}\n" for name, address in ADDRESSES.items())
    for name, host in found.items():
        host.sandbox.run(["ip", "address", "add", f"{ADDRESSES[name]}/24", "dev", "cable"])
        host.sandbox.run(["ip", "link", "set", "cable", "up"])
        host.sandbox.run(["tee", "-a", "/etc/hosts"], stdin=names)
        host.networks()
    yield found


def migrate(guest: str, source: Host, target: Host, address: str) -> str:
    """What virsh says of the migration: "" when it went well."""
    to = ["--live", "--undefinesource", "--persistent", guest, target.sandbox.uri, f"tcp://{address}:49152"]
    argv = ["virsh", "-q", "-c", source.sandbox.uri, "migrate", *to]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240).stderr


def known_ports(host: Host) -> set[str]:
    """The MAC addresses whose ports the host's bridges have been told."""
    return set(re.findall(r"^(\S+) dev \S+ .*sticky.* static", host.sandbox.run(["bridge", "fdb"]).stdout, re.M))


def _soon_known(target: Host, macs: set[str]) -> None:
    target.soon(lambda: known_ports(target) == macs, "its bridges know where it is")


def _soon_unguarded(source: Host) -> None:
    source.soon(lambda: source.guarded() == {}, "nothing is left at the source")


def test_there_and_back(hosts: dict[str, Host]) -> None:
    left, right = hosts.values()
    left.guest("a", "one", "two")
    left.virsh("start", "a")
    assert known_ports(left) == {mac(1, 0), mac(1, 1)}
    for source, target, address in ((left, right, "192.0.2.2"), (right, left, "192.0.2.1")):
        assert migrate("a", source, target, address) == ""
        assert sorted(target.guarded().values()) == [mac(1, 0), mac(1, 1)]
        target.exact()
        _soon_known(target, {mac(1, 0), mac(1, 1)})
        assert target.files("incoming") == {}
        _soon_unguarded(source)
        source.exact()
    left.virsh("destroy", "a")
    left.exact()


def test_a_target_that_cannot_guard_refuses_and_the_guest_goes_on(hosts: dict[str, Host]) -> None:
    left, right = hosts.values()
    left.guest("a", "one", "two")
    left.virsh("start", "a")
    before = left.guarded()
    # A receipt cannot be written there.
    right.sandbox.run(["sh", "-c", "touch /run/libvirt-guestnet/ports"])
    assert "libvirt-guestnet: qemu a start: " in migrate("a", left, right, "192.0.2.2")
    assert (left.running(), right.running()) == (["a"], [])
    assert left.guarded() == before
    left.exact()
    right.sandbox.run(["rm", "/run/libvirt-guestnet/ports"])
    assert right.guarded() == {}

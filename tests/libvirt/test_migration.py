"""A guest moves between two hosts, and its guard with it; nothing is left where it came from."""

from __future__ import annotations

import re

from support.libvirt_host import Host, mac
from support.libvirt_migration import migrate


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

"""What a guest's own metadata says of addresses that are not its own: real hooks, a real kernel, and a neighbour."""

from __future__ import annotations

import pytest
from support.kernel_lan import FLOATING, GUEST, GUEST6, HOST, HOST2, NEAR, NEAR6, LanHost, start

pytestmark = pytest.mark.kernel

# The neighbour's TCP port is opened, its tunnels come from another address, its answers over UDP are lost.
FORWARDS = f"""
  <guestnet:forward at="{HOST}" protocol="tcp" ports="2222" to="{NEAR}" first="22"/>
  <guestnet:forward at="{HOST2}" protocol="gre" to="{NEAR}"/>
  <guestnet:forward protocol="udp" ports="30000-65535" to="{NEAR}" from="203.0.113.1"/>"""
OWN = f'<guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{GUEST}" first="80"/>'
ROUTER = '<guestnet:source prefix="0.0.0.0/0"/>'


def neighbour(host: LanHost) -> bytes:
    """What libvirt sends of the neighbour, whose NIC is near0."""
    host.box.run("ip", "tuntap", "add", "vnet6", "mode", "tap")
    mac = host.box.ok("ip", "netns", "exec", "near", "cat", "/sys/class/net/eth0/address").strip()
    xml = start("", b"61000009-", b"near", mac.encode()).replace(b"vnet1", b"near0").replace(b"vnet0", b"vnet6")
    return xml.replace(GUEST6.encode(), NEAR6.encode()).replace(GUEST.encode(), NEAR.encode())


def test_nothing_is_forwarded_to_a_neighbour_that_its_port_may_not_use(host: LanHost) -> None:
    host.agents["near"].listen(tcp=[22])
    xml = start(OWN + FORWARDS)
    before, (_, said) = host.started(xml)
    assert before == (0, "")
    assert f"guest 'guesta': nothing is forwarded to {NEAR}: that address is not its port's own" in said
    assert NEAR not in host.rules()
    assert not host.tcp("lan", HOST, 2222).open
    assert host.tcp("lan", HOST, 8080).open, "what else it asks for is forwarded"
    assert host.gone(xml) == (0, "")


@pytest.mark.parametrize("first", ["guest", "neighbour"])
def test_nor_one_that_another_port_has_while_that_is_there(host: LanHost, first: str) -> None:
    """The guest is a router, which may send from any address."""
    xml, other = start(ROUTER + FORWARDS + f'<guestnet:floating ip="{FLOATING}" to="{NEAR}"/>'), neighbour(host)
    calls = [(xml, "guesta"), (other, "near")]
    for each in calls if first == "guest" else calls[::-1]:
        assert [status for status, _ in host.started(*each)] == [0, 0]
    assert NEAR not in host.rules()
    assert host.gone(other, "near")[0] == 0
    assert host.call("qemu", "guesta", "started", "begin", xml) == (0, "")
    assert NEAR in host.rules(), "it may be behind the router"


@pytest.mark.parametrize("prefix", ["224.0.0.0/4", "239.1.1.0/24", "128.0.0.0/1", "255.255.255.255/32"])
def test_what_the_host_itself_uses_is_behind_no_guest(host: LanHost, prefix: str) -> None:
    status, said = host.call("qemu", "guesta", "start", "begin", start(f'<guestnet:behind prefix="{prefix}"/>'))
    assert (status, "has addresses that are not routed: " in said) == (1, True), said


def test_guests_that_share_an_address_have_ports_of_it_in_ranges_that_overlap(host: LanHost) -> None:
    """For some clients only: what is cut off of the two is one range."""
    shared = '<guestnet:pair prefix="10.61.1.100/32"/><guestnet:forward protocol="tcp" ports="{}" to="10.61.1.100" '
    shared += 'first="{}" from="198.18.1.0/24"/>'
    xml, other = start(shared.format("9005", 85)), neighbour(host)
    other = other.replace(f'<guestnet:address ip="{NEAR6}"/>'.encode(), shared.format("8000-8010", 80).encode())
    assert host.started(xml) == [(0, "")] * 2
    assert host.started(other, "near") == [(0, "")] * 2
    assert "10.61.1.100 . 80-90" in host.rules()
    assert "9005" in host.rules()

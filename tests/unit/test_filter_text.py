"""The first chains of a port's filter, as nft reads them: where tags are told from packets."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk

MAC = "52:54:00:00:00:0a"
PORT = PortGuard("tap0", MAC, (ip_network("10.0.0.1"),))
ULA = ip_network("fd00::/64")
LIST = re.compile(r"\{[^}]*, ")
OWN = "0x52540000000a00000000"
RARP = f"0x8035 @nh,0,64 0x0001080006040003 @nh,64,80 {OWN} @nh,144,80 {OWN} accept"
ACCESS = [
    f"ether saddr {MAC} ether type ip ip saddr {{ 10.0.0.1 }} jump plain4",
    f'ether saddr != {MAC} counter drop comment "source MAC"',
    "ether type arp goto arp-tap0",
    "ether type ip goto ip4-tap0",
    "ether type ip6 goto ip6-tap0",
    f"ether type {RARP}",
    'ether type @tag-types counter drop comment "VLAN tag"',
    'counter drop comment "EtherType"',
]


def _chain(kind: str, port: PortGuard) -> list[str]:
    start = f"add rule netdev guestnet {kind}-tap0 "
    return [line.removeprefix(start) for line in filters.guard(port).splitlines() if line.startswith(start)]


def test_an_access_port_pays_nothing_for_trunks() -> None:
    assert _chain("tap", PORT) == ACCESS
    assert _chain("vlan", PORT) == []
    assert "delete chain netdev guestnet vlan-tap0" in filters.guard(PORT)


@pytest.mark.parametrize("trunk", [None, Trunk([(1, 2)])])
@pytest.mark.parametrize("dynamic", [(), ("10.61.1.0/24",), ("fd61::/64",)])
def test_nothing_is_deleted_for_a_fresh_port(trunk: Trunk | None, dynamic: tuple[str, ...]) -> None:
    """The kernel would take 10 ms longer. Flushing what is empty does not count."""
    server = DhcpServer("br0", "52:54:00:00:00:02", (ip_network("10.61.1.1"),), tuple(map(ip_network, dynamic)))
    port = PORT._replace(trunk=trunk, server=server)
    lines = filters.own(port, fresh=True).splitlines()
    assert not [line for line in lines if line.startswith("delete")]
    # Otherwise it is the same, but for what is forgotten.
    assert set(lines) <= set(filters.own(port).splitlines())
    assert filters.guard(port) == filters.shared() + filters.own(port)


@pytest.mark.parametrize(("service", "tag"), [(False, "8021q"), (True, "8021ad")])
def test_a_trunk_goes_into_its_tags_and_nowhere_else(service: bool, tag: str) -> None:
    port = PORT._replace(trunk=Trunk([(200, 200), (100, 105), (104, 110)], service))
    assert _chain("tap", port) == [
        ACCESS[1],
        f"ether type {tag} vlan id {{ 100-110, 200-200 }} goto vlan-tap0",
        f'ether type {tag} counter drop comment "VLAN"',
        ACCESS[6],
        'counter drop comment "untagged"',
    ]
    assert _chain("vlan", port) == [
        f"ether saddr {MAC} ether type {tag} vlan type ip ip saddr {{ 10.0.0.1 }} jump plain4",
        f"ether type {tag} vlan type arp goto arp-tap0",
        f"ether type {tag} vlan type ip goto ip4-tap0",
        f"ether type {tag} vlan type ip6 goto ip6-tap0",
        f"ether type {tag} vlan type {RARP}",
        f'ether type {tag} vlan type @tag-types counter drop comment "VLAN tag"',
        'counter drop comment "EtherType"',
    ]


def test_with_a_native_vlan_a_trunk_is_an_access_port_too() -> None:
    tagged = _chain("tap", PORT._replace(trunk=Trunk([(5, 5)])))
    native = _chain("tap", PORT._replace(trunk=Trunk([(5, 5)], native=True)))
    assert native == [*ACCESS[:2], tagged[1], *ACCESS[2:6], tagged[2], *ACCESS[6:]]


def test_what_a_packet_may_be_is_the_same_in_a_tag() -> None:
    trunk = PORT._replace(trunk=Trunk([(5, 5)], native=True))
    for kind in ("arp", "ip4", "ip4sent", "ip6", "ip6own", "ip6sent"):
        assert _chain(kind, trunk) == _chain(kind, PORT) != []


def test_an_ordinary_port_brings_no_list_of_addresses() -> None:
    """nft makes a set of each, and beside a thousand ports such sets took half of a start's time (decision 103)."""
    addresses = ("10.0.0.1", "fd00::1", "fd00::2")
    server = DhcpServer("br0", "52:54:00:00:00:02", (ip_network("10.0.0.254"),), (), served=((4, 1), (6, 1)))
    port = PORT._replace(owned=tuple(map(ip_network, addresses)), server=server, segment="br0", claims=(ULA,))
    rules = [line for line in filters.own(port).splitlines() if line.startswith("add rule")]
    assert len(rules) > 100
    assert not [rule for rule in rules if LIST.search(rule)]


def test_many_addresses_of_a_port_are_one_list() -> None:
    """A rule for each would make each frame pay."""
    many = tuple(ip_network(f"10.0.0.{number}") for number in (1, 3, 5, 7))
    rules, listed = _chain("tap", PORT._replace(owned=many)), "10.0.0.1, 10.0.0.3, 10.0.0.5, 10.0.0.7"
    assert rules[0] == f"ether saddr {MAC} ether type ip ip saddr {{ {listed} }} jump plain4"
    assert [rule for rule in _chain("tap", PORT._replace(owned=many[:3])) if "10.0.0." in rule] == [
        f"ether saddr {MAC} ether type ip ip saddr {{ 10.0.0.{number} }} jump plain4" for number in (1, 3, 5)
    ]

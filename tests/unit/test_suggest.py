"""What to declare of an observed port, by what it did: nothing of somebody else's, and no role unasked."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk
from libvirt_guestnet.metadata.policy import Pair, PortPolicy
from libvirt_guestnet.status.suggest import Observed, suggest
from libvirt_guestnet.status.suggestions import text

MINE, OTHER, VIRTUAL = "52:54:00:00:00:0a", "52:54:00:00:00:77", "00:00:5e:00:01:05"
GUARD = PortGuard("vnet0", MINE, (ip_network("10.0.0.5"),), claims=(ip_network("fd00::/64"), ip_network("fe80::/64")))
POLICY = PortPolicy(MINE, "lan", "lan", addresses=(ip_address("10.0.0.5"),), pairs=(Pair(ip_network("10.0.0.99")),))
SERVER = DhcpServer("br0", "", (ip_network("10.0.0.1"),), (ip_network("10.0.0.128/25"),))
PORT = Observed(
    guest="web",
    port="lan",
    network="lan",
    tap="vnet0",
    topology="shop",
    guard=GUARD,
    policy=POLICY,
    subnets=(ip_network("10.0.0.0/24"), ip_network("fd00::/64")),
    hosts=(ip_address("10.0.0.1"),),
    others={ip_address("10.0.0.7"): "that of db on lan"},
    macs={"52:54:00:00:00:0b": "db on lan"},
    elsewhere={ip_network("10.9.0.0/24"): "back"},
)


def seen(*addresses: str, mac: str = MINE, port: Observed = PORT, reason: str = "ARP") -> Observed:
    return replace(port, seen=tuple((mac, ip_address(each)) for each in addresses), reasons={reason: 1})


@pytest.mark.parametrize(
    ("port", "declared"),
    [
        (seen("10.0.0.5"), {}),
        (seen("10.0.0.6"), {"addresses": ["10.0.0.5", "10.0.0.6"]}),
        (
            seen("10.0.0.6", port=replace(PORT, policy=None)),
            {"allowed-pairs": [{"address": "10.0.0.6"}]},  # a list of addresses would end its reservation
        ),
        (
            seen("10.0.0.6", port=replace(PORT, policy=None, guard=GUARD._replace(owned=(), server=SERVER))),
            {"allowed-pairs": [{"address": "10.0.0.6"}]},
        ),
        (
            seen("10.0.0.6", port=replace(PORT, policy=None, guard=GUARD._replace(owned=()))),
            {"addresses": ["10.0.0.6"]},
        ),
        (
            seen("10.0.0.6", port=replace(PORT, policy=POLICY._replace(addressing="none", addresses=(), pairs=()))),
            {"allowed-pairs": [{"address": "10.0.0.6"}]},
        ),
        (
            seen("10.0.0.100", mac=VIRTUAL),
            {"allowed-pairs": [{"address": "10.0.0.99"}, {"address": "10.0.0.100", "mac": VIRTUAL}]},
        ),
        (seen("fd00::77", "fe80::77"), {"privacy-addresses": True}),
        (seen("fd00::77", port=replace(PORT, guard=GUARD._replace(by_use=True))), {}),
        (seen("10.0.0.6", port=replace(PORT, has=frozenset({ip_address("10.0.0.6")}))), {}),
        (seen("0.0.0.0", "0.1.2.3", "240.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "ff02::1"), {}),
    ],
)
def test_what_is_the_ports_own_is_declared(port: Observed, declared: dict[str, object]) -> None:
    found = suggest(port)
    assert (found.declare, found.ask, found.warnings) == (declared, (), ())


@pytest.mark.parametrize(
    ("port", "warning"),
    [
        (seen("10.0.0.1"), "10.0.0.1 is the host's"),
        (seen("10.0.0.7"), "10.0.0.7 is that of db on lan"),
        (seen("10.0.0.7", mac=OTHER), "10.0.0.7 is that of db on lan"),
        (seen("10.0.0.8", mac="52:54:00:00:00:0b"), "52:54:00:00:00:0b is the MAC address of db on lan"),
        (seen("169.254.1.1"), "169.254.1.1: it gave itself that"),
        (seen("10.0.0.255"), "10.0.0.255 is its network's own"),
        (seen("10.0.0.65", port=replace(PORT, wide={ip_network("10.0.0.64/28"): "that of db"})), "is that of db"),
        (seen("10.0.0.8", mac="01:00:5e:00:00:05"), "01:00:5e:00:00:05 is no port's MAC address"),
        (seen("10.0.0.8", mac="00:00:00:00:00:00"), "00:00:00:00:00:00 is no port's MAC address"),
        (replace(PORT, full=True), "these are not all"),
    ],
)
def test_what_is_somebody_elses_is_never_declared(port: Observed, warning: str) -> None:
    found = suggest(port)
    assert (found.declare, found.ask) == ({}, ())
    assert warning in found.warnings[0]
    assert warning in text([found])


@pytest.mark.parametrize(
    ("port", "asked"),
    [
        (seen("10.0.0.5", reason="DHCP server"), {"roles": ["dhcp-server"]}),
        (replace(PORT, announces=True), {"roles": ["ra-sender"]}),
        (replace(PORT, reasons={"routing protocol": 9}, roles=("vrrp", "ospf")), {"roles": ["ospf", "vrrp"]}),
        (replace(PORT, reasons={"routing protocol": 9}), {"roles": ["router-protocols"]}),
        (
            replace(PORT, reasons={"routing protocol": 9, "multicast router": 9}, roles=("multicast-router",)),
            {"roles": ["multicast-router"]},
        ),
        (
            replace(PORT, reasons={"DHCP client": 3, "DHCP server": 3, "DHCPv6 relay": 1}, roles=("dhcp-relay",)),
            {"roles": ["dhcp-relay"]},
        ),
        (
            replace(PORT, reasons={"EtherType": 3}, roles=("lldp", "stp"), guard=GUARD._replace(roles=("ospf",))),
            {"roles": ["ospf", "lldp", "stp"]},
        ),
        (seen("10.9.0.3"), {"sources": ["10.9.0.0/24"]}),
        (seen("198.18.0.1"), {"sources": ["198.18.0.1/32"]}),
        (seen(*(f"198.18.0.{n}" for n in range(1, 5))), {"sources": ["198.18.0.0/24"]}),
        (
            seen("198.18.0.1", "198.18.0.2", "198.18.0.3", port=replace(PORT, hosts=(ip_address("198.18.0.9"),))),
            {"sources": ["198.18.0.1/32", "198.18.0.2/32", "198.18.0.3/32"]},
        ),
        (
            seen("198.18.0.1", port=replace(PORT, routed=True, subnets=())),
            {"sources": ["198.18.0.1/32"]},  # as an address of its own, the host would route it to the guest
        ),
        (
            seen("10.8.0.1", port=replace(PORT, guard=GUARD._replace(routed=(ip_network("10.8.0.0/16"),)))),
            {"roles": ["own-sources"]},
        ),
        (replace(PORT, vlans=(100, 200), guard=GUARD._replace(trunk=Trunk([(100, 110)]))), {"trunk": ["100-110", 200]}),
    ],
)
def test_what_only_some_guests_are_for_is_asked(port: Observed, asked: dict[str, object]) -> None:
    found = suggest(port)
    ((question),) = found.ask
    assert {key: value for key, value in question.items() if key != "if"} == asked
    assert found.declare == {}
    assert f"only if this guest is {question['if']}" in text([found])


def test_a_guest_of_no_topology_is_told_what_its_metadata_lacks() -> None:
    port = replace(seen("10.0.0.6", "fd00::77", "198.18.0.1", reason="DHCP server"), topology="", vlans=(100, 200))
    pairs = seen("10.0.0.100", mac=VIRTUAL, port=replace(PORT, topology=""))
    said = text([suggest(port), suggest(pairs)])
    for each in (
        '<guestnet:address ip="10.0.0.6"/>',
        'privacy="yes"',
        '<guestnet:role name="dhcp-server"/>',
        '<guestnet:source prefix="198.18.0.1/32"/>',
        '<guestnet:vlan trunk="100,200"/>',
        f'<guestnet:pair prefix="10.0.0.100" mac="{VIRTUAL}"/>',
    ):
        assert f"    {each}\n" in said


def test_a_router_is_not_made_of_thousands_of_sources() -> None:
    found = suggest(seen(*(f"198.18.{n}.1" for n in range(40))))
    assert (found.declare, found.ask) == ({}, ())
    assert "a router says `router:`" in found.warnings[0]


def test_what_nothing_lets_pass_and_what_needs_nothing_is_said() -> None:
    assert "no declaration lets pass: IPv4 header (2 frames)" in text(
        [suggest(replace(PORT, reasons={"IPv4 header": 2}))]
    )
    nothing = "nothing would have been dropped since its filter was last written"
    assert f"{nothing}: it can be `guarded: true`" in text([suggest(PORT)])
    assert f"{nothing}\n" in text([suggest(replace(seen("10.0.0.7"), reasons={}))])
    bare = replace(PORT, policy=None, guard=GUARD._replace(owned=(), claims=()))
    assert f"{nothing}\n  nobody knows its addresses" in text([suggest(bare)]), "apply would refuse `guarded: true`"
    spoke = suggest(seen("10.0.0.6", port=bare))
    assert (spoke.unknown, spoke.declare) == (False, {"addresses": ["10.0.0.6"]})
    assert text([]) == "no running guest has a port that is observed\n"


@pytest.mark.parametrize("name", ["a\nb: true", "\x9b2J", "\u202eevil", "x" * 5000])
def test_a_name_from_a_guests_own_xml_is_no_line_of_its_own(name: str) -> None:
    for port in (replace(seen("10.0.0.6"), port=name, topology=topology, guest=name) for topology in ("", name)):
        said = text([suggest(port)])
        assert name not in said
        assert all(line.isprintable() and len(line) < 600 for line in said.splitlines())


def test_what_is_the_same_for_many_is_said_once() -> None:
    """Sixty guests of which most have nothing to be declared filled three screens."""
    same = [replace(seen(reason="IPv4 header"), guest=f"guest{number}") for number in range(57)]
    asks = [replace(seen("fd00::5", reason="ND"), guest=name) for name in ("a", "b")]
    said = text([*map(suggest, same), suggest(seen("10.0.0.6")), *map(suggest, asks)])
    assert "57 ports: 57 frames would have been dropped (IPv4 header 57)" in said
    assert said.count("no declaration lets pass: IPv4 header (57 frames)") == 1
    assert all(f" guest{number}.lan on lan" in said for number in range(57))
    assert "2 ports: 2 frames would have been dropped (ND 2)\n  a.lan on lan, b.lan on lan\n" in said
    assert "  in topology shop, guests, each of these:\n    privacy-addresses: true\n" in said
    assert "web.lan on lan: 1 frames" in said and "in topology shop, guests, web, ports, lan:" in said
    assert len(said.splitlines()) < 30 and max(map(len, said.splitlines())) <= 120

"""What a guest is told: checked line by line, because the guest believes it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.config import guest_config
from libvirt_guestnet.model.card import Card
from libvirt_guestnet.model.network import Mode, Network, Subnet
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.topology import Allow, Guest, Port, PortKind, Router, Topology
from libvirt_guestnet.model.traffic import Protocol, Service
from libvirt_guestnet.topology import load

LAB = Path(__file__).parents[2] / "labs" / "archnetwork.yaml"


def network(
    name: str, prefix: str, gateway: str | None = None, host: str | None = None, mtu: int | None = None
) -> Network:
    subnet = Subnet(ip_network(prefix), ip_address(gateway) if gateway else None, ip_address(host) if host else None)
    return Network(name, Mode.ISOLATED, f"br-{name}", subnets=(subnet,), mtu=mtu)


def port(network: str, number: int, *addresses: tuple[str, int, Assignment], default: bool = False) -> Port:
    owned = tuple(PortAddress(ip_address(ip), length, how) for ip, length, how in addresses)
    mac = f"52:54:00:00:00:{number:02x}"
    return Port(network, network, PortKind.NETWORK, mac, f"vme{number:08x}", owned, default_route=default)


def lines(topology: Topology, name: str, key: str) -> list[str]:
    text = guest_config(topology, topology.guest(name))
    return [line for line in text.splitlines() if line.split()[0] == key]


STATIC, DHCP, SLAAC = Assignment.STATIC, Assignment.DHCP, Assignment.SLAAC


def routed(masquerade: str | None = None) -> Topology:
    """left(10.0.1) -- r -- right(10.0.2); the hosts' default gateways are others' business."""
    allow = Allow("left", "right", (Service(Protocol.TCP, 80, 90),), (ip_network("10.0.2.0/24"),))
    return Topology(
        "t",
        "t.yaml",
        networks=(network("left", "10.0.1.0/24"), network("right", "10.0.2.0/24")),
        guests=(
            Guest("l", (port("left", 1, ("10.0.1.10", 24, STATIC)),)),
            Guest(
                "r",
                (port("left", 2, ("10.0.1.1", 24, STATIC)), port("right", 3, ("10.0.2.1", 24, STATIC))),
                router=Router((allow,), masquerade),
            ),
            Guest("x", (port("right", 4, ("10.0.2.10", 24, STATIC)),)),
        ),
    )


def one(net: Network, own: Port) -> Topology:
    return Topology("t", "t.yaml", networks=(net,), guests=(Guest("g", (own,)),))


def test_the_whole_of_a_simple_guest() -> None:
    topology = one(
        network("n", "10.0.0.0/24", "10.0.0.1", mtu=1400), port("n", 1, ("10.0.0.5", 24, STATIC), default=True)
    )
    assert guest_config(topology, topology.guest("g")) == (
        "guestnet 1\nhostname g\nhosts 10.0.0.5 g g.n\nnic net0 52:54:00:00:00:01 1400 up\n"
        "static net0 10.0.0.5/24\ngateway net0 10.0.0.1\n"
    )


def test_an_mtu_of_the_port_comes_before_that_of_its_network() -> None:
    own = replace(port("n", 1, ("10.0.0.5", 24, STATIC)), card=Card(mtu=1300))
    topology = one(network("n", "10.0.0.0/24", mtu=1400), own)
    assert lines(topology, "g", "nic") == ["nic net0 52:54:00:00:00:01 1300 up"]


@pytest.mark.parametrize(
    ("prefix", "host", "gateway", "address", "how", "expected"),
    [
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.1", "10.0.0.5", DHCP, ["dhcp net0 10.0.0.5/24 10.0.0.1"]),
        ("10.0.0.0/24", None, None, "10.0.0.5", DHCP, ["dhcp net0 10.0.0.5/24 -"]),
        ("fd00::/64", "fd00::1", "fd00::1", "fd00::5", SLAAC, ["slaac net0 fd00::5/64 ra"]),
        ("fd00::/64", "fd00::1", "fd00::2", "fd00::5", SLAAC, ["slaac net0 fd00::5/64 -", "gateway net0 fd00::2"]),
        ("fd00::/64", None, "fd00::2", "fd00::5", STATIC, ["static net0 fd00::5/64", "gateway net0 fd00::2"]),
        ("10.0.0.0/24", None, "10.0.0.5", "10.0.0.5", STATIC, ["static net0 10.0.0.5/24"]),
    ],
)
def test_default_routes(
    prefix: str, host: str | None, gateway: str | None, address: str, how: Assignment, expected: list[str]
) -> None:
    length = ip_network(prefix).prefixlen
    topology = one(network("n", prefix, gateway, host), port("n", 1, (address, length, how), default=True))
    assert guest_config(topology, topology.guest("g")).splitlines()[4:] == expected


def test_no_default_route_where_it_is_not_wanted() -> None:
    own = port("n", 1, ("fd00::5", 64, SLAAC))
    topology = one(network("n", "fd00::/64", "fd00::1", "fd00::1"), own)
    assert lines(topology, "g", "slaac") == ["slaac net0 fd00::5/64 -"]
    assert lines(topology, "g", "gateway") == []


def test_a_link_that_is_down_is_said() -> None:
    own = replace(port("n", 1, ("10.0.0.5", 24, STATIC)), link_up=False)
    assert lines(one(network("n", "10.0.0.0/24"), own), "g", "nic") == ["nic net0 52:54:00:00:00:01 - down"]


def test_routes_to_networks_behind_a_guest_and_back() -> None:
    topology = routed()
    assert lines(topology, "l", "route") == ["route net0 10.0.2.0/24 10.0.1.1"]
    assert lines(topology, "x", "route") == ["route net0 10.0.1.0/24 10.0.2.1"]
    assert lines(topology, "r", "route") == []


def test_no_route_back_through_a_router_that_masquerades() -> None:
    assert lines(routed("right"), "x", "route") == []
    assert lines(routed("right"), "l", "route") == ["route net0 10.0.2.0/24 10.0.1.1"]


def test_only_a_router_forwards() -> None:
    topology = routed()
    assert lines(topology, "l", "router") == []
    assert lines(topology, "l", "nft") == []
    assert lines(topology, "r", "router") == ["router"]


def test_the_policy_is_drop_and_what_is_allowed() -> None:
    text = [" ".join(line.split()[1:]) for line in lines(routed("right"), "r", "nft")]
    forward = text[text.index("chain forward {") : text.index("chain input {")]
    assert "type filter hook forward priority filter; policy drop;" in forward
    assert [line for line in forward if line.startswith("iifname")] == [
        "iifname net0 ip daddr 10.0.2.0/24 tcp dport 80-90 accept"
    ]
    assert "oifname net1 masquerade" in text


def test_a_new_guest_elsewhere_changes_no_other_guests_text() -> None:
    topology = routed()
    more = replace(topology, guests=(*topology.guests, Guest("new", (port("left", 9, ("10.0.1.99", 24, STATIC)),))))
    for guest in topology.guests:
        assert guest_config(more, guest) == guest_config(topology, guest)


def test_nothing_libvirt_garbles_in_fw_cfg() -> None:
    topology = load(LAB)
    for guest in topology.guests:
        assert not set(guest_config(topology, guest)) & set(",\"'\\\t")


@pytest.mark.parametrize("name", ["a b", "a\nrouter", "a;b", "", "-a", "$(x)"])
def test_a_name_that_could_be_taken_for_more_is_refused(name: str) -> None:
    topology = one(network("n", "10.0.0.0/24"), port("n", 1, ("10.0.0.5", 24, STATIC)))
    with pytest.raises(GuestnetError, match="cannot be a name"):
        guest_config(topology, replace(topology.guest("g"), name=name))


@pytest.mark.parametrize("mac", ["52:54:00:00:00", "52:54:00:00:00:01\n", "52:54:00:00:00:zz"])
def test_a_mac_that_is_none_is_refused(mac: str) -> None:
    own = replace(port("n", 1, ("10.0.0.5", 24, STATIC)), mac=mac)
    topology = one(network("n", "10.0.0.0/24"), own)
    with pytest.raises(GuestnetError, match="not a MAC address"):
        guest_config(topology, topology.guest("g"))

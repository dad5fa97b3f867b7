"""What the loader makes of a good file."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest
from steps import steps

from libvirt_guestnet import topology
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.topology import AddressWord, Family, Port, Topology
from libvirt_guestnet.model.traffic import Protocol, Service

LABS = Path(__file__).parent.parent.parent / "labs"


def load(text: str) -> Topology:
    return topology.loads(f"name: t\n{text}", "t.yaml")


def complaints(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        load(text)
    return [problem.message for problem in caught.value.problems]


def how(port: Port) -> list[tuple[str, Assignment]]:
    return [(str(address.ip), address.assignment) for address in port.addresses]


@pytest.fixture(scope="module")
def archnetwork() -> Topology:
    return topology.load(LABS / "archnetwork.yaml")


@pytest.mark.parametrize("path", sorted(LABS.glob("*.yaml")), ids=lambda path: path.stem)
def test_labs_load(path: Path) -> None:
    assert topology.load(path).name == path.stem


def test_networks_of_archnetwork(archnetwork: Topology) -> None:
    vlan1, vlan2, lan1 = archnetwork.networks
    assert [n.mode for n in archnetwork.networks] == [Mode.NAT, Mode.ISOLATED, Mode.BRIDGE]
    assert [str(s.host) for s in vlan1.subnets] == ["10.61.1.1", "fd61:1::1"]
    assert vlan1.gateway == "host"
    dhcp = vlan1.subnets[0].dhcp
    assert dhcp is not None
    assert (str(dhcp.start), str(dhcp.end)) == ("10.61.1.128", "10.61.1.254")
    assert vlan2.gateway == "b"
    assert [(str(s.gateway), s.host) for s in vlan2.subnets] == [("10.61.2.1", None), ("fd61:2::1", None)]
    assert (lan1.bridge, lan1.mac, lan1.subnets) == ("gn-lan1", None, ())


def test_stand_ins_and_host_addresses(archnetwork: Topology) -> None:
    lan1, lan2 = archnetwork.physical_networks
    assert [str(a) for a in lan1.stand_in] == ["198.18.1.1", "fd61:11::1"]
    assert lan1.host == ()
    assert [str(a) for a in lan2.host] == ["198.18.2.2", "fd61:12::2"]


def test_a_router_may_send_from_anywhere_but_its_own_link(archnetwork: Topology) -> None:
    towards_nat, towards_guests = archnetwork.guest("b").ports
    assert (towards_nat.sources, towards_nat.onlink) == ((), ())
    assert towards_guests.sources == (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    assert towards_guests.onlink == (IPv4Network("10.61.2.0/24"), IPv6Network("fd61:2::/64"))


def test_policy_of_archnetwork(archnetwork: Topology) -> None:
    router = archnetwork.guest("b").router
    assert router is not None
    assert router.masquerade == "vlan1"
    assert [str(p) for p in router.allow[0].destination_prefixes] == ["198.18.2.0/24", "fd61:12::/64"]
    assert router.allow[0].services[1] == Service(Protocol.TCP, 80, 80)


def test_default_routes_of_archnetwork(archnetwork: Topology) -> None:
    leaving = [(g.name, p.name) for g in archnetwork.guests for p in g.ports if p.default_route]
    assert leaving == [("a", "vlan1"), ("b", "vlan1"), ("c", "vlan2")]


def test_assignments() -> None:
    text = """
networks:
  dhcp: { mode: nat, subnets: [10.0.1.0/24, "fd00:1::/64"], dhcp: {} }
  plain: { mode: isolated, subnets: [10.0.2.0/24, "fd00:2::/64", "fd00:3::/112"] }
guests:
  derived: { ports: [{ network: dhcp, mac: "52:54:00:00:00:01" }, { network: plain, mac: "52:54:00:00:00:02" }] }
  given: { ports: [{ network: dhcp, addresses: [10.0.1.9, 10.0.1.8, "fd00:1::9"] }] }
  partly: { ports: [{ network: dhcp, addresses: ["fd00:1::a"] }] }
  silent: { ports: [{ network: dhcp, addresses: [] }] }
"""
    derived, given, partly, silent = load(text).guests
    assert [a.assignment for a in derived.ports[0].addresses] == [Assignment.DHCP, Assignment.SLAAC]
    assert str(derived.ports[0].addresses[1].ip) == "fd00:1::5054:ff:fe00:1"
    assert [a.assignment for a in derived.ports[1].addresses] == [Assignment.STATIC] * 3
    assert [a.prefix_length for a in derived.ports[1].addresses] == [24, 64, 112]
    assert how(given.ports[0]) == [
        ("10.0.1.9", Assignment.DHCP),
        ("10.0.1.8", Assignment.STATIC),
        ("fd00:1::9", Assignment.STATIC),
    ]
    assert [a.assignment for a in partly.ports[0].addresses] == [Assignment.STATIC, Assignment.DHCP]
    assert (silent.ports[0].addresses, silent.ports[0].address_word) == ((), AddressWord.NONE)
    assert given.ports[0].address_word is None


def test_a_word_stands_for_any_address_and_an_empty_list_for_none() -> None:
    text = """
physical-networks: { lan: { subnets: [198.18.1.0/24] } }
networks:
  lan: { mode: bridge, physical-network: lan }
  dhcp: { mode: nat, subnets: [10.0.1.0/24], dhcp: {} }
guests:
  g:
    ports:
      - { network: lan, name: any, addresses: any }
      - { network: lan, name: none, addresses: [] }
      - { network: lan, name: unsaid }
      - { network: lan, name: trusted, guarded: false }
      - { network: dhcp, addresses: any }
      - { network: dhcp, name: derived }
"""
    found = load(text)
    words = {port.name: port.address_word for port in found.guest("g").ports}
    assert words == {
        "any": AddressWord.ANY,
        "none": AddressWord.NONE,
        "unsaid": None,
        "trusted": None,
        "dhcp": AddressWord.ANY,
        "derived": None,
    }
    assert [port.name for _, port in found.unaddressed] == ["unsaid"]
    assert [port.addresses for port in found.guest("g").ports[:5]] == [()] * 5


def test_derived_values_do_not_depend_on_the_rest_of_the_file() -> None:
    head = 'networks:\n  n: { mode: nat, subnets: [10.0.0.0/16, "fd00:1::/64"], dhcp: {} }\nguests:\n'
    alone = load(head + "  g: { image: tiny, ports: [{ network: n }] }\n").guest("g")
    others = "".join(f"  o{i}: {{ ports: [{{ network: n }}] }}\n" for i in range(20))
    crowd = load(head + others + "  g: { image: tiny, ports: [{ network: n }] }\n").guest("g")
    assert crowd == alone


def test_isolated_with_dhcp_has_a_host_but_no_way_out() -> None:
    network = load("networks:\n  n: { mode: isolated, subnets: [10.0.1.0/24], dhcp: {} }").network("n")
    assert (network.gateway, network.subnets[0].gateway) == (None, None)
    assert network.subnets[0].host == IPv4Address("10.0.1.1")


def test_two_bridge_networks_of_one_label_share_bridge_and_wire() -> None:
    text = """
physical-networks:
  lan: { subnets: [198.18.1.0/24] }
networks:
  one: { mode: bridge, physical-network: lan }
  two: { mode: bridge, physical-network: lan }
  three: { mode: bridge, physical-network: lan, vlan: 7 }
guests:
  a: { image: tiny, ports: [{ network: one, addresses: [198.18.1.10] }] }
"""
    one, two, three = load(text).networks
    assert one.bridge == two.bridge == "gn-lan"
    assert (three.bridge, three.vlan) == ("gn-lan.7", 7)


def test_router_between_networks_of_other_gateways_gets_what_it_routes() -> None:
    text = """
physical-networks:
  wan: { subnets: [198.18.1.0/24] }
networks:
  left: { mode: nat, subnets: [10.0.1.0/24] }
  right: { mode: nat, subnets: [10.0.2.0/24] }
guests:
  r:
    ports: [{ network: left }, { network: right, sources: [10.0.0.0/8] }]
    router:
      allow:
        - { from: left, to: wan, services: [tcp] }
        - { from: right, to: left, services: [tcp/8000-8010] }
"""
    left, right = load(text).guest("r").ports
    assert [str(p) for p in left.sources] == ["198.18.1.0/24", "10.0.2.0/24"]
    assert [str(p) for p in right.sources] == ["10.0.0.0/8"]
    assert [str(p) for p in right.onlink] == ["10.0.2.0/24"]


def test_ports_inherit_from_their_network_unless_told_otherwise() -> None:
    text = """
networks:
  n: { mode: isolated, isolated-ports: true, guarded: false }
guests:
  g: { ports: [{ network: n }, { network: n, name: other, isolated: false, guarded: true, link: down }] }
"""
    first, other = load(text).guest("g").ports
    assert (first.isolated, first.guarded, first.link_up) == (True, False, True)
    assert (other.isolated, other.guarded, other.link_up) == (False, True, False)


def test_families_are_those_both_ends_have() -> None:
    text = """
physical-networks:
  lan: { subnets: [198.18.1.0/24] }
networks:
  n: { mode: nat, subnets: [10.0.1.0/24, "fd00:1::/64"] }
guests:
  g: { ports: [{ network: n }] }
expect:
  - { from: g, to: lan, can: [icmp] }
  - { from: g, to: host, can: [icmp] }
"""
    towards_lan, towards_host = load(text).expect
    assert towards_lan.families == (Family.IPV4,)
    assert towards_host.families == (Family.IPV4, Family.IPV6)


def test_collisions_name_both_ports_and_different_free_addresses() -> None:
    guests = "".join(f"  g{i}: {{ ports: [{{ network: n }}] }}\n" for i in range(100))
    found = complaints(f"networks:\n  n: {{ mode: nat, subnets: [10.0.1.0/24] }}\nguests:\n{guests}")
    assert found
    assert all("is also that of port 'g" in message for message in found)
    suggested = [message.rsplit("[", 1)[1].rstrip("]") for message in found]
    assert len(set(suggested)) == len(found)


def test_following_the_suggestions_settles_it() -> None:
    head = "networks:\n  n: { mode: nat, subnets: [10.0.1.0/24] }\nguests:\n"
    given: dict[str, str] = {}
    for _ in range(8):
        lines = [f"  g{i}: {{ ports: [{{ network: n{given.get(f'g{i}', '')} }}] }}\n" for i in range(100)]
        try:
            load(head + "".join(lines))
            return
        except TopologyError as error:
            for message in (problem.message for problem in error.problems):
                given[message.split("'")[1].split(".")[0]] = ", addresses: [" + message.rsplit("[", 1)[1]
    pytest.fail("suggested addresses collide again and again")


def test_a_mac_address_is_text_whatever_yaml_1_1_thinks() -> None:
    network = "networks:\n  n: { mode: isolated }\n"
    port = load(f"{network}guests:\n  g: {{ ports: [{{ network: n, mac: 52:54:00:11:22:33 }}] }}").guest("g").ports[0]
    assert port.mac == "52:54:00:11:22:33"


def _large(networks: int) -> str:
    lines = ["networks:"]
    lines += [
        f"  n{i}: {{ mode: nat, subnets: [10.{i >> 8}.{i & 255}.0/24, 'fd00:{i + 1:x}::/64'] }}"
        for i in range(networks)
    ]
    lines += ["guests:"]
    for i in range(networks):
        for j in range(10):
            lines += [f"  g{i}-{j}: {{ ports: [{{ network: n{i}, addresses: [10.{i >> 8}.{i & 255}.{j + 10}] }}] }}"]
    return "\n".join(lines)


def test_size_costs_in_proportion() -> None:
    """How long a thousand networks take `scripts/bench/apply` measures."""
    few, many = (steps(load, _large(size)) for size in (50, 150))
    assert 2.5 < many / few < 3.2


def test_the_default_dhcp_range_is_one_libvirt_accepts() -> None:
    dhcp = load("networks:\n  n: { mode: nat, subnets: [10.0.0.0/8], dhcp: {} }").network("n").subnets[0].dhcp
    assert dhcp is not None
    assert int(dhcp.end) - int(dhcp.start) + 1 == 65535
    assert str(dhcp.end) == "10.255.255.254"


def test_a_guest_can_be_the_gateway_of_a_bridged_network() -> None:
    text = """
physical-networks:
  lan: { subnets: [198.18.1.0/24] }
networks:
  lan: { mode: bridge, physical-network: lan, gateway: r }
guests:
  r: { image: tiny, router: {}, ports: [{ network: lan, addresses: [198.18.1.9] }] }
  g: { image: tiny, ports: [{ network: lan, addresses: [198.18.1.10] }] }
"""
    loaded = load(text)
    assert [str(s.gateway) for s in loaded.network("lan").subnets] == ["198.18.1.9"]
    assert [p.default_route for g in loaded.guests for p in g.ports] == [False, True]
    assert loaded.guest("r").ports[0].sources == (IPv4Network("0.0.0.0/0"),)


def test_a_host_routed_guest_gets_what_it_declares_and_nothing_besides() -> None:
    text = """
networks:
  direct:
    mode: host-routed
    publish: false
    subnets: [192.0.2.7/32, 198.51.100.8/29, "2001:db8::/64", "2001:db8:1::5/128"]
guests:
  one: { ports: [{ network: direct, addresses: [192.0.2.7] }] }
  two: { ports: [{ network: direct, addresses: [198.51.100.9, "2001:db8:1::5"] }] }
  unsaid: { ports: [{ network: direct }] }
"""
    addresses = {g.name: [str(a.ip) for p in g.ports for a in p.addresses] for g in load(text).guests}
    derived = addresses.pop("unsaid")
    assert addresses == {"one": ["192.0.2.7"], "two": ["198.51.100.9", "2001:db8:1::5"]}
    assert IPv4Address(derived[0]) in IPv4Network("198.51.100.8/29")
    assert [each[:10] for each in derived[1:]] == ["2001:db8::"]

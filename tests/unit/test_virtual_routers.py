"""Virtual routers in a topology: what each is told, what libvirt and the host's hooks are not told any more."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.topology_files import ROOT, read_yaml

from libvirt_guestnet import draw, xmlgen
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.model.topology import Guest, Port, Role, Topology
from libvirt_guestnet.model.traffic import Verdict
from libvirt_guestnet.plan import hairpins
from libvirt_guestnet.router.config import health_wanted, router_config
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.health import Wanted
from libvirt_guestnet.topology import loads

LABS = {name: read_yaml(ROOT.parent / "labs" / f"{name}.yaml") for name in ("virtual-router", "tiers")}
EVERY_KEY = read_yaml(ROOT / "topologies/every-key.yaml")
HOST = HostMap({"lan": "eth9", "provider": "eth8"})


def small(**changes: Any) -> dict[str, Any]:
    """One router, one tier of which nothing is said, one public network; `changes` go in by their paths with dots."""
    router = {
        "tiers": {"web": {"egress": "deny", "source-nat": ["192.0.2.10"]}},
        "public": {"out": {"addresses": ["192.0.2.2"], "gateways": ["192.0.2.1"]}},
    }
    networks = {"web": {"mode": "isolated"}, "out": {"mode": "isolated", "subnets": ["192.0.2.0/24"]}}
    guests = {"a": {"image": "tiny", "ports": [{"network": "web"}]}}
    made: dict[str, Any] = {"name": "t", "networks": networks, "guests": guests, "routers": {"edge": router}}
    for path, value in changes.items():
        *steps, last = path.split("__")
        record = made
        for step in steps:
            record = record[int(step)] if isinstance(record, list) else record[step]
        record[last] = value
    return made


def load(made: Any) -> Topology:
    return loads(json.dumps(made), "t.yaml")


def config_of(topology: Topology, name: str = "edge") -> RouterConfig:
    config = router_config(topology, topology.guest(name))
    document(config)
    return config


def port(guest: Guest, name: str) -> Port:
    return next(each for each in guest.ports if each.name == name)


def test_a_tier_of_which_nothing_is_said_is_cloudstacks() -> None:
    topology = load(small())
    (tier,) = config_of(topology).guests
    assert [str(own) for own in tier.addresses] == ["10.1.1.1/24"]
    assert (tier.name, tier.egress) == ("eth0", Verdict.DENY)
    assert topology.network("web").gateway == "edge"


def test_the_nics_are_in_the_guides_order() -> None:
    lab = load(LABS["tiers"])
    router = lab.guest("gate")
    assert [each.name for each in router.ports] == ["front", "control", "public", "back"]
    config = config_of(lab, "gate")
    assert [nic.name for nic in config.guests] == ["eth0", "eth3"]
    assert (config.control.name, [nic.name for nic in config.public]) == ("eth1", ["eth2"])
    assert (router.image, router.memory_mib, router.autostart) == ("router", 128, True)


def test_the_control_network_is_the_hosts_and_its_routers_alone() -> None:
    topology = load(small())
    network, config = topology.network("t-control"), config_of(topology)
    assert network.control and network.isolated_ports and network.guard_required and network.strict_addresses
    assert config.control.host == network.subnets[0].host == network.subnets[0].prefix[1]
    assert config.control.address.ip in ip_network("169.254.0.0/16") and config.control.address.prefix_length == 24
    (own,) = port(topology.guest("edge"), "control").addresses
    assert own.ip == config.control.address.ip
    xml = xmlgen.to_string(xmlgen.network(topology, network, HOST))
    assert "<dhcp>" not in xml
    assert '<dns enable="no"/>' in xml


def test_another_topologys_control_network_is_another() -> None:
    prefixes = {load(small(name=name)).network(f"{name}-control").subnets[0].prefix for name in ("t", "u", "v")}
    assert len(prefixes) == 3


def test_ports_have_the_roles_and_sources_that_they_need_and_no_more() -> None:
    lab = load(LABS["tiers"])
    front, control, public, back = lab.guest("gate").ports
    for tier in (front, back):
        assert tier.roles == (Role.DHCP_SERVER, Role.RA_SENDER)
        assert list(map(str, tier.sources)) == ["0.0.0.0/0", "::/0"]
        assert set(tier.onlink) == {subnet.prefix for subnet in lab.network(tier.network).subnets}
    for other in (control, public):
        assert (other.roles, other.sources) == ((), ())
    assert [each.default_route for each in lab.guest("gate").ports] == [False, False, True, False]
    assert all(each.guarded for each in lab.guest("gate").ports)


def test_a_family_without_source_nat_goes_out_with_its_own_addresses() -> None:
    made = small(networks__web={"mode": "isolated", "subnets": ["10.1.1.0/24", "fd00::/64"]})
    assert list(map(str, port(load(made).guest("edge"), "out").sources)) == ["fd00::/64"]


def test_the_public_port_answers_for_all_that_is_translated_there() -> None:
    lab = load(LABS["virtual-router"])
    fiber, copper = (port(lab.guest("edge"), name) for name in ("fiber", "copper"))
    assert [str(each.ip) for each in fiber.addresses if each.ip.version == 4] == ["203.0.113.2", "203.0.113.10"]
    assert [str(each.ip) for each in copper.addresses if each.ip.version == 4] == [
        "198.51.100.2",
        "198.51.100.10",
        "198.51.100.12",
    ]
    nics = config_of(lab).public
    assert [[str(own) for own in nic.addresses] for nic in nics] == [
        ["203.0.113.2/24", "2001:db8:101::2/64"],
        ["198.51.100.2/24", "2001:db8:102::2/64"],
    ]


def test_forwards_and_floating_addresses_are_the_routers_and_not_the_hosts() -> None:
    lab = load(LABS["virtual-router"])
    config = config_of(lab)
    assert {(str(each.public), str(each.service), each.guest_port) for each in config.forwards} == {
        ("203.0.113.10", "tcp/80", 80),
        ("2001:db8:101::10", "tcp/80", 80),
        ("198.51.100.10", "tcp/8443", 443),
    }
    assert {str(each.public) for each in config.static_nat} == {"198.51.100.12", "2001:db8:102::12"}
    for name in ("web", "mail"):
        xml = xmlgen.to_string(xmlgen.domain_metadata(lab, lab.guest(name), HOST))
        assert "forward" not in xml
        assert "floating" not in xml


def test_the_same_file_with_the_host_as_gateway_has_them_on_the_host() -> None:
    """What a move from the host to a router is: other words for a mode, and the same keys of ports."""
    made = small(guests__a__ports=[{"network": "web", "forwards": [{"services": ["tcp/80"], "at": ["192.0.2.10"]}]}])
    moved = deepcopy(made)
    moved["networks"]["web"] = {"mode": "nat", "subnets": ["10.1.1.0/24"]}
    del moved["routers"]
    before, after = load(moved), load(made)
    texts = [xmlgen.to_string(xmlgen.domain_metadata(each, each.guest("a"), HOST)) for each in (before, after)]
    assert ["<guestnet:forward" in text for text in texts] == [True, False]
    assert port(before.guest("a"), "web").mac == port(after.guest("a"), "web").mac
    assert port(before.guest("a"), "web").address(4) == port(after.guest("a"), "web").address(4)


def test_libvirt_serves_nothing_on_a_tier() -> None:
    lab = load(LABS["virtual-router"])
    xml = xmlgen.to_string(xmlgen.network(lab, lab.network("office"), HOST))
    for word in ("<ip ", "<dhcp", "<host", "<domain", "dnsmasq"):
        assert word not in xml
    assert '<dns enable="no"/>' in xml


def test_every_port_has_a_reservation_with_its_name() -> None:
    lab = load(LABS["virtual-router"])
    (tier,) = config_of(lab).guests
    told = {each.name: each for each in tier.dhcp.reservations}
    assert set(told) == {"web", "mail", "desk", "router-health"}
    desk = port(lab.guest("desk"), "office")
    assert (told["desk"].mac, told["desk"].addresses) == (desk.mac, tuple(each.ip for each in desk.addresses))
    assert {each.assignment for each in desk.addresses} == {Assignment.DHCP, Assignment.SLAAC}
    assert tier.domain == "office.example"


SERVED = {
    "mode": "isolated",
    "subnets": ["10.1.1.0/24", "fd00::/64"],
    "dhcp": {
        "range": ["10.1.1.100", "10.1.1.110"],
        "lease": "infinite",
        "options": {"ntp-server": "10.1.1.5"},
        "reservations": [
            {"mac": "52:54:00:00:00:99", "address": "10.1.1.9", "hostname": "plotter", "options": {"mtu": 1300}}
        ],
    },
    "dhcp6": {
        "range": ["fd00::100", "fd00::1ff"],
        "lease": "7d",
        "options": {"ntp-server": "fd00::5"},
        "reservations": [{"mac": "52:54:00:00:00:99", "address": "fd00::9"}],
    },
    "domain": "web.example",
    "domain-local": False,
    "dns": {"printer.web.example": ["10.1.1.105", "fd00::105"]},
    "dns-forwarders": [{"address": "192.0.2.53"}, {"domain": "corp.example", "address": "192.0.2.54"}],
    "dns-services": [
        {"service": "ldap", "protocol": "tcp", "target": "dc.web.example", "port": 389},
        {"service": "xmpp", "protocol": "tcp", "domain": "other.example"},
    ],
    "dns-texts": [{"name": "web.example", "text": "v=spf1 -all"}],
    "dns-wildcards": {"apps.web.example": "10.1.1.20"},
    "dns-local": ["lab.example"],
    "mtu": 1400,
}


def test_all_that_a_network_says_of_dhcp_and_dns_is_served_by_its_router() -> None:
    ports = [{"network": "web", "addresses": ["10.1.1.7"], "duid": "00:02:00:00:ab:11", "dhcp-options": {"mtu": 1280}}]
    made = document(config_of(load(small(networks__web=SERVED, guests__a__ports=ports))))
    lines = made.dnsmasq.splitlines()
    for line in (
        "dhcp-range=set:eth0,10.1.1.100,10.1.1.104,255.255.255.0,infinite",
        "dhcp-range=set:eth0,10.1.1.106,10.1.1.110,255.255.255.0,infinite",
        "dhcp-range=set:eth0,fd00::100,fd00::104,64,604800",
        "domain=web.example,10.1.1.0/24",
        "srv-host=_ldap._tcp.web.example,dc.web.example,389,0,0",
        "srv-host=_xmpp._tcp.other.example",
        'txt-record=web.example,"v=spf1 -all"',
        "address=/apps.web.example/10.1.1.20",
        "local=/lab.example/",
    ):
        assert line in lines
    assert "local=/web.example/" not in lines
    assert "52:54:00:00:00:99,10.1.1.9,[fd00::9],plotter" in made.hosts.splitlines()
    assert "10.1.1.105 printer.web.example" in made.names.splitlines()
    assert made.servers.splitlines() == ["server=192.0.2.53", "server=/corp.example/192.0.2.54"]
    assert "tag:eth0,option:ntp-server,10.1.1.5" in made.options
    assert "tag:eth0,option6:ntp-server,[fd00::5]" in made.options
    assert made.options.count(",option:mtu,") == 2
    assert "id:00:02:00:00:ab:11," in made.hosts
    assert " 1400 46" in made.net


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ({}, "10.1.1.254"),
        ({"guests__a__ports": [{"network": "web", "addresses": ["10.1.1.254"]}]}, "10.1.1.253"),
        ({"routers__edge__tiers__web__addresses": ["10.1.1.254"]}, "10.1.1.253"),
        (
            {
                "guests__a__ports": [
                    {"network": "web", "addresses": ["10.1.1.5"], "allowed-pairs": [{"address": "10.1.1.252/30"}]}
                ]
            },
            "10.1.1.251",
        ),
    ],
)
def test_health_is_tried_from_the_last_address_that_nobody_has(taken: dict[str, Any], found: str) -> None:
    topology = load(small(**taken))
    wanted = health_wanted(topology, topology.guest("edge"))["web"]
    gateway = taken.get("routers__edge__tiers__web__addresses", ["10.1.1.1"])[0]
    target = IPv4Address("192.0.2.1")
    assert wanted == Wanted(wanted.mac, IPv4Address(found), IPv4Address(gateway), "edge", target)
    (reserved,) = (r for r in config_of(topology).guests[0].dhcp.reservations if r.name == "router-health")
    assert (reserved.mac, reserved.addresses) == (wanted.mac, (wanted.address,))


def test_where_egress_is_denied_the_hosts_own_try_passes() -> None:
    (rule,) = config_of(load(small())).guests[0].exceptions
    assert (list(map(str, rule.services)), list(map(str, rule.sources))) == (["icmp"], ["10.1.1.254/32"])
    assert list(map(str, rule.destinations)) == ["192.0.2.1/32"]
    assert config_of(load(small(routers__edge__tiers__web__egress="allow"))).guests[0].exceptions == ()


def test_what_is_not_translated_has_no_target_to_try() -> None:
    topology = load(small(routers__edge__tiers__web={"egress": "deny"}))
    assert health_wanted(topology, topology.guest("edge"))["web"].target is None
    assert config_of(topology).guests[0].exceptions == ()


def test_rules_keep_their_counters_when_they_move() -> None:
    rules = [{"services": ["tcp/80"]}, {"services": ["tcp/443"], "to": ["192.0.2.0/24"]}]
    ingress = [{"to": "a", "services": ["tcp/22"]}, {"to": "a", "services": ["icmp"], "from": ["192.0.2.7"]}]
    names = []
    for turned in (1, -1):
        made = small(routers__edge__ingress=ingress[::turned])
        made["routers"]["edge"]["tiers"]["web"]["except"] = rules[::turned]
        config = config_of(load(made))
        names.append({each.name for each in (*config.guests[0].exceptions, *config.ingress)})
    assert names[0] == names[1]
    assert len(names[0]) == 5


def test_two_routers_may_have_networks_with_the_same_addresses() -> None:
    made = small()
    made["networks"]["db"] = {"mode": "isolated"}
    made["routers"]["other"] = {"tiers": {"db": {"egress": "allow"}}, "public": {"out": {"addresses": ["192.0.2.3"]}}}
    topology = load(made)
    assert topology.network("db").subnets[0].prefix == topology.network("web").subnets[0].prefix
    config_of(topology, "other")


def test_two_routers_may_forward_the_same_port_each_at_an_address_of_its_own_network() -> None:
    forward = {"services": ["tcp/80"], "at": ["192.0.2.10"]}
    made = small(guests__a__ports=[{"network": "web", "forwards": [forward]}])
    made["networks"] |= {"db": {"mode": "isolated"}, "apart": {"mode": "isolated", "subnets": ["192.0.2.0/24"]}}
    made["routers"]["other"] = {"tiers": {"db": {"egress": "deny"}}, "public": {"apart": {"addresses": ["192.0.2.2"]}}}
    made["guests"]["b"] = {"image": "tiny", "ports": [{"network": "db", "forwards": [forward]}]}
    topology = load(made)
    assert len(config_of(topology).forwards) == len(config_of(topology, "other").forwards) == 1


def test_a_gateway_is_that_of_the_public_network_where_the_file_says_none() -> None:
    made = small(networks__out={"mode": "nat", "subnets": ["192.0.2.0/24"]})
    del made["routers"]["edge"]["public"]["out"]["gateways"]
    assert list(map(str, config_of(load(made)).public[0].gateways)) == ["192.0.2.1"]


def test_a_router_is_drawn_as_one_with_its_policy() -> None:
    text = draw.draw(load(LABS["tiers"]), "logical", "dot").decode()
    for words in ("virtual router", "gateway: router gate", "front → back: tcp/443", "back → outside: deny"):
        assert words in text


def test_isolated_ports_are_no_matter_for_what_a_router_forwards() -> None:
    made = small(guests__a__ports=[{"network": "web", "forwards": [{"services": ["tcp/80"], "at": ["192.0.2.10"]}]}])
    made["networks"]["web"]["isolated-ports"] = True
    made["guests"]["b"] = {"image": "tiny", "ports": [{"network": "web"}]}
    topology = load(made)
    assert not port(topology.guest("edge"), "web").isolated
    assert list(hairpins.notes(topology, [4, 6])) == []


def test_a_router_without_its_prefix_would_be_noticed() -> None:
    """That `document` refuses what contradicts itself, so that the tests here mean something."""
    config = config_of(load(small()))
    with pytest.raises(Exception, match="is in no public network"):
        document(replace(config, public=()))


# Whatever a file says, a router is told only what its document can have.

_OTHERS: list[Any] = [
    [], {}, "10.1.1.1", "10.1.1.254", "10.1.1.150", "203.0.113.2", "203.0.113.10", "203.0.113.1", "198.51.100.2",
    "2001:db8:101::2", "10.1.1.0/31", "10.1.1.0/30", "fd11:1::/112", "deny", "allow", "icmp", "sctp/5", "gre",
    "tcp/1-65535", "dhcp", "any", True, False, 0, "office", "edge", "desk", "fiber", "bridge", "isolated", "nat",
    "infinite", "a" * 60 + ".b", "192.0.2.2", "192.0.2.10", "10.0.9.100",
]  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*path, key), *paths(inner, (*path, key)))]


def at(made: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        made = made[step]
    return made


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_a_good_file_makes_a_document(data: st.DataObject) -> None:
    made = deepcopy(data.draw(st.sampled_from([small(networks__web=SERVED), *LABS.values(), EVERY_KEY])))
    values = [*_OTHERS, *(at(made, path) for path in paths(made))]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(made)))
        record = at(made, path[:-1])
        if data.draw(st.booleans()):
            record[path[-1]] = deepcopy(data.draw(st.sampled_from(values)))
        else:
            del record[path[-1]]
    try:
        topology = load(made)
    except TopologyError:
        return
    for guest in topology.guests:
        if guest.virtual_router:
            document(router_config(topology, guest)).encoded()
            health_wanted(topology, guest)

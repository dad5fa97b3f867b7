"""What a virtual router is told: its document, what contradicts itself, and what is never written."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.balanced_config import BALANCED, TURNS, balancer, members
from support.router_config import LAN, PUBLIC, ROUTER, TIER, own, tcp, with_two_publics

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.balancing import BalancerMember, HealthCheck
from libvirt_guestnet.model.network import DhcpRange
from libvirt_guestnet.model.router import PortForward, Reservation, RouterConfig, StaticNat, TierRule
from libvirt_guestnet.model.services import Forwarder
from libvirt_guestnet.model.traffic import Protocol, Rule, Service
from libvirt_guestnet.router import checks, grammar
from libvirt_guestnet.router.document import Document, document

EXPECTED = Path(__file__).parents[1] / "data/router"


@pytest.mark.parametrize(
    ("name", "config"), [("one-public", ROUTER), ("two-publics", with_two_publics()), ("balanced", BALANCED)]
)
def test_the_files_of_a_router(name: str, config: RouterConfig, regenerate: bool) -> None:
    """Reviewed as differences; tests/guest/test_router.py shows that they do what they should."""
    made = document(config)
    text = "".join(f"==== {section}\n{part}" for section, part in zip(made._fields, made, strict=True))
    file = EXPECTED / f"{name}.txt"
    if regenerate:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_a_document_is_its_parts_and_nothing_else() -> None:
    made = document(ROUTER)
    encoded = made.encoded()
    assert encoded.startswith(b"guestnet-router 1\nsection net %d\n" % len(made.net))
    rest, found = encoded.removeprefix(b"guestnet-router 1\n"), {}
    while rest:
        head = re.match(rb"section ([a-z]+) ([0-9]+)\n", rest)
        assert head is not None
        found[head[1].decode()] = rest[head.end() : head.end() + int(head[2])].decode()
        rest = rest[head.end() + int(head[2]) :]
    assert Document(**found) == made


def test_equal_routers_have_equal_documents() -> None:
    assert document(ROUTER).digest == document(replace(ROUTER)).digest
    assert document(ROUTER).digest != document(with_two_publics()).digest


def _lan(**changes: object) -> RouterConfig:
    return replace(ROUTER, guests=(replace(LAN, **changes), TIER))  # type: ignore[arg-type]


def _reserved(*addresses: str, mac: str = "52:54:00:13:00:77") -> RouterConfig:
    guest = Reservation("x", mac, tuple(map(parse.address, addresses)))
    return _lan(dhcp=replace(LAN.dhcp, reservations=(*LAN.dhcp.reservations, guest)))


def _forward(**changes: object) -> RouterConfig:
    plain = PortForward("x", parse.address("203.0.113.9"), tcp(80), parse.address("10.1.1.10"), 80)
    return replace(ROUTER, forwards=(*ROUTER.forwards, replace(plain, **changes)))  # type: ignore[arg-type]


def _range(first: str, last: str) -> RouterConfig:
    span = DhcpRange(parse.address(first), parse.address(last))  # type: ignore[arg-type]
    return _lan(dhcp=replace(LAN.dhcp, ranges=(span,)))


def _balanced(**changes: object) -> RouterConfig:
    return replace(ROUTER, balancers=(replace(TURNS, **changes),))  # type: ignore[arg-type]


def _static(public: str, guest: str) -> RouterConfig:
    return replace(ROUTER, static_nat=(StaticNat("x", parse.address(public), parse.address(guest)),))


WRONG = [
    (_lan(name="eth2"), "NIC eth2 is used twice"),
    (_lan(name="lan"), "NIC lan is not called ethN"),
    (_lan(mac=PUBLIC.mac), f"MAC address {PUBLIC.mac} is used twice"),
    (replace(ROUTER, guests=()), "there is no guest network"),
    (
        replace(ROUTER, control=replace(ROUTER.control, host=parse.address("169.254.8.1"))),  # type: ignore[arg-type]
        "control address 169.254.7.2/30 and the host's 169.254.8.1 are not of one link-local prefix",
    ),
    (_lan(exceptions=(Rule("a"), Rule("a"))), "exception of eth0's egress policy a is used twice"),
    (_lan(addresses=()), "guest network eth0 has no address"),
    (_reserved("10.1.1.10"), "address in eth0's reservations, 10.1.1.10 is used twice"),
    (_reserved("10.1.7.7"), "address 10.1.7.7 is reserved on eth0, whose prefixes do not have it"),
    (_reserved("10.1.1.1"), "address 10.1.1.1 is reserved on eth0, and is the router's"),
    (
        _reserved(mac=LAN.dhcp.reservations[0].mac),
        "MAC address in eth0's reservations, 52:54:00:13:00:0a is used twice",
    ),
    (_range("10.1.1.50", "10.1.1.40"), "range 10.1.1.50 to 10.1.1.40 of eth0 has no order"),
    (_range("10.1.1.50", "10.1.2.60"), "range 10.1.1.50 to 10.1.2.60 is not in a prefix of eth0"),
    (
        _lan(source_nat=(parse.address("203.0.113.10"), parse.address("203.0.113.12"))),
        "source NAT address 203.0.113.12 of eth0 is twice of a family",
    ),
    (_lan(addresses=(own("10.1.2.1/16"),)), "prefixes 10.1.0.0/16 of eth0 and 10.1.2.0/24 of eth3 overlap"),
    (_lan(source_nat=(parse.address("192.0.2.1"),)), "public address 192.0.2.1 is in no public network of the router"),
    (_static("203.0.113.10", "10.1.1.10"), "public address 203.0.113.10 of static NAT is used otherwise, too"),
    (_static("203.0.113.2", "10.1.1.10"), "public address 203.0.113.2 of static NAT is used otherwise, too"),
    (_static("203.0.113.30", "10.9.1.10"), "x leads to 10.9.1.10, which is in no guest network of the router"),
    (
        _static("2001:db8:113::30", "10.1.1.10"),
        "x translates 2001:db8:113::30 to 10.1.1.10, which is of another IP version",
    ),
    (
        _forward(public=parse.address("203.0.113.10"), service=tcp(9003, 9004), guest_port=9003),
        "port forward many and port forward x share ports of 203.0.113.10",
    ),
    (_forward(name="web"), "port forward web is used twice"),
    (_forward(service=Service(Protocol.TCP)), "port forward x has no ports"),
    (_forward(service=Service(Protocol.ICMP)), "port forward x has no ports"),
    (_forward(service=Service("gre")), "port forward x has no ports"),
    (_forward(service=tcp(1, 9), guest_port=65530), "port forward x leads beyond port 65535"),
    (_forward(service=tcp(1, 1025), guest_port=2), "port forward x moves more than 1024 ports"),
    (
        replace(ROUTER, tier_rules=(TierRule("eth0", "eth2", Rule("x")),)),
        "tier rule x is about eth2, which is no guest network of the router",
    ),
    (replace(ROUTER, balancers=(TURNS, TURNS)), "balancer turns is used twice"),
    (
        replace(ROUTER, balancers=(TURNS, replace(TURNS, name="x"))),
        "balancer turns and balancer x share ports of 203.0.113.12",
    ),
    (
        _balanced(public=parse.address("203.0.113.10"), service=tcp(8080)),
        "port forward web and balancer turns share ports of 203.0.113.10",
    ),
    (
        _balanced(public=parse.address("203.0.113.20")),
        "public address 203.0.113.20 of static NAT is used otherwise, too",
    ),
    (_balanced(public=parse.address("192.0.2.1")), "public address 192.0.2.1 is in no public network of the router"),
    (_balanced(members=()), "balancer turns has no members"),
    (
        _balanced(members=tuple(BalancerMember(f"m{n}", parse.address(f"10.1.1.{n}")) for n in range(2, 67))),
        "balancer turns has more than 64 members",
    ),
    (_balanced(members=members("10.1.1.", "web1", "web1")), "member of balancer turns web1 is used twice"),
    (_balanced(members=members("10.1.1.", "web1", "web1")), "address in balancer turns, 10.1.1.11 is used twice"),
    (
        _balanced(members=members("fd13:1::", "web1")),
        "balancer turns leads from 203.0.113.12 to fd13:1::11, which is of another IP version",
    ),
    (
        _balanced(members=members("10.9.1.", "web1")),
        "balancer turns leads to 10.9.1.11, which is in no guest network of the router",
    ),
    (
        _balanced(members=(BalancerMember("x", parse.address("10.1.1.1")),)),
        "balancer turns leads to 10.1.1.1, which is the router's",
    ),
    (_balanced(service=Service(Protocol.SCTP, 80, 80)), "balancer turns has no TCP or UDP ports"),
    (_balanced(service=Service(Protocol.TCP)), "balancer turns has no TCP or UDP ports"),
    (_balanced(service=tcp(80, 81)), "balancer turns moves a range of ports"),
    (
        _balanced(check=HealthCheck(8080, interval=0)),
        "the health check of balancer turns has a number that is too small or too large",
    ),
    (replace(ROUTER, forwarders=(Forwarder(None, "corp.example"),)), "forwarder of corp.example has no address"),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_contradicts_itself_is_refused(config: RouterConfig, message: str) -> None:
    assert message in checks.conflicts(config)
    with pytest.raises(GuestnetError, match=re.escape(message)):
        document(config)


def test_what_is_right_has_no_conflicts() -> None:
    ranged = replace(ROUTER, balancers=(balancer("x", "203.0.113.15", service=tcp(8000, 8010), port=8000),))
    for config in (ROUTER, with_two_publics(), BALANCED, ranged):
        assert checks.conflicts(config) == []


def test_a_rule_can_be_of_a_protocol_as_a_whole() -> None:
    services = (Service(Protocol.TCP), Service("gre"), Service("proto/99"))
    made = document(_lan(exceptions=(Rule("all", services),))).nft
    for number in (6, 47, 99):
        assert re.search(rf"meta l4proto {number} .*egress-eth0-all", made), made


HOSTILE = [
    _lan(domain="lan\ndhcp-script=/bin/sh"),
    _lan(domain="lan internal"),
    _lan(exceptions=(Rule('x" accept comment "'),)),
    _lan(exceptions=(Rule("x\nflush ruleset"),)),
    _balanced(name="x accept"),
    _balanced(name="x/y"),
    _balanced(members=(BalancerMember("x\nmember turns y 10.1.1.9", parse.address("10.1.1.11")),)),
    replace(ROUTER, name="r1\n10.0.0.1 bank.example"),
    _lan(name="eth0", mac="52:54:00:13:01:00 up\nreboot"),
    _reserved("10.1.1.77", mac="52:54:00:13:00:77,set:x\n"),
    replace(ROUTER, forwarders=(Forwarder(parse.address("192.0.2.1"), "x/#\nconf-file=/etc/shadow"),)),
]


@pytest.mark.parametrize("config", HOSTILE, ids=range(len(HOSTILE)))
def test_what_no_parser_would_have_let_through_is_not_written(config: RouterConfig) -> None:
    with pytest.raises(GuestnetError, match="since we never write"):
        document(config)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("nft", "flush ruleset"),
        ("nft", "add rule inet filter input accept"),
        ("nft", 'add rule inet guestnet input accept comment "x"'),
        ("nft", "add rule inet guestnet input tcp dport 70000 accept"),
        ("nft", 'include "/etc/shadow"'),
        ("dnsmasq", "dhcp-script=/bin/sh"),
        ("dnsmasq", "conf-file=/etc/shadow"),
        ("dnsmasq", "log-facility=/etc/passwd"),
        ("hosts", "52:54:00:13:00:0a,10.1.1.10"),
        ("hosts", "52:54:00:13:00:0a,set:x,10.1.1.10,web"),
        ("options", "option:router,10.1.1.1"),
        ("names", "10.1.1.10 a b c"),
        ("servers", "server=/etc/passwd"),
        ("net", "reboot"),
        ("nft", "add rule inet guestnet translate goto member-x/y/z"),
        ("balance", "balancer web random tcp 203.0.113.12 80 80 -"),
        ("balance", "member web web1 10.1.1.11 8080"),
    ],
)
def test_the_second_wall(section: str, line: str) -> None:
    with pytest.raises(GuestnetError, match="since we never write"):
        grammar.checked(section, [line])

"""A router that does a bit of everything, and its parts for tests."""

from __future__ import annotations

from dataclasses import replace

from libvirt_guestnet import parse
from libvirt_guestnet.model.dhcp_options import option
from libvirt_guestnet.model.network import DhcpRange
from libvirt_guestnet.model.router import (
    ControlNic,
    Dhcp,
    GuestNic,
    NicAddress,
    PortForward,
    PublicNic,
    Reservation,
    RouterConfig,
    StaticNat,
    TierRule,
)
from libvirt_guestnet.model.services import Forwarder
from libvirt_guestnet.model.traffic import Protocol, Rule, Service, Verdict


def own(text: str) -> NicAddress:
    address, _, length = text.partition("/")
    return NicAddress(parse.address(address), int(length))


def tcp(first: int, last: int | None = None) -> Service:
    return Service(Protocol.TCP, first, last or first)


def udp(port: int) -> Service:
    return Service(Protocol.UDP, port, port)


ICMP = Service(Protocol.ICMP)
WEB_MAC, OTHER_MAC, HEALTH_MAC = "52:54:00:13:00:0a", "52:54:00:13:00:0b", "52:54:00:13:00:fe"

LAN = GuestNic(
    "eth0",
    "52:54:00:13:01:00",
    (own("10.1.1.1/24"), own("fd13:1::1/64")),
    Verdict.DENY,
    exceptions=(Rule("web", (tcp(80), tcp(8443))), Rule("ping", (ICMP,)), Rule("dns", (udp(53),))),
    source_nat=(parse.address("203.0.113.10"), parse.address("2001:db8:113::10")),
    dhcp=Dhcp(
        (
            Reservation(
                "web",
                WEB_MAC,
                (parse.address("10.1.1.10"), parse.address("fd13:1::10")),
                options=(option(4, "ntp-server", ["10.1.1.1"]),),
            ),
            Reservation("health", HEALTH_MAC, (parse.address("10.1.1.254"),)),
        ),
        (DhcpRange(parse.address("10.1.1.100"), parse.address("10.1.1.150")),),  # type: ignore[arg-type]
        options=(option(4, "domain-search", ["lan.internal"]),),
    ),
    domain="lan.internal",
)
TIER = GuestNic(
    "eth3",
    "52:54:00:13:01:03",
    (own("10.1.2.1/24"), own("fd13:2::1/64")),
    Verdict.ALLOW,
    exceptions=(Rule("no-mail", (tcp(25),)),),
    source_nat=(parse.address("203.0.113.11"),),
    dhcp=Dhcp((Reservation("db", OTHER_MAC, (parse.address("10.1.2.10"), parse.address("fd13:2::10"))),), slaac=True),
    domain="db.internal",
)
PUBLIC = PublicNic(
    "eth2",
    "52:54:00:13:01:02",
    (own("203.0.113.2/24"), own("2001:db8:113::2/64")),
    (parse.address("203.0.113.1"), parse.address("2001:db8:113::1")),
)
CONTROL = ControlNic("52:54:00:13:01:01", own("169.254.7.2/30"), parse.address("169.254.7.1"))  # type: ignore[arg-type]

ROUTER = RouterConfig(
    "r1",
    (LAN, TIER),
    CONTROL,
    (PUBLIC,),
    forwards=(
        PortForward("web", parse.address("203.0.113.10"), tcp(8080), parse.address("10.1.1.10"), 80),
        PortForward("web6", parse.address("2001:db8:113::10"), tcp(8080), parse.address("fd13:1::10"), 80),
        PortForward("many", parse.address("203.0.113.10"), tcp(9000, 9003), parse.address("10.1.1.10"), 7000),
        PortForward(
            "some",
            parse.address("203.0.113.10"),
            tcp(22),
            parse.address("10.1.1.10"),
            22,
            (parse.prefix("203.0.113.1"),),
        ),
    ),
    static_nat=(StaticNat("db", parse.address("203.0.113.20"), parse.address("10.1.2.10")),),
    ingress=(Rule("db", (tcp(80),), destinations=(parse.prefix("10.1.2.10"),)),),
    tier_rules=(TierRule("eth0", "eth3", Rule("sql", (tcp(80),))),),
    forwarders=(Forwarder(parse.address("203.0.113.3")), Forwarder(parse.address("203.0.113.3"), "corp.example")),
)


def with_two_publics() -> RouterConfig:
    second = PublicNic("eth4", "52:54:00:13:01:04", (own("198.51.100.2/24"),), (parse.address("198.51.100.1"),))
    tier = replace(TIER, source_nat=(parse.address("198.51.100.2"),))
    return replace(ROUTER, guests=(LAN, tier), public=(PUBLIC, second))

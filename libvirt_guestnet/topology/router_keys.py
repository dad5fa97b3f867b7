"""The keys of a virtual router; what its networks' and ports' own keys say is there (docs/virtual-router.md)."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.model.balancing import Method
from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.traffic import Service, Verdict

from . import kinds
from .spec import At, Decl, ListOf, MapOf, RecordKind, key

_SERVICES = "icmp, tcp, udp, tcp/80, tcp/8000-8010, udp/53 …"


@dataclass(frozen=True, kw_only=True)
class EgressDecl(Decl):
    """Connections to the public side of which the opposite of `egress` is done."""

    services: tuple[At[Service], ...] | None = key(ListOf(kinds.SERVICE), f"{_SERVICES} Left out: all.")
    destinations: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.CLIENT), "Where to, by address or prefix. Left out: everywhere.", name="to"
    )
    sources: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.CLIENT), "From which addresses or prefixes of the network. Left out: from all.", name="from"
    )


@dataclass(frozen=True, kw_only=True)
class TierDecl(Decl):
    """A network of mode isolated whose gateway the router is."""

    egress: At[Verdict] = key(
        kinds.VERDICT,
        "What becomes of connections to the public side: allow or deny. It has no default.",
        required=True,
        default=Verdict.DENY,
    )
    exceptions: tuple[EgressDecl, ...] | None = key(
        ListOf(RecordKind(EgressDecl)),
        "What is otherwise: denied where egress is allow, and the reverse.",
        name="except",
    )
    source_nat: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "The address of a public network that the guests go out with, one of a family. A family without one goes out "
        "with the guests' own addresses.",
    )
    addresses: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "The router's own, the guests' gateway. Left out: the first of each subnet."
    )


@dataclass(frozen=True, kw_only=True)
class PublicDecl(Decl):
    """A network that the router reaches others by."""

    addresses: tuple[At[IPAddress], ...] = key(
        ListOf(kinds.IP),
        "The router's own there. Others of the same subnets are taken for translation by naming them elsewhere.",
        required=True,
        default=(),
    )
    gateways: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "The default gateway there, one of a family. Left out: the network's own, where it has one."
    )


@dataclass(frozen=True, kw_only=True)
class TierAllowDecl(Decl):
    """New connections from one of the router's networks to another. Replies always pass."""

    source: At[str] = key(kinds.OBJECT_NAME, "The network whose guests open them.", required=True, name="from")
    destination: At[str] = key(kinds.OBJECT_NAME, "The network they lead to.", required=True, name="to")
    services: tuple[At[Service], ...] = key(ListOf(kinds.SERVICE), _SERVICES, required=True, default=())


@dataclass(frozen=True, kw_only=True)
class IngressDecl(Decl):
    """New connections from the public side to a guest's own or floating address. Port forwards pass by themselves."""

    destination: At[str] = key(
        kinds.OBJECT_NAME, "The guest, or GUEST.PORT, on one of the router's networks.", required=True, name="to"
    )
    services: tuple[At[Service], ...] = key(ListOf(kinds.SERVICE), _SERVICES, required=True, default=())
    sources: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.CLIENT), "From which addresses or prefixes. Left out: from everywhere.", name="from"
    )


@dataclass(frozen=True, kw_only=True)
class HealthCheckDecl(Decl):
    """A TCP connection that the router opens to each member. One that does not answer is left out until it does."""

    port: At[int] | None = key(kinds.UDP_PORT, "Where to. Left out: the port that is balanced, if it is one of TCP.")
    interval: At[int] = key(kinds.CHECK_SECONDS, "Seconds from one to the next, and for an answer.", default=2)
    rise: At[int] = key(kinds.CHECK_TIMES, "So many answers in a row bring a member back.", default=2)
    fall: At[int] = key(kinds.CHECK_TIMES, "So many without an answer in a row leave it out.", default=3)


@dataclass(frozen=True, kw_only=True)
class BalancerDecl(Decl):
    """Ports of public addresses that several guests serve. They see the client's own address."""

    addresses: tuple[At[IPAddress], ...] = key(
        ListOf(kinds.IP, one=True), "Which addresses of the public networks.", required=True, default=(), name="at"
    )
    services: tuple[At[Service], ...] = key(
        ListOf(kinds.SERVICE), "Which ports: tcp/80, udp/53, tcp/8000-8010 …", required=True, default=()
    )
    members: tuple[At[str], ...] = key(
        ListOf(kinds.OBJECT_NAME),
        "The guests, or GUEST.PORT, on the router's networks. Each has an address of every family in at.",
        required=True,
        default=(),
    )
    method: At[Method] = key(
        kinds.BALANCING,
        "Who gets a new connection: each in turn, a member for each client's address, or who has the fewest.",
        default=Method.ROUND_ROBIN,
    )
    to: At[int] | None = key(kinds.UDP_PORT, "The members' port. Left out: the one that was asked for.")
    check: HealthCheckDecl | None = key(
        RecordKind(HealthCheckDecl, word="false"),
        "How the router finds out who serves. Left out: as its keys say; false: everybody is taken to serve.",
    )


@dataclass(frozen=True, kw_only=True)
class VirtualRouterDecl(Decl):
    """A small virtual machine of guestnet's own: gateway, DHCP and DNS server, NAT and firewall of its networks."""

    tiers: tuple[tuple[At[str], TierDecl | None], ...] = key(
        MapOf(RecordKind(TierDecl)),
        "The networks behind it. What DHCP and DNS say there is in the networks' own keys, and the router serves it.",
        required=True,
    )
    public: tuple[tuple[At[str], PublicDecl | None], ...] = key(
        MapOf(RecordKind(PublicDecl)), "The networks on its public side.", required=True
    )
    allow: tuple[TierAllowDecl, ...] | None = key(
        ListOf(RecordKind(TierAllowDecl)), "What passes between its networks. Left out: nothing."
    )
    ingress: tuple[IngressDecl, ...] | None = key(
        ListOf(RecordKind(IngressDecl)),
        "What comes in from the public side beside port forwards. Left out: nothing.",
    )
    balancers: tuple[BalancerDecl, ...] | None = key(
        ListOf(RecordKind(BalancerDecl)), "Ports of public addresses that several guests serve. Left out: none."
    )
    host: At[str] | None = key(
        kinds.WORD, "Of several hosts, the one that it is on; both of a redundant pair. Required, unless fabric is ovn."
    )
    redundant: At[bool] = key(
        kinds.BOOL,
        "Two routers, of which one serves: the host has the other one take over when it does not answer any more.",
        default=False,
    )
    memory: At[int] | None = key(kinds.ROUTER_MEMORY, "Its memory in MiB. Left out: 128.")
    autostart: At[bool] = key(kinds.BOOL, "Start it together with the host.", default=True)

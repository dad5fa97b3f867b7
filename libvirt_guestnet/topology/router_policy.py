"""The guest that a virtual router is, completed: its ports, and what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from libvirt_guestnet.model.hostnames import host_name
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import Guest, Port
from libvirt_guestnet.model.virtual_router import PublicLink, Tier, VirtualRouter

from . import addressing, router_rules
from .report import Report
from .router_keys import PublicDecl, TierDecl, VirtualRouterDecl
from .scope import Scope, Segment
from .spec import At, value, values

_MEMORY_MIB = 128
_LONGEST_NAME = 253

_Router = tuple[At[str], VirtualRouterDecl]


def completed(
    scope: Scope, segments: Mapping[str, Segment], guests: Mapping[str, Guest], router: _Router, report: Report
) -> Guest:
    """The guest that a router is. `guests` are all of the file's, routers without what is added here."""
    name, said = router
    links = tuple(_links(said, segments))
    leaves = next((link.network for link in links if link.gateways), "")
    extra = _extra(scope, router)
    guest = replace(
        guests[name.value],
        ports=tuple(_port(port, extra, leaves) for port in guests[name.value].ports),
        image="router",
        uuid=addressing.guest_uuid(scope.topology, name.value),
        memory_mib=value(said.memory) or _MEMORY_MIB,
        autostart=said.autostart.value,
        virtual_router=_virtual_router(segments, guests, router, links, report),
    )
    _check_names(segments, guests, router, report)
    return guest


def _links(said: VirtualRouterDecl, segments: Mapping[str, Segment]) -> Iterator[PublicLink]:
    for at, public in said.public:
        if public and at.value in segments:
            yield PublicLink(at.value, _gateways(public, segments[at.value]))


def _gateways(public: PublicDecl, seg: Segment) -> tuple[IPAddress, ...]:
    if public.gateways is not None:
        return values(public.gateways)
    found: dict[int, IPAddress] = {}
    for gateway in (subnet.gateway for subnet in seg.network.subnets):
        if gateway is not None and gateway not in values(public.addresses):
            found.setdefault(gateway.version, gateway)
    return tuple(found.values())


def _extra(scope: Scope, router: _Router) -> dict[str, set[IPAddress]]:
    """By public network, the addresses that are translated there and are not the router's own."""
    name, said = router
    own = {each for _, public in said.public if public for each in values(public.addresses)}
    decl, public = scope.guests[name.value], {at.value for at, _ in said.public}
    ports = decl.ports if decl else ()
    return {p.network.value: {*values(p.addresses)} - own for p in ports if p.network.value in public}


def _port(port: Port, extra: Mapping[str, set[IPAddress]], leaves: str) -> Port:
    """An address that is only translated has its whole length: no prefix on the link follows from it."""
    mine = extra.get(port.network, ())
    addresses = tuple(
        replace(each, prefix_length=each.ip.max_prefixlen) if each.ip in mine else each for each in port.addresses
    )
    return replace(port, addresses=addresses, default_route=port.network == leaves)


def _virtual_router(
    segments: Mapping[str, Segment],
    guests: Mapping[str, Guest],
    router: _Router,
    links: tuple[PublicLink, ...],
    report: Report,
) -> VirtualRouter:
    name, said = router
    behind = {at.value: segments[at.value] for at, tier in said.tiers if tier and at.value in segments}
    forwarders = (each for seg in behind.values() for each in seg.network.dns.forwarders)
    return VirtualRouter(
        tiers=tuple(
            _tier(at, tier, behind[at.value], report) for at, tier in said.tiers if tier and at.value in behind
        ),
        public=links,
        allow=tuple(router_rules.allows(said.allow or (), behind, name.value, report)),
        ingress=tuple(router_rules.ingress(said.ingress or (), guests, behind, name.value, report)),
        forwarders=tuple(dict.fromkeys(forwarders)),
    )


def _tier(at: At[str], tier: TierDecl, seg: Segment, report: Report) -> Tier:
    known: set[int] = set()
    for each in tier.source_nat or ():
        if each.value.version in known:
            report.add(each.where, f"network '{at.value}' goes out with one IPv{each.value.version} address")
        elif seg.sure and each.value.version not in {prefix.version for prefix in seg.prefixes}:
            report.add(each.where, f"network '{at.value}' has no IPv{each.value.version} subnet to translate")
        known.add(each.value.version)
    exceptions = tuple(router_rules.exceptions(tier, seg, report))
    return Tier(at.value, tier.egress.value, exceptions, values(tier.source_nat))


def _check_names(segments: Mapping[str, Segment], guests: Mapping[str, Guest], router: _Router, report: Report) -> None:
    """With its domain behind it, a name is still one that DNS can have."""
    for at, _ in router[1].tiers:
        domain = segments[at.value].decl.domain if at.value in segments else None
        names = [host_name(g, p) for g in guests.values() for p in g.ports if p.network == at.value] if domain else []
        longest = max(names, key=len, default="")
        if domain and len(longest) + 1 + len(domain.value) > _LONGEST_NAME:
            report.add(domain.where, f"{longest}.{domain.value} is too long for DNS")

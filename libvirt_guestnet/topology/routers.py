"""Guests that forward: their policy resolved to prefixes, and which sources their ports may therefore use."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

from libvirt_guestnet.model.network import IPNetwork
from libvirt_guestnet.model.topology import Allow, Router

from .guest_keys import AllowDecl, GuestDecl, PortDecl
from .report import Report
from .scope import Scope, Segment
from .spec import At, value, values

_EVERYTHING: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
_Sources = tuple[tuple[IPNetwork, ...], tuple[IPNetwork, ...]]


def router(scope: Scope, segments: Mapping[str, Segment], name: str, decl: GuestDecl, report: Report) -> Router | None:
    """The guest's routing policy; None when it does not forward."""
    if decl.router is None:
        return None
    attached = {port.network.value for port in decl.ports}
    if decl.router.masquerade:
        _check_attached(scope, attached, name, decl.router.masquerade, report)
    for line in decl.router.allow or ():
        _check_attached(scope, attached, name, line.source, report)
    allow = tuple(_allow(scope, segments, line, report) for line in decl.router.allow or ())
    return Router(allow, value(decl.router.masquerade))


def sources(scope: Scope, segments: Mapping[str, Segment], name: str, decl: GuestDecl, port: PortDecl) -> _Sources:
    """The prefixes a router may send from on this port beside its own addresses, and those of the link to leave out."""
    seg = segments.get(port.network.value)
    onlink = seg.prefixes if seg else ()
    if port.sources is not None:
        given = values(port.sources)
        return given, tuple(p for p in onlink if any(_within(p, source) for source in given))
    if decl.router is None or seg is None or port.network.value == value(decl.router.masquerade):
        return (), ()
    if seg.network.gateway == name:
        versions = sorted({prefix.version for prefix in onlink})
        return tuple(_EVERYTHING[version] for version in versions), onlink
    return _routed(scope, segments, name, decl, port.network.value), ()


def _routed(
    scope: Scope, segments: Mapping[str, Segment], name: str, decl: GuestDecl, towards: str
) -> tuple[IPNetwork, ...]:
    """Prefixes behind the router, seen from network `towards`: those it is the gateway of, those it lets flows come
    from, and those that answer flows from `towards`."""
    own_ports = (segments.get(port.network.value) for port in decl.ports)
    found = [p for seg in own_ports if seg and seg.network.gateway == name for p in seg.prefixes]
    for line in decl.router.allow or () if decl.router else ():
        origin, target = line.source.value, line.destination.value
        found += _prefixes(scope, segments, target if origin == towards else origin)
    own = segments[towards].prefixes
    return tuple(dict.fromkeys(p for p in found if p not in own))


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _allow(scope: Scope, segments: Mapping[str, Segment], decl: AllowDecl, report: Report) -> Allow:
    target = decl.destination
    if target.value not in scope.networks and target.value not in scope.physicals:
        known = [*scope.networks, *scope.physicals]
        report.unknown(target.where, "network or physical network", target.value, known)
    elif _ambiguous(segments, scope, target.value):
        report.add(target.where, f"'{target.value}' is both a network and a physical network; rename one of them")
    prefixes = _prefixes(scope, segments, target.value)
    if not prefixes and _is_declared(scope, segments, target.value):
        report.add(target.where, f"'{target.value}' has no subnets: the router cannot tell which addresses are there")
    if not decl.services and "services" not in decl.bad:
        report.add(decl.at, "services is empty: list what may pass, or remove the line")
    return Allow(decl.source.value, target.value, values(decl.services), prefixes)


def _ambiguous(segments: Mapping[str, Segment], scope: Scope, name: str) -> bool:
    seg = segments.get(name)
    return name in scope.physicals and seg is not None and seg.wire != f"label {name}"


def _prefixes(scope: Scope, segments: Mapping[str, Segment], name: str) -> tuple[IPNetwork, ...]:
    outside = scope.physicals.get(name)
    seg = segments.get(name)
    return seg.prefixes if seg else values(outside.subnets) if outside else ()


def _is_declared(scope: Scope, segments: Mapping[str, Segment], name: str) -> bool:
    """Whether the lack of prefixes is a fact, not the echo of another complaint."""
    seg, outside = segments.get(name), scope.physicals.get(name)
    return seg.sure if seg else outside is not None and "subnets" not in outside.bad


def _check_attached(scope: Scope, attached: set[str], guest: str, at: At[str], report: Report) -> None:
    if at.value not in scope.networks:
        report.unknown(at.where, "network", at.value, scope.networks)
    elif at.value not in attached:
        report.add(at.where, f"guest '{guest}' has no port on network '{at.value}'")

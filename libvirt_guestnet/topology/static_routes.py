"""Static routes of a network: prefixes that the host reaches through a router there, while the network is active."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet.model.network import IPNetwork, Mode, StaticRoute, Subnet

from . import next_hops
from .dhcp import why_unusable
from .network_keys import NetworkDecl, PhysicalDecl, RouteDecl
from .report import Report
from .scope import Placed, Segment
from .spec import value

_METRIC = 1  # libvirt's default
_OTHERS = (Mode.BRIDGE, Mode.HOST_ROUTED)


def routes(decl: NetworkDecl, subnets: tuple[Subnet, ...], report: Report) -> tuple[StaticRoute, ...]:
    """The routes of a network with these subnets; what could not be is reported."""
    if not decl.routes or "subnets" in decl.bad:
        return ()
    if not any(subnet.host for subnet in subnets):
        advice = "" if decl.mode.value in _OTHERS else "; gateway: host gives it one"
        report.add(decl.routes[0].at, f"routes: the host has no address on the network{advice}")
        return ()
    found = (each for each in decl.routes if not each.bad)
    return tuple(_route(each) for each in found if _is_reached(each, subnets, report))


def _route(decl: RouteDecl) -> StaticRoute:
    return StaticRoute(decl.prefix.value, decl.gateway.value, value(decl.metric))


def _is_reached(decl: RouteDecl, subnets: tuple[Subnet, ...], report: Report) -> bool:
    prefix, gateway = decl.prefix.value, decl.gateway.value
    near = next((subnet for subnet in subnets if gateway in subnet.prefix), None)
    if not prefix.prefixlen:
        report.add(decl.prefix.where, f"{prefix}: the host has a default route of its own")
    elif prefix.version != gateway.version:
        report.add(decl.gateway.where, f"{prefix} is IPv{prefix.version}, and {gateway} is not")
    elif near is None:
        here = ", ".join(str(subnet.prefix) for subnet in subnets)
        report.add(decl.gateway.where, f"{gateway} is outside the subnets of the network ({here})")
    elif gateway == near.host:
        report.add(decl.gateway.where, f"{gateway} is the host's own address on the network")
    elif why := why_unusable(near.prefix, gateway):
        report.add(decl.gateway.where, why)
    else:
        return True
    return False


def check(
    placed: Iterable[Placed],
    segments: Mapping[str, Segment],
    physicals: Mapping[str, PhysicalDecl | None],
    report: Report,
) -> None:
    """Report routes to what is elsewhere, and those by way of a guest of the file, which is routed to by `next-hop`."""
    wanted = [(seg, each) for seg in segments.values() for each in _sound(seg)]
    if not wanted:
        return
    ports = list(placed)
    here = [*next_hops.here(segments, physicals), *_behind(ports)]
    seen: dict[tuple[IPNetwork, int], int] = {}
    for seg, decl in wanted:
        prefix, metric = decl.prefix.value, value(decl.metric) or _METRIC
        for other, title in here:
            if other.version == prefix.version and next_hops.overlap(other, prefix):
                report.add(decl.prefix.where, f"{prefix} cannot be routed there: {title} has {other}")
        line = seen.setdefault((prefix, metric), decl.prefix.where.line)
        if line != decl.prefix.where.line:
            report.add(decl.prefix.where, f"{prefix} is routed already (line {line}): give one of them another metric")
        _check_guest(seg, decl, ports, report)


def _sound(seg: Segment) -> Iterator[RouteDecl]:
    return (each for each in seg.decl.routes or () if not each.bad and _route(each) in seg.network.routes)


def _behind(placed: Iterable[Placed]) -> Iterator[tuple[IPNetwork, str]]:
    for each in placed:
        yield from ((prefix, f"port '{each.title}'") for prefix in each.port.behind)


def _check_guest(seg: Segment, decl: RouteDecl, placed: Iterable[Placed], report: Report) -> None:
    prefix, gateway = decl.prefix.value, decl.gateway.value
    for each in placed:
        own = each.port.network == seg.network.name and any(address.ip == gateway for address in each.port.addresses)
        covered = any(
            prefix.network_address in source and source.prefixlen <= prefix.prefixlen for source in each.port.sources
        )
        if own and each.port.guarded and not covered:
            advice = f"say next-hop: true and sources: [{prefix}] there, and leave the route out"
            report.add(
                decl.gateway.where, f"port '{each.title}' has {gateway}, but may not send from {prefix}: {advice}"
            )

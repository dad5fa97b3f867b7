"""Guests that the host routes through: what is behind their ports, and what makes no sense there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet import parse
from libvirt_guestnet.model.network import IPNetwork, Mode

from .guest_keys import PortDecl
from .network_keys import PhysicalDecl
from .report import Report
from .scope import Placed, Segment
from .spec import values

_MODES = "nat, route, open and isolated"
_HOST = "gateway: host gives it one"
_Taken = list[tuple[IPNetwork, str]]


def behind(decl: PortDecl, sources: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """The prefixes that the host routes to the port: its sources, but "anywhere"."""
    return tuple(prefix for prefix in sources if prefix.prefixlen) if decl.next_hop.value else ()


def check(
    placed: Iterable[Placed],
    segments: Mapping[str, Segment],
    physicals: Mapping[str, PhysicalDecl | None],
    report: Report,
) -> None:
    """Report next hops on networks that route nothing, for nothing, for what is elsewhere, or without an address."""
    wanted = [each for each in placed if each.decl.next_hop.value]
    taken = list(here(segments, physicals)) if wanted else []
    routed: dict[IPNetwork, str] = {}
    for each in wanted:
        seg = segments.get(each.port.network)
        if seg is not None and _fits(each, seg, report):
            for prefix in each.port.behind:
                _check_prefix(each, prefix, seg, taken, report)
                other = routed.setdefault(prefix, each.title)
                if other != each.title:
                    report.add(each.decl.next_hop.where, f"{prefix} is behind port '{other}' already")


def _fits(placed: Placed, seg: Segment, report: Report) -> bool:
    where, network = placed.decl.next_hop.where, seg.network
    problem = ""
    if network.mode in (Mode.BRIDGE, Mode.HOST_ROUTED) or (network.external and network.external.bridge):
        problem = f"network '{network.name}' is {network.mode}: next hops are on networks of modes {_MODES}"
    elif network.mode is Mode.ISOLATED and not any(subnet.host for subnet in network.subnets):
        problem = f"the host has no address on network '{network.name}', so it routes nothing there; {_HOST}"
    elif network.mode is Mode.ROUTE and network.physical_network is None:
        # Its accepts would have to stand before those rejects of libvirt that protect other networks.
        problem = f"network '{network.name}' needs a physical-network: where else may the traffic go?"
    elif not placed.port.behind and "sources" not in placed.decl.bad:
        problem = "nothing is behind this port: name it in sources, or in a router that does not masquerade here"
    if problem:
        report.add(where, f"next-hop: {problem}")
    return not problem


def _check_prefix(placed: Placed, prefix: IPNetwork, seg: Segment, taken: _Taken, report: Report) -> None:
    where = placed.decl.next_hop.where
    if seg.sure and not any(address.ip.version == prefix.version for address in placed.port.addresses):
        report.add(where, f"next-hop: the port has no IPv{prefix.version} address that {prefix} could be routed to")
    try:
        parse.routable(str(prefix))
    except parse.TextError as error:
        report.add(where, f"next-hop: {error}")
    for other, title in taken:
        if other.version == prefix.version and overlap(other, prefix):
            report.add(where, f"next-hop: {prefix} cannot be behind the guest: {title} has {other}")


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two prefixes of one family have an address in common."""
    outer, inner = (one, other) if one.prefixlen <= other.prefixlen else (other, one)
    return inner.network_address in outer


def here(
    segments: Mapping[str, Segment], physicals: Mapping[str, PhysicalDecl | None]
) -> Iterator[tuple[IPNetwork, str]]:
    """Prefixes that the host is on itself, or that are outside."""
    for seg in segments.values():
        for subnet in seg.network.subnets:
            if subnet.host is not None:
                yield subnet.prefix, f"network '{seg.network.name}'"
    for label, physical in physicals.items():
        for prefix in values(physical.subnets) if physical else ():
            yield prefix, f"physical network '{label}'"

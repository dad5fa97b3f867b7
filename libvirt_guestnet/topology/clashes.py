"""What must be unique on a host, and is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise

from libvirt_guestnet.model.network import IPNetwork, Mode

from ..errors import Where
from . import forwards, next_hops, static_routes
from .keys import TopologyDecl
from .networks import vrfs
from .report import Report
from .scope import HOST, NONE, Placed, Scope, Segment

_DEEPEST = 8
_Subnet = tuple[IPNetwork, Where, str, str]  # prefix, where it is said, whose, wire


def check(
    decl: TopologyDecl, scope: Scope, segments: Mapping[str, Segment], ports: list[Placed], report: Report
) -> None:
    """Report every clash of names, devices, MAC addresses, UUIDs and subnets."""
    _check_names(decl, scope, report)
    _check_devices(segments.values(), ports, report)
    _check_bridges(segments.values(), report)
    _check_mtus(segments.values(), report)
    _check_vrfs(segments.values(), report)
    _check_macs(segments, ports, report)
    _check_lent_macs(segments, ports, report)
    _check_uuids(decl, report)
    _check_subnets(decl, segments, report)
    _check_guests(segments, ports, report)
    forwards.check(ports, segments, report)
    in_vrfs = vrfs(segments.values())
    outside = {label: physical for label, physical in scope.physicals.items() if label not in in_vrfs}
    next_hops.check(ports, segments, outside, report)
    static_routes.check(ports, segments, outside, report)


def _check_names(decl: TopologyDecl, scope: Scope, report: Report) -> None:
    for name, _ in decl.physical_networks or ():
        if name.value == HOST:
            report.add(name.where, f"a physical network cannot be named {HOST}: the host itself is meant by that")
    port_names = _port_names(scope, report)
    for name, _ in decl.guests or ():
        if name.value in (HOST, NONE):
            report.add(name.where, f"a guest cannot be named '{name.value}': the word has a meaning of its own")
        if name.value in scope.physicals:
            report.add(name.where, f"'{name.value}' is also a physical network; endpoints would be ambiguous")
    for name, _ in (*(decl.guests or ()), *(decl.physical_networks or ())):
        if port_names.get(name.value, name.value) != name.value:
            report.add(name.where, f"'{name.value}' also names a port of guest '{port_names[name.value]}'")


def _port_names(scope: Scope, report: Report) -> dict[str, str]:
    """GUEST.PORT → guest. A name with dots in it can be read in two ways."""
    owners: dict[str, str] = {}
    for name, guest in scope.guests.items():
        for port in guest.ports if guest else ():
            short = port.name or port.network
            owner = owners.setdefault(f"{name}.{short.value}", name)
            if owner != name:
                report.add(short.where, f"'{name}.{short.value}' also names a port of guest '{owner}'")
    return owners


def _check_devices(segments: Iterable[Segment], ports: list[Placed], report: Report) -> None:
    owners: dict[str, tuple[str, str]] = {}
    for where, device, title, group, key in sorted(_devices(segments, ports)):
        owner, same = owners.setdefault(device, (title, group))
        if same != group:
            report.add(where, f"interface '{device}' of {title} is already that of {owner}; set {key}: on one of them")


def _check_bridges(segments: Iterable[Segment], report: Report) -> None:
    """A NIC is in one bridge: all bridge networks of a label, or of a VLAN of it, are on the same."""
    first: dict[str, Segment] = {}
    for seg in segments:
        if seg.network.mode is Mode.BRIDGE and seg.network.physical_network:
            other = first.setdefault(seg.wire, seg)
            if other.network.bridge != seg.network.bridge:
                where = seg.decl.bridge.where if seg.decl.bridge else seg.at.where
                message = f"bridge '{seg.network.bridge}' differs from '{other.network.bridge}' of network"
                report.add(where, f"{message} '{other.network.name}', which has the same physical network")


def _check_mtus(segments: Iterable[Segment], report: Report) -> None:
    """What a guest sends to another one on its bridge has to fit there as well."""
    first: dict[str, Segment] = {}
    for seg in segments:
        if seg.network.mode is Mode.BRIDGE and seg.decl.mtu:
            other = first.setdefault(seg.wire, seg)
            if other.network.mtu != seg.network.mtu:
                message = f"MTU {seg.network.mtu} differs from {other.network.mtu} of network '{other.network.name}'"
                report.add(seg.decl.mtu.where, f"{message} on the same bridge: what is larger would vanish there")


def _check_vrfs(segments: Iterable[Segment], report: Report) -> None:
    """The device of a label is in one VRF, or in none: for all networks that the host routes to it. What is in a bridge
    does not ask."""
    first: dict[str, Segment] = {}
    for seg in segments:
        if seg.network.mode is not Mode.BRIDGE and seg.network.physical_network:
            other = first.setdefault(seg.network.physical_network, seg)
            if other.vrf != seg.vrf:
                where = seg.decl.vrf.where if seg.decl.vrf else seg.at.where
                message = f"vrf '{seg.vrf or NONE}' differs from '{other.vrf or NONE}' of network"
                report.add(where, f"{message} '{other.network.name}', which has the same physical network")


def _devices(segments: Iterable[Segment], ports: list[Placed]) -> Iterator[tuple[Where, str, str, str, str]]:
    """(where, device, whose, group, key); owners of one group may share a device."""
    for seg in segments:
        where = seg.decl.bridge.where if seg.decl.bridge else seg.at.where
        if seg.network.bridge:
            yield where, seg.network.bridge, f"network '{seg.network.name}'", seg.wire, "bridge"
        if seg.decl.vxlan and seg.network.vxlan and seg.network.vxlan.vni:
            where = seg.decl.vxlan.vni.where
            yield where, seg.network.vxlan.device, f"network '{seg.network.name}'", seg.wire, "vni"
    for placed in ports:
        where = placed.decl.tap.where if placed.decl.tap else placed.decl.at
        yield where, placed.port.tap, f"port '{placed.title}'", f"port {placed.title}", "tap"


def _check_macs(segments: Mapping[str, Segment], ports: list[Placed], report: Report) -> None:
    """Given MAC addresses are unique in the file; derived ones need to be on their wire and in their guest (24 bits are
    too few to ask more of thousands of ports)."""
    anywhere: dict[str, str] = {}
    nearby: dict[tuple[str, str], str] = {}
    for where, mac, title, scopes, given in sorted(_macs(segments, ports)):
        other = anywhere.get(mac) if given else None
        other = other or next((nearby[scope, mac] for scope in scopes if (scope, mac) in nearby), None)
        if other and other != title:
            report.add(where, f"MAC address {mac} of {title} is already that of {other}; set mac: on one of them")
        if given:
            anywhere.setdefault(mac, title)
        for scope in scopes:
            nearby.setdefault((scope, mac), title)


def _check_lent_macs(segments: Mapping[str, Segment], ports: list[Placed], report: Report) -> None:
    """A pair lends a MAC address that no other guest has on that wire, nor the host: it could speak, and ask for
    addresses, in that one's name."""
    owners = {
        (seg.wire, seg.network.mac): ("", f"the host on network '{seg.network.name}'") for seg in segments.values()
    }
    wires = {placed.title: seg.wire for placed in ports if (seg := segments.get(placed.port.network))}
    owners |= {(wires.get(p.title, ""), p.port.mac): (p.guest, f"port '{p.title}'") for p in ports}
    for placed in ports:
        for lent in (pair.mac for pair in placed.decl.allowed_pairs or () if pair.mac):
            guest, title = owners.get((wires.get(placed.title, ""), lent.value), (placed.guest, ""))
            if guest != placed.guest:
                report.add(lent.where, f"MAC address {lent.value} is that of {title}: no other guest may have it")


def _macs(
    segments: Mapping[str, Segment], ports: list[Placed]
) -> Iterator[tuple[Where, str, str, tuple[str, ...], bool]]:
    for seg in segments.values():
        if seg.network.mac:
            where = seg.decl.mac.where if seg.decl.mac else seg.at.where
            title = f"the host on network '{seg.network.name}'"
            yield where, seg.network.mac, title, (f"wire {seg.wire}",), seg.decl.mac is not None
    for placed in ports:
        given, seg_ = placed.decl.mac, segments.get(placed.port.network)
        scopes = (f"guest {placed.guest}", f"wire {seg_.wire if seg_ else ''}")
        yield (
            given.where if given else placed.decl.at,
            placed.port.mac,
            f"port '{placed.title}'",
            scopes,
            given is not None,
        )


def _check_uuids(decl: TopologyDecl, report: Report) -> None:
    owners: dict[str, str] = {}
    for name, guest in decl.guests or ():
        if guest and guest.uuid:
            owner = owners.setdefault(guest.uuid.value, name.value)
            if owner != name.value:
                report.add(guest.uuid.where, f"UUID {guest.uuid.value} is already that of guest '{owner}'")


def _check_subnets(decl: TopologyDecl, segments: Mapping[str, Segment], report: Report) -> None:
    """Subnets of one host, or of one VRF, must not overlap; a bridge network may repeat those of its label.

    Where the host has no part, two tenants may well use the same addresses.
    """
    by_space: dict[str, list[_Subnet]] = {}
    for space, subnet in _subnets(decl, segments):
        by_space.setdefault(space, []).append(subnet)
    for subnets in by_space.values():
        _check_overlaps(sorted(subnets, key=lambda each: _sort_key(each[0])), report)


def _check_guests(segments: Mapping[str, Segment], ports: list[Placed], report: Report) -> None:
    """A guest on two networks with the same addresses could not tell them apart."""
    found: dict[str, list[tuple[Placed, Segment]]] = {}
    for placed in ports:
        seg = segments.get(placed.port.network)
        if seg is not None and not seg.network.routed:
            found.setdefault(placed.guest, []).append((placed, seg))
    routers = {seg.network.router for seg in segments.values()}
    for name, each in found.items():
        if _is_repeated([prefix for _, seg in each for prefix in seg.prefixes]):
            _check_guest(each, report, is_router=name in routers)


def _is_repeated(prefixes: list[IPNetwork]) -> bool:
    """Whether an address is in two of them. A guest may have many ports, so not each of them is compared with each."""
    spans = sorted((each.version, int(each.network_address), int(each.broadcast_address)) for each in prefixes)
    return any(one[0] == other[0] and other[1] <= one[2] for one, other in pairwise(spans))


def _check_guest(ports: list[tuple[Placed, Segment]], report: Report, *, is_router: bool) -> None:
    """Of a router that is on one network twice, too. Prefixes lie in each other or apart: in their order each one is
    compared with those that it is in, of which one for each wire says all."""
    prefixes = sorted(
        ((prefix, number) for number, (_, seg) in enumerate(ports) for prefix in seg.prefixes),
        key=lambda each: (_sort_key(each[0]), each[1]),
    )
    open_: list[tuple[IPNetwork, int]] = []
    told: set[tuple[int, int]] = set()
    for prefix, number in prefixes:
        while open_ and not _contains(open_[-1][0], prefix):
            open_.pop()
        wire = ports[number][1].wire
        others = [each for each in open_ if each[1] != number and (is_router or ports[each[1]][1].wire != wire)]
        for outer, other in others:
            earlier, later = sorted((number, other))
            if (earlier, later) not in told:
                shared = prefix if number == later else outer
                _report_shared(ports[later][0], ports[earlier][1], shared, report, is_router)
            told.add((earlier, later))
        if len(open_) < _DEEPEST and len(others) == sum(each[1] != number for each in open_):
            open_.append((prefix, number))


def _report_shared(placed: Placed, other: Segment, shared: IPNetwork, report: Report, is_router: bool) -> None:
    whose = "router" if is_router else "guest"
    message = f"{whose} '{placed.guest}' is on network '{other.network.name}', too, and both have {shared}"
    report.add(placed.decl.network.where, f"{message}: it could not tell them apart")


def _check_overlaps(subnets: list[_Subnet], report: Report) -> None:
    open_: list[_Subnet] = []
    for prefix, where, title, wire in subnets:
        while open_ and not _contains(open_[-1][0], prefix):
            open_.pop()
        for outer, other_where, other, other_wire in open_:
            if other_wire == wire and other != title:
                continue
            later, earlier = (where, other_where) if where > other_where else (other_where, where)
            own, other_prefix = (prefix, outer) if later == where else (outer, prefix)
            whose = other if later == where else title
            report.add(later, f"subnet {own} overlaps {other_prefix} of {whose} (line {earlier.line})")
        if len(open_) < _DEEPEST:  # deeper nesting repeats what is already reported
            open_.append((prefix, where, title, wire))


def _subnets(decl: TopologyDecl, segments: Mapping[str, Segment]) -> Iterator[tuple[str, _Subnet]]:
    """Each with the space in which it must be unique."""
    of_label = vrfs(segments.values())
    for name, physical in decl.physical_networks or ():
        for at in physical.subnets or () if physical else ():
            title, wire = f"physical network '{name.value}'", f"label {name.value}"
            yield of_label.get(name.value, ""), (at.value, at.where, title, wire)
    for seg in segments.values():
        for at in seg.decl.subnets or ():
            yield seg.space, (at.value, at.where, f"network '{seg.network.name}'", _wire(seg))


def _wire(seg: Segment) -> str:
    label = seg.network.physical_network if seg.network.routed else None
    if label:
        return f"label {label}"  # published on it: they are addresses of that LAN
    return seg.wire if seg.network.mode is Mode.BRIDGE else f"network {seg.network.name}"


def _sort_key(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    match outer, inner:
        case (IPv4Network(), IPv4Network()) | (IPv6Network(), IPv6Network()):
            return outer.overlaps(inner)
    return False

"""Zones: guests of one reach those of another by public addresses only. So nothing in a file may join two: no wire, no
guest, no route and no rule.

A network that is in none, `zone: public`, is where they meet: guests have addresses there that everybody reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet.model.network import IPNetwork, Mode

from ..errors import Where
from . import next_hops
from .guest_keys import AllowDecl, GuestDecl
from .keys import TopologyDecl
from .network_keys import NetworkDecl, PhysicalDecl
from .report import Report
from .scope import Placed, Scope, Segment
from .spec import At

PUBLIC = "public"
_ALWAYS_PUBLIC = (Mode.HOST_ROUTED, Mode.EXTERNAL)
_Use = tuple[Where, str, int, int, str, str | None]  # where, label, first and last VLAN (0: untagged), whose, zone


def of_label(scope: Scope, decl: PhysicalDecl, report: Report) -> str | None:
    """The zone of a physical network; None where zones meet."""
    return _known(scope, decl.zone, report)


def of_network(scope: Scope, at: At[str], decl: NetworkDecl, report: Report) -> str | None:
    """The zone of a network; None where zones meet. What it lacks, or has against its label, is reported."""
    label = decl.vxlan.underlay if decl.vxlan else decl.physical_network
    outside = scope.physicals.get(label.value) if label else None
    above = outside.zone if outside and outside.zone and outside.zone.value in scope.zones else None
    zone = _known(scope, decl.zone, report)
    if zone and decl.zone and decl.mode.value in _ALWAYS_PUBLIC:
        why = "the host routes to each of its addresses for everybody"
        report.add(decl.zone.where, f"a network of mode {decl.mode.value} is public: {why}")
        return None
    if above and label and decl.zone and zone != above.value:
        message = f"physical network '{label.value}' is in zone {above.value}, and so is all on it"
        report.add(decl.zone.where, f"{message}: choose a label that is in no zone")
    public = decl.mode.value in _ALWAYS_PUBLIC or at.value == scope.control  # no router reaches another by that
    if decl.zone or above or not scope.zones or public or "zone" in decl.bad:
        return zone or (above.value if above else None)
    report.add(at.where, f"network '{at.value}' is in no zone: say zone: and its name, or {PUBLIC} where zones meet")
    return None


def _known(scope: Scope, at: At[str] | None, report: Report) -> str | None:
    if at is None or at.value == PUBLIC:
        return None
    if at.value in scope.zones:
        return at.value
    if scope.zones:
        report.unknown(at.where, "zone", at.value, [*scope.zones, PUBLIC])
    else:
        report.add(at.where, f"unknown zone '{at.value}': list the file's zones under zones:")
    return None


def check(decl: TopologyDecl, segments: Mapping[str, Segment], placed: list[Placed], report: Report) -> None:
    """Report zones that nobody is in, and whatever joins two zones."""
    _check_names(decl, segments, report)
    if not decl.zones:
        return
    _check_wires(segments, placed, report)
    _check_guests(segments, placed, report)
    _check_rules(decl, segments, report)
    _check_ways(segments, placed, report)


def _check_ways(segments: Mapping[str, Segment], placed: Iterable[Placed], report: Report) -> None:
    prefixes = _Prefixes(segments.values())
    for seg in segments.values():
        for route in seg.decl.routes or ():
            prefixes.check(route.prefix, seg, report)
    for each in placed:
        for source in each.decl.sources or ():
            if seg_ := segments.get(each.port.network):
                prefixes.check(source, seg_, report)


def _check_names(decl: TopologyDecl, segments: Mapping[str, Segment], report: Report) -> None:
    if decl.zones == () and "zones" not in decl.bad:
        report.add(decl.at, "zones is empty: name the zones, or leave it out")
    seen: set[str] = set()
    used = {seg.network.zone for seg in segments.values()}
    unread = len(segments) < len(decl.networks or ())
    for at in decl.zones or ():
        if at.value == PUBLIC:
            report.add(at.where, f"a zone cannot be named {PUBLIC}: the word stands for where zones meet")
        elif at.value in seen:
            report.add(at.where, f"zone '{at.value}' is listed twice")
        elif at.value not in used and not unread:
            report.add(at.where, f"zone '{at.value}' is empty: no network is in it")
        seen.add(at.value)


def _check_wires(segments: Mapping[str, Segment], placed: list[Placed], report: Report) -> None:
    """A bridge, and a VLAN of it, is one zone's. Networks of modes that libvirt makes bridges for have their own."""
    wires: dict[str, _Wire] = {}
    done: set[tuple[str, str | None, int, int]] = set()
    for where, label, first, last, title, zone in (*_networks(segments), *_ports(segments, placed)):
        if (label, zone, first, last) in done:
            continue
        done.add((label, zone, first, last))
        wire = wires.setdefault(label, _Wire())
        if (vlan := wire.taken(first, last, title, zone)) is not None:
            other, its = wire.owners[vlan]
            what = f"VLAN {vlan}" if vlan else "what is untagged"
            message = f"{what} on '{label}' is that of {other} in {_shown(its)}, and {title} is in {_shown(zone)}"
            report.add(where, f"{message}: zones share no bridge and no VLAN")


class _Wire:
    """Whose each VLAN of a label is. Sets of VLANs are bits of a number: a file may have a trunk of all of them a
    hundred thousand times."""

    def __init__(self) -> None:
        self.owners: dict[int, tuple[str, str | None]] = {}
        self._all, self._of = 0, dict[str | None, int]()

    def taken(self, first: int, last: int, title: str, zone: str | None) -> int | None:
        """Takes these VLANs, unless they are somebody's; the first that is another zone's, or None."""
        span = ((1 << last - first + 1) - 1) << first
        new, own = span & ~self._all, self._of.get(zone, 0)
        if new:
            self.owners |= {vlan: (title, zone) for vlan in range(first, last + 1) if new >> vlan & 1}
        self._all, self._of[zone] = self._all | new, own | new
        others = span & ~self._of[zone]
        return (others & -others).bit_length() - 1 if others else None


def _networks(segments: Mapping[str, Segment]) -> Iterator[_Use]:
    for seg in segments.values():
        label, vlan = seg.network.physical_network, seg.network.vlan or 0
        if label and seg.network.mode is Mode.BRIDGE:
            at = seg.decl.vlan or seg.decl.service_vlan or seg.decl.physical_network or seg.at
            yield at.where, label, vlan, vlan, f"network '{seg.network.name}'", seg.network.zone


def _ports(segments: Mapping[str, Segment], placed: Iterable[Placed]) -> Iterator[_Use]:
    for each in placed:
        seg = segments.get(each.port.network)
        label = seg.network.physical_network if seg and seg.network.mode is Mode.BRIDGE else None
        if seg is None or label is None:
            continue
        spans = [(at.where, at.value, at.value) for at in (each.decl.vlan, each.decl.native_vlan) if at]
        spans += [(at.where, *at.value) for at in each.decl.trunk or ()]
        for where, first, last in spans:
            yield where, label, first, last, f"port '{each.title}'", seg.network.zone


def _check_guests(segments: Mapping[str, Segment], placed: Iterable[Placed], report: Report) -> None:
    first: dict[str, Segment] = {}
    for each in placed:
        seg = segments.get(each.port.network)
        if seg is None or seg.network.zone is None:
            continue
        other = first.setdefault(each.guest, seg).network
        if other.zone != seg.network.zone:
            message = f"guest '{each.guest}' is in zone {other.zone} by network '{other.name}', and would join it to"
            report.add(each.decl.network.where, f"{message} {seg.network.zone}: give each zone a guest of its own")


def _check_rules(decl: TopologyDecl, segments: Mapping[str, Segment], report: Report) -> None:
    labels = {name.value: each.zone.value for name, each in decl.physical_networks or () if each and each.zone}
    zones: dict[str, str | None] = {**labels, **{name: seg.network.zone for name, seg in segments.items()}}
    for line in _rules(decl.guests or ()):
        source, destination = zones.get(line.source.value), zones.get(line.destination.value)
        if source and destination and source != destination and PUBLIC not in (source, destination):
            message = f"'{line.destination.value}' is in zone {destination}, and '{line.source.value}' in {source}"
            report.add(line.destination.where, f"{message}: zones meet by public addresses only")


def _rules(guests: Iterable[tuple[At[str], GuestDecl | None]]) -> Iterator[AllowDecl]:
    for _, guest in guests:
        yield from (guest.router.allow or ()) if guest and guest.router else ()


class _Prefixes:
    """The prefixes of each zone's networks. Two zones may have the same one."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._of = [(seg.network.zone, seg.network.name, each) for seg in segments for each in seg.prefixes]

    def check(self, at: At[IPNetwork], seg: Segment, report: Report) -> None:
        """Report a prefix that a network of another zone has, and none of the same zone: the way would lead there."""
        zone = seg.network.zone
        alike = (each for each in self._of if each[2].version == at.value.version)
        near = [each for each in alike if next_hops.overlap(each[2], at.value)]
        if zone is None or not at.value.prefixlen or any(each[0] == zone for each in near):
            return
        other = next((each for each in near if each[0]), None)
        if other:
            message = f"{at.value} is of network '{other[1]}' in zone {other[0]}, and this is in zone {zone}"
            report.add(at.where, f"{message}: zones meet by public addresses only")


def _shown(zone: str | None) -> str:
    return f"zone {zone}" if zone else "no zone"

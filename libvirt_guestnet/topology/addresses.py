"""Which addresses a port has: those given, checked; and one derived for each subnet that has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Network

from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPAddress, IPNetwork, PhysicalNetwork, Subnet
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.slaac import eui64

from ..errors import Where
from . import addressing, dhcp
from .guest_keys import PortDecl
from .networks import check_inside, vrfs
from .report import Report
from .scope import Scope, Segment
from .spec import At

_Place = tuple[str, IPAddress]  # the space of a Segment, and the address in it


class Addresses:
    """Every address of the topology, with its owner."""

    def __init__(
        self, scope: Scope, segments: Mapping[str, Segment], physicals: tuple[PhysicalNetwork, ...], report: Report
    ) -> None:
        self._topology = scope.topology
        self._segments = segments
        self._report = report
        self._owners = dict(_fixed(segments, physicals))
        self._derived: dict[_Place, str] = {}
        self._pools: dict[tuple[str, IPNetwork], addressing.Pool] = {}
        self._given: dict[str, list[IPAddress]] = {}
        self._collisions: list[tuple[PortDecl, str, IPAddress, str, addressing.Pool]] = []
        self._own_reserved()
        self._own_given(scope)

    def of(self, guest: str, name: str, decl: PortDecl, mac: str, seg: Segment) -> tuple[PortAddress, ...]:
        """The addresses of one port, in the order of the network's subnets; given ones first."""
        given = [at.value for at in decl.addresses or ()]
        found = list(_assigned(given, seg))
        if seg.derives and decl.addresses != () and "addresses" not in decl.bad:
            for subnet in _to_derive_from(given, seg):
                found += self._derive((guest, name), decl, mac, seg, subnet)
            if seg.network.routed and not found:
                self._report.add(decl.at, "a host-routed port needs addresses: no subnet has one to derive")
        return tuple(found)

    def _own_reserved(self) -> None:
        for seg in self._segments.values():
            for at in dhcp.reserved(seg.decl):
                if self.own(at, f"a reservation of network '{seg.network.name}'", seg.space):
                    self._given.setdefault(seg.network.name, []).append(at.value)

    def _own_given(self, scope: Scope) -> None:
        """Given addresses come first, so that derived ones keep clear of them wherever they are in the file."""
        for title, port in _ports(scope):
            seg = self._segments.get(port.network.value)
            for at in port.addresses or ():
                if seg and check_inside(at, seg, self._report) and self.own(at, f"port '{title}'", seg.space):
                    self._given.setdefault(seg.network.name, []).append(at.value)
                    _check_range(at.where, single(at.value), [seg], self._report)
            for address in (pair.address for pair in port.allowed_pairs or () if pair.address):
                for prefix in address.value:
                    if _check_range(address.where, prefix, [seg] if seg else [], self._report):
                        break  # the others are of the same range
            behind = seg is not None and seg.network.router is not None  # the router's own port has them
            for at in () if behind else (*(port.floating or ()), *(port.untranslated or ())):
                hosted = [each for each in self._segments.values() if not each.vrf]
                _check_range(at.where, single(at.value), hosted, self._report)

    def own(self, at: At[IPAddress], title: str, space: str = "") -> bool:
        """Gives somebody an address; false, and reported, when it is another's."""
        place = (space, at.value)
        if place in self._owners:
            self._report.add(at.where, f"{at.value} is already the address of {self._owners[place]}")
            return False
        self._owners[place] = title
        return True

    def finish(self) -> None:
        """Report the collisions between derived addresses, now that it is known which addresses are free."""
        for decl, title, address, other, pool in self._collisions:
            free = pool.free()
            if free:
                pool.take(free)
            hint = f"give one of them addresses: [{free}]" if free else "the subnet is full, choose a larger one"
            message = f"the address derived for port '{title}', {address}, is also that of {other}"
            self._report.add(decl.at, f"{message}; {hint}")

    def _derive(
        self, names: tuple[str, str], decl: PortDecl, mac: str, seg: Segment, subnet: Subnet
    ) -> Iterator[PortAddress]:
        title = ".".join(names)
        pool = self._pool(seg, subnet)
        address: IPAddress | None
        if isinstance(subnet.prefix, IPv6Network) and subnet.prefix.prefixlen == 64:
            address = eui64(subnet.prefix, mac)
        else:
            address = pool.derive(self._topology, *names, str(subnet.prefix))
        if address is None:
            message = f"no address is free in {subnet.prefix} for port '{title}'"
            self._report.add(decl.at, f"{message}; choose a larger subnet or a smaller DHCP range")
            return
        place = (seg.space, address)
        other = self._owners.get(place) or self._derived.get(place)
        if other:
            self._collisions.append((decl, title, address, other, pool))
        self._derived.setdefault(place, f"port '{title}'")
        yield PortAddress(address, _length(address, subnet.prefix, seg), _assignment(address, seg, given=False))

    def _pool(self, seg: Segment, subnet: Subnet) -> addressing.Pool:
        key = (seg.network.name, subnet.prefix)
        if key not in self._pools:
            fixed = [a for a in (subnet.host, subnet.gateway) if a]
            given = self._given.get(seg.network.name, [])
            self._pools[key] = addressing.Pool(subnet.prefix, [*given, *fixed], subnet.dhcp or subnet.range6)
        return self._pools[key]


def _to_derive_from(given: list[IPAddress], seg: Segment) -> Iterator[Subnet]:
    """The subnets of which a port has no address yet. Where the host routes to single addresses it gets what it lists,
    and nothing besides."""
    for subnet in () if seg.network.routed and given else seg.network.subnets:
        if subnet.prefix.num_addresses > 1 and not any(address in subnet.prefix for address in given):
            yield subnet


def _assigned(given: list[IPAddress], seg: Segment) -> Iterator[PortAddress]:
    if seg.network.external:  # their network's host knows the rest
        yield from (PortAddress(ip, ip.max_prefixlen, Assignment.STATIC) for ip in given)
        return
    reserved: set[int] = set()
    for address in given:
        prefix = next((p for p in seg.prefixes if address in p), None)
        if prefix is None:
            continue
        how = _assignment(address, seg, given=True)
        # A MAC address has one reservation; the guest adds the others itself.
        if how is Assignment.DHCP and address.version in reserved:
            how = Assignment.STATIC
        reserved |= {address.version} if how is Assignment.DHCP else set()
        yield PortAddress(address, _length(address, prefix, seg), how)


def _length(address: IPAddress, prefix: IPNetwork, seg: Segment) -> int:
    return address.max_prefixlen if seg.network.routed else prefix.prefixlen


def _assignment(address: IPAddress, seg: Segment, *, given: bool) -> Assignment:
    subnet = next((s for s in seg.network.subnets if address in s.prefix), None)
    if subnet and (subnet.dhcp6 or (subnet.dhcp and address.version == 4)):
        return Assignment.DHCP
    if (
        subnet
        and (subnet.host or seg.network.router)
        and not given
        and isinstance(subnet.prefix, IPv6Network)
        and subnet.prefix.prefixlen == 64
    ):
        return Assignment.SLAAC
    return Assignment.STATIC


def _check_range(where: Where, prefix: IPNetwork, segments: Iterable[Segment], report: Report) -> bool:
    """What is somebody's is not handed out to others: whether it would be, and is reported."""
    found = False
    every = ((seg.network.name, subnet) for seg in segments for subnet in seg.network.subnets)
    for network, pool in ((name, subnet.dhcp or subnet.range6) for name, subnet in every):
        if pool and pool.start.version == prefix.version and _overlap(prefix, pool):
            range_ = f"the DHCP range {pool.start}–{pool.end} of network '{network}'"
            one = prefix.prefixlen == prefix.max_prefixlen
            problem = f"{prefix[0]} is in {range_}" if one else f"{prefix} has addresses of {range_}"
            report.add(where, f"{problem}; choose {'an address' if one else 'addresses'} outside it")
            found = True
    return found


def _overlap(prefix: IPNetwork, pool: DhcpRange | DhcpRange6) -> bool:
    return int(prefix[0]) <= int(pool.end) and int(pool.start) <= int(prefix[-1])


def _fixed(segments: Mapping[str, Segment], physicals: tuple[PhysicalNetwork, ...]) -> Iterator[tuple[_Place, str]]:
    for seg in segments.values():
        for subnet in seg.network.subnets:
            if subnet.host:
                yield (seg.space, subnet.host), f"the host on network '{seg.network.name}'"
    of_label = vrfs(segments.values())
    for physical in physicals:
        where, vrf = f"physical network '{physical.label}'", of_label.get(physical.label, "")
        host = f"the host on {where} in a lab; its key host: may say another"
        stand_in = f"the stand-in of {where} in a lab; its key stand-in: may say another"
        yield from (((vrf, address), host) for address in physical.host)
        yield from (((vrf, address), stand_in) for address in physical.stand_in)


def _ports(scope: Scope) -> Iterator[tuple[str, PortDecl]]:
    for name, guest in scope.guests.items():
        for port in guest.ports if guest else ():
            yield f"{name}.{(port.name or port.network).value}", port

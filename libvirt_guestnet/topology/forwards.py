"""Ways in to a port: forwards and floating addresses, as the file says, with what makes no sense refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from libvirt_guestnet import parse
from libvirt_guestnet.errors import Where
from libvirt_guestnet.model.claims import ANYWHERE, MOST_MOVED, MOST_SOURCES, Claim, clash
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Network
from libvirt_guestnet.model.topology import AddressWord, Forward, Port
from libvirt_guestnet.model.traffic import Service

from .guest_keys import ForwardDecl, PortDecl
from .report import Report
from .scope import HOST, Placed, Segment
from .spec import At, value, values

_OUTSIDE = (Mode.NAT, Mode.ROUTE, Mode.OPEN, Mode.EXTERNAL)
_PORTS = 65535
_DNS, _DHCP = 53, 67
_NOBODY = "from: has no IPv{} address, so nobody could ask"
_NO_TARGET = "leave addresses out for one that is reserved, or say addresses: dhcp for one that the forward follows"


class _Way(NamedTuple):
    """To an address of the guest's (None: the leased one), from one of the host's (None: any), for these clients."""

    address: IPAddress | None
    at: IPAddress | None
    sources: tuple[IPNetwork, ...]


def forwards(decl: PortDecl, port: Port, seg: Segment | None, report: Report) -> tuple[Forward, ...]:
    """The forwards of a port that has its addresses already."""
    if seg is None or not decl.forwards:
        return ()
    if seg.decl.bad & {"subnets", "gateway"} or "addresses" in decl.bad:
        return ()
    if why := _cannot_forward(seg.network):
        report.add(decl.forwards[0].at, why)
        return ()
    if seg.network.router:
        return tuple(_by_router(decl.forwards, port, seg, report))
    hide = not (port.default_route and seg.network.gateway == HOST)
    found: list[Forward] = []
    for each in decl.forwards:
        wanted = tuple(_wanted(each, port, report))
        _check_servers(each, wanted, seg, report)
        for service in each.services:
            found += _forward(each, service, wanted, hide, report)
    return tuple(found)


def _by_router(decls: Iterable[ForwardDecl], port: Port, seg: Segment, report: Report) -> Iterator[Forward]:
    """Those that a virtual router makes, at addresses of its public networks."""
    router = seg.network.router
    for each in decls:
        if not port.default_route:
            report.add(each.at, f"the default route of port '{port.name}' does not lead to router '{router}'")
        elif each.addresses is None:
            report.add(each.at, f"say with at: which public address of router '{router}' is meant")
        else:
            wanted = tuple(_wanted(each, port, report))
            for service in each.services:
                if service.value.is_whole:
                    report.add(service.where, f"{service.value}: a router forwards ports of tcp, udp and sctp alone")
                else:
                    yield from _forward(each, service, wanted, False, report)


def _cannot_forward(network: Network) -> str:
    """Why nothing can be forwarded to a network's guests; "" if it can."""
    if routed := network.routed:
        where = f"VRF {routed.vrf}" if routed.vrf else f"table {routed.table}" if routed.table else ""
        return where and f"network '{network.name}' is in {where}, and the host forwards by its main table"
    if network.external or network.router or any(subnet.host for subnet in network.subnets):
        return ""
    advice = "its guests are on the LAN themselves" if network.mode is Mode.BRIDGE else "gateway: host gives it one"
    return f"the host has no address on network '{network.name}', so it cannot forward there; {advice}"


def _check_servers(decl: ForwardDecl, wanted: tuple[_Way, ...], seg: Segment, report: Report) -> None:
    """The host's own servers of the network, which run before any guest does: each start would be refused."""
    for service in decl.services:
        for at in dict.fromkeys(way.at for way in wanted):
            versions = {way.address.version if way.address else 4 for way in wanted if way.at == at}
            if problem := served(service.value, at, versions, seg.network):
                report.add(service.where, f"{service.value} cannot be forwarded: {problem}")


def served(service: Service, at: IPAddress | None, versions: Collection[int], network: Network) -> str:
    """Why the host itself answers there, so that nothing can be forwarded; "" if it does not."""
    first, last = service.first_port or 0, service.last_port or 0
    hosts = [subnet.host for subnet in network.subnets if subnet.host and subnet.host.version in versions]
    if first <= _DNS <= last and service.protocol in ("tcp", "udp") and hosts and at in (None, *hosts):
        advice = "" if at else "; say with at: which other address of the host is meant"
        return f"the host answers DNS for network '{network.name}' at {at or hosts[0]} port {_DNS}{advice}"
    ranged = any(subnet.dhcp for subnet in network.subnets)
    if first <= _DHCP <= last and service.protocol == "udp" and ranged and 4 in versions:
        return f"the host's DHCP server for network '{network.name}' listens on port {_DHCP} of every address"
    return ""


def _forward(
    decl: ForwardDecl, at: At[Service], wanted: tuple[_Way, ...], hide: bool, report: Report
) -> Iterator[Forward]:
    service = at.value
    if service.is_whole:
        yield from _whole(decl, at, wanted, hide, report)
        return
    if service.first_port is None or service.last_port is None:
        report.add(at.where, f"{service}: name its ports, such as tcp/8080; a floating address takes everything along")
        return
    to_first = value(decl.to) or service.first_port
    problem = unfit(service.first_port, service.last_port, to_first)
    if problem and decl.to:
        report.add(decl.to.where, f"{service}: {problem}")
        return
    for way in wanted:
        span = service.protocol, service.first_port, service.last_port
        yield Forward(*span, way.address, to_first, way.at, hide, way.sources)


def _whole(
    decl: ForwardDecl, at: At[Service], wanted: tuple[_Way, ...], hide: bool, report: Report
) -> Iterator[Forward]:
    if problem := not_whole(at.value, nowhere=decl.addresses is None, moved=decl.to is not None):
        report.add(decl.to.where if decl.to else at.where, problem)
        return
    for way in wanted:
        yield Forward(at.value.protocol, 0, 0, way.address, 0, way.at, hide, way.sources)


def not_whole(service: Service, *, nowhere: bool, moved: bool) -> str:
    """Why a protocol without ports cannot be forwarded so; "" if it can."""
    if moved:
        return f"{service} has no ports, so nothing could be said by to: leave it out"
    advice = "at every address tunnels of the host's own would be cut off, so say with at: which one is the guest's"
    return f"{service}: {advice}" if nowhere else ""


def unfit(first: int, last: int, to_first: int) -> str:
    """Why these ports cannot become those from `to_first` on; "" if they can."""
    if to_first + last - first > _PORTS:
        return f"from {to_first} on there are not enough ports"
    if to_first != first and last - first >= MOST_MOVED:
        return f"more than {MOST_MOVED} ports keep their numbers: leave out to:"
    return ""


def _versions(port: Port) -> list[int]:
    """The families in which the guest can be forwarded to."""
    leased = [4] if port.address_word is AddressWord.DHCP else []
    return [version for version in (4, 6) if port.address(version) or version in leased]


def clients(said: Iterable[IPNetwork] | None, version: int) -> tuple[IPNetwork, ...] | None:
    """Who may ask in a family, of whoever may (None: everybody), in the fewest prefixes: () for everybody there, None
    for nobody."""
    if said is None:
        return ()
    found = parse.fewest(each for each in said if each.version == version)
    return (() if found[0].prefixlen == 0 else found) if found else None


def _clients(decl: ForwardDecl, version: int) -> tuple[IPNetwork, ...] | None:
    return clients(None if decl.sources is None else values(decl.sources), version)


def _wanted(decl: ForwardDecl, port: Port, report: Report) -> Iterator[_Way]:
    if decl.sources is not None and (problem := unlisted(values(decl.sources))):
        report.add(decl.sources[0].where if decl.sources else decl.at, problem)
    elif decl.addresses is None:
        yield from _anywhere(decl, port, report)
    else:
        yield from _somewhere(decl, decl.addresses, port, report)


def unlisted(said: Collection[IPNetwork]) -> str:
    """Why these cannot be who may ask; "" if they can."""
    if not said:
        return "from: lists nobody: leave it out if everybody may ask"
    many = max(len(clients(said, version) or ()) for version in (4, 6)) > MOST_SOURCES
    return f"from: has more than {MOST_SOURCES} prefixes" if many else ""


def _anywhere(decl: ForwardDecl, port: Port, report: Report) -> Iterator[_Way]:
    versions = _versions(port)
    if not versions:
        report.add(decl.at, f"port '{port.name}' has no address that could be forwarded to: {_NO_TARGET}")
        return
    found = [_Way(port.address(v), None, who) for v in versions if (who := _clients(decl, v)) is not None]
    if decl.sources and not found:
        report.add(decl.sources[0].where, _NOBODY.format(versions[0]))
    yield from found


def _somewhere(decl: ForwardDecl, places: Iterable[At[IPAddress]], port: Port, report: Report) -> Iterator[_Way]:
    leased = port.address_word is AddressWord.DHCP
    for at in places:
        version = at.value.version
        address, who = port.address(version), _clients(decl, version)
        if problem := unreachable(at.value):
            report.add(at.where, problem)
        elif address is None and not (leased and version == 4):
            report.add(at.where, f"port '{port.name}' has no IPv{version} address to forward {at.value} to")
        elif who is None:
            report.add(at.where, f"{_NOBODY.format(version)} at {at.value}")
        else:
            yield _Way(address, at.value, who)


def unreachable(address: IPAddress) -> str:
    """Why nobody else can ask for an address; "" if somebody can."""
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        return f"{address} is no address that others can reach this host at"
    return ""


class Floating(NamedTuple):
    """The floating addresses of a port: those that the host translates, and those that the guest has itself."""

    translated: tuple[IPAddress, ...] = ()
    untranslated: tuple[IPAddress, ...] = ()


def floating(
    decl: PortDecl, port: Port, seg: Segment | None, own: Callable[[At[IPAddress]], bool], report: Report
) -> Floating:
    """The floating addresses of a port that has its own already; `own` refuses those that are somebody's."""
    addresses = (*(decl.floating or ()), *(decl.untranslated or ()))
    if seg is None or not addresses:
        return Floating()
    if problem := _cannot_float(port, seg):
        report.add(addresses[0].where, problem)
        return Floating()
    network = seg.network
    if network.router:
        return Floating(tuple(_at_router(decl, port, network.router, report)))
    if decl.untranslated and network.external:
        report.add(decl.untranslated[0].where, "floating-untranslated is not for ports on external networks")
        return Floating()
    if decl.untranslated and network.mode is not Mode.OPEN and not network.physical_network:
        message = (
            f"network '{network.name}' needs a physical-network: without one libvirt rejects what comes from there"
        )
        report.add(decl.untranslated[0].where, message)
        return Floating()
    both = (decl.floating, decl.untranslated)
    return Floating(*(tuple(at.value for at in ats or () if _floats(at, port, own, report)) for ats in both))


def _at_router(decl: PortDecl, port: Port, router: str, report: Report) -> Iterator[IPAddress]:
    """Those that a virtual router translates; whose they are besides, `public_addresses` knows."""
    for at in decl.untranslated or ():
        report.add(at.where, f"router '{router}' translates floating addresses: say floating")
    seen: set[int] = set()
    for at in decl.floating or ():
        if at.value.version in seen:
            report.add(at.where, f"a port behind a router has one floating IPv{at.value.version} address")
        elif _floats(at, port, lambda _: True, report):
            yield at.value
        seen.add(at.value.version)


def _cannot_float(port: Port, seg: Segment) -> str:
    if seg.network.router:
        lost = f"the default route of port '{port.name}' does not lead to router '{seg.network.router}'"
        return "" if port.default_route else f"{lost}: it cannot have floating addresses"
    if seg.network.mode not in _OUTSIDE:
        return f"network '{seg.network.name}' is {seg.network.mode}: floating addresses are for nat, route and open"
    if not (port.default_route and seg.network.gateway == HOST):
        return f"the default route of port '{port.name}' does not lead to the host: it cannot have floating addresses"
    return ""


def _floats(at: At[IPAddress], port: Port, own: Callable[[At[IPAddress]], bool], report: Report) -> bool:
    if problem := unreachable(at.value):
        report.add(at.where, problem)
    elif port.address(at.value.version) is None:
        report.add(at.where, f"port '{port.name}' has no IPv{at.value.version} address for {at.value}")
    else:
        return own(at)
    return False


def check(placed: Iterable[Placed], segments: Mapping[str, Segment], report: Report) -> None:
    """Report everything that two ports, or one twice, ask for at the same place of the host, or of a router."""
    asked: dict[str, list[Placed]] = {}
    for each in placed:
        seg = segments.get(each.port.network)
        asked.setdefault((seg.network.router if seg else None) or HOST, []).append(each)
    for ports in asked.values():
        _check(ports, report)


def _check(placed: Iterable[Placed], report: Report) -> None:
    seen: dict[tuple[str, int], list[tuple[Where, Claim]]] = {}
    whole: dict[str, str] = {}
    found = sorted(_claims(placed), key=lambda each: each[0])
    for where, claim in found:
        if not claim.protocol:
            whole.setdefault(claim.at, f"port '{claim.owner}' (line {where.line})")
    for where, claim in found:
        if claim.protocol and claim.at in whole:
            report.add(
                where, f"{claim.at} is the floating address of {whole[claim.at]}: everything comes to it already"
            )
        elif claim.protocol:
            other = _meets(claim, seen)
            if other is not None:
                message = f"{claim} is already forwarded to port '{other[1].owner}' (line {other[0].line})"
                report.add(where, message if str(other[1]) == str(claim) else f"{message}, as {other[1]}")
            for bucket in range(claim.first >> 8, (claim.last >> 8) + 1):
                seen.setdefault((claim.protocol, bucket), []).append((where, claim))


def _meets(claim: Claim, seen: dict[tuple[str, int], list[tuple[Where, Claim]]]) -> tuple[Where, Claim] | None:
    buckets = range(claim.first >> 8, (claim.last >> 8) + 1)
    return next((o for b in buckets for o in seen.get((claim.protocol, b), ()) if clash(claim, o[1])), None)


def _claims(placed: Iterable[Placed]) -> Iterator[tuple[Where, Claim]]:
    for each in placed:
        for decl in each.decl.forwards or ():
            for service in decl.services:
                whole = service.value.is_whole
                first, last = (0, 0) if whole else (service.value.first_port, service.value.last_port)
                asked = (v for v in _versions(each.port) if _clients(decl, v) is not None)
                anywhere = [ANYWHERE[version] for version in asked]
                for at in anywhere if decl.addresses is None else [str(at.value) for at in decl.addresses]:
                    if first is not None and last is not None:
                        yield service.where, Claim(at, service.value.protocol, first, last, each.title)
        for at_ in (*(each.decl.floating or ()), *(each.decl.untranslated or ())):
            yield at_.where, Claim(str(at_.value), "", 0, _PORTS, each.title)

"""The `expect:` lines: endpoints that exist, questions that can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from libvirt_guestnet.model.network import PhysicalNetwork
from libvirt_guestnet.model.topology import DISK, Expect, Family, Guest, Port

from ..errors import Where
from . import images
from .keys import ExpectDecl
from .port_kinds import LAYER2
from .report import Report
from .scope import HOST, Scope
from .spec import At, value, values

_BOTH = frozenset(Family)


class Endpoints:
    """Everything an expectation can name, and the address families it has (both when that is not known)."""

    def __init__(self, scope: Scope, guests: Iterable[Guest], physicals: Iterable[PhysicalNetwork]) -> None:
        self._families: dict[str, frozenset[Family]] = {HOST: _BOTH}
        self._declared, self._guests = scope.guests, set(scope.guests)
        self._ports: set[str] = set()
        self._virtual: set[str] = set()
        self._silent: set[str] = set()
        for name, decl in scope.guests.items():
            self._families[name] = _BOTH
            ports = {f"{name}.{(port.name or port.network).value}" for port in (decl.ports if decl else ())}
            self._ports |= ports
            self._silent |= {name, *ports} if decl and images.image(decl) == DISK else set()
        self._families |= dict.fromkeys(self._ports, _BOTH)
        self._families |= dict.fromkeys(scope.physicals, _BOTH)
        self._families |= {p.label: _families(p.subnets) for p in physicals}
        for guest in guests:
            self._add(guest)

    def _add(self, guest: Guest) -> None:
        decl = self._declared.get(guest.name)
        if decl is None or "ports" not in decl.bad:
            self._families[guest.name] = _of_ports(guest.ports)
        for port in guest.ports:
            self._families[f"{guest.name}.{port.name}"] = _of_ports((port,))
        if guest.virtual_router:
            self._virtual |= {guest.name, *(f"{guest.name}.{port.name}" for port in guest.ports)}

    def expect(self, decl: ExpectDecl, routers: Mapping[str, bool], report: Report) -> Expect:
        """One expectation, checked. `routers` says of every guest whether it forwards (or may, for all we know)."""
        self._check(decl.source, report)
        if decl.destination:
            self._check(decl.destination, report)
        for at in (decl.seen_as, decl.answered_by):
            if at:
                self._check(at, report)
        self._check_hops(decl, report)
        self._check_address(decl, report)
        _check_question(decl, report)
        _check_forging_alone(decl, report)
        _check_services(decl, report)
        if decl.forge:
            self._check_forge(decl, report)
        _check_router(decl, routers, report)
        self._check_virtual(decl, report)
        families = self._choose(decl, report)
        _check_gateways(decl, families, report)
        return Expect(
            source=decl.source.value,
            destination=value(decl.destination),
            can=values(decl.can),
            cannot=values(decl.cannot),
            via=values(decl.via),
            seen_as=value(decl.seen_as),
            at=value(decl.address),
            forge=values(decl.forge),
            families=families,
            without_forwarding=value(decl.without_forwarding),
            answered_by=value(decl.answered_by),
            gateways=values(decl.gateways),
            tables=None if decl.tables is None else values(decl.tables),
        )

    def _check(self, at: At[str], report: Report) -> None:
        if at.value not in self._families:
            report.unknown(at.where, "endpoint", at.value, self._families)
        if at.value in self._silent:
            message = f"'{at.value}' has an image of yours, in which nothing would ask or answer for `verify`"
            report.add(at.where, f"{message}: only a guest with image: tiny does")

    def _check_hops(self, decl: ExpectDecl, report: Report) -> None:
        for hop in decl.via or ():
            if hop.value not in self._guests and hop.value != HOST:
                report.unknown(hop.where, "hop", hop.value, [*self._guests, HOST])

    def _check_address(self, decl: ExpectDecl, report: Report) -> None:
        to = decl.destination
        if decl.address and to and to.value in self._families and to.value not in self._guests | self._ports:
            report.add(decl.address.where, f"at: is an address by which a guest is reached; '{to.value}' is no guest")

    def _check_forge(self, decl: ExpectDecl, report: Report) -> None:
        source = decl.source
        if source.value in self._families and source.value not in self._guests | self._ports:
            report.add(source.where, f"only a guest can forge frames; '{source.value}' is none")

    def _check_virtual(self, decl: ExpectDecl, report: Report) -> None:
        """A virtual router has no agent of a lab's: it can only be asked, and answers pings and ARP or ND alone."""
        if decl.source.value in self._virtual:
            report.add(decl.source.where, f"'{decl.source.value}' is a virtual router: nothing is tried from there")
        if decl.destination and decl.destination.value in self._virtual:
            asked = [service.where for service in decl.can or () if str(service.value) not in ("icmp", LAYER2)]
            for where in (*asked, *([decl.seen_as.where] if decl.seen_as else [])):
                what = f"'{decl.destination.value}' is a virtual router: it answers icmp and {LAYER2} alone"
                report.add(where, what)

    def _choose(self, decl: ExpectDecl, report: Report) -> tuple[Family, ...]:
        ends = [decl.source] + ([decl.destination] if decl.destination else [])
        common = _BOTH.intersection(*(self._families.get(end.value, _BOTH) for end in ends))
        if decl.address:
            common &= {Family.IPV4 if decl.address.value.version == 4 else Family.IPV6}
        for family in decl.families or ():
            if family.value not in common:
                report.add(family.where, f"not both ends have {family.value} addresses")
        if decl.families is not None:
            return values(decl.families)
        if not common and decl.destination:
            report.add(
                decl.at, f"'{decl.source.value}' and '{decl.destination.value}' have no address family in common"
            )
        return tuple(family for family in Family if family in common)


def _check_question(decl: ExpectDecl, report: Report) -> None:
    has_question = _asks(decl)
    broken = decl.bad & {"can", "cannot", "via", "seen-as", "forge", "to", "answered-by", "gateways", "tables"}
    if not has_question and not decl.forge and not broken:
        report.add(
            decl.at, "nothing is expected here: say can, cannot, via, seen-as, answered-by, gateways, tables or forge"
        )
    if has_question and not decl.destination and "to" not in decl.bad:
        report.add(decl.at, "the key 'to' is missing: only forge does without a destination")
    if decl.tables is not None and decl.source.value != HOST:
        report.add(decl.source.where, f"tables are the host's: say from: {HOST}")
    if decl.destination and decl.destination.value == decl.source.value:
        report.add(decl.destination.where, f"'{decl.source.value}' is both ends")


def _asks(decl: ExpectDecl) -> bool:
    """Whether anything is asked of a destination."""
    questions = (decl.can, decl.cannot, decl.via, decl.seen_as, decl.answered_by, decl.gateways)
    return any(questions) or decl.tables is not None


def _check_forging_alone(decl: ExpectDecl, report: Report) -> None:
    """Forged frames are sent to everybody, in both families, whoever forwards."""
    of_destination: tuple[tuple[str, Where | None], ...] = (
        ("to", decl.destination.where if decl.destination else None),
        ("at", decl.address.where if decl.address else None),
        ("families", decl.families[0].where if decl.families else None),
        ("without-forwarding", decl.without_forwarding.where if decl.without_forwarding else None),
    )
    for name, where in of_destination if decl.forge and not _asks(decl) and not decl.bad else ():
        if where:
            report.add(
                where, f"{name} has no place here: forged frames are sent to everybody, and nothing else is asked"
            )


def _check_gateways(decl: ExpectDecl, families: tuple[Family, ...], report: Report) -> None:
    for gateway in decl.gateways or ():
        family = Family.IPV4 if gateway.value.version == 4 else Family.IPV6
        if family not in families:
            report.add(gateway.where, f"{gateway.value} is not looked at: only {', '.join(families) or 'nothing'} is")


def _check_services(decl: ExpectDecl, report: Report) -> None:
    can = set(values(decl.can))
    for service in decl.cannot or ():
        if service.value in can:
            report.add(service.where, f"{service.value} is expected both to work and not to work")


def _check_router(decl: ExpectDecl, routers: Mapping[str, bool], report: Report) -> None:
    at = decl.without_forwarding
    if at and at.value not in routers:
        report.unknown(at.where, "guest", at.value, routers)
    elif at and not routers[at.value]:
        report.add(at.where, f"guest '{at.value}' does not forward: it has no router:")


def _of_ports(ports: tuple[Port, ...]) -> frozenset[Family]:
    if not all(port.addresses for port in ports):
        return _BOTH  # a port whose addresses the file does not say can have any
    return frozenset(
        Family.IPV4 if isinstance(address.ip, IPv4Address) else Family.IPV6
        for port in ports
        for address in port.addresses
    )


def _families(subnets: Iterable[object]) -> frozenset[Family]:
    found = frozenset(Family.IPV4 if isinstance(prefix, IPv4Network) else Family.IPV6 for prefix in subnets)
    return found or _BOTH

"""The load balancers of a virtual router, resolved to addresses."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet.model.balancing import MOST_MEMBERS, Balancer, BalancerMember, HealthCheck
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import Guest, Port
from libvirt_guestnet.model.traffic import Protocol, Service

from .report import Report
from .router_keys import BalancerDecl
from .router_rules import Tiers, behind, rule_name
from .spec import At, value


class _Taken:
    """Whose the ports of public addresses are. Those of one address and protocol are kept in their order: a file may
    have all of them."""

    def __init__(self) -> None:
        self._of: dict[tuple[IPAddress, str], list[tuple[int, int, str]]] = {}

    def by(self, at: IPAddress, service: Service, what: str) -> str:
        """Takes them, unless they are somebody's: who has one of them already, "" for nobody."""
        first, last = service.first_port or 0, service.last_port or 65535
        spans = self._of.setdefault((at, service.protocol), [])
        place = bisect_right(spans, (last, 65536))
        if place and spans[place - 1][1] >= first:
            return spans[place - 1][2]
        spans.insert(place, (first, last, what))
        return ""


def balancers(
    decls: Iterable[BalancerDecl], guests: Mapping[str, Guest], tiers: Tiers, router: str, report: Report
) -> Iterator[Balancer]:
    """A balancer for each address and service."""
    ports = dict(behind(guests, tiers))
    taken = _forwarded(ports)
    for each in decls:
        found = _members(each, ports, router, report)
        members = {at: tuple(_of_version(found, at, report)) for at in each.addresses}
        for service in each.services:
            if _is_balanced(each, service, report):
                check = _check(each, service, report)
                for at in each.addresses:
                    _take(at, service, each, taken, report)
                    yield _balancer(each, at.value, service.value, members[at], check)


def _forwarded(ports: Mapping[str, tuple[Port, ...]]) -> _Taken:
    """What port forwards for everybody take; one for some clients only goes before a balancer."""
    taken = _Taken()
    for name, those in ports.items():
        for forward in (forward for port in those for forward in port.forwards if not forward.sources):
            if forward.at is not None:
                service = Service(forward.protocol, forward.first, forward.last)
                taken.by(forward.at, service, f"forwarded to '{name}'")
    return taken


def _take(at: At[IPAddress], service: At[Service], decl: BalancerDecl, taken: _Taken, report: Report) -> None:
    if other := taken.by(at.value, service.value, f"balanced (line {decl.at.line})"):
        report.add(service.where, f"{service.value} at {at.value} is {other} already")


def _is_balanced(decl: BalancerDecl, at: At[Service], report: Report) -> bool:
    service = at.value
    if service.protocol not in (Protocol.TCP, Protocol.UDP) or service.first_port is None:
        report.add(at.where, f"{service}: a balancer is for ports of TCP and UDP, such as tcp/80")
        return False
    if decl.to and service.first_port != service.last_port:
        report.add(decl.to.where, f"{service}: a balancer does not move a range of ports")
        return False
    return True


# ---- who serves


def _members(
    decl: BalancerDecl, ports: Mapping[str, tuple[Port, ...]], router: str, report: Report
) -> list[tuple[At[str], tuple[Port, ...]]]:
    if not decl.members and "members" not in decl.bad:
        report.add(decl.at, "members is empty: a balancer without members serves nobody")
    if len(decl.members) > MOST_MEMBERS:
        report.add(decl.members[MOST_MEMBERS].where, f"a balancer has at most {MOST_MEMBERS} members")
    found: dict[tuple[Port, ...], At[str]] = {}
    for at in decl.members:
        if at.value not in ports:
            report.unknown(at.where, f"guest behind router '{router}'", at.value, ports)
        elif ports[at.value] in found:
            report.add(at.where, f"'{at.value}' is a member already")
        else:
            found[ports[at.value]] = at
            _check_way_back(at, ports[at.value], router, report)
    return [(at, those) for those, at in found.items()]


def _check_way_back(at: At[str], ports: tuple[Port, ...], router: str, report: Report) -> None:
    for port in ports if not any(port.default_route for port in ports) else ():
        message = f"the default route of port '{port.name}' does not lead to router '{router}'"
        report.add(at.where, f"'{at.value}' could not answer: {message}")


def _of_version(
    members: Iterable[tuple[At[str], tuple[Port, ...]]], public: At[IPAddress], report: Report
) -> Iterator[BalancerMember]:
    """The members with their addresses of the IP version that the public address has."""
    version = public.value.version
    for at, ports in members:
        found = [each.ip for port in ports for each in port.addresses if each.ip.version == version]
        if len(found) == 1:
            yield BalancerMember(_counter_name(at.value), found[0])
        elif found:
            many = ", ".join(map(str, found))
            report.add(at.where, f"'{at.value}' has several IPv{version} addresses, {many}: say GUEST.PORT with one")
        else:
            message = f"'{at.value}' has no IPv{version} address that the file knows, and {public.value} is one"
            report.add(at.where, message)


def _counter_name(name: str) -> str:
    """A guest's name can be longer than a counter's, and have other characters."""
    return name if re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) else rule_name((name,), name)


def _balancer(
    decl: BalancerDecl,
    public: IPAddress,
    service: Service,
    members: tuple[BalancerMember, ...],
    check: HealthCheck | None,
) -> Balancer:
    return Balancer(
        name=rule_name((service, public), service, public),
        public=public,
        service=service,
        members=members,
        port=value(decl.to) or service.first_port or 0,
        method=decl.method.value,
        check=check,
    )


def _check(decl: BalancerDecl, service: At[Service], report: Report) -> HealthCheck | None:
    said = decl.check
    if said and said.word:
        return None
    port = value(said.port) if said else None
    if port is None and service.value.protocol == Protocol.TCP:
        port = value(decl.to) or service.value.first_port
    if port is None:
        if "check" not in decl.bad and not (said and said.bad):
            message = f"{service.value}: say which TCP port tells that a member serves (check: {{ port: … }})"
            report.add(service.where, f"{message}, or check: false")
        return None
    return HealthCheck(port, said.interval.value, said.rise.value, said.fall.value) if said else HealthCheck(port)

"""`expect:` lines as single checks, each with everything it takes to run it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from libvirt_guestnet.lab import endpoints
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import FORGERIES, Expect, Family, Topology
from libvirt_guestnet.model.traffic import Protocol, Service


class Kind(StrEnum):
    """What a check looks at."""

    LAYER2 = "layer 2"
    SERVICE = "service"
    VIA = "route"
    SEEN_AS = "source"
    ANSWERED_BY = "answer"
    GATEWAY = "gateway"
    TABLES = "tables"
    FORGE = "forge"


@dataclass(frozen=True)
class Check:
    """One thing to try and what must come out of it.

    `address` is the destination's. `allowed`: the try must succeed (False: it must fail). `hops` are, per hop of a
    trace, the addresses it may show, and `service` is what a destination answers that is silent in traces; `seen` the
    source addresses that the destination may see, or the gateways that the source may have. `mac` is the one that must
    answer, None for the host's. `tables` are of model.TABLES, `forgery` of FORGERIES; `port` the guest's port it is
    sent from. `without_forwarding` names the router switched off meanwhile.
    `at` is the address where it is not the destination's own, `listens` the destination's port where that one differs.
    """

    kind: Kind
    source: str
    destination: str
    what: str
    allowed: bool
    family: Family | None = None
    address: IPAddress | None = None
    service: Service | None = None
    mac: str | None = None
    hops: tuple[tuple[IPAddress, ...], ...] = ()
    seen: tuple[IPAddress, ...] = ()
    forgery: str | None = None
    port: str | None = None
    without_forwarding: str | None = None
    tables: tuple[str, ...] = ()
    at: IPAddress | None = None
    listens: int | None = None


def plan(topology: Topology) -> tuple[Check, ...]:
    """Every check of a topology, in file order."""
    return tuple(check for expect in topology.expect for check in _checks(topology, expect))


def services(checks: tuple[Check, ...]) -> tuple[Service, ...]:
    """Every single TCP and UDP port that a check speaks to: each destination must answer on it, or a check that it
    is blocked would prove nothing."""
    ports = ((c.service, c.listens or c.service.first_port) for c in checks if c.service)
    wanted = {Service(service.protocol, port, port) for service, port in ports if port}
    return tuple(sorted(wanted, key=str))


def _checks(topology: Topology, expect: Expect) -> Iterator[Check]:
    if expect.forge:
        yield from _forgeries(topology, expect)
    if expect.destination is None:
        return
    for family in expect.families:
        yield from _services(topology, expect, family, expect.can, True)
        yield from _services(topology, expect, family, expect.cannot, False)
        yield from _route(topology, expect, family)
        yield from _path(topology, expect, family)


def _services(
    topology: Topology, expect: Expect, family: Family, items: tuple[Service | str, ...], allowed: bool
) -> Iterator[Check]:
    base = _base(topology, expect, family)
    if base is None:
        return
    for item in items:
        if isinstance(item, Service):
            listens = _behind(topology, expect, item)
            yield replace(base, kind=Kind.SERVICE, what=str(item), allowed=allowed, service=item, listens=listens)
        else:
            destination = endpoints.parse(expect.destination or "", topology)
            mac = endpoints.mac(topology, destination, base.address) if base.address else None
            yield replace(base, kind=Kind.LAYER2, what=item, allowed=allowed, mac=mac)


def _behind(topology: Topology, expect: Expect, service: Service) -> int | None:
    """The guest's port to which a forward goes, if there is one."""
    guest = endpoints.guest_of(topology, endpoints.parse(expect.destination or "", topology)) if expect.at else None
    for forward in (forward for nic in (guest.ports if guest else ()) for forward in nic.forwards):
        version = forward.address.version if forward.address else 4
        here = forward.at == expect.at if forward.at else expect.at and version == expect.at.version
        port = service.first_port or 0
        if here and forward.protocol == service.protocol and forward.first <= port <= forward.last:
            return forward.to_first + port - forward.first
    for each in (
        each for router in topology.guests if router.virtual_router for each in router.virtual_router.balancers
    ):
        first, last = each.service.first_port or 0, each.service.last_port or 0
        here = each.public == expect.at and each.service.protocol == service.protocol
        if here and first <= (service.first_port or 0) <= last:
            return each.port + (service.first_port or 0) - first
    return None


def _route(topology: Topology, expect: Expect, family: Family) -> Iterator[Check]:
    base = _base(topology, expect, family)
    if base is None or base.address is None:
        return
    if expect.via:
        hops = tuple(_addresses(topology, hop) for hop in expect.via)
        path = " > ".join(expect.via)
        service = next(iter(_one_of_each(expect.can)), None)
        listens = _behind(topology, expect, service) if service else None
        hops = (*hops, (base.address,))
        yield replace(base, kind=Kind.VIA, what=f"via {path}", hops=hops, service=service, listens=listens)
    if expect.seen_as:
        seen = endpoints.seen_as(topology, endpoints.parse(expect.seen_as, topology))
        for service in _one_of_each(expect.can) or (None,):
            what = f"seen as {expect.seen_as}" + (" by udp" if service and service.protocol is Protocol.UDP else "")
            listens = _behind(topology, expect, service) if service else None
            yield replace(base, kind=Kind.SEEN_AS, what=what, seen=seen, service=service, listens=listens)


def _one_of_each(items: tuple[Service | str, ...]) -> tuple[Service, ...]:
    """The first TCP and the first UDP service."""
    found = (
        next((s for s in items if isinstance(s, Service) and s.protocol is protocol), None)
        for protocol in (Protocol.TCP, Protocol.UDP)
    )
    return tuple(service for service in found if service)


def _path(topology: Topology, expect: Expect, family: Family) -> Iterator[Check]:
    """Who is on the way, as the tables of those at its ends have it."""
    base = _base(topology, expect, family)
    if base is None or base.address is None:
        return
    if expect.answered_by:
        answering = endpoints.parse(expect.answered_by, topology)
        mac = endpoints.mac(topology, answering, base.address)
        yield replace(base, kind=Kind.ANSWERED_BY, what=f"answered by {answering.text}", mac=mac)
    gateways = tuple(gateway for gateway in expect.gateways if gateway.version == base.address.version)
    if gateways:
        yield replace(base, kind=Kind.GATEWAY, what=f"gateway {gateways[0]}", seen=gateways)
    if expect.tables is not None:
        what = f"tables {' '.join(expect.tables) or 'nothing'}"
        yield replace(base, kind=Kind.TABLES, what=what, tables=expect.tables)


def _forgeries(topology: Topology, expect: Expect) -> Iterator[Check]:
    source = endpoints.parse(expect.source, topology)
    guest = endpoints.guest_of(topology, source)
    for port in guest.ports if guest else ():
        if source.port in (None, port.name):
            for forgery in (f for f in FORGERIES if f in expect.forge):
                yield Check(
                    Kind.FORGE, f"{source.name}.{port.name}", "anywhere", f"forged {forgery}", False, forgery=forgery,
                    port=port.name,
                )  # fmt: skip


def _base(topology: Topology, expect: Expect, family: Family) -> Check | None:
    source = endpoints.parse(expect.source, topology)
    destination = endpoints.parse(expect.destination or "", topology)
    address = expect.at or endpoints.target(topology, source, destination, family)
    if address is None:
        return None
    off = expect.without_forwarding
    ends = source.text, destination.text
    return Check(Kind.SERVICE, *ends, "", True, family, address, without_forwarding=off, at=expect.at)


def _addresses(topology: Topology, text: str) -> tuple[IPAddress, ...]:
    return endpoints.addresses(topology, endpoints.parse(text, topology))

"""Declarations to the model. Every step reports what it finds wrong and goes on with what it can."""

from __future__ import annotations

from collections.abc import Collection

from libvirt_guestnet.model.network import PhysicalNetwork
from libvirt_guestnet.model.topology import DIRECT, Guest, Port, Topology

from . import (
    clashes,
    dhcp,
    hosts,
    images,
    logical,
    networks,
    placing,
    pools,
    router_pairs,
    router_policy,
    traffic,
    virtual_routers,
    zones,
)
from .addresses import Addresses
from .expectations import Endpoints
from .guests import Guests
from .keys import TopologyDecl
from .links import Links
from .report import Report
from .scope import Scope, Segment
from .spec import value


def build(decl: TopologyDecl, file: str, report: Report) -> Topology:
    """The topology; worth something only when the report is empty."""
    hosts.check_places(decl, report)
    decl, drawn = pools.draw(virtual_routers.expand(decl, report), report)
    scope = Scope.of(decl)
    physicals = _physicals(scope, decl, report)
    segments = _segments(scope, decl, drawn, report)
    addresses = Addresses(scope, segments, physicals, report)
    builder = Guests(scope, segments, addresses, report)
    guests = tuple(builder.build(name, guest) for name, guest in decl.guests or () if guest)
    addresses.finish()
    guests = _with_routers(decl, scope, segments, guests, report)
    _check_dhcp6(segments, guests, report)
    clashes.check(decl, scope, segments, builder.placed, report)
    traffic.check_public(scope, report)
    zones.check(decl, segments, builder.placed, report)
    if decl.name.value == DIRECT:
        message = f"'{DIRECT}' stands for what guestnet guard, forward and address set without a file: choose another"
        report.add(decl.name.where, message)
    endpoints = Endpoints(scope, guests, physicals)
    routers = _routers(scope, guests)
    topology = Topology(
        name=decl.name.value,
        file=file,
        description=value(decl.description) or "",
        zones=scope.zones,
        hosts=hosts.hosts(scope, decl, report),
        fabric=hosts.fabric(decl, report),
        physical_networks=physicals,
        networks=tuple(segment.network for segment in segments.values()),
        guests=guests,
        expect=tuple(endpoints.expect(line, routers, report) for line in decl.expect or ()),
    )
    placing.check(topology, segments, builder.placed, report)
    images.check_told(decl, topology, report)
    logical.check(decl, topology, segments, builder.placed, report)
    Links(topology).check(decl.expect or (), report)
    redundant = _redundant(decl, scope, report)
    return router_pairs.paired(topology, redundant) if report.is_empty else topology


def _redundant(decl: TopologyDecl, scope: Scope, report: Report) -> set[str]:
    routers = [(name, each) for name, each in decl.routers or () if each]
    for name, each in routers:
        router_pairs.check_names(name, each, set(scope.guests), set(scope.networks), report)
    return {name.value for name, each in routers if each.redundant.value}


def _with_routers(
    decl: TopologyDecl, scope: Scope, segments: dict[str, Segment], guests: tuple[Guest, ...], report: Report
) -> tuple[Guest, ...]:
    known = {guest.name: guest for guest in guests}
    routers = [(name, each) for name, each in decl.routers or () if each]
    done = {name.value: router_policy.completed(scope, segments, known, (name, each), report) for name, each in routers}
    return tuple(done.get(guest.name, guest) for guest in guests)


def _check_dhcp6(segments: dict[str, Segment], guests: tuple[Guest, ...], report: Report) -> None:
    on: dict[str, list[Port]] = {}
    for port in (port for guest in guests for port in guest.ports):
        on.setdefault(port.network, []).append(port)
    for name, segment in segments.items():
        served = [subnet.prefix for subnet in segment.network.subnets if subnet.dhcp6]
        told = any(each.ip in prefix for prefix in served for port in on.get(name, ()) for each in port.addresses)
        dhcp.check_told6(segment.decl, told, report)


def _physicals(scope: Scope, decl: TopologyDecl, report: Report) -> tuple[PhysicalNetwork, ...]:
    declared = decl.physical_networks or ()
    return tuple(networks.physical(scope, name.value, each, report) for name, each in declared if each)


def _segments(scope: Scope, decl: TopologyDecl, drawn: Collection[str], report: Report) -> dict[str, Segment]:
    declared = ((name, each, name.value in drawn) for name, each in decl.networks or () if each)
    return {name.value: networks.segment(scope, name, each, drew, report) for name, each, drew in declared}


def _routers(scope: Scope, guests: tuple[Guest, ...]) -> dict[str, bool]:
    """Which guests forward; those we could not read may."""
    return dict.fromkeys(scope.guests, True) | {guest.name: guest.router is not None for guest in guests}

"""Declarations to the model. Every step reports what it finds wrong and goes on with what it can."""

from __future__ import annotations

from collections.abc import Collection

from libvirt_guestnet.model.network import PhysicalNetwork
from libvirt_guestnet.model.topology import DIRECT, Guest, Topology

from . import clashes, dhcp, images, networks, pools
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
    decl, drawn = pools.draw(decl, report)
    scope = Scope.of(decl)
    physicals = _physicals(scope, decl, report)
    segments = _segments(scope, decl, drawn, report)
    addresses = Addresses(scope, segments, physicals, report)
    builder = Guests(scope, segments, addresses, report)
    guests = tuple(builder.build(name, guest) for name, guest in decl.guests or () if guest)
    addresses.finish()
    _check_dhcp6(segments, guests, report)
    clashes.check(decl, scope, segments, builder.placed, report)
    if decl.name.value == DIRECT:
        message = f"'{DIRECT}' stands for what guestnet guard, forward and address set without a file: choose another"
        report.add(decl.name.where, message)
    endpoints = Endpoints(scope, guests, physicals)
    routers = _routers(scope, guests)
    topology = Topology(
        name=decl.name.value,
        file=file,
        description=value(decl.description) or "",
        physical_networks=physicals,
        networks=tuple(segment.network for segment in segments.values()),
        guests=guests,
        expect=tuple(endpoints.expect(line, routers, report) for line in decl.expect or ()),
    )
    images.check_told(decl, topology, report)
    Links(topology).check(decl.expect or (), report)
    return topology


def _check_dhcp6(segments: dict[str, Segment], guests: tuple[Guest, ...], report: Report) -> None:
    ips = {(port.network, each.ip) for guest in guests for port in guest.ports for each in port.addresses}
    for name, segment in segments.items():
        served = [subnet.prefix for subnet in segment.network.subnets if subnet.dhcp6]
        told = any(network == name and ip in prefix for network, ip in ips for prefix in served)
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

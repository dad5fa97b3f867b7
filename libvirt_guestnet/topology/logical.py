"""What networks of OVN cannot have, by line, with what to say instead: nothing that is written is left undone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from libvirt_guestnet.model.host import FabricKind
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.options import NAMES

from ..errors import Where
from . import logical_ports
from .keys import TopologyDecl
from .network_keys import NetworkDecl
from .report import Report
from .scope import Placed, Segment
from .service_keys import OPTIONS
from .spec import value

_Found = Iterator[tuple[Where, str]]
_ROUTED = (Mode.NAT, Mode.ROUTE)


def check(
    decl: TopologyDecl,
    topology: Topology,
    segments: Mapping[str, Segment],
    placed: Iterable[Placed],
    report: Report,
) -> None:
    """Nothing where no fabric of kind ovn carries the networks."""
    if topology.fabric.kind is not FabricKind.OVN:
        return
    for name, router in decl.routers or ():
        if router:
            message = (
                f"router '{name.value}': virtual routers cannot be had with a fabric of kind ovn yet; the router of a"
            )
            report.add(name.where, f"{message} network of mode nat or route is OVN's own: say physical-network there")
    for seg in segments.values():
        if seg.decl.external is None and not seg.network.control:
            for where, message in _network(topology, seg):
                report.add(where, f"network '{seg.network.name}': {message}")
    _check_zones(topology, segments, report)
    hosts = {guest.name: guest.host for guest in topology.guests}
    for each in placed:
        if (on := segments.get(each.port.network)) and on.network.mode is Mode.BRIDGE:
            _check_reached(topology, each, hosts.get(each.guest), on.network.physical_network, report)
        if (on := segments.get(each.port.network)) and on.decl.external is None:
            for where, message in logical_ports.problems(each, on.network):
                report.add(where, f"port '{each.title}': {message}")


def _check_reached(topology: Topology, placed: Placed, host: str | None, label: str | None, report: Report) -> None:
    """OVN has no tunnels for what leaves by a physical network: each guest's own host must have that."""
    meant = [each for each in topology.hosts if host in (None, each.name)]
    lacking = [each.name for each in meant if label and not each.maps(label)]
    if lacking:
        who = f"host '{lacking[0]}', on which it may be," if host is None else f"host '{lacking[0]}'"
        message = f"{who} says under labels no bridge for '{label}', by which network '{placed.port.network}' leaves"
        report.add(placed.decl.network.where, f"port '{placed.title}': {message}: add it, or say host on the guest")


def _network(topology: Topology, seg: Segment) -> _Found:
    decl = seg.decl
    yield from _mode(topology, decl)
    for given, message in (
        (decl.vxlan and decl.vxlan.at, "OVN's networks are on all hosts: leave vxlan out"),
        (decl.bridge and decl.bridge.where, "OVN's networks share a bridge of its own: leave bridge out"),
        (decl.take_over.value and decl.take_over.where, "OVN takes no network of libvirt's over: give it another name"),
        (decl.bandwidth and decl.bandwidth.at, "OVN has no limit for a whole network: limit its ports"),
        (decl.dns_services and decl.dns_services[0].at, "OVN's DNS has no SRV records: have a guest serve DNS"),
        (decl.dns_texts and decl.dns_texts[0].at, "OVN's DNS has no TXT records: have a guest serve DNS"),
        (decl.dns_wildcards and decl.dns_wildcards[0][0].where, "OVN's DNS has no wildcards: list the names under dns"),
        (decl.dns_local and decl.dns_local[0].where, "OVN's DNS answers what it knows, and keeps nothing from others"),
    ):
        if given:
            yield given, str(message)
    for forwarder in decl.dns_forwarders or ():
        if forwarder.domain or not forwarder.address:
            yield forwarder.at, "OVN asks nobody for names: guests do, so a forwarder has an address and no domain"
    for route in decl.routes or ():
        if route.metric:
            yield route.metric.where, "OVN's routes have no metric: leave it out"
    yield from _dhcp(decl)


def _mode(topology: Topology, decl: NetworkDecl) -> _Found:
    mode, label = decl.mode.value, value(decl.physical_network)
    if mode is Mode.OPEN:
        yield decl.mode.where, "OVN has no mode open, which is of a host's firewall: say route"
    if mode is Mode.HOST_ROUTED:
        yield decl.mode.where, "OVN has no mode host-routed: say bridge, or nat with floating addresses"
    if mode in _ROUTED and label is None:
        yield decl.mode.where, f"mode {mode} with OVN needs physical-network: its router has to be somewhere outside"
    if label is None or mode not in (*_ROUTED, Mode.BRIDGE) or decl.physical_network is None:
        return
    if topology.hosts and not any(host.maps(label) for host in topology.hosts):
        yield decl.physical_network.where, f"no host says under labels what '{label}' is"
    if mode in _ROUTED and not any(each.label == label and each.subnets for each in topology.physical_networks):
        yield decl.physical_network.where, f"physical network '{label}' needs subnets: the router has an address there"


def _dhcp(decl: NetworkDecl) -> _Found:
    """Of DHCP and DHCPv6, which are of guests alone: OVN answers ports that it knows."""
    said = "OVN tells addresses to this file's guests only, each its own: leave"
    for given in (decl.dhcp, decl.dhcp6):
        if given and given.range:
            yield given.range[0].where, f"{said} range out"
        if given and given.reservations:
            yield given.reservations[0].at, f"{said} reservations out, or make a guest of the machine"
    if decl.dhcp and decl.dhcp.boot:
        yield decl.dhcp.boot.at, "guestnet cannot have OVN tell guests what to boot yet: have a guest serve DHCP"
    if decl.dhcp6 and decl.dhcp6.lease:
        yield decl.dhcp6.lease.where, "OVN's DHCPv6 has no lease time: leave it out"
    for version, options in ((4, decl.dhcp and decl.dhcp.options), (6, decl.dhcp6 and decl.dhcp6.options)):
        yield from unknown_options(version, options or ())


def unknown_options(version: int, options: OPTIONS) -> _Found:
    """Those that OVN cannot say."""
    for name, _values in options:
        if name.value not in NAMES[version]:
            known = ", ".join(sorted(NAMES[version]))
            yield name.where, f"OVN has no DHCP option {name.value}: of those with a name here it has {known}"


def _check_zones(topology: Topology, segments: Mapping[str, Segment], report: Report) -> None:
    """Each zone has a router of its own, with an address of its own."""
    for physical in topology.physical_networks:
        on = [
            s for s in segments.values() if s.network.mode in _ROUTED and s.network.physical_network == physical.label
        ]
        zones = list(dict.fromkeys(seg.network.zone for seg in on))
        for version in sorted({subnet.version for subnet in physical.subnets}):
            _check_enough(version, [ip for ip in physical.host if ip.version == version], zones, on, report)


def _check_enough(
    version: int, have: Collection[object], zones: list[str | None], on: list[Segment], report: Report
) -> None:
    for zone in zones[len(have) :]:
        seg = next(each for each in on if each.network.zone == zone)
        label = seg.network.physical_network
        message = f"the router of zone '{zone or 'none'}' has no IPv{version} address on '{label}': host there needs"
        where = seg.decl.physical_network.where if seg.decl.physical_network else seg.at.where
        report.add(
            where, f"network '{seg.network.name}': {message} {len(zones)}, one for each zone, and has {len(have)}"
        )

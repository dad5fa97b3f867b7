"""Physical networks and guest networks: defaults filled in, and what makes no sense together refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from libvirt_guestnet.metadata.policy import REQUIRED
from libvirt_guestnet.model.network import (
    Bandwidth,
    IPAddress,
    IPNetwork,
    Mode,
    PhysicalNetwork,
    Rate,
    Subnet,
)

from ..errors import Where
from . import addressing, dhcp, dns, external, host_routed, overlay, static_routes, tiers, traffic, vlans, zones
from .dhcp import why_unusable
from .guest_keys import GuestDecl
from .network_keys import BandwidthDecl, NetworkDecl, PhysicalDecl, RateDecl
from .port_security import with_port_security
from .report import Report
from .scope import HOST, NONE, OUTSIDE, Scope, Segment
from .spec import At, value, values

_HOSTED = (Mode.NAT, Mode.ROUTE, Mode.OPEN)
# Their ports are on somebody else's network, whose prefixes are theirs unless they have their own.
IPV6_MIN_MTU = 1280

_NO_DHCP = "DHCP on a bridged network is the business of the network outside"


def vrfs(segments: Iterable[Segment]) -> dict[str, str]:
    """The VRF of each label that is in one."""
    return {seg.network.physical_network: seg.vrf for seg in segments if seg.vrf and seg.network.physical_network}


def usable(prefix: IPNetwork, address: IPAddress) -> bool:
    """Whether a host may have the address: inside, not the first, and for IPv4 not the last, if there are others."""
    return why_unusable(prefix, address) is None


def physical(scope: Scope, label: str, decl: PhysicalDecl, report: Report) -> PhysicalNetwork:
    """A physical network with its lab addresses."""
    subnets = _shared(decl.subnets, report)
    hosted = any(net and _host_is_on(net, label) for net in scope.networks.values())
    if "subnets" not in decl.bad:
        for at in (*(decl.stand_in or ()), *(decl.host or ())):
            _check_inside(at, subnets, f"physical network '{label}'", report)
    stand_in = tuple(p[1] for p in subnets) if decl.stand_in is None else values(decl.stand_in)
    beside = tuple(p[0 if addressing.is_of_two(p) else 2] for p in subnets if hosted)
    host = beside if decl.host is None else values(decl.host)
    zone = zones.of_label(scope, decl, report)
    return PhysicalNetwork(label, subnets, stand_in, host, value(decl.mtu), traffic.of_label(decl, report), zone)


def _host_is_on(net: NetworkDecl, label: str) -> bool:
    """Whether the network needs the host to have an address on the physical network."""
    modes = (*_HOSTED, Mode.HOST_ROUTED)
    by_routing = net.physical_network and net.physical_network.value == label and net.mode.value in modes
    return bool(by_routing or (net.vxlan and net.vxlan.underlay.value == label))


def _shared(subnets: tuple[At[IPNetwork], ...] | None, report: Report) -> tuple[IPNetwork, ...]:
    """Those in which there is room for two: but for mode host-routed, an address alone is no network."""
    for at in subnets or ():
        if at.value.num_addresses == 1:
            smallest = f"/{at.value.max_prefixlen - 1} is the smallest"
            report.add(at.where, f"{at.value} is too small for a network: {smallest}, but in mode host-routed")
    return tuple(prefix for prefix in values(subnets) if prefix.num_addresses > 1)


def segment(scope: Scope, at: At[str], decl: NetworkDecl, drawn: bool, report: Report) -> Segment:
    """A network with every default filled in; `drawn`: its VLAN or VNI comes from a pool."""
    if decl.external is not None or "external" in decl.bad:
        return external.segment(at, decl, report)
    _check_mode(scope, decl, report)
    router = scope.tiers.get(at.value)
    has_host = _has_host(decl) and router is None
    _check_options(decl, has_host or router is not None, report)
    mode = decl.mode.value
    own = values(decl.subnets) if mode is Mode.HOST_ROUTED else _shared(decl.subnets, report)
    label = decl.physical_network.value if decl.physical_network else None
    outside = scope.physicals.get(label or "")
    prefixes, sure = own, "subnets" not in decl.bad
    if mode in OUTSIDE and decl.subnets is None:
        prefixes = values(outside.subnets) if outside else ()
        sure = sure and outside is not None and "subnets" not in outside.bad
    routed = host_routed.host_routed(decl, prefixes if sure else (), report)
    gateway = HOST if routed else _gateway(scope, at, decl, report)
    vxlan = overlay.vxlan(scope, decl, report)
    tag = vlans.of_network(decl, report)
    mtu = overlay.mtu(scope, vxlan, decl, report) if vxlan else value(decl.mtu)
    subnets = (
        host_routed.subnets(routed, prefixes)
        if routed
        else _subnets(scope, at, decl, report, gateway=gateway, prefixes=prefixes, has_host=has_host)
    )
    network = replace(
        with_port_security(at, decl, mode, "" if routed else _bridge(at, decl, label, tag)),
        mac=_mac(scope, at, decl),
        physical_network=label,
        gateway=gateway,
        subnets=subnets,
        routes=() if routed else static_routes.routes(decl, subnets, report),
        domain=value(decl.domain),
        domain_local=decl.domain_local is None or decl.domain_local.value,
        dns_hosts=dns.hosts(decl),
        dns=dns.dns(decl, report),
        dhcp=dhcp.dhcp(decl.dhcp, 4, report),
        dhcp6=dhcp.dhcp(decl.dhcp6, 6, report),
        mtu=mtu,
        isolated_ports=decl.isolated_ports.value,
        bandwidth=bandwidth(decl.bandwidth, report),
        autostart=decl.autostart.value,
        vlan=tag,
        vxlan=vxlan,
        service_vlan=decl.service_vlan is not None,
        drawn=drawn,
        routed=routed,
        take_over=decl.take_over.value,
        router=router,
        control=at.value == scope.control,
        zone=zones.of_network(scope, at, decl, report),
    )
    if router is not None:
        tiers.check(at, decl, network, report)
    traffic.check_network(scope, decl, report)
    _check_mtu(decl, prefixes, outside, report)
    return Segment(at, decl, network, prefixes, sure)


def bandwidth(decl: BandwidthDecl | None, report: Report) -> Bandwidth | None:
    """Traffic limits; None when there are none."""
    if decl is None:
        return None
    return Bandwidth(_rate(decl.inbound, report), _rate(decl.outbound, report))


def _rate(decl: RateDecl | None, report: Report) -> Rate | None:
    if decl is None:
        return None
    if decl.peak and decl.peak.value < decl.average.value:
        report.add(decl.peak.where, f"peak {decl.peak.value} is lower than average {decl.average.value}")
    return Rate(decl.average.value, value(decl.peak), value(decl.burst))


def _bridge(at: At[str], decl: NetworkDecl, label: str | None, vlan: int | None) -> str:
    if decl.bridge:
        return decl.bridge.value
    if label and decl.mode.value is Mode.BRIDGE:
        return addressing.bridge(f"{label}.{vlan}" if vlan else label)
    return addressing.bridge(at.value)


def _mac(scope: Scope, at: At[str], decl: NetworkDecl) -> str | None:
    if decl.mode.value in OUTSIDE or (decl.take_over.value and not decl.mac):
        return None
    return decl.mac.value if decl.mac else addressing.mac(scope.topology, "network", at.value)


def _check_mode(scope: Scope, decl: NetworkDecl, report: Report) -> None:
    label, mode = decl.physical_network, decl.mode.value
    if label and label.value not in scope.physicals:
        report.unknown(label.where, "physical network", label.value, scope.physicals)
    if mode is Mode.ISOLATED and label:
        report.add(label.where, "an isolated network has no physical network; remove it, or choose mode nat or route")
    if mode is Mode.BRIDGE and not (label or decl.vxlan or decl.bad & {"physical-network", "vxlan"}):
        report.add(decl.mode.where, "mode bridge needs a physical-network: the label of the network to bridge to")
    if mode is Mode.HOST_ROUTED and decl.take_over.value:
        report.add(decl.take_over.where, "mode host-routed has no libvirt network that could be taken over")
    if mode is Mode.HOST_ROUTED and decl.guarded.value == REQUIRED:
        report.add(decl.guarded.where, "mode host-routed has no libvirt network that could insist: say guarded: true")
    if mode in _HOSTED and not decl.subnets and "subnets" not in decl.bad:
        report.add(decl.mode.where, f"mode {mode} needs subnets, such as subnets: [10.0.1.0/24]")


def _check_options(decl: NetworkDecl, has_dns: bool, report: Report) -> None:
    if decl.mode.value is Mode.BRIDGE:
        refused: tuple[tuple[Where | None, str, str], ...] = (
            (
                decl.dhcp.at if decl.dhcp else None,
                "dhcp",
                _NO_DHCP,
            ),
            (decl.mac.where if decl.mac else None, "mac", "the host has no address on a bridged network"),
            (
                decl.dhcp6.at if decl.dhcp6 else None,
                "dhcp6",
                _NO_DHCP,
            ),
            *((where, name, "the host runs no DNS server there") for where, name in dns.said(decl)),
            (decl.bandwidth.at if decl.bandwidth else None, "bandwidth", "set it on the ports"),
        )
        for where, name, why in refused:
            if where:
                report.add(where, f"mode bridge has no {name}: {why}")
    elif decl.mode.value is not Mode.HOST_ROUTED and not has_dns:
        for where, name in dns.said(decl):
            report.add(where, f"{name} needs the host on the network: add dhcp: {{}} or gateway: host")


def _check_mtu(
    decl: NetworkDecl, prefixes: tuple[IPNetwork, ...], outside: PhysicalDecl | None, report: Report
) -> None:
    carried = outside.mtu.value if outside and outside.mtu else 0
    if decl.mtu and decl.mode.value is Mode.BRIDGE and carried and decl.mtu.value > carried:
        # Whoever routes answers that a packet is too big; a bridge drops it without a word.
        label = decl.physical_network.value if decl.physical_network else ""
        message = f"MTU {decl.mtu.value} does not fit: '{label}' carries {carried}, and what is larger would vanish"
        report.add(decl.mtu.where, f"{message}; at most {carried}, or give '{label}' its real mtu:")
    if decl.mtu and decl.mtu.value < IPV6_MIN_MTU and any(p.version == 6 for p in prefixes):
        report.add(decl.mtu.where, f"MTU {decl.mtu.value} is too small for IPv6, which needs {IPV6_MIN_MTU}")


def _has_host(decl: NetworkDecl) -> bool:
    """Whether the host has addresses on the network."""
    given = decl.gateway.value if decl.gateway else None
    serves = decl.dhcp is not None or decl.dhcp6 is not None or bool({"dhcp", "dhcp6"} & decl.bad)
    return decl.mode.value in _HOSTED or (decl.mode.value is Mode.ISOLATED and (given == HOST or serves))


def _gateway(scope: Scope, at: At[str], decl: NetworkDecl, report: Report) -> str | None:
    if decl.gateway is None:
        return HOST if decl.mode.value in _HOSTED else None
    given = decl.gateway.value
    if given == HOST and decl.mode.value is Mode.BRIDGE:
        report.add(decl.gateway.where, "the host cannot be the gateway of a bridged network: it has no address there")
    if given in (HOST, NONE):
        return None if given == NONE else HOST
    if given not in scope.guests:
        report.unknown(decl.gateway.where, "gateway", given, [*scope.guests, HOST, NONE])
    elif (guest := scope.guests[given]) and given not in scope.routers:
        _check_gateway(scope, at, decl.gateway, guest, report)
    return given


def _check_gateway(scope: Scope, at: At[str], gateway: At[str], guest: GuestDecl, report: Report) -> None:
    name = gateway.value
    if not _addresses_of(scope, name, at.value):
        message = f"gateway '{name}' has no port with addresses on network '{at.value}'"
        report.add(gateway.where, f"{message}; add them under guests: {name}: ports:")
    ports = [port for port in guest.ports if port.network.value == at.value]
    if guest.router is None and "router" not in guest.bad and not any(port.sources for port in ports):
        report.add(gateway.where, f"gateway '{name}' does not forward: give the guest a router:")


def _addresses_of(scope: Scope, guest: str, network: str) -> tuple[IPAddress, ...]:
    decl = scope.guests.get(guest)
    ports = [port for port in decl.ports if port.network.value == network] if decl else []
    return tuple(address for port in ports for address in values(port.addresses))


def _subnets(
    scope: Scope,
    at: At[str],
    decl: NetworkDecl,
    report: Report,
    *,
    gateway: str | None,
    prefixes: tuple[IPNetwork, ...],
    has_host: bool,
) -> tuple[Subnet, ...]:
    """The subnets as facts. Those a bridge network takes from its label are named only to say a guest is gateway."""
    by_guest = _addresses_of(scope, gateway, at.value) if gateway and gateway != HOST else ()
    by_host = at.value not in scope.tiers
    ranges = dhcp.ranges(decl, report, by_host=by_host)
    six, range6 = dhcp.served6(decl, report, by_host=by_host)
    dhcp.check_reservations(decl, [*ranges, *([six] if six else [])], report)
    subnets = []
    for prefix in prefixes if by_guest or decl.subnets else ():
        host = prefix[1] if has_host else None
        router = host if gateway == HOST else next((a for a in by_guest if a in prefix), None)
        if by_guest and router is None and decl.gateway:
            message = f"gateway '{gateway}' has no address in {prefix}; give its port on network '{at.value}' one"
            report.add(decl.gateway.where, message)
        served = prefix == six
        subnets.append(Subnet(prefix, router, host, ranges.get(prefix), served, range6 if served else None))
    return tuple(subnets)


def _check_inside(at: At[IPAddress], prefixes: tuple[IPNetwork, ...], what: str, report: Report) -> None:
    prefix = next((p for p in prefixes if at.value in p), None)
    if prefix is None:
        subnets = ", ".join(map(str, prefixes)) or "it has none"
        report.add(at.where, f"{at.value} is outside the subnets of {what} ({subnets})")
    elif why := why_unusable(prefix, at.value):
        report.add(at.where, why)


def check_inside(at: At[IPAddress], seg: Segment, report: Report) -> bool:
    """Whether a port's address can be used on the network; the complaint, if not, goes to the report."""
    if seg.network.external:
        return True  # which its subnets are, its host knows
    if any(usable(p, at.value) for p in seg.prefixes):
        return True
    if seg.network.routed and any(at.value in p for p in values(seg.decl.subnets)):
        return True  # nobody shares a link with it, so that no address of a prefix means all of them
    if seg.sure:
        _check_inside(at, seg.prefixes, f"network '{seg.network.name}'", report)
    return False

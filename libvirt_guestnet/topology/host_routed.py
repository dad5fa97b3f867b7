"""Networks of mode host-routed: every port a link of its own to the host, which routes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.model.network import HostRouted, IPAddress, IPNetwork, Mode, Subnet
from libvirt_guestnet.model.topology import PortKind

from ..errors import Where
from . import dns
from .guest_keys import PortDecl
from .network_keys import NetworkDecl
from .report import Report
from .spec import At, value

GATEWAY4, GATEWAY6 = IPv4Address("169.255.30.1"), IPv6Address("fe80::1")


def host_routed(decl: NetworkDecl, prefixes: tuple[IPNetwork, ...], report: Report) -> HostRouted | None:
    """What is special about the network; None in every other mode, where its keys have no place."""
    if decl.mode.value is not Mode.HOST_ROUTED:
        for where, name in _own(decl):
            if where and "mode" not in decl.bad:
                report.add(where, f"{name} is for mode host-routed, not {decl.mode.value}")
        return None
    for where, name, why in _refused(decl):
        report.add(where, f"mode host-routed has no {name}: {why}")
    if not prefixes and not decl.bad & {"subnets", "physical-network"}:
        report.add(decl.mode.where, "mode host-routed needs subnets, or a physical-network that has some")
    gateway = decl.gateway_address
    if gateway:
        _check_gateway(gateway, prefixes, report)
    if decl.vrf and decl.table:
        report.add(decl.table.where, f"table and vrf exclude each other: VRF {decl.vrf.value} has a table of its own")
    publish = decl.publish is None or decl.publish.value
    return HostRouted(gateway.value if gateway else GATEWAY4, publish, value(decl.table), value(decl.vrf))


def _own(decl: NetworkDecl) -> Iterator[tuple[Where | None, str]]:
    yield decl.gateway_address.where if decl.gateway_address else None, "gateway-address"
    yield decl.publish.where if decl.publish else None, "publish"
    yield decl.table.where if decl.table else None, "table"
    yield decl.vrf.where if decl.vrf else None, "vrf"


def _refused(decl: NetworkDecl) -> Iterator[tuple[Where, str, str]]:
    no_bridge = "its ports share no bridge"
    refused: tuple[tuple[Where | None, str, str], ...] = (
        (decl.gateway.where if decl.gateway else None, "gateway", "it is the host; its address is gateway-address"),
        (decl.bridge.where if decl.bridge else None, "bridge", no_bridge),
        (decl.mac.where if decl.mac else None, "mac", no_bridge),
        (decl.dhcp.at if decl.dhcp else None, "dhcp", "no DHCP server of the host's is there"),
        (decl.dhcp6.at if decl.dhcp6 else None, "dhcp6", "no DHCP server of the host's is there"),
        *((where, name, "the host runs no DNS server there") for where, name in dns.said(decl)),
        (decl.vlan.where if decl.vlan else None, "vlan", no_bridge),
        (decl.service_vlan.where if decl.service_vlan else None, "service-vlan", no_bridge),
        (decl.vxlan.at if decl.vxlan else None, "vxlan", no_bridge),
        (decl.bandwidth.at if decl.bandwidth else None, "bandwidth", "set it on the ports"),
        (decl.routes[0].at if decl.routes else None, "routes", "say sources on the port of the guest that is a router"),
        (
            None if decl.autostart.value else decl.autostart.where,
            "autostart",
            "no network of libvirt's has to be started",
        ),
        (_if_true(decl.isolated_ports), "isolated-ports", "nothing reaches another port but through the host"),
        (_if_true(decl.privacy_addresses), "privacy-addresses", "the host routes to addresses that it knows"),
    )
    return ((where, name, why) for where, name, why in refused if where)


def _if_true(at: At[bool] | At[bool | str] | None) -> Where | None:
    return at.where if at and at.value else None


def _check_gateway(at: At[IPv4Address], prefixes: tuple[IPNetwork, ...], report: Report) -> None:
    address = at.value
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved:
        report.add(at.where, f"{address} cannot be the address of a gateway")
    elif any(address in prefix for prefix in prefixes):
        report.add(at.where, f"{address} is in a subnet of the guests: choose one such as {GATEWAY4} or 169.254.1.1")


def subnets(routed: HostRouted, prefixes: tuple[IPNetwork, ...]) -> tuple[Subnet, ...]:
    """The prefixes that the guests' addresses are from; the gateway is in none of them, nor is the host."""
    by_version: dict[int, IPAddress] = {4: routed.gateway, 6: GATEWAY6}
    return tuple(Subnet(prefix, by_version[prefix.version]) for prefix in prefixes)


def check_port(decl: PortDecl, report: Report) -> None:
    """Report what a port cannot be where the host routes to it."""
    on_no_bridge = "a host-routed port is on no bridge"
    refused = (
        (decl.kind.where if decl.kind.value is PortKind.BRIDGE else None, "kind: bridge", on_no_bridge),
        (decl.isolated.where if decl.isolated else None, "isolated", on_no_bridge),
        (decl.vlan.where if decl.vlan else None, "vlan", on_no_bridge),
        (decl.trunk[0].where if decl.trunk else None, "trunk", on_no_bridge),
        (decl.native_vlan.where if decl.native_vlan else None, "native-vlan", on_no_bridge),
        (decl.roles[0].where if decl.roles else None, "roles", "nobody else is on its link"),
        (_if_true(decl.privacy_addresses), "privacy-addresses", "the host routes to addresses that it knows"),
        (
            decl.allowed_pairs[0].at if decl.allowed_pairs else None,
            "allowed-pairs",
            "the host routes each address to one port: list it under addresses",
        ),
    )
    for where, name, why in refused:
        if where:
            report.add(where, f"{name} has no place here: {why}")
    if decl.addresses == ():
        report.add(decl.at, "a host-routed port needs addresses: the host routes to nothing else")

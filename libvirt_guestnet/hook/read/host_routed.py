"""Host-routed ports: the host routes to its taps that a domain's XML asks for. Pure reading.

They are in the domain's own XML alone, as an interface of type ethernet is on no network of libvirt's (decision 31).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink.rtnl import MAIN_TABLE
from libvirt_guestnet.datapath.routing.gateway import GATEWAY6, RoutedTap
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.metadata.policy import HostRouted, PortPolicy
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route


class RoutedPort(NamedTuple):
    """One host-routed port. `prefixes` are reached by way of the guest's own addresses. `device` is the uplink that the
    XML names; "" if nothing is published, or if each host has to find its own. In a VRF, `table` is not used."""

    tap: str
    gateway: IPv4Address
    addresses: tuple[IPv4Address | IPv6Address, ...]
    prefixes: tuple[str, ...]
    publish: bool
    device: str
    table: int
    vrf: str


UplinkOf = Callable[[str, RoutedPort], str]  # where an address of the port is published


def routed_ports(domain: Domain) -> list[RoutedPort]:
    """Raises GuestnetError on anything that cannot be carried out."""
    found = ((policy, policy.routed, nic) for policy, nic in domain.policies())
    return [_routed_port(policy, routed, nic) for policy, routed, nic in found if routed is not None]


def _routed_port(policy: PortPolicy, routed: HostRouted, nic: Nic) -> RoutedPort:
    if nic.type != "ethernet":
        raise GuestnetError(f"interface {policy.mac}: a host-routed port is of type 'ethernet', not {nic.type!r}")
    return RoutedPort(
        tap=parse.device(nic.tap),
        gateway=routed.gateway,
        addresses=policy.addresses,
        # A router may send from anywhere, but the host's default route must not lead to it.
        prefixes=tuple(str(parse.routable(str(prefix))) for prefix in policy.sources if prefix.prefixlen),
        publish=routed.publish,
        device=routed.device,
        table=routed.table or MAIN_TABLE,
        vrf=routed.vrf,
    )


def gateways(port: RoutedPort) -> RoutedTap:
    """The gateways that the tap needs: one for each family in which the guest has an address."""
    versions = {address.version for address in port.addresses}
    found = ((4, port.gateway), (6, GATEWAY6))
    return RoutedTap(port.tap, tuple(gateway for version, gateway in found if version in versions), port.vrf)


def host_routes(domain: Domain, port: RoutedPort, uplink_of: UplinkOf) -> HostRoutes:
    """The port's routes and published addresses. Raises GuestnetError when no uplink is found for an address that has
    to be published."""
    routes = [Route(f"{ip}/{ip.max_prefixlen}", port.tap, table=port.table) for ip in port.addresses]
    for prefix in port.prefixes:
        via = next((str(ip) for ip in port.addresses if ip.version == parse.prefix(prefix).version), "")
        routes.append(Route(prefix, port.tap, via, port.table))
    published = [ProxyEntry(str(ip), uplink_of(str(ip), port)) for ip in port.addresses] if port.publish else []
    return HostRoutes(
        tap=port.tap,
        uuid=domain.uuid,
        domain=domain.name,
        routes=tuple(routes),
        published=tuple(published),
        gateway=str(port.gateway) if any(ip.version == 4 for ip in port.addresses) else "",
        vrf=port.vrf,
    )

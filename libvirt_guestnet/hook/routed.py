"""Host-routed ports: what a domain's XML wants to be led to its taps. Pure reading.

Nothing but the domain tells of them: an interface of type ethernet is on no network of libvirt's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.routed import GATEWAY6, RoutedTap
from libvirt_guestnet.datapath.routes import Published, Reach, Route
from libvirt_guestnet.datapath.rtnl import MAIN_TABLE
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.values import attribute
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE

_PORT = f"metadata|{NAMESPACE} domain|{NAMESPACE} port"


class RoutedPort(NamedTuple):
    """One host-routed port. `prefixes` are reached by way of the guest's own addresses; `device` is the uplink that
    the XML names, "" where nothing is published or another host is to find its own. In a VRF, `table` is nothing."""

    tap: str
    gateway: IPv4Address
    addresses: tuple[IPv4Address | IPv6Address, ...]
    prefixes: tuple[str, ...]
    publish: bool
    device: str
    table: int
    vrf: str


UplinkOf = Callable[[str, RoutedPort], str]  # where an address of the port is published


def routed_ports(domain: Node) -> list[RoutedPort]:
    """Raises GuestnetError on anything that cannot be carried out."""
    nics = {attribute(nic, "mac", "address").lower(): nic for nic in domain.all("devices/interface")}
    found = []
    for port in domain.all(_PORT, "|"):
        routed, nic = port.one(f"{NAMESPACE} routed", "|"), nics.get(port.get("mac").lower())
        if routed is not None and nic is not None:
            found.append(_routed_port(port, routed, nic))
    return found


def _routed_port(port: Node, routed: Node, nic: Node) -> RoutedPort:
    if nic.get("type") != "ethernet":
        raise GuestnetError(
            f"interface {port.get('mac')}: a host-routed port is of type 'ethernet', not {nic.get('type')!r}"
        )
    addresses = tuple(_parsed(each.get("ip")) for each in port.all(f"{NAMESPACE} address", "|"))
    prefixes = tuple(each.get("prefix") for each in port.all(f"{NAMESPACE} source", "|"))
    return RoutedPort(
        tap=check_device(attribute(nic, "target", "dev")),
        gateway=_gateway(routed.get("gateway")),
        addresses=addresses,
        prefixes=tuple(_prefixes(prefixes)),
        publish=routed.get("publish") != "no",
        device=check_device(routed.get("device")) if routed.get("device") else "",
        table=_table(routed.get("table")),
        vrf=check_device(routed.get("vrf")) if routed.get("vrf") else "",
    )


def _prefixes(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        try:
            prefix = ip_network(text)
        except ValueError as error:
            raise GuestnetError(f"metadata: {error}") from error
        if prefix.prefixlen:  # "anywhere" is what a router may send from; the host's default route is not the guest's
            yield str(prefix)


def _gateway(text: str) -> IPv4Address:
    gateway = _parsed(text)
    if isinstance(gateway, IPv4Address):
        return gateway
    raise GuestnetError(f"metadata: gateway {text!r} is no IPv4 address; for IPv6 it is {GATEWAY6} always")


def _table(text: str) -> int:
    if not text:
        return MAIN_TABLE
    if text.isascii() and text.isdigit() and len(text) < 11 and 1 <= int(text) < 1 << 32:
        return int(text)
    raise GuestnetError(f"metadata: {text!r} is not the number of a routing table")


def gateways(port: RoutedPort) -> RoutedTap:
    """The gateways that the tap needs: one for each family in which the guest has an address."""
    versions = {address.version for address in port.addresses}
    found = ((4, port.gateway), (6, GATEWAY6))
    return RoutedTap(port.tap, tuple(gateway for version, gateway in found if version in versions), port.vrf)


def reach(domain: Node, port: RoutedPort, uplink_of: UplinkOf) -> Reach:
    """What leads to the port. Raises GuestnetError when no uplink is found for an address that has to be published."""
    routes = [Route(f"{ip}/{ip.max_prefixlen}", port.tap, table=port.table) for ip in port.addresses]
    for prefix in port.prefixes:
        via = next((str(ip) for ip in port.addresses if ip.version == ip_network(prefix).version), "")
        routes.append(Route(prefix, port.tap, via, port.table))
    published = [Published(str(ip), uplink_of(str(ip), port)) for ip in port.addresses] if port.publish else []
    return Reach(
        tap=port.tap,
        uuid=domain.text_of("uuid"),
        domain=domain.text_of("name"),
        routes=tuple(routes),
        published=tuple(published),
        gateway=str(port.gateway) if any(ip.version == 4 for ip in port.addresses) else "",
        vrf=port.vrf,
    )


def _parsed(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise GuestnetError(f"metadata: {error}") from error

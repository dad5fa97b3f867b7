"""Guests that the host routes through: what a domain's XML wants to be led to its ports on bridges. Pure reading."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.routes import Reach, Route
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.values import attribute
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE

_PORT = f"metadata|{NAMESPACE} domain|{NAMESPACE} port"


def reaches(domain: Node) -> list[Reach]:
    """For each port with prefixes behind it the host's routes to them, by way of the port's address.

    Raises GuestnetError on anything that cannot be carried out.
    """
    nics = {attribute(nic, "mac", "address").lower(): nic for nic in domain.all("devices/interface")}
    return [
        _reach(domain, port, nic)
        for port in domain.all(_PORT, "|")
        if port.one(f"{NAMESPACE} behind", "|") is not None and (nic := nics.get(port.get("mac").lower())) is not None
    ]


def _reach(domain: Node, port: Node, nic: Node) -> Reach:
    tap, bridge = attribute(nic, "target", "dev"), attribute(nic, "source", "bridge")
    if not bridge:
        raise GuestnetError(f"interface {port.get('mac')}: it is on no bridge that the host could route through")
    prefixes = [_prefix(each.get("prefix")) for each in port.all(f"{NAMESPACE} behind", "|")]
    return Reach(
        tap=check_device(tap),
        uuid=domain.text_of("uuid"),
        domain=domain.text_of("name"),
        routes=tuple(Route(str(prefix), check_device(bridge), _via(port, prefix)) for prefix in prefixes),
    )


def _via(port: Node, prefix: IPv4Network | IPv6Network) -> str:
    try:
        addresses = [ip_address(each.get("ip")) for each in port.all(f"{NAMESPACE} address", "|")]
    except ValueError as error:
        raise GuestnetError(f"metadata: {error}") from error
    for address in addresses:
        if address.version == prefix.version:
            return str(address)
    raise GuestnetError(f"interface {port.get('mac')}: it has no address that {prefix} could be routed to")


def _prefix(text: str) -> IPv4Network | IPv6Network:
    try:
        prefix = ip_network(text)
    except ValueError as error:
        raise GuestnetError(f"metadata: {error}") from error
    if not prefix.prefixlen:
        raise GuestnetError(f"metadata: {prefix} is behind no guest: the host has a default route of its own")
    return prefix

"""What every reader of a hook's XML needs: values, checked as they are read, and where to find them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from libvirt_guestnet.datapath.ranges import Prefix
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.state import NetworkReceipt

NetworkOf = Callable[[str], NetworkReceipt | None]
DOMAIN_PORT = f"metadata|{NAMESPACE} domain|{NAMESPACE} port"
_TAPS = ("network", "bridge", "ethernet")


def attribute(node: Node, child: str, attribute: str) -> str:
    """An attribute of the first child at a path, "" where there is none."""
    found = node.one(child)
    return found.get(attribute) if found else ""


def number(node: Node, attribute: str, highest: int) -> int:
    """The number from 1 on that an attribute is. Raises GuestnetError."""
    text = node.get(attribute)
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest:
        return int(text)
    raise GuestnetError(f"metadata: {attribute} {text!r} is not a number from 1 to {highest}")


def address(text: str) -> IPv4Address | IPv6Address:
    """Raises GuestnetError."""
    try:
        return ip_address(text)
    except ValueError as error:
        raise GuestnetError(f"metadata: {error}") from error


def prefix(text: str) -> Prefix:
    """Raises GuestnetError."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise GuestnetError(f"metadata or network XML: {error}") from error


def tap_of(domain: Node, nic: Node, mac: str) -> str:
    """The tap behind a NIC. Raises GuestnetError where there is none."""
    where = f"domain {domain.text_of('name')!r}: interface {mac}"
    if nic.get("type") not in _TAPS:
        raise GuestnetError(f"{where}: type {nic.get('type')!r} has no tap to guard; use type 'network' or 'bridge'")
    tap = attribute(nic, "target", "dev")
    if not tap:
        raise GuestnetError(f"{where}: no <target dev> in the live XML, so nothing to guard")
    return tap

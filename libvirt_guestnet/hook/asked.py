"""Ways in that the XML on a hook's stdin asks for: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet.claims import MOST_MOVED
from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.ways import Floating, Forward, Ways
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import values
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE


def ways(domain: Node, network_of: values.NetworkOf) -> list[Ways]:
    """The ways in to a domain's ports, of those that have any. Raises GuestnetError on what cannot be carried out."""
    policies = {p.get("mac").lower(): p for p in domain.all(values.DOMAIN_PORT, "|")}
    found = (_ways(domain, nic, policies, network_of) for nic in domain.all("devices/interface"))
    return [each for each in found if each]


def _ways(domain: Node, nic: Node, policies: dict[str, Node], network_of: values.NetworkOf) -> Ways | None:
    mac, name = values.attribute(nic, "mac", "address").lower(), values.attribute(nic, "source", "network")
    policy = policies.get(mac)
    forwards = tuple(map(_forward, policy.all(f"{NAMESPACE} forward", "|"))) if policy else ()
    floating = tuple(map(_floating, policy.all(f"{NAMESPACE} floating", "|"))) if policy else ()
    if not (forwards or floating):
        return None
    network = network_of(name) if name else None
    return Ways(
        tap=values.tap_of(domain, nic, mac),
        mac=mac,
        uuid=domain.text_of("uuid"),
        domain=domain.text_of("name"),
        bridge=check_device(values.attribute(nic, "source", "bridge") or (network.bridge if network else "")),
        forwards=forwards,
        floating=floating,
    )


def _forward(node: Node) -> Forward:
    low, _, high = node.get("ports").partition("-")
    first, last = _port_number(low), _port_number(high or low)
    to_first = values.number(node, "first", 65535) if node.get("first") else first
    protocol, to = node.get("protocol"), str(values.address(node.get("to")))
    at = str(values.address(node.get("at"))) if node.get("at") else ""
    fits = protocol in ("tcp", "udp") and first <= last and to_first + last - first <= 65535
    if not fits or (at and not _same(at, to)) or (to_first != first and last - first >= MOST_MOVED):
        raise GuestnetError(f"metadata: no forward can be of {protocol} {node.get('ports')!r} at {at!r} to {to}")
    return Forward(protocol, first, last, to, to_first, at, node.get("hide") == "yes")


def _port_number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535:
        return int(text)
    raise GuestnetError(f"metadata: {text!r} is not a port from 1 to 65535")


def _floating(node: Node) -> Floating:
    ip, end = str(values.address(node.get("ip"))), str(values.address(node.get("via") or node.get("to")))
    if not _same(ip, end):
        raise GuestnetError(f"metadata: floating address {ip} and {end} are not of one family")
    return Floating(ip, ip, end) if node.get("via") else Floating(ip, end)


def _same(one: str, other: str) -> bool:
    return (":" in one) == (":" in other)

"""Ways in that the XML on a hook's stdin asks for: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.forwards.table import Floating, Forward, Ways, version_of
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import values
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.claims import MOST_MOVED
from libvirt_guestnet.model.metadata import NAMESPACE
from libvirt_guestnet.state.serialiser import LEASES

_MOST_OF_ALL = 4 * MOST_MOVED


def ways(domain: Node, network_of: values.NetworkOf) -> list[Ways]:
    """The ways in to a domain's ports, of those that have any. Raises GuestnetError on what cannot be carried out."""
    policies = values.Policies(domain)
    nics = domain.all("devices/interface")
    found = [each for nic in nics if (each := _ways(domain, nic, policies, network_of))]
    moved = sum(f.last - f.first + 1 for each in found for f in each.forwards if f.first != f.to_first)
    if moved > _MOST_OF_ALL:
        raise GuestnetError(f"metadata: the forwards of one domain may move {_MOST_OF_ALL} ports at most, not {moved}")
    return found


def _ways(domain: Node, nic: Node, policies: values.Policies, network_of: values.NetworkOf) -> Ways | None:
    mac, name = values.attribute(nic, "mac", "address").lower(), values.attribute(nic, "source", "network")
    policy = policies.of(nic)
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
    first, last = values.span(node, "ports", 65535)
    to_first = values.number(node, "first", 65535) if node.get("first") else first
    protocol, to = node.get("protocol"), node.get("to")
    to = to if to in LEASES else str(values.address(node, "to"))
    at = str(values.address(node, "at")) if node.get("at") else ""
    fits = protocol in ("tcp", "udp") and to_first + last - first <= 65535
    if not fits or (at and version_of(at) != version_of(to)) or (to_first != first and last - first >= MOST_MOVED):
        raise GuestnetError(
            f"metadata: no forward can be of {parse.shown(protocol)} {first}-{last} at {at or 'any'} to {to}"
        )
    return Forward(protocol, first, last, to, to_first, at, node.get("hide") == "yes")


def _floating(node: Node) -> Floating:
    ip, end = str(values.address(node, "ip")), str(values.address(node, "via" if node.get("via") else "to"))
    if not _same(ip, end):
        raise GuestnetError(f"metadata: floating address {ip} and {end} are not of one family")
    return Floating(ip, ip, end) if node.get("via") else Floating(ip, end)


def _same(one: str, other: str) -> bool:
    return (":" in one) == (":" in other)

"""Guests that the host routes through: what a domain's XML wants to be led to its ports on bridges. Pure reading."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.routing.routes import Reach, Route
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import values
from libvirt_guestnet.hook.read.values import attribute, tap_of
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.metadata import NAMESPACE


def reaches(domain: Node) -> list[Reach]:
    """For each port with prefixes behind it the host's routes to them, by way of the port's address.

    Raises GuestnetError on anything that cannot be carried out.
    """
    pairs = values.Policies(domain).pairs()
    return [_reach(domain, port, nic) for port, nic in pairs if port.one(f"{NAMESPACE} behind", "|") is not None]


def _reach(domain: Node, port: Node, nic: Node) -> Reach:
    bridge = attribute(nic, "source", "bridge")
    if not bridge:
        raise GuestnetError(f"interface {port.get('mac')}: it is on no bridge that the host could route through")
    prefixes = [_prefix(each) for each in port.all(f"{NAMESPACE} behind", "|")]
    return Reach(
        tap=parse.device(tap_of(domain, nic, port.get("mac"))),
        uuid=domain.text_of("uuid"),
        domain=domain.text_of("name"),
        routes=tuple(Route(str(prefix), parse.device(bridge), _via(port, prefix)) for prefix in prefixes),
    )


def _via(port: Node, prefix: parse.Prefix) -> str:
    addresses = [values.address(each, "ip") for each in port.all(f"{NAMESPACE} address", "|")]
    for address in addresses:
        if address.version == prefix.version:
            return str(address)
    raise GuestnetError(f"interface {port.get('mac')}: it has no address that {prefix} could be routed to")


def _prefix(behind: Node) -> parse.Prefix:
    prefix = values.prefix(behind, "prefix")
    if not prefix.prefixlen:
        raise GuestnetError(f"metadata: {prefix} is behind no guest: the host has a default route of its own")
    return prefix

"""Our metadata in a network that is there without guestnet, which lists all that the network is to have more."""

from __future__ import annotations

import re
from collections.abc import Iterator

from libvirt_guestnet.metadata import writer
from libvirt_guestnet.metadata.policy import Added
from libvirt_guestnet.model.hostnames import host_name
from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.xmlgen.element import Element
from libvirt_guestnet.xmlgen.policy import external_policy
from libvirt_guestnet.xmlgen.services import port_addresses

_HOST_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9.-]*")


def external_metadata(topology: Topology, network: Network) -> Element:
    """<guestnet:network>; with reservations and DNS names once the network's host has said where it serves what."""
    return writer.network_element(external_policy(topology, network, _added(topology, network)))


def _added(topology: Topology, network: Network) -> Iterator[Added]:
    """A reservation for each address that the host's DHCP server tells, and a name for others; a guest may have a name
    that no DNS server takes."""
    for guest, port, address in port_addresses(topology, network):
        name = host_name(guest, port)
        name = name if _HOST_NAME.fullmatch(name) else ""
        if address.assignment is Assignment.DHCP:
            yield Added(address.ip, port.mac, name)
        elif name and any(subnet.host and address.ip in subnet.prefix for subnet in network.subnets):
            yield Added(address.ip, name=name)

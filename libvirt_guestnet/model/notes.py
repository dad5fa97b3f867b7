"""What is right in a topology, and perhaps not meant. Pure."""

from __future__ import annotations

from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import Role, Topology


def notes(found: Topology) -> list[str]:
    """A line for each such thing."""
    return [*_without_address(found), *_spanning(found)]


def _spanning(found: Topology) -> list[str]:
    labels = {network.name: network.physical_network for network in found.networks if network.mode is Mode.BRIDGE}
    return [
        f"port '{guest.name}.{port.name}' has role stp: its frames leave the host by physical network "
        f"'{labels[port.network]}', where a switch may shut the host's port down for them (BPDU guard)"
        for guest in found.guests
        for port in guest.ports
        if Role.STP in port.roles and labels.get(port.network)
    ]


def _without_address(found: Topology) -> list[str]:
    return [
        f"port '{guest.name}.{port.name}' on network '{port.network}' has no addresses: it may ask by DHCP, and use "
        "its link-local address only; list them, or write `addresses: any` for whatever nobody else holds"
        for guest, port in found.unaddressed
    ]

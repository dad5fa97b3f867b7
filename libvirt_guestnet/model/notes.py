"""What is right in a topology, and perhaps not meant. Pure."""

from __future__ import annotations

from libvirt_guestnet.model.topology import Topology


def notes(found: Topology) -> list[str]:
    """A line for each such thing."""
    return [
        f"port '{guest.name}.{port.name}' on network '{port.network}' has no addresses: it may ask by DHCP, and use "
        "its link-local address only; list them, or write `addresses: any` for whatever nobody else holds"
        for guest, port in found.unaddressed
    ]

"""Whether what a domain's XML asks for could be carried out at all, as `start` and a repair find out before they change
anything. Pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet.hook.read import host_routed, next_hop, vlan_membership, wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain


def check(domain: Domain) -> None:
    """Raises GuestnetError for routes, forwards and VLANs that no host could make."""
    host_routed.routed_ports(domain)
    next_hop.host_routes(domain)
    wanted_forwards.port_forwards(domain)
    vlan_membership.tap_vlans(domain)

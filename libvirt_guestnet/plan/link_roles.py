"""Roles without effect on this host's bridges, or with which a guest cannot start there: Open vSwitch drops frames of
the link's own protocols, and a bridge that speaks the spanning tree protocol would believe a guest's. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from libvirt_guestnet.datapath.port.port_facts import forwarded_groups
from libvirt_guestnet.model.topology import Role, Topology


def notes(
    topology: Topology, bridges: Mapping[str, str], spanning: Collection[str], switches: Collection[str]
) -> Iterator[str]:
    """A line for each such port. `bridges` are networks' bridges, by the network's name; `spanning` those of them that
    speak the spanning tree protocol, `switches` those of Open vSwitch."""
    for guest in topology.guests:
        for port in guest.ports:
            bridge, title = bridges.get(port.network, ""), f"port '{guest.name}.{port.name}'"
            kept = [str(role) for role in port.roles if forwarded_groups([role])]
            if Role.STP in port.roles and port.guarded and bridge in spanning:
                yield (
                    f"{title} has role stp, and bridge {bridge} speaks the spanning tree protocol itself: the guest "
                    f"cannot start there; ip link set {bridge} type bridge stp_state 0, or take the role out"
                )
            if kept and bridge in switches:
                yield (
                    f"{title} has roles {', '.join(kept)}, and Open vSwitch drops their frames: ovs-vsctl set bridge "
                    f"{bridge} other-config:forward-bpdu=true has it forward those of all its ports"
                )

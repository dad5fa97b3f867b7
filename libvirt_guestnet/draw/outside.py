"""What lies outside the host, for both views."""

from __future__ import annotations

from libvirt_guestnet.model.network import Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Topology

# Stands for where traffic goes if the file does not say through which physical network the host forwards it.
ELSEWHERE = PhysicalNetwork("anywhere")


def outside(topology: Topology) -> tuple[PhysicalNetwork, ...]:
    """The physical networks, and ELSEWHERE when some network is forwarded there."""
    elsewhere = any(_forwarded(network) and network.physical_network is None for network in topology.networks)
    return (*topology.physical_networks, ELSEWHERE) if elsewhere else topology.physical_networks


def uplink(topology: Topology, network: Network) -> int | None:
    """To which of `outside` a network is connected; None if to none."""
    if network.physical_network is not None:
        return topology.physical_networks.index(topology.physical_network(network.physical_network))
    return len(topology.physical_networks) if _forwarded(network) else None


def _forwarded(network: Network) -> bool:
    return network.mode in (Mode.NAT, Mode.ROUTE, Mode.OPEN, Mode.HOST_ROUTED)

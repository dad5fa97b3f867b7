"""What of a topology each of its hosts has. Pure.

A host has the networks whose labels it maps to devices. A guest is on the host that the file names, else wherever its
domain is, be it on several: whoever migrates one back and forth keeps its definition on both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.topology import Topology


def has(host: Host, network: Network) -> bool:
    """Whether a host has that network."""
    return all(map(host.maps, network.labels))


def on_host(topology: Topology, host: Host, guests: Collection[str]) -> Topology:
    """The topology as that one host has it, with these of its guests, and without the others' tunnel ends."""
    networks = tuple(_there(host, network) for network in topology.networks if has(host, network))
    here = tuple(guest for guest in topology.guests if guest.name in guests)
    return replace(topology, hosts=(host,), networks=networks, guests=here)


def _there(host: Host, network: Network) -> Network:
    """A tunnel has every end but the host's own."""
    if network.vxlan is None or host.underlay not in network.vxlan.remotes:
        return network
    remotes = tuple(each for each in network.vxlan.remotes if each != host.underlay)
    return replace(network, vxlan=replace(network.vxlan, remotes=remotes))

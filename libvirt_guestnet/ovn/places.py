"""Where a network's logical router is, and what it is called: one for each physical network and zone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.hosted import is_logical
from libvirt_guestnet.ovn.rows import ROUTER, Ref


@dataclass(frozen=True)
class Place:
    """A logical router: of a physical network `label` and zone, or with `network` an isolated network's own."""

    label: str = ""
    zone: str = ""
    network: str = ""

    @property
    def name(self) -> str:
        if self.network:
            return f"of/network/{self.network}"
        return f"{self.label}/{self.zone}" if self.zone else self.label

    @property
    def ref(self) -> Ref:
        return Ref(ROUTER, self.name)


@dataclass(frozen=True)
class Layout:
    """A topology's networks that are OVN's, and the routers that they are on."""

    topology: Topology

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        return tuple(network for network in self.topology.networks if is_logical(self.topology, network))

    @cached_property
    def on(self) -> dict[Place, tuple[Network, ...]]:
        """Each router's networks, in file order."""
        found: dict[Place, list[Network]] = {}
        for network in self.networks:
            if (place := place_of(network)) is not None:
                found.setdefault(place, []).append(network)
        return {place: tuple(networks) for place, networks in found.items()}

    @cached_property
    def own(self) -> dict[Place, dict[int, tuple[IPAddress, IPNetwork]]]:
        """By IP version, a router's address outside with its prefix. Of those that the file calls the host's each zone
        has one, in file order, as many as there are."""
        found: dict[Place, dict[int, tuple[IPAddress, IPNetwork]]] = {place: {} for place in self.on}
        taken: dict[str, int] = {}
        for place in (each for each in self.on if each.label):
            number = taken[place.label] = taken.get(place.label, -1) + 1
            physical = self.topology.physical_network(place.label)
            for version in (4, 6):
                ips = [ip for ip in physical.host if ip.version == version]
                if number < len(ips) and (prefix := _prefix(physical, ips[number])) is not None:
                    found[place][version] = (ips[number], prefix)
        return found

    def ways_out(self, place: Place) -> list[IPAddress]:
        """The gateways outside, one of each family in which the router has an address."""
        outside = self.topology.physical_network(place.label).stand_in if place.label else ()
        firsts = ([ip for ip in outside if ip.version == version][:1] for version in self.own[place])
        return [ip for first in firsts for ip in first]

    def chassis(self, label: str) -> list[str]:
        """The chassis that reach a physical network, in file order."""
        return [host.chassis for host in self.topology.hosts if host.maps(label)]

    def router(self, place: Place) -> str:
        """A router's name in the database."""
        return f"{self.topology.name}/router/{place.name}"

    def port(self, place: Place, network: str = "") -> str:
        """The name of its port towards a network, or outside."""
        return f"{self.topology.name}/router/{port_key(place, network)}"


def port_key(place: Place, network: str = "") -> str:
    """The key of a router's port towards a network, or outside. No name has a slash: no two keys are one."""
    return f"{place.name}/to/network/{network}" if network else f"{place.name}/to/outside"


def place_of(network: Network) -> Place | None:
    """The router that a network of OVN's is on; None where it has none."""
    if not any(subnet.host for subnet in network.subnets):
        return None
    if network.mode in (Mode.NAT, Mode.ROUTE):
        return Place(label=network.physical_network or "", zone=network.zone or "")
    return Place(network=network.name) if network.mode is Mode.ISOLATED else None


def _prefix(physical: PhysicalNetwork, ip: IPAddress) -> IPNetwork | None:
    return next((prefix for prefix in physical.subnets if ip in prefix), None)

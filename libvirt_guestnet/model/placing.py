"""What of a topology each of its hosts has. Pure.

A host has the networks whose labels it maps to devices. A guest is on the host that the file names, else wherever its
domain is, be it on several: whoever migrates one back and forth keeps its definition on both (decision 121).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.topology import Guest, Topology


def has(host: Host, network: Network) -> bool:
    """Whether a host has that network."""
    return all(map(host.maps, network.labels))


def lacking(topology: Topology, host: Host, guests: Collection[str]) -> list[str]:
    """The networks that a host would need for these guests and has not, a line each."""
    networks = {each.name: each for each in topology.networks}
    return [
        f"guest {guest.name!r} is on it, and needs network {port.network!r}, for which its labels say no device"
        for guest in topology.guests
        for port in guest.ports
        if guest.name in guests and not has(host, networks[port.network])
    ]


def on_host(topology: Topology, host: Host, guests: Collection[str]) -> Topology:
    """The topology as that one host has it, with these of its guests, and without the others' tunnel ends."""
    networks = tuple(_there(host, network) for network in topology.networks if has(host, network))
    here = tuple(guest for guest in topology.guests if guest.name in guests)
    return replace(topology, hosts=(host,), networks=networks, guests=here)


def in_file(topology: Topology, host: Host) -> Topology:
    """The same by the file alone: with every guest that may be there."""
    guests = {guest.name for guest in topology.guests if guest.host in (None, host.name)}
    return on_host(topology, host, {name for name in guests if not lacking(topology, host, {name})})


def _there(host: Host, network: Network) -> Network:
    """A tunnel has every end but the host's own."""
    if network.vxlan is None or host.underlay not in network.vxlan.remotes:
        return network
    remotes = tuple(each for each in network.vxlan.remotes if each != host.underlay)
    return replace(network, vxlan=replace(network.vxlan, remotes=remotes))


@dataclass(frozen=True)
class Placing:
    """Which guests each host has, and whose domains stay on it as they are though the file has them elsewhere."""

    guests: Mapping[str, frozenset[str]]
    astray: Mapping[str, frozenset[str]]
    notes: tuple[str, ...] = ()


def place(topology: Topology, domains: Mapping[str, Collection[str]]) -> Placing:
    """By host that answers, the names of its domains. What belongs to a host that does not answer is left out."""
    found = {guest.name: [host for host, names in domains.items() if guest.name in names] for guest in topology.guests}
    guests = {host: frozenset(_at(topology.guests, found, host)) for host in domains}
    astray = {host: frozenset(_astray(topology.guests, found, host)) for host in domains}
    return Placing(guests, astray, tuple(_notes(topology, found, astray)))


def _at(guests: Iterable[Guest], found: Mapping[str, list[str]], host: str) -> Iterator[str]:
    return (guest.name for guest in guests if guest.host == host or (guest.host is None and host in found[guest.name]))


def _astray(guests: Iterable[Guest], found: Mapping[str, list[str]], host: str) -> Iterator[str]:
    """Users' own that are somewhere else than the file says, as they are while they migrate: nothing is taken away from
    them. A guest with an image is guestnet's own: it goes where the file has it."""
    return (g.name for g in guests if g.image is None and g.host not in (None, host) and host in found[g.name])


def _notes(topology: Topology, found: Mapping[str, list[str]], astray: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for guest in topology.guests:
        if guest.host is None and not found[guest.name]:
            yield f"guest {guest.name!r} has no domain on any host yet: define it with libvirt, then apply again"
        for host in (host for host, names in astray.items() if guest.name in names):
            yield (
                f"guest {guest.name!r} has its domain on host {host}, and the file says {guest.host}: it stays there "
                f"as it is; migrate it, or say host: {host}"
            )

"""Who is behind the names in `expect:`, and under which addresses. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from libvirt_guestnet.model.network import IPAddress, PhysicalNetwork
from libvirt_guestnet.model.topology import Family, Guest, Port, Topology

HOST = "host"
STAND_IN_DEVICE = "eth0"
_VERSION = {Family.IPV4: 4, Family.IPV6: 6}


@dataclass(frozen=True)
class Endpoint:
    """A parsed endpoint: a guest (with or without a named port), a physical network's stand-in, or the host."""

    text: str
    name: str
    port: str | None = None


def parse(text: str, topology: Topology) -> Endpoint:
    """`guest`, `guest.port`, a label or `host`; the loader has checked that it exists."""
    names = {guest.name for guest in topology.guests} | {p.label for p in topology.physical_networks} | {HOST}
    if text in names:
        return Endpoint(text, text)
    name, _, port = text.rpartition(".")
    return Endpoint(text, name, port)


def guest_of(topology: Topology, endpoint: Endpoint) -> Guest | None:
    """The guest behind an endpoint, or None for the host and stand-ins."""
    return next((guest for guest in topology.guests if guest.name == endpoint.name), None)


def label_of(topology: Topology, endpoint: Endpoint) -> PhysicalNetwork | None:
    """The physical network behind an endpoint, or None."""
    return next((p for p in topology.physical_networks if p.label == endpoint.name), None)


def addresses(topology: Topology, endpoint: Endpoint) -> tuple[IPAddress, ...]:
    """Every address the endpoint is known under."""
    if guest := guest_of(topology, endpoint):
        return tuple(address.ip for port in _ports(guest, endpoint) for address in port.addresses)
    if label := label_of(topology, endpoint):
        return label.stand_in
    return tuple(_host_addresses(topology))


def seen_as(topology: Topology, endpoint: Endpoint) -> tuple[IPAddress, ...]:
    """Every address that others may see it with: floating ones too."""
    guest = guest_of(topology, endpoint)
    ports = _ports(guest, endpoint) if guest else ()
    return (*addresses(topology, endpoint), *(ip for port in ports for ip in (*port.floating, *port.untranslated)))


def target(topology: Topology, source: Endpoint, destination: Endpoint, family: Family) -> IPAddress | None:
    """The address under which `source` speaks to `destination`: on a network they share, else the first one."""
    found = [a for a in addresses(topology, destination) if a.version == _VERSION[family]]
    shared = [a for a in found if _near(topology, source, a)]
    return next(iter([*shared, *found]), None)


def mac(topology: Topology, endpoint: Endpoint, address: IPAddress) -> str | None:
    """The MAC that answers for an address of the endpoint on its own link, where it is known beforehand."""
    if guest := guest_of(topology, endpoint):
        return next((p.mac for p in guest.ports if any(a.ip == address for a in p.addresses)), None)
    if label := label_of(topology, endpoint):
        return stand_in_mac(topology, label)
    return next((n.mac for n in topology.networks if any(s.host == address for s in n.subnets)), None)


def host_beside(topology: Topology, address: IPAddress) -> IPAddress | None:
    """The host's own address on the LAN that an address is of."""
    for physical in topology.physical_networks:
        for prefix in physical.subnets:
            own = next((host for host in physical.host if host in prefix), None)
            if address in prefix and own is not None:
                return own
    return None


def stand_in_mac(topology: Topology, label: PhysicalNetwork) -> str:
    """The MAC of the host that stands for a LAN; 52:54:01 keeps it apart from guests' 52:54:00."""
    digest = hashlib.sha256(f"{topology.name}/{label.label}/stand-in".encode()).hexdigest()
    return f"52:54:01:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


def _ports(guest: Guest, endpoint: Endpoint) -> tuple[Port, ...]:
    return tuple(p for p in guest.ports if endpoint.port in (None, p.name))


def _host_addresses(topology: Topology) -> Iterator[IPAddress]:
    for network in topology.networks:
        yield from (s.host for s in network.subnets if s.host is not None)
    for physical in topology.physical_networks:
        yield from physical.host


def _near(topology: Topology, source: Endpoint, address: IPAddress) -> bool:
    """Whether an address lies in a prefix that one of the source's own addresses lies in too."""
    own = addresses(topology, source)
    prefixes = [s.prefix for n in topology.networks for s in n.subnets]
    prefixes += [prefix for p in topology.physical_networks for prefix in p.subnets]
    return any(address in prefix and any(m in prefix for m in own) for prefix in prefixes)

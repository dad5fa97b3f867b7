"""A router with `redundant: true`: two guests that stand in for each other, and the network between them.

Each has MAC addresses of its own, by which nothing is spoken: to guests and to the public side the one that serves has
the virtual ones, which both ports may use as they may use any allowed address pair, and with them all addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Network

from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.model.topology import AddressPair, AddressWord, Guest, Port, PortKind, Topology
from libvirt_guestnet.model.virtual_router import PairLink, RouterPair

from . import addressing
from .report import Report
from .router_keys import VirtualRouterDecl
from .spec import At

SYNC = "sync"
"""The name of a router's port on the network between the two."""
_SYNC = (IPv4Address("169.254.250.1"), IPv4Address("169.254.251.1"))


def second_name(router: str) -> str:
    """What the second router of a pair is called; the first one has the name in the file."""
    return f"{router}-2"


def sync_name(router: str) -> str:
    """The network between the two."""
    return f"{router}-sync"


def check_names(name: At[str], decl: VirtualRouterDecl, guests: set[str], networks: set[str], report: Report) -> None:
    """What a pair adds to a topology has names that nothing else has."""
    if not decl.redundant.value:
        return
    if second_name(name.value) in guests:
        report.add(name.where, f"'{second_name(name.value)}' is the second router's name, and a guest's or router's")
    if sync_name(name.value) in networks:
        report.add(name.where, f"'{sync_name(name.value)}' is the network between the two routers, and one of yours")


def paired(topology: Topology, redundant: set[str]) -> Topology:
    """The topology with two guests for each router of those names."""
    networks = [_sync_network(name) for name in sorted(redundant)]
    second = _second_addresses(topology, redundant)
    guests = [each for guest in topology.guests for each in _guests(topology, guest, second.get(guest.name))]
    return replace(topology, networks=(*topology.networks, *networks), guests=tuple(guests))


def _sync_network(router: str) -> Network:
    name = sync_name(router)
    return Network(
        name,
        Mode.ISOLATED,
        addressing.bridge(name),
        guard_required=True,
        strict_addresses=True,
    )


def _guests(topology: Topology, guest: Guest, second: PortAddress | None) -> Iterator[Guest]:
    if second is None or guest.virtual_router is None:
        yield guest
        return
    links = tuple(_links(topology, guest))
    for number, name in enumerate((guest.name, second_name(guest.name))):
        pair = RouterPair(guest.name, number, links)
        own = (_port(topology, name, port, pair, second) for port in guest.ports)
        ports = (*own, _sync_port(topology, name, pair))
        router = replace(guest.virtual_router, pair=pair)
        uuid = addressing.guest_uuid(topology.name, name)
        yield replace(guest, name=name, uuid=uuid, ports=ports, virtual_router=router)


def _links(topology: Topology, guest: Guest) -> Iterator[PairLink]:
    for port in guest.ports:
        if not topology.network(port.network).control:
            yield PairLink(
                port.network, addressing.mac(topology.name, guest.name, port.name, "virtual"), port.addresses
            )


def _port(topology: Topology, name: str, port: Port, pair: RouterPair, second: PortAddress) -> Port:
    """The first router's devices and MAC addresses are those that it has without a second one."""
    if pair.number:
        port = replace(
            port, mac=addressing.mac(topology.name, name, port.name), tap=addressing.tap(topology.name, name, port.name)
        )
    link = pair.link(port.network)
    if link is None:
        return replace(port, addresses=(second,)) if pair.number else port
    return replace(port, addresses=(), address_word=AddressWord.NONE, pairs=tuple(_pairs(link)))


def _pairs(link: PairLink) -> Iterator[AddressPair]:
    for each in link.addresses:
        yield AddressPair(single(each.ip), link.mac)
    if any(each.ip.version == 6 for each in link.addresses):
        yield AddressPair(single(eui64(IPv6Network("fe80::/64"), link.mac)), link.mac)


def _second_addresses(topology: Topology, redundant: set[str]) -> dict[str, PortAddress]:
    """Of each second router the address on the control network: derived from its name, and nobody else's there."""
    found: dict[str, PortAddress] = {}
    control = next((each for each in topology.networks if each.control), None)
    if control is None:
        return found
    taken = {each.ip for _, port in topology.ports_on(control.name) for each in port.addresses}
    prefix = control.subnets[0].prefix
    size = prefix.num_addresses - 3
    for name in sorted(redundant):
        start = int.from_bytes(sha256(second_name(name).encode()).digest()[:4])
        numbers = (2 + (start + step) % size for step in range(size))
        address = next(prefix[number] for number in numbers if prefix[number] not in taken)  # MOST_ROUTERS fit
        taken.add(address)
        found[name] = PortAddress(address, prefix.prefixlen, Assignment.STATIC)
    return found


def _sync_first(topology: Topology) -> IPv4Address:
    """The first router's address on each network between two. The routers' control NICs have another prefix."""
    control = [subnet.prefix for each in topology.networks if each.control for subnet in each.subnets]
    return next(first for first in _SYNC if not any(first in prefix for prefix in control))


def _sync_port(topology: Topology, name: str, pair: RouterPair) -> Port:
    return Port(
        name=SYNC,
        network=sync_name(pair.router),
        kind=PortKind.NETWORK,
        mac=addressing.mac(topology.name, name, SYNC),
        tap=addressing.tap(topology.name, name, SYNC),
        addresses=(PortAddress(_sync_first(topology) + pair.number, 30, Assignment.STATIC),),
        strict_addresses=True,
    )

"""What a virtual router serves on one of its guest networks: DHCP, names, and its own check of that. Pure.

Each network has a guest that nobody has, with a MAC address and an IPv4 address of its own, for the packets by which
the host tries whether the router serves (decision 83). The address is the last of the subnet that nobody else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import count, islice

from libvirt_guestnet.datapath.port.ranges import without
from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.hostnames import host_name
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPAddress, IPNetwork, Network
from libvirt_guestnet.model.router import Dhcp, Reservation
from libvirt_guestnet.model.services import DnsService
from libvirt_guestnet.model.services import Reservation as Machine
from libvirt_guestnet.model.topology import AddressWord, Topology
from libvirt_guestnet.model.virtual_router import VirtualRouter
from libvirt_guestnet.topology.addressing import mac

HEALTH_NAME = "router-health"
_LEASE, _LEASE6 = 3600, 86400
_TRIES = 4096


@dataclass(frozen=True)
class HealthPort:
    """The guest that nobody has."""

    mac: str
    address: IPv4Address


def health_port(topology: Topology, network: Network) -> HealthPort | None:
    """None where there is no IPv4 subnet with an address to spare."""
    subnet = next((s.prefix for s in network.subnets if isinstance(s.prefix, IPv4Network)), None)
    address = _last_free(subnet, list(_taken(topology, network))) if subnet else None
    macs = {port.mac for _, port in topology.ports_on(network.name)} | {each.mac for each in _machines(network)}
    derived = (mac(topology.name, HEALTH_NAME, network.name, str(number)) for number in count())
    return HealthPort(next(each for each in derived if each not in macs), address) if address else None


def _last_free(subnet: IPv4Network, taken: list[IPNetwork]) -> IPv4Address | None:
    last = int(subnet.broadcast_address) - 1
    numbers = range(last, int(subnet.network_address) + 1, -1)
    holes = [(int(each[0]), int(each[-1])) for each in taken if each.version == 4]
    free = (n for n in islice(numbers, _TRIES) if not any(low <= n <= high for low, high in holes))
    found = next(free, None)
    return None if found is None else IPv4Address(found)


def _taken(topology: Topology, network: Network) -> Iterator[IPNetwork]:
    for _, port in topology.ports_on(network.name):
        yield from (single(each.ip) for each in port.addresses)
        yield from (pair.prefix for pair in port.pairs)
    yield from (single(each.address) for each in _machines(network))
    yield from (single(host.address) for host in network.dns_hosts)
    yield from map(single, topology.floating)


@dataclass(frozen=True)
class Server:
    """From where a router's answers come on a guest network, and on which guests' disks its leases are."""

    mac: str
    addresses: tuple[IPAddress, ...]
    routers: tuple[str, ...]


def server(topology: Topology, network: Network) -> Server | None:
    """None for a network without a router. Both of a pair answer as the one router that they are together."""
    both = [guest for guest in topology.guests if guest.virtual_router and _serves(guest.virtual_router, network)]
    for guest in both[:1]:
        port = next(each for each in guest.ports if each.network == network.name)
        pair = guest.virtual_router.pair if guest.virtual_router else None
        link = pair.link(network.name) if pair else None
        mac, own = (link.mac, link.addresses) if link else (port.mac, port.addresses)
        addresses = tuple(each.ip for each in own if each.prefix_length < each.ip.max_prefixlen)
        return Server(mac, addresses, tuple(each.name for each in both))
    return None


def _serves(router: VirtualRouter, network: Network) -> bool:
    return any(each.network == network.name for each in router.tiers)


def dhcp(topology: Topology, network: Network) -> Dhcp:
    """A fixed address for each port and machine that the file knows, and what others are told."""
    six = [subnet for subnet in network.subnets if subnet.prefix.version == 6]
    return Dhcp(
        reservations=tuple(_reservations(topology, network)),
        ranges=tuple(_ranges(network)),
        lease=_LEASE if network.dhcp.lease is None else network.dhcp.lease,
        lease6=_LEASE6 if network.dhcp6.lease is None else network.dhcp6.lease,
        options=(*network.dhcp.options, *network.dhcp6.options),
        slaac=bool(six) and not any(subnet.dhcp6 for subnet in six),
    )


def _reservations(topology: Topology, network: Network) -> Iterator[Reservation]:
    machines = {each.mac: each for each in _merged(_machines(network))}
    for guest, port in topology.ports_on(network.name):
        if guest.name == network.router or port.address_word is AddressWord.NONE:
            continue
        name, said = host_name(guest, port), tuple(each.ip for each in port.addresses)
        known = machines.pop(port.mac, Reservation("", port.mac, ()))
        addresses = said or known.addresses
        yield Reservation(name, port.mac, addresses, port.duid, (*port.dhcp_options, *known.options))
    yield from machines.values()
    if health := health_port(topology, network):
        yield Reservation(HEALTH_NAME, health.mac, (health.address,))


def _machines(network: Network) -> tuple[Machine, ...]:
    return (*network.dhcp.reservations, *network.dhcp6.reservations)


def _merged(machines: Iterable[Machine]) -> Iterator[Reservation]:
    """One for each machine, of both IP versions."""
    found: dict[str, Reservation] = {}
    for each in machines:
        before = found.get(each.mac) or Reservation(_named(each), each.mac, ())
        name = each.hostname or before.name
        addresses, options = (*before.addresses, each.address), (*before.options, *each.options)
        found[each.mac] = replace(before, name=name, addresses=addresses, options=options)
    yield from found.values()


def _named(machine: Machine) -> str:
    """dnsmasq's file has a name for each."""
    return machine.hostname or f"host-{machine.mac.replace(':', '')}"


def _ranges(network: Network) -> Iterator[DhcpRange | DhcpRange6]:
    """Without addresses that only a name is said of: of all others dnsmasq knows by their reservations."""
    named = [int(host.address) for host in network.dns_hosts]
    for subnet in network.subnets:
        if isinstance(pool := subnet.dhcp, DhcpRange):
            for first, last in _rest(pool, named):
                yield DhcpRange(IPv4Address(first), IPv4Address(last))
        if isinstance(six := subnet.range6, DhcpRange6):
            for first, last in _rest(six, named):
                yield DhcpRange6(IPv6Address(first), IPv6Address(last))


def _rest(pool: DhcpRange | DhcpRange6, holes: Iterable[int]) -> list[tuple[int, int]]:
    return without([(int(pool.start), int(pool.end))], ((each, each) for each in holes))


def services(network: Network) -> Iterator[DnsService]:
    """SRV records, each with its domain."""
    yield from (replace(each, domain=each.domain or network.domain) for each in network.dns.services)

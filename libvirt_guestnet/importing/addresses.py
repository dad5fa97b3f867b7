"""Which of the addresses that are known of a NIC the file says. Pure.

What the port would have anyway once it is adopted is not said: a lease is followed, and changes. A reservation is said,
as it is what somebody decided. An address that only the kernel's neighbour table knows is said, as the guest would be
cut off from it: as its own where nothing tells it one by DHCP, else as one that it may use beside that. The guest has
claimed it, not proved it: who reads the file decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv6Network

from libvirt_guestnet import parse
from libvirt_guestnet.hook.read.savi_prefixes import claimable
from libvirt_guestnet.importing.facts import Addresses, Leases, Listed, Seen
from libvirt_guestnet.importing.places import Known
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.parse import Prefix, shown
from libvirt_guestnet.topology.dhcp import why_unusable

_MOST = 16  # more neighbours of one MAC address are no addresses of a guest's, but a router or an attack
_TABLE = "in the kernel's neighbour table"


@dataclass
class Owners:
    """Whose an address is in the file so far: there it is one port's alone."""

    of: dict[IPAddress, str] = field(default_factory=dict)

    def take(self, ip: IPAddress, port: str) -> str:
        """Gives it to a port; returns whose it is already, "" if it was free."""
        owner = self.of.setdefault(ip, port)
        return "" if owner == port else owner


@dataclass(frozen=True)
class OnNetwork:
    """A place with what is known of the addresses there. It is asked for each NIC, and a network may have tens of
    thousands of leases, so all of them are gone through once."""

    known: Known
    leases: Leases
    neighbours: tuple[tuple[IPAddress, str], ...]
    hosts: frozenset[IPAddress] = frozenset()
    """The host's own addresses there, beside what its network says."""

    @property
    def serves(self) -> bool:
        """Whether its host tells guests their addresses."""
        return any(subnet.dhcp for subnet in self.known.network.subnets)

    def reserved(self, mac: str) -> list[IPAddress]:
        return self._reserved.get(mac, [])

    def holder(self, ip: IPAddress, mac: str) -> str:
        """Whose an address is, if it is somebody else's; "" if not."""
        if ip in self._hosts:
            return "the host's own"
        return "" if ip in (*self.reserved(mac), *self.leased(mac)) else self._given.get(ip, "")

    def held_in(self, wanted: Prefix, mac: str) -> Iterator[tuple[IPAddress, str]]:
        """The addresses of a prefix that are somebody else's, each with whose."""
        known = [*self._hosts, *self._given] if wanted.num_addresses > 1 else [wanted.network_address]
        inside = (ip for ip in known if ip.version == wanted.version and ip in wanted)
        return ((ip, whose) for ip in inside if (whose := self.holder(ip, mac)))

    @cached_property
    def _hosts(self) -> frozenset[IPAddress]:
        facts = self.known.facts
        return self.hosts.union(map(parse.address, facts.hosts if facts else ()))

    @cached_property
    def _reserved(self) -> dict[str, list[IPAddress]]:
        return _by_owner(
            (parse.address(ip), mac) for mac, ip in (self.known.facts.reservations if self.known.facts else ())
        )

    @cached_property
    def _given(self) -> dict[IPAddress, str]:
        leased = {parse.address(ip): f"given by DHCP to {shown(mac)}" for mac, ips in self.leases.items() for ip in ips}
        reserved = ((ip, mac) for mac, ips in self._reserved.items() for ip in ips)
        return leased | {ip: f"reserved for {shown(mac) if mac else 'another guest'}" for ip, mac in reserved}

    @cached_property
    def _seen(self) -> dict[str, list[IPAddress]]:
        return _by_owner(self.neighbours)

    def leased(self, mac: str) -> list[IPAddress]:
        return sorted(map(parse.address, self.leases.get(mac, frozenset())), key=_order)

    def seen(self, mac: str) -> list[IPAddress]:
        """What the host's neighbour table knows beside them; nothing that is of one link, or nobody's."""
        known = {*self.reserved(mac), *self.leased(mac)}
        return sorted({ip for ip in self._seen.get(mac, ()) if ip not in known and _is_ordinary(ip)}, key=_order)


def on_network(known: Known, seen: Seen) -> OnNetwork:
    """A place with what the host has there."""
    bridge = known.network.bridge
    neighbours, hosts = seen.neighbours.get(bridge, ()), seen.hosts.get(bridge, frozenset())
    return OnNetwork(known, seen.leases.get(bridge, {}), neighbours, hosts)


def _by_owner(pairs: Iterable[tuple[IPAddress, str]]) -> dict[str, list[IPAddress]]:
    found: dict[str, list[IPAddress]] = {}
    for ip, owner in pairs:
        found.setdefault(owner, []).append(ip)
    return found


def addresses_of(mac: str, here: OnNetwork, owners: Owners, port: str, kept: bool = False) -> Addresses:
    """What the file says of a NIC's addresses. `kept`: reservations are the network's to say."""
    reserved, leased, seen = here.reserved(mac), here.leased(mac), here.seen(mac)
    remarks = [f"{ip}: by DHCP; its lease is followed" for ip in leased if ip not in reserved]
    why = "it is the network's" if kept else _why_not_said(mac, here, owners, port) if reserved else ""
    own = [Listed(reserved[0], f"reserved in network {shown(here.known.name)}")] if reserved and not why else []
    how = f"not said, as {why}" if not kept else "followed"
    if why:
        remarks += [f"{ip}: reserved in network {shown(here.known.name)}, and {how}" for ip in reserved]
    if len(seen) > _MOST:
        remarks.append(f"{len(seen)} addresses are {_TABLE}: more than a guest has, none of them is said")
        seen = []
    sorted_out = _Sorted(mac, here, owners, port, remarks)
    for ip in seen:
        sorted_out.add(ip)
    return Addresses((*own, *sorted_out.own), tuple(sorted_out.pairs), sorted_out.privacy, tuple(remarks))


def _why_not_said(mac: str, here: OnNetwork, owners: Owners, port: str) -> str:
    """Why a reservation is only followed, as it is without being said."""
    reserved, facts = here.reserved(mac), here.known.facts
    if len(reserved) > 1:
        return "there are several"
    (ip,) = reserved
    if ip.version == 6 or not any(subnet.dhcp and ip in subnet.prefix for subnet in here.known.network.subnets):
        return "it is followed"
    if why := unusable(ip, here):
        return why
    if facts and any(":" in start for start, _ in facts.dynamic):
        return "the network also gives IPv6 addresses by DHCP, which are followed with it"
    if other := [each for each in here.leased(mac) if each != ip]:
        return f"the guest has {other[0]} by DHCP still"
    whose = owners.take(ip, port)
    return f"it is that of {whose}, too" if whose else ""


@dataclass
class _Sorted:
    """The addresses of the neighbour table, by what the file says of them."""

    mac: str
    here: OnNetwork
    owners: Owners
    port: str
    remarks: list[str]
    own: list[Listed] = field(default_factory=list)
    pairs: list[Listed] = field(default_factory=list)
    privacy: str = ""

    def add(self, ip: IPAddress) -> None:
        if whose := self.here.holder(ip, self.mac):
            self.remarks.append(f"{ip}: {_TABLE}, and not said: it is {whose}")
        elif self._is_formed(ip):
            self._add_formed(ip)
        elif self.here.serves or not _is_inside(ip, self.here):
            self.pairs.append(Listed(ip, _TABLE))
        elif why := unusable(ip, self.here):
            self.remarks.append(f"{ip}: {_TABLE}, and not said: {why}")
        elif taken := self.owners.take(ip, self.port):
            self.remarks.append(f"{ip}: {_TABLE}, and not said: it is that of {taken}, too")
        else:
            self.own.append(Listed(ip, _TABLE))

    def _is_formed(self, ip: IPAddress) -> bool:
        prefixes = map(parse.prefix, claimable(self.here.known.facts))
        return any(each.version == ip.version and ip in each for each in prefixes)

    def _add_formed(self, ip: IPAddress) -> None:
        """What the guest forms from its MAC address it has on a network whose subnets are known; others it has to
        claim, which it did before anybody watched."""
        around = parse.enclosing(f"{ip}/64")
        own = isinstance(around, IPv6Network) and ip == eui64(around, self.mac)
        if own and self.here.known.network.subnets:
            self.remarks.append(f"{ip}: {_TABLE}; formed from the MAC address, so it is the port's")
        else:
            self.privacy = self.privacy or f"{ip} is {_TABLE}: formed by the guest"


def _is_inside(ip: IPAddress, here: OnNetwork) -> bool:
    subnets = here.known.network.subnets
    return not subnets or any(ip in subnet.prefix for subnet in subnets)


def unusable(ip: IPAddress, here: OnNetwork) -> str:
    """Why no guest there can have an address; "" if one can."""
    around: Sequence[str | None] = list(_reasons(ip, here))
    return next(filter(None, around), "")


def _reasons(ip: IPAddress, here: OnNetwork) -> Iterator[str | None]:
    for subnet in here.known.network.subnets:
        if ip in subnet.prefix:
            yield why_unusable(subnet.prefix, ip)


def _is_ordinary(ip: IPAddress) -> bool:
    return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local or ip.is_reserved)


def _order(ip: IPAddress) -> tuple[int, int]:
    return ip.version, int(ip)

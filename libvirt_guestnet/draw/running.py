"""What runs on a host, by libvirt and by `status`, as the pictures have it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from libvirt_guestnet import parse
from libvirt_guestnet.libvirtd.nics import mac, source_network, tap
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model.network import PhysicalNetwork
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.topology import Forward, Guest, Port, PortKind
from libvirt_guestnet.status.meanings import OF_STATE
from libvirt_guestnet.status.ports import PortRow
from libvirt_guestnet.status.unguarded import PENDING, UnguardedRow
from libvirt_guestnet.styled import BAD, GOOD, NOTE

from .picture import Tone
from .places import Place, Places, vlans_of
from .ports import Now, Running

Row = PortRow | UnguardedRow
Leases = Callable[[str], Mapping[str, frozenset[str]]]
"""Of a bridge, by MAC address, what its DHCP server gave."""

_DEVICES = {"bridge": "bridge", "direct": "dev"}
_TONES = {GOOD: Tone.GUARDED, NOTE: Tone.WATCHED, BAD: Tone.UNGUARDED}


def running(host: str, snapshot: Snapshot, rows: Iterable[object], leases: Leases) -> Running:
    """The active networks, and every NIC of every running domain, by the rows of `status` on all of them."""
    found = _Host(Places(snapshot), leases)
    for network in sorted(snapshot.networks, key=lambda each: each.name):
        if network.live is not None:
            found.places.of("network", network.name)
    nics = _by_guest(rows)
    domains = sorted((each for each in snapshot.domains if each.live is not None), key=lambda each: each.name)
    guests = tuple(found.guest(domain, nics.get(domain.name, ())) for domain in domains)
    networks = tuple(found.places.networks.values())
    return Running(
        name=f"what runs on {host}",
        file="",
        physical_networks=tuple(_outside(found.places)),
        networks=networks,
        guests=guests,
        now=found.now,
    )


def _outside(places: Places) -> Iterator[PhysicalNetwork]:
    """The host's devices that lead out of it, each for a LAN."""
    links = places.snapshot.links
    for label in dict.fromkeys(n.physical_network for n in places.networks.values() if n.physical_network):
        device = links.get(label.split(", ")[0])
        addresses = tuple(map(parse.address, device.addresses)) if device else ()
        yield PhysicalNetwork(label, host=addresses, mtu=(device.mtu or None) if device else None)


def _by_guest(rows: Iterable[object]) -> dict[str, list[Row]]:
    """One row for each NIC: one that cannot be guarded, or not yet, may have two."""
    found: dict[str, list[Row]] = {}
    known: set[tuple[str, ...]] = set()
    for row in rows:
        if isinstance(row, PortRow) and row.running:
            known |= {(row.guest, row.mac), (row.guest, row.mac, row.tap)}
            found.setdefault(row.guest, []).append(row)
        elif isinstance(row, UnguardedRow):
            nic = (row.guest, row.mac) if row.reason == PENDING else (row.guest, row.mac, row.device)
            if nic not in known:
                found.setdefault(row.guest, []).append(row)
    return found


@dataclass
class _Host:
    places: Places
    leases: Leases
    now: dict[tuple[str, str], Now] = field(default_factory=dict)
    _leased: dict[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def guest(self, domain: DomainState, rows: Sequence[Row]) -> Guest:
        ports: list[Port] = []
        policies = {policy.mac: policy for policy in domain.policies}
        for row in rows:
            port = self._port(domain, row, policies.get(row.mac))
            taken = {each.name for each in ports}
            port = port if port.name not in taken else replace(port, name=_free(f"{port.name} {row.mac}", taken))
            ports.append(port)
            self.now[domain.name, port.name] = self._state(row, port)
        return Guest(domain.name, tuple(ports))

    def _port(self, domain: DomainState, row: Row, policy: PortPolicy | None) -> Port:
        device = row.tap if isinstance(row, PortRow) else row.device
        nic = _interface(domain, row.mac, device)
        network = self.places.of(*_place(nic, row, policy))
        found = Port(
            name=(row.port if isinstance(row, PortRow) else "") or network.name,
            network=network.name,
            kind=PortKind.ETHERNET if nic is not None and nic.get("type") == "ethernet" else PortKind.NETWORK,
            mac=row.mac,
            tap=device,
            addresses=tuple(self._addresses(row, network.bridge)),
            isolated=nic is not None and (port := nic.find("port")) is not None and port.get("isolated") == "yes",
        )
        found = replace(found, **_vlans(nic, policy))
        return found if policy is None else replace(found, **_ways(policy))

    def _addresses(self, row: Row, bridge: str) -> Iterator[PortAddress]:
        """Its own, those that it has learnt, and those that the host's DHCP server gave it."""
        said = (*row.addresses, *row.learnt) if isinstance(row, PortRow) else ()
        if bridge and bridge not in self._leased:
            self._leased[bridge] = self.leases(bridge)
        leased = sorted(self._leased.get(bridge, {}).get(row.mac, ()))
        for text in dict.fromkeys((*said, *leased)):
            with suppress(parse.TextError):
                yield PortAddress(parse.address(text), 0, Assignment.DHCP)

    def _state(self, row: Row, port: Port) -> Now:
        links, bridge = self.places.snapshot.links, self.places.bridge_of(port.network)
        own, around = (links[each].mtu if each in links else 0 for each in (port.tap, bridge))
        tone = _TONES.get(OF_STATE[row.state], Tone.NOTHING)
        mtu = own if own != around else 0
        if isinstance(row, UnguardedRow):
            return Now(row.state, tone, mtu=mtu)
        return Now(row.state, tone, row.reasons, "" if row.link == "up" else row.link, mtu)


def _interface(domain: DomainState, address: str, device: str) -> Element | None:
    """The NIC of a row; of one that has no tap yet, the first of its MAC address."""
    nics = [] if domain.live is None else [n for n in domain.live.iterfind("devices/interface") if mac(n) == address]
    return next((nic for nic in nics if (tap(nic) or "") == device), nics[0] if nics else None)


def _place(nic: Element | None, row: Row, policy: PortPolicy | None) -> Place:
    """What a NIC is on."""
    if policy is not None and policy.routed is not None:
        return "routed", policy.network, policy.routed
    if nic is None:
        return "type", row.type if isinstance(row, UnguardedRow) else "", None
    source, kind = nic.find("source"), nic.get("type", "")
    if network := source_network(nic):
        return "network", network, None
    attribute = _DEVICES.get(kind)
    device = source.get(attribute, "") if source is not None and attribute else ""
    return (kind, device, None) if device else ("type", kind, None)


def _free(name: str, taken: set[str]) -> str:
    numbers = range(2, len(taken) + 3)
    return next(each for each in (name, *(f"{name} {n}" for n in numbers)) if each not in taken)


def _vlans(nic: Element | None, policy: PortPolicy | None) -> dict[str, Any]:
    if policy is not None and policy.vlans is not None:
        own, tagged = policy.vlans.untagged or None, policy.vlans.tagged
        return {"native_vlan": own, "trunk": tagged} if tagged else {"vlan": own}
    tags, native = vlans_of(nic)
    if len(tags) == 1 and native is None:
        return {"vlan": tags[0]}
    return {"trunk": tuple((tag, tag) for tag in tags), "native_vlan": native}


def _ways(policy: PortPolicy) -> dict[str, Any]:
    """How it is reached from outside, and what is behind it."""
    forwards = []
    for each in policy.forwards:
        with suppress(parse.TextError, ValueError):
            at = parse.address(each.at) if each.at else None
            forwards.append(Forward(each.protocol, each.first, each.last, None, each.to_first, at, each.hide))
    return {
        "forwards": tuple(forwards),
        "floating": tuple(each.ip for each in policy.floating if each.via is None),
        "untranslated": tuple(each.ip for each in policy.floating if each.via is not None),
        "behind": policy.behind,
    }

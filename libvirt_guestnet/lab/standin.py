"""A host behind every physical-network label that no real device is mapped to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from libvirt_guestnet.datapath.netlink.lan import Interface, Lan
from libvirt_guestnet.lab.endpoints import STAND_IN_DEVICE, stand_in_mac
from libvirt_guestnet.model.network import IPAddress, Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Topology

_PREFIX, _NIC = "lan-", "nic-"


def lans(topology: Topology, mapped: Mapping[str, str]) -> tuple[Lan, ...]:
    """The stand-ins a lab needs, given the labels that have a real device. Pure."""
    return tuple(lan_of(topology, p) for p in topology.physical_networks if p.label not in mapped)


def lan_of(topology: Topology, physical: PhysicalNetwork) -> Lan:
    """The stand-in for one label. Its host sends what it has no better way for to this host, or, on a LAN where this
    host has no address, to a guest on it: what must not get through is then at least tried."""
    name = device_name(physical.label)
    return Lan(
        namespace=name,
        device=name,
        peer=STAND_IN_DEVICE,
        mac=stand_in_mac(topology, physical),
        host=tuple(_interface(physical, address) for address in physical.host),
        stand_in=tuple(_interface(physical, address) for address in physical.stand_in),
        gateways=tuple(map(str, _gateways(topology, physical))),
        port=f"{_NIC}{_short(physical.label, _NIC)}" if physical.host and _bridged(topology, physical) else "",
    )


def device_name(label: str) -> str:
    """The namespace and the veth end of a label: readable where the label fits an interface name."""
    return _PREFIX + _short(label, _PREFIX)


def _short(label: str, prefix: str) -> str:
    return label if len(label) <= 15 - len(prefix) else hashlib.sha256(label.encode()).hexdigest()[:8]


def _bridged(topology: Topology, physical: PhysicalNetwork) -> list[Network]:
    return [n for n in topology.networks if n.mode is Mode.BRIDGE and n.physical_network == physical.label]


def _gateways(topology: Topology, physical: PhysicalNetwork) -> tuple[IPAddress, ...]:
    guests = (
        a.ip for n in _bridged(topology, physical) for _, port in topology.ports_on(n.name) for a in port.addresses
    )
    # No way leads from there to a guest in a subnet of its network's own, as in a VLAN, or on a LAN without subnets.
    candidates = [c for c in (*physical.host, *guests) if any(c in subnet for subnet in physical.subnets)]
    per_family = (next((c for c in candidates if c.version == version), None) for version in (4, 6))
    return tuple(address for address in per_family if address is not None)


def _interface(physical: PhysicalNetwork, address: IPAddress) -> Interface:
    length = next((s.prefixlen for s in physical.subnets if address in s), address.max_prefixlen)
    of = IPv4Interface if isinstance(address, IPv4Address) else IPv6Interface
    return of((address.packed, length))

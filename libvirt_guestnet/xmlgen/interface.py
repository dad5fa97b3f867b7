"""<interface>."""

from __future__ import annotations

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.card import VIRTIO
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import Guest, Port, PortKind, Topology
from libvirt_guestnet.xmlgen import card
from libvirt_guestnet.xmlgen.bandwidth import bandwidth
from libvirt_guestnet.xmlgen.element import Element, maybe, node
from libvirt_guestnet.xmlgen.vlan import elements


def interface(topology: Topology, guest: Guest, port: Port, hostmap: HostMap) -> Element:
    """The <interface> of one port. What the file does not say of the NIC, such as its PCI address, libvirt chooses.

    Raises GuestnetError when a bridge port's physical network is not mapped on this host, and KeyError when the port's
    network is not in the topology.
    """
    network = topology.network(port.network)
    mtu = port.card.mtu or (network.mtu if _needs_mtu(network, port) else None)
    return node(
        "interface",
        node("mac", address=port.mac),
        _source(network, port, hostmap),
        _libvirts_vlan(network, port, hostmap),
        bandwidth(port.bandwidth),
        _isolation(network, port),
        node("target", dev=port.tap),
        node("model", type=port.card.model or VIRTIO),
        maybe(not port.link_up or "link" in port.given, "link", state="up" if port.link_up else "down"),
        maybe(mtu, "mtu", size=mtu),
        card.elements(port.card),
        type=port.kind,
    )


def _source(network: Network, port: Port, hostmap: HostMap) -> Element | None:
    if port.kind is PortKind.NETWORK:
        return node("source", network=network.name)
    if port.kind is PortKind.BRIDGE:
        return node("source", bridge=hostmap.bridge(network))
    return None


def _libvirts_vlan(network: Network, port: Port, hostmap: HostMap) -> list[Element]:
    said = registry.plugged_into(network, hostmap).libvirt_nic(port)
    return elements([said] if said else [])


def _isolation(network: Network, port: Port) -> Element | None:
    """Said where the file says it, or where it differs from what libvirt assumes: the network's setting for type
    network, no otherwise."""
    assumed = network.isolated_ports if port.kind is PortKind.NETWORK else False
    on_a_bridge = port.kind is not PortKind.ETHERNET
    said = "port" in port.given or port.isolated != assumed
    return maybe(on_a_bridge and said, "port", isolated=port.isolated)


def _needs_mtu(network: Network, port: Port) -> bool:
    """libvirt hands the MTU on only from a network whose bridge it makes, and refuses one on mode bridge."""
    return network.mtu is not None and (port.kind is not PortKind.NETWORK or network.mode is Mode.BRIDGE)

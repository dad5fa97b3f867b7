"""Who tags the frames of a network: what stands behind its label decides (see decision 18)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import Port, Topology
from libvirt_guestnet.xmlgen.element import Element, maybe, node


class Carrier(Enum):
    """NONE: no VLANs. SUBINTERFACE: a bridge per VLAN over NIC.VID. BRIDGE: an existing VLAN-aware bridge. OWN: the
    bridge that libvirt makes, turned VLAN-aware by our hook. OVS: Open vSwitch, tagged by libvirt itself."""

    NONE = auto()
    SUBINTERFACE = auto()
    BRIDGE = auto()
    OWN = auto()
    OVS = auto()


def carrier(topology: Topology, network: Network, hostmap: HostMap) -> Carrier:
    """Who carries the network's VLANs here. Raises GuestnetError when what the host has cannot."""
    tagged = next((f"{g.name}.{p.name}" for g, p in topology.ports_on(network.name) if p.vlan or p.trunk), None)
    if network.vlan is None and tagged is None:
        return Carrier.NONE
    if network.mode is not Mode.BRIDGE:
        return Carrier.OWN
    if is_ovs(network, hostmap):
        if network.service_vlan:
            raise GuestnetError(
                f"network {network.name!r}: libvirt has no service-vlan for Open vSwitch; use a Linux bridge"
            )
        return Carrier.OVS
    device = hostmap.uplink(network)
    if device is None:
        return Carrier.BRIDGE
    if tagged:
        raise GuestnetError(
            f"network {network.name!r}: port {tagged} has VLANs of its own, which takes a VLAN-aware bridge; "
            f"{network.physical_network!r} is mapped to the NIC {device}: map it to a bridge with vlan_filtering"
        )
    return Carrier.SUBINTERFACE


def is_ovs(network: Network, hostmap: HostMap) -> bool:
    """Whether the network's ports are plugged into Open vSwitch."""
    label = network.physical_network
    return network.mode is Mode.BRIDGE and label is not None and hostmap.is_ovs(label)


def ovs_vlan(vlan: int | None, trunk: tuple[tuple[int, int], ...] = (), native: int | None = None) -> Element | None:
    """libvirt's <vlan>, which its Open vSwitch ports obey; None when there is nothing to say."""
    if trunk:
        return node("vlan", _trunk_tags(trunk, native), trunk=True)
    return maybe(vlan is not None, "vlan", node("tag", id=vlan))


def _trunk_tags(trunk: tuple[tuple[int, int], ...], native: int | None) -> Iterator[Element]:
    tagged = {vlan for first, last in trunk for vlan in range(first, last + 1)}
    for vlan in sorted(tagged | ({native} if native else set())):
        mode = ("tagged" if vlan in tagged else "untagged") if vlan == native else None
        yield node("tag", id=vlan, nativeMode=mode)


def ranges(trunk: tuple[tuple[int, int], ...]) -> str | None:
    """The ranges as our metadata has them; None for none."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in trunk) or None


def has_vlans(port: Port) -> bool:
    """Whether the port's VLANs are its own rather than its network's."""
    return port.vlan is not None or bool(port.trunk)

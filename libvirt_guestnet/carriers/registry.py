"""Every carrier that we know, by the contract. A new one is a file beside this one and a name in the tuple below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from libvirt_guestnet.carriers.contract import CarriedNetwork, Carrier
from libvirt_guestnet.carriers.nic import Nic
from libvirt_guestnet.carriers.open_vswitch import OpenVSwitch
from libvirt_guestnet.carriers.ovn import Ovn
from libvirt_guestnet.carriers.own_bridge import OwnBridge
from libvirt_guestnet.carriers.subinterface import Subinterface
from libvirt_guestnet.carriers.vlan_bridge import VlanBridge
from libvirt_guestnet.carriers.vxlan import Vxlan
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.model.network import Network
    from libvirt_guestnet.model.topology import Topology
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node

ALL: tuple[Carrier, ...] = (Ovn(), Nic(), OwnBridge(), OpenVSwitch(), VlanBridge(), Subinterface(), Vxlan())
TAGS = frozenset(each.tag for each in ALL if each.tag)
"""Their elements in a network's metadata, each of which a network has once."""
MADE_BRIDGES = frozenset(each.tag for each in ALL if each.makes_bridge)
"""Those with which our hook makes the network's bridge."""
_PLAIN = Carrier()


def of(wanted: CarriedNetwork) -> Carrier:
    """Who carries the network's VLANs here; the plain one where it has none. Raises GuestnetError as `carries`."""
    return next((each for each in ALL if each.carries(wanted)), _PLAIN) if wanted.has_vlans else _PLAIN


def wanted(topology: Topology, network: Network, hostmap: HostMap) -> CarriedNetwork:
    """A network with what its carrier has to know of the topology."""
    tagged = next((f"{g.name}.{p.name}" for g, p in topology.ports_on(network.name) if p.vlan or p.trunk), None)
    return CarriedNetwork(network, hostmap, tagged)


def plugged_into(network: Network, hostmap: HostMap) -> Carrier:
    """Into what libvirt itself plugs the network's ports; the plain one for none that it tags for."""
    return next((each for each in ALL if each.plugs(network, hostmap)), _PLAIN)


def devices(tag: str, ours: Mapping[str, str]) -> Iterator[str]:
    """What has to be there for a network that has such an element, with these attributes."""
    return (device for each in ALL if each.tag == tag and (device := each.device(ours)))


def outlets(tag: str, ours: Mapping[str, str]) -> Iterator[str]:
    """By what such a network leads outside."""
    return (device for each in ALL if each.tag == tag and (device := each.outlet(ours)))


def prepare(network: Node) -> None:
    """Makes and checks what a network on a hook's stdin needs before libvirt looks for it. Raises GuestnetError."""
    for each in ALL:
        each.prepare(network)


def begin(network: Node) -> None:
    """What is to be done once libvirt has made its bridge. Raises GuestnetError."""
    for each in ALL:
        each.begin(network)


def receipt(kept: NetworkReceipt, network: Node) -> NetworkReceipt:
    """With what was made for it."""
    for each in ALL:
        kept = each.receipt(kept, network)
    return kept

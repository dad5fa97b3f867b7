"""What we need to know of each VLAN carrier; each is a file beside this one and a name in `registry`.

A carrier says what of it is in XML (`declares`, `tag`, `libvirt_network`, `libvirt_nic`), what a plan looks for on the
host (`device`, `outlet`), and what the network's hook does (`prepare`, `begin`, `receipt`). Hooks import this file, so
when it is imported it imports neither the model nor lxml.
"""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.metadata.policy import VlanBridge
    from libvirt_guestnet.model.network import Network
    from libvirt_guestnet.model.topology import Port
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class Tag(NamedTuple):
    """An element that `xmlgen` is to write; attributes that are None are left out."""

    name: str
    attributes: Mapping[str, object | None]
    children: tuple[Tag, ...] = ()


class CarriedNetwork(NamedTuple):
    """A network of a topology on a host. `tagged` names a port on it that has VLANs of its own, if there is one."""

    network: Network
    hostmap: HostMap
    tagged: str | None

    @property
    def has_vlans(self) -> bool:
        return self.network.vlan is not None or self.tagged is not None


class Carrier:
    """One carrier. This base class does nothing; a subclass says what is different. `tag` is its element in a network's
    metadata ("": none); `makes_bridge`: our hook makes the network's bridge."""

    tag = ""
    makes_bridge = False

    def carries(self, wanted: CarriedNetwork) -> bool:
        """Whether it carries a network's VLANs; the first in the registry that does counts. Raises GuestnetError when a
        label is not mapped."""
        return False

    def declares(self, wanted: CarriedNetwork) -> VlanBridge | None:
        """Its element about VLANs in the network's metadata, if any. Raises GuestnetError for what it cannot carry."""
        return None

    def plugs(self, network: Network, hostmap: HostMap) -> bool:
        """Whether libvirt itself plugs ports into it and tags them, by elements of libvirt's own."""
        return False

    def libvirt_network(self, network: Network) -> list[Tag]:
        """The elements for libvirt's <network> then."""
        return []

    def libvirt_nic(self, port: Port) -> Tag | None:
        """The element for libvirt's <interface> then."""
        return None

    def device(self, ours: Mapping[str, str]) -> str:
        """The device that must exist before the network can start, by the attributes of its element."""
        return ""

    def outlet(self, ours: Mapping[str, str]) -> str:
        """The device that connects its bridge to other hosts, by the same attributes, if they say that."""
        return ""

    def prepare(self, network: Node) -> None:
        """Makes and checks what must exist before libvirt looks for it, for a network of this carrier; nothing for
        others. Raises GuestnetError."""

    def begin(self, network: Node) -> None:
        """The same after libvirt has made its bridge, before a guest is on it."""

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        """The network's receipt, with what `prepare` and `begin` do for it."""
        return receipt

"""What this product asks of whatever carries a network's frames on a host; each is a file beside this one and a name in
`registry`.

A carrier says what of it stands in XML (`declares`, `tag`, `libvirt_network`, `libvirt_nic`), what a plan has to see on
the host (`device`, `outlet`), and what the network's hook does for it (`prepare`, `begin`, `receipt`). Hooks import
this: no class of the model's, nor lxml, when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

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
    """What each does; the plain one nothing. `tag` is its element in a network's metadata ("": none), `makes_bridge`
    says that our hook makes the bridge which the network is on."""

    tag = ""
    makes_bridge = False

    def carries(self, wanted: CarriedNetwork) -> bool:
        """Whether a network's VLANs are its to carry; the first in the registry that says so does. Raises GuestnetError
        when a label is not mapped."""
        return False

    def declares(self, wanted: CarriedNetwork) -> VlanBridge | None:
        """What it says in the network's metadata, where that is about VLANs. Raises GuestnetError for what it cannot
        carry."""
        return None

    def plugs(self, network: Network, hostmap: HostMap) -> bool:
        """Whether libvirt itself plugs ports into it, and tags them by what stands in its own elements."""
        return False

    def libvirt_network(self, network: Network) -> list[Tag]:
        """What libvirt's <network> has to say for that."""
        return []

    def libvirt_nic(self, port: Port) -> Tag | None:
        """What libvirt's <interface> has to say for that."""
        return None

    def device(self, ours: Mapping[str, str]) -> str:
        """The device that has to be there before the network can start, by the attributes of its element."""
        return ""

    def outlet(self, ours: Mapping[str, str]) -> str:
        """The device by which its bridge leads outside, by the same, where the element says it."""
        return ""

    def prepare(self, network: Node) -> None:
        """Makes and checks what has to be there before libvirt looks for it, for a network that has it; no other is
        touched. Raises GuestnetError."""

    def begin(self, network: Node) -> None:
        """The same once libvirt has made its bridge, and before a guest is on it."""

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        """With what `prepare` and `begin` do for that network."""
        return receipt

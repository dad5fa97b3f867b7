"""What this product asks of whatever carries a network's frames on a host; each is a file beside this one and a name in
`registry`.

A carrier says what of it stands in XML (`declares`, `tag`, `libvirt_network`, `libvirt_nic`), what a plan has to see on
the host (`device`, `outlet`), and what the network's hook does for it (`prepare`, `begin`, `receipt`). Hooks import
this, so that it knows the model's classes by what it asks of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from libvirt_guestnet.metadata.policy import VlanBridge
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class Network(Protocol):
    """What a carrier looks at of the model's network."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def vlan(self) -> int | None: ...
    @property
    def service_vlan(self) -> bool: ...
    @property
    def physical_network(self) -> str | None: ...


class Port(Protocol):
    """The same of a port."""

    @property
    def vlan(self) -> int | None: ...
    @property
    def trunk(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def native_vlan(self) -> int | None: ...


class Labels(Protocol):
    """What is behind physical networks' labels on a host: `hostmap.HostMap`. All raise GuestnetError where a label is
    not mapped."""

    def uplink(self, network: Any) -> str | None: ...
    def vlan_uplink(self, label: str) -> str | None: ...
    def is_ovs(self, label: str) -> bool: ...


class Tag(NamedTuple):
    """An element that `xmlgen` is to write; attributes that are None are left out."""

    name: str
    attributes: Mapping[str, object | None]
    children: tuple[Tag, ...] = ()


class CarriedNetwork(NamedTuple):
    """A network of a topology on a host. `tagged` names a port on it that has VLANs of its own, if there is one."""

    network: Network
    hostmap: Labels
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

    def plugs(self, network: Network, hostmap: Labels) -> bool:
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

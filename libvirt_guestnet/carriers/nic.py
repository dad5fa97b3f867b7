"""A NIC in a bridge that our hook makes: a network of mode bridge whose label is mapped to one, without VLANs."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.carriers.contract import Carrier
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class Nic(Carrier):
    """The whole NIC is in the bridge, with whatever tags its frames have."""

    tag, makes_bridge = "uplink", True

    def device(self, ours: Mapping[str, str]) -> str:
        return ours.get("device", "")

    def outlet(self, ours: Mapping[str, str]) -> str:
        return ours.get("device", "")

    def prepare(self, network: Node) -> None:
        if (nic := network_receipts.uplink(network)) is not None:
            from libvirt_guestnet.datapath.netlink import kernel

            kernel.ensure_uplink_bridge(nic.bridge, nic.device, network.text_of("name"))

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        nic = network_receipts.uplink(network)
        return receipt if nic is None else receipt._replace(made_bridge=True, uplink=nic.device)

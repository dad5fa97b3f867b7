"""A VXLAN device in a bridge that our hook makes: a network across hosts."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.carriers.contract import Carrier
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class Vxlan(Carrier):
    """A VXLAN device in a bridge of its own, which reaches other hosts only."""

    tag, makes_bridge = "vxlan", True

    def device(self, ours: Mapping[str, str]) -> str:
        return ours.get("device", "")

    def prepare(self, network: Node) -> None:
        if (overlay := network_receipts.overlay(network)) is not None:
            from libvirt_guestnet.datapath.devices import vxlan_device

            vxlan_device.ensure_overlay(overlay, network.text_of("name"))

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        if (made := network_receipts.overlay(network)) is None:
            return receipt
        return receipt._replace(made_bridge=True, overlay=made.device, uplink=made.device, vni=made.vni)

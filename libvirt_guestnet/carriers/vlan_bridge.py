"""A VLAN-aware Linux bridge that is there already: our hooks tag its taps, and its uplink where the map names one."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.carriers.contract import CarriedNetwork, Carrier
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.light_typing import TYPE_CHECKING
from libvirt_guestnet.metadata import policy

if TYPE_CHECKING:
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class VlanBridge(Carrier):
    """Of a network of mode bridge whose label is mapped to a bridge."""

    tag = "vlan"

    def carries(self, wanted: CarriedNetwork) -> bool:
        return wanted.has_vlans and wanted.hostmap.uplink(wanted.network) is None

    def declares(self, wanted: CarriedNetwork) -> policy.VlanBridge:
        network, label = wanted.network, wanted.network.physical_network or ""
        uplink = wanted.hostmap.vlan_uplink(label) if label else None
        return policy.VlanBridge(network.vlan or 0, network.service_vlan, label, uplink or "")

    def outlet(self, ours: Mapping[str, str]) -> str:
        return ours.get("uplink", "")

    def prepare(self, network: Node) -> None:
        if (aware := network_receipts.aware_bridge(network)) is not None and aware.existing:
            from libvirt_guestnet.datapath.devices import vlan_bridge

            vlan_bridge.check_filtering(aware.bridge, f"network {network.text_of('name')!r}", aware.service)

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        if (aware := network_receipts.aware_bridge(network)) is None:
            return receipt
        return receipt._replace(vlan=aware.tag, vlan_uplink=aware.uplink, service=aware.service)

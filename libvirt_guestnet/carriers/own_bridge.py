"""The bridge that libvirt makes for a network, on which our hook switches VLAN filtering on."""

from __future__ import annotations

from libvirt_guestnet.carriers.contract import CarriedNetwork, Carrier
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.light_typing import TYPE_CHECKING
from libvirt_guestnet.metadata import policy

if TYPE_CHECKING:
    from libvirt_guestnet.xmlread import Node


class OwnBridge(Carrier):
    """Of every mode but bridge. `VlanBridge` says what its receipt has: to that both are one."""

    tag = "vlan"

    def carries(self, wanted: CarriedNetwork) -> bool:
        return wanted.has_vlans and wanted.network.mode != "bridge"

    def declares(self, wanted: CarriedNetwork) -> policy.VlanBridge:
        return policy.VlanBridge(wanted.network.vlan or 0, wanted.network.service_vlan)

    def begin(self, network: Node) -> None:
        if (aware := network_receipts.aware_bridge(network)) is not None and not aware.existing:
            from libvirt_guestnet.datapath.devices import vlan_bridge

            vlan_bridge.turn_on(aware.bridge, aware.tag, aware.service)

"""One VLAN of a NIC, NIC.VID, in a bridge that our hook makes for that VLAN."""

from __future__ import annotations

from libvirt_guestnet.carriers.contract import CarriedNetwork
from libvirt_guestnet.carriers.nic import Nic
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.state.receipts import NetworkReceipt
    from libvirt_guestnet.xmlread import Node


class Subinterface(Nic):
    """The NIC's own element says the VLAN, too; the kernel tags what leaves."""

    def carries(self, wanted: CarriedNetwork) -> bool:
        return wanted.has_vlans and wanted.hostmap.uplink(wanted.network) is not None

    def declares(self, wanted: CarriedNetwork) -> None:
        network = wanted.network
        if wanted.tagged:
            raise GuestnetError(
                f"network {network.name!r}: port {wanted.tagged} has VLANs of its own, which takes a VLAN-aware "
                f"bridge; {network.physical_network!r} is mapped to the NIC {wanted.hostmap.uplink(network)}: map it "
                f"to a bridge with vlan_filtering"
            )

    def prepare(self, network: Node) -> None:
        if (over := network_receipts.subinterface(network)) is not None:
            from libvirt_guestnet.datapath.devices import subinterface

            subinterface.ensure_subinterface(over, network.text_of("name"))

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        if (made := network_receipts.subinterface(network)) is None:
            return receipt
        of_vlan = receipt._replace(carried_vlan=made.vlan, carried_service=made.service)
        return of_vlan._replace(made_bridge=True, overlay=made.device, uplink=made.device)

"""A VLAN-aware Linux bridge that is there already: our hooks tag its taps, and its uplink where the map names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from libvirt_guestnet.carriers.contract import Carrier, Tag, Wanted
from libvirt_guestnet.hook.read import network_policy

if TYPE_CHECKING:
    from libvirt_guestnet.hook.read.xmlread import Node
    from libvirt_guestnet.model.network import Network
    from libvirt_guestnet.state.receipts import NetworkReceipt


class VlanBridge(Carrier):
    """Of a network of mode bridge whose label is mapped to a bridge."""

    tag = "vlan"

    def carries(self, wanted: Wanted) -> bool:
        return wanted.has_vlans and wanted.hostmap.uplink(wanted.network) is None

    def declares(self, wanted: Wanted) -> Tag | None:
        label = wanted.network.physical_network
        return vlan_tag(wanted.network, label, wanted.hostmap.vlan_uplink(label) if label else None)

    def outlet(self, ours: Mapping[str, str]) -> str:
        return ours.get("uplink", "")

    def prepare(self, network: Node) -> None:
        if (aware := network_policy.aware_bridge(network)) is not None and aware.existing:
            from libvirt_guestnet.datapath.devices import vlan_bridge

            vlan_bridge.check_filtering(aware.bridge, f"network {network.text_of('name')!r}", aware.service)

    def receipt(self, receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
        if (aware := network_policy.aware_bridge(network)) is None:
            return receipt
        return receipt._replace(vlan=aware.tag, vlan_uplink=aware.uplink, service=aware.service)


def vlan_tag(network: Network, label: str | None, uplink: str | None) -> Tag:
    """The element by which hooks know that the bridge tells VLANs apart; with a label it was there before."""
    service = True if network.service_vlan else None
    return Tag("vlan", {"tag": network.vlan, "service": service, "label": label, "uplink": uplink})

"""The call for a network that is about to start: its bridge. It imports little, as the network waits."""

from __future__ import annotations

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.xmlread import Node


def prepare(hook_data: Node, _state: State) -> None:
    """Makes the bridge of a bridged network, with its NIC or overlay in it, before libvirt looks for it. If libvirt is
    about to make the host forward IPv6, keeps the host learning routes."""
    network = network_receipts.network_in(hook_data)
    network_receipts.check_kind(network)
    registry.prepare(network)
    if network_receipts.forwards_ipv6(network):
        from libvirt_guestnet.datapath.routing import gateway

        gateway.keep_learning()

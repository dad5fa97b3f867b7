"""The work behind `lifecycle.TABLE` for networks: their bridges, and the receipts that their ports are guarded by."""

from __future__ import annotations

from libvirt_guestnet.datapath import learning, vlan
from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.nft import nft
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import bridges, intent_network, ways, xmlread
from libvirt_guestnet.state import NetworkReceipt, State


def prepare_network(hook_data: xmlread.Node, state: State) -> None:
    """Makes the bridge of a bridged network and puts its NIC or overlay in, before libvirt looks for it."""
    network = _network(hook_data)
    name, nic, vxlan = network.text_of("name"), intent_network.uplink(network), intent_network.overlay(network)
    if nic is not None:
        from libvirt_guestnet.datapath import kernel

        kernel.ensure_uplink_bridge(nic.bridge, nic.device, name)
    if vxlan is not None:
        from libvirt_guestnet.datapath import overlay

        overlay.ensure_overlay(vxlan, name)
    if (over := intent_network.subinterface(network)) is not None:
        from libvirt_guestnet.datapath import subinterface

        subinterface.ensure_subinterface(over, name)
    if (aware := intent_network.aware_bridge(network)) is not None and aware.existing:
        vlan.check_filtering(aware.bridge, f"network {name!r}", aware.service)


def remember_network(hook_data: xmlread.Node, state: State) -> None:
    """Keeps what the network's XML says for ports that have no policy of their own."""
    if keep(hook_data, state):
        with state.lock() as hold:
            bridges.settle_pending(state, hold)


def keep(hook_data: xmlread.Node, state: State, started: bool = False) -> bool:
    """Writes the network's receipt. Whether something changed; the bridge guard is to be settled then."""
    network = _network(hook_data)
    name, receipt = network.text_of("name"), intent_network.network_receipt(network)
    if receipt is not None:
        receipt = _with_bridge(receipt, network)
    before = state.network(name)
    if receipt == before and not started:
        state.confirm_network(name)
        return False
    with state.lock():
        if any(each is not None and each.managed for each in (receipt, before)):
            bridges.changing(state)
        if receipt is None:
            state.drop_network(name)
        else:
            state.put_network(receipt)
    return True


def _with_bridge(receipt: NetworkReceipt, network: xmlread.Node) -> NetworkReceipt:
    aware = intent_network.aware_bridge(network)
    device = intent_network.overlay(network) or intent_network.subinterface(network)
    made = device or intent_network.uplink(network)
    managed = receipt.guarded and (made is not None or intent_network.is_libvirts_bridge(network))
    return receipt._replace(
        bridge=check_device(receipt.bridge) if managed else receipt.bridge,
        made_bridge=made is not None,
        overlay=device.device if device else "",
        vlan=aware.tag if aware else 0,
        vlan_uplink=aware.uplink if aware else "",
        service=aware is not None and aware.service,
        managed=managed,
        uplink=made.device if made else "",
    )


def start_network(hook_data: xmlread.Node, state: State) -> None:
    """The bridge is there now: one that libvirt made begins to tell VLANs apart, before any guest is on it."""
    aware = intent_network.aware_bridge(_network(hook_data))
    if aware is not None and not aware.existing:
        vlan.turn_on(aware.bridge, aware.tag, aware.service)
    keep(hook_data, state, started=True)  # its uplink may be a new device under an old name
    with state.lock() as hold:
        bridges.settle_pending(state, hold)
        # libvirt's rules are new, and may stand before ours.
        ways.settle(state, hold, force=True)


def forget_network(hook_data: xmlread.Node, state: State) -> None:
    """Forgets a network that was stopped, with the bridge that our hook made for it."""
    forget(_network(hook_data).text_of("name"), state)


def forget(name: str, state: State) -> None:
    """The same for one that is gone: its name is all there is."""
    receipt = state.network(name)
    if receipt is None:
        return
    if receipt.made_bridge:
        _remove_bridge(receipt, state)
    with state.lock() as hold:
        if receipt.managed:
            bridges.changing(state)
        state.drop_network(name)
        bridges.settle_pending(state, hold)
        if receipt.dynamic and receipt.bridge not in learnt_on(state):
            nft(learning.forget_network(receipt.bridge), hold)
        ways.settle(state, hold)


def learnt_on(state: State) -> set[str]:
    """The bridges on which a port learns its addresses."""
    return {receipt.bridge for receipt in state.ports() if receipt.dhcp}


def _remove_bridge(receipt: NetworkReceipt, state: State) -> None:
    from libvirt_guestnet.datapath import kernel, overlay

    if any(other.bridge == receipt.bridge for other in state.networks() if other.name != receipt.name):
        return  # networks of one label, or of one VLAN of it, share their bridge
    if receipt.overlay:
        overlay.remove_overlay(receipt.bridge, receipt.overlay)
    else:
        kernel.remove_bridge(receipt.bridge)


def _network(hook_data: xmlread.Node) -> xmlread.Node:
    network = hook_data.one("network")
    if network is None:
        raise GuestnetError("no <network> on stdin: was this hook called by libvirt?")
    return network

"""The work behind `lifecycle.TABLE` for networks: their bridges, and the receipts that their ports are guarded by."""

from __future__ import annotations

from libvirt_guestnet.datapath import claiming, holding, learning, vlan
from libvirt_guestnet.datapath.nft import nft
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import bridges, intent, intent_network, known, reserved, ways, xmlread
from libvirt_guestnet.receipt_kinds import NetworkReceipt
from libvirt_guestnet.state import State


def prepare_network(hook_data: xmlread.Node, state: State) -> None:
    """Makes the bridge of a bridged network and puts its NIC or overlay in, before libvirt looks for it; where it will
    have the host forward IPv6, has that go on learning routes."""
    network = _network(hook_data)
    intent_network.check_kind(network)
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
    if intent_network.forwards_ipv6(network):
        from libvirt_guestnet.datapath import routed

        routed.keep_learning()
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
    before = state.sound_network(name)
    if receipt == before and not started:
        state.confirm_network(name)
        return False
    with state.lock() as hold:
        if any(each is not None and each.managed for each in (receipt, before)):
            bridges.changing(state)
        # The receipt comes last: it is by its being another one that a later call sees that there is something to do.
        if batch := reserved.changed(before, receipt, state):
            nft(batch, hold)
        if receipt is None:
            state.drop_network(name)
        else:
            state.put_network(receipt)
    return True


def _with_bridge(receipt: NetworkReceipt, network: xmlread.Node) -> NetworkReceipt:
    aware = intent_network.aware_bridge(network)
    device = intent_network.overlay(network) or intent_network.subinterface(network)
    made = device or intent_network.uplink(network)
    ours = made is not None or intent_network.is_libvirts_bridge(network)
    managed = receipt.guarded and ours and bool(receipt.bridge)
    return receipt._replace(
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
        ways.try_to_settle(state, hold, force=True)
        if batch := known.held_anew(state):
            nft(batch, hold)


def forget_network(hook_data: xmlread.Node, state: State) -> None:
    """Forgets a network that was stopped, with the bridge that our hook made for it."""
    forget(_network(hook_data).text_of("name"), state)


def forget(name: str, state: State) -> None:
    """The same for one that is gone: its name is all there is."""
    receipt = state.sound_network(name)
    if receipt is None:
        with state.lock():
            state.drop_network(name)  # a damaged one
        return
    if receipt.made_bridge:
        _remove_bridge(receipt, state)
    with state.lock() as hold:
        if receipt.managed:
            bridges.changing(state)
        state.drop_network(name)
        bridges.settle_pending(state, hold)
        if receipt.guarded and receipt.bridge:
            links = {intent.segment(receipt.bridge, receipt.vlan), receipt.bridge, f"{receipt.bridge}/0"}
            nft("".join(map(forgotten, sorted(links - segments(state)))), hold)
        ways.try_to_settle(state, hold)


def segments(state: State) -> set[str]:
    """The links of whose ports somebody keeps account, since there is one or a port looks into it."""
    ports = [(receipt.segment or receipt.bridge, bool(receipt.trunk)) for receipt in state.ports()]
    used = (holding.kept_on(segment) + holding.looked_into(segment, trunk) for segment, trunk in ports)
    beside = (holding.kept_on(link) for receipt in state.ports() for link, _ in receipt.beside)
    reserving = [receipt.reserved for receipt in state.ports()]
    return {account for accounts in (*used, *beside, reserving) for account in accounts}


def forgotten(link: str) -> str:
    """The nft batch that removes what is known of a link without ports."""
    return learning.forget_network(link) + holding.forget_segment(link) + claiming.forget_segment(link)


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

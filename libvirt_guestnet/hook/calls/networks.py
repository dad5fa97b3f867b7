"""The calls of `lifecycle.TABLE` for networks that have their bridge: the receipts by which ports are guarded."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.port import held_sets, learning, savi
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.hook.enforce import address_sets, bridge_guard, forwards, reservations, zones
from libvirt_guestnet.hook.read import hostwide, libvirt_records, network_receipts, port_receipts
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt


def remember_network(hook_data: xmlread.Node, state: UnlockedState) -> None:
    """Keeps what the network's XML says for ports that have no policy of their own."""
    if keep(hook_data, state, told=False):
        with state.lock() as locked:
            bridge_guard.settle_pending(locked)


def keep(hook_data: xmlread.Node, state: UnlockedState, started: bool = False, told: bool = True) -> bool:
    """Writes the network's receipt. Returns whether something changed: then the bridge guard must be settled.

    `told`: what its XML says of us counts. Of an external network that runs it may be what was said when it started;
    one that was taken over while it runs says nothing.
    """
    network = network_receipts.network_in(hook_data)
    name, receipt = network.text_of("name"), network_receipts.network_receipt(network)
    before = state.sound_network(name)
    known = before if before is not None and not before.undeclared and (before.external or receipt is None) else None
    if not told and (known or (receipt is not None and receipt.external)):
        receipt = network_receipts.refreshed(known, network) if known else None
    if receipt is None:
        receipt = network_receipts.undeclared_receipt(network, _default(before))
    if receipt is not None:
        receipt = _with_bridge(receipt, network)
    if receipt == before and not started:
        state.confirm_network(name)
        return False
    with state.lock() as locked:
        if any(each is not None and each.managed for each in (receipt, before)):
            bridge_guard.changing(locked)
        # The receipt is written last: should we be killed, a later call sees by the old one that this must be done.
        zones.change(before, receipt, locked)
        if batch := reservations.changed(before, receipt, locked):
            nft(batch, locked.descriptor)
        if receipt is None:
            locked.drop_network(name)
        else:
            locked.put_network(receipt)
    return True


def _default(before: NetworkReceipt | None) -> str:
    """This host's default; as before if that cannot be read, since it refuses no network (a guest's start says so)."""
    try:
        return hostwide.read().guard
    except NotAdmittedError:
        return hostwide.ALL if before is not None and before.undeclared else hostwide.DECLARED


def know(names: Iterable[str], state: UnlockedState) -> bool:
    """Writes the receipts of those of these active networks that started before this host's default covered their
    guests, by libvirt's records. Returns whether there are any. Raises GuestnetError."""
    found = [network for name in sorted(names) if (network := libvirt_records.network(name))]
    for network in found:
        hook_data = xmlread.Node("hookData", {})
        hook_data.children = [network]
        keep(hook_data, state, told=False)
    return bool(found)


def _with_bridge(receipt: NetworkReceipt, network: xmlread.Node) -> NetworkReceipt:
    from libvirt_guestnet.carriers import registry

    kept = registry.receipt(receipt, network)
    ours = kept.made_bridge or (network_receipts.is_libvirts_bridge(network) and not kept.external)
    return kept._replace(managed=kept.guarded and ours and bool(kept.bridge))


def start_network(hook_data: xmlread.Node, state: UnlockedState) -> None:
    """The network's bridge exists now: on one that libvirt made, VLAN filtering is switched on before a guest joins."""
    from libvirt_guestnet.carriers import registry

    registry.begin(network_receipts.network_in(hook_data))
    keep(hook_data, state, started=True)  # its uplink may be a new device under an old name
    with state.lock() as locked:
        bridge_guard.settle_pending(locked)
        # libvirt has just inserted rules, perhaps before ours.
        forwards.try_to_settle(locked, force=True)
        if batch := address_sets.update_beside(locked):
            nft(batch, locked.descriptor)


def forget_network(hook_data: xmlread.Node, state: UnlockedState) -> None:
    """Forgets a network that was stopped, with the bridge that our hook made for it."""
    forget(network_receipts.network_in(hook_data).text_of("name"), state)


def forget(name: str, state: UnlockedState) -> None:
    """The same for a network that does not exist any more, by its name."""
    receipt = state.sound_network(name)
    if receipt is None:
        with state.lock() as locked:
            locked.drop_network(name)  # the receipt is damaged
        return
    if receipt.made_bridge:
        _remove_bridge(receipt, state)
    with state.lock() as locked:
        if receipt.managed:
            bridge_guard.changing(locked)
        locked.drop_network(name)
        bridge_guard.settle_pending(locked)
        if receipt.guarded and receipt.bridge:
            links = {port_receipts.link_of(receipt), receipt.bridge, f"{receipt.bridge}/0"}
            nft("".join(map(forgotten, sorted(links - segments(locked)))), locked.descriptor)
        zones.change(receipt, None, locked)
        forwards.try_to_settle(locked)


def segments(state: State) -> set[str]:
    """The links that need sets of held addresses: those with a port, or into whose sets a port's rules look."""
    ports = [(receipt.segment or receipt.bridge, bool(receipt.trunk)) for receipt in state.ports()]
    used = (held_sets.kept_on(segment) + held_sets.looked_into(segment, trunk) for segment, trunk in ports)
    beside = (held_sets.kept_on(link) for receipt in state.ports() for link, _ in receipt.beside)
    reserving = [receipt.reserved for receipt in state.ports()]
    return {account for accounts in (*used, *beside, reserving) for account in accounts}


def forgotten(link: str) -> str:
    """The nft batch that removes the sets of a link without ports."""
    return learning.forget_network(link) + held_sets.forget_segment(link) + savi.forget_segment(link)


def _remove_bridge(receipt: NetworkReceipt, state: State) -> None:
    from libvirt_guestnet.datapath.devices import vxlan_device
    from libvirt_guestnet.datapath.netlink import kernel

    if any(other.bridge == receipt.bridge for other in state.networks() if other.name != receipt.name):
        return  # networks of one label, or of one VLAN of it, share their bridge
    if receipt.overlay:
        vxlan_device.remove_overlay(receipt.bridge, receipt.overlay)
    else:
        kernel.remove_bridge(receipt.bridge)

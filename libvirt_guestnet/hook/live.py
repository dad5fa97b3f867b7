"""What `guestnet apply`, `hooks sync` and `hooks uninstall` do to guests and networks that run already."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, observing
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.hook.calls import domain, networks
from libvirt_guestnet.hook.enforce import (
    bridge_guard,
    bridge_ports,
    checksum_guard,
    forwards,
    host_routes,
    impairing,
    port_guard,
    tagging,
    zones,
)
from libvirt_guestnet.hook.helpers import plug_marks
from libvirt_guestnet.hook.read import libvirt_records, network_receipts
from libvirt_guestnet.state import network_map
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt


def take_over_state() -> None:
    """Converts an earlier version's state before hooks are installed. Raises GuestnetError if a later one wrote it."""
    UnlockedState()


def guard_domain(xml: bytes, settle: bool = True) -> None:
    """Does everything for a running domain, by its live XML, that the hooks would have done. Raises GuestnetError."""
    domain.repair(xmlread.parse(xml), UnlockedState(), settle, open_first=True)


def forget_ended(uuids: Iterable[str]) -> None:
    """Removes what is left of domains that do not run and whose `release` was killed. Otherwise a tap that somebody
    else made, and that still exists, would belong to such a domain for ever. Raises GuestnetError."""
    state = UnlockedState()
    names = state.owned()
    for uuid in sorted(names.keys() & set(uuids)):
        if libvirt_records.running(names[uuid], uuid) is None:
            domain.release_all_of(uuid, state.tapnames(), state)


def release_tap(uuid: str, tap: str) -> None:
    """Removes the filter of one unplugged NIC of a domain. Raises GuestnetError."""
    state = UnlockedState()
    with state.lock() as locked:
        port_guard.release([tap] if tap in locked.taps(uuid) else [], locked)
        host_routes.delete_tap(uuid, tap, locked)
        impairing.release_tap(uuid, tap, locked)
        forwards.sweep("", locked)


def release_all() -> None:
    """Removes every filter, those of running guests too, when the hooks are uninstalled. Raises GuestnetError."""
    state = UnlockedState()
    with state.lock() as locked:
        nft.nft(filters.remove(), locked.descriptor)
        checksum_guard.unload(locked)
        bridge_guard.remove(locked)
        bridge_ports.release(locked.tapnames(), locked)
        locked.forget_guards()
        zones.settle(locked)
        host_routes.delete_all(locked)
        forwards.close_all(locked)
        impairing.release_all(locked)


def remove_unused() -> None:
    """Removes what all ports share when there is no port and no network any more: the host is as before guestnet. The
    next guard makes it again. Raises GuestnetError."""
    state = UnlockedState()
    with state.lock() as locked:
        if locked.tapnames() or locked.networks() or kernel.guarded_taps():
            return
        nft.nft(filters.remove(), locked.descriptor)
        checksum_guard.unload(locked)
        locked.drop_shared()


def adopt_network(xml: bytes) -> None:
    """Keeps what an active network's XML says, as `started` would; `tidy`, or a guard that settles, closes its bridge.
    Raises GuestnetError."""
    hook_data, state = xmlread.Node("hookData", {}), UnlockedState()
    network = xmlread.parse(xml)
    hook_data.children = [network]
    before = state.sound_network(name := network.text_of("name"))
    if before is not None and not before.undeclared and network_receipts.network_policy(network) is None:
        with state.lock() as locked:  # it is nobody's of ours any more: nor does what it says of guests hold
            if before.managed:
                _open(before, locked)
            asked = [r.tap for r in locked.ports() if r.network == name and not (r.own or r.by_host)]
            port_guard.release(asked, locked)
        networks.forget(name, state)
    networks.keep(hook_data, state)


def _open(network: NetworkReceipt, locked: LockedState) -> None:
    """Opens its bridge to ports without a guard, before any loses its own."""
    locked.put_network(network._replace(managed=False))
    bridge_guard.review(locked)
    bridge_guard.settle(locked)


def review_bridges() -> None:
    """Notes which bridges are managed by now, once all active networks are known. Raises GuestnetError."""
    state = UnlockedState()
    with state.lock() as locked:
        bridge_guard.review(locked, again=True)


def _forget_notes(locked: LockedState) -> None:
    """Of ports that are not observed any more, after a kill in between."""
    observed = {receipt.tap for receipt in locked.ports() if receipt.observed}
    lines = [line for tap in sorted(kernel.noted_taps() - observed) for line in observing.forgotten(tap)]
    if lines:
        nft.nft("".join(f"{line}\n" for line in lines), locked.descriptor)


def tidy(active_networks: set[str], known_networks: set[str]) -> None:
    """Removes what no running guest and no active network needs: receipts, and chains without a receipt.

    `known_networks`: those that had a receipt before it was asked which are active. Raises GuestnetError.
    """
    state = UnlockedState()
    for name in sorted(known_networks - active_networks):
        networks.forget(name, state)
    with state.lock() as locked:
        living = {tap for tap in locked.tapnames() if port_guard.lives(tap, locked)}
        port_guard.release(sorted((locked.tapnames() | kernel.guarded_taps()) - living), locked)
        port_guard.settle_held(locked)
        _forget_notes(locked)
        for link in sorted(kernel.segments() - networks.segments(locked)):
            nft.nft(networks.forgotten(link), locked.descriptor)
        checksum_guard.tidy(locked)
        locked.prune()
        plug_marks.forget(locked)
        tagging.sweep(locked)
        bridge_guard.review(locked)
        bridge_guard.settle(locked)
        host_routes.tidy(locked)
        impairing.sweep(locked)
        zones.settle(locked)
        forwards.sweep("", locked)
        network_map.update(locked, (), anew=True)

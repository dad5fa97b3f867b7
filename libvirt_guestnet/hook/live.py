"""What `guestnet apply`, `hooks sync` and `hooks uninstall` do to guests and networks that run already."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.hook.calls import domain, networks
from libvirt_guestnet.hook.enforce import (
    bridge_guard,
    bridge_ports,
    checksum_guard,
    forwards,
    host_routes,
    port_guard,
    tagging,
)
from libvirt_guestnet.hook.helpers import plug_marks
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.state.folder import State


def guard_domain(xml: bytes, settle: bool = True) -> None:
    """Does everything for a live domain's XML that the hooks would have done by now. Raises GuestnetError."""
    domain.repair(xmlread.parse(xml), State(), settle)


def forget_ended(uuids: Iterable[str]) -> None:
    """Takes away what is left of domains that do not run, and whose `release` was killed: a tap that somebody else made
    is still there, and would be theirs for ever. Raises GuestnetError."""
    state = State()
    names = state.owned()
    for uuid in sorted(names.keys() & set(uuids)):
        if libvirt_records.running(names[uuid], uuid) is None:
            domain.release_all_of(uuid, state.tapnames(), state)


def release_tap(uuid: str, tap: str) -> None:
    """Takes the filter of one unplugged NIC of a domain away. Raises GuestnetError."""
    state = State()
    with state.lock() as hold:
        port_guard.release([tap] if tap in state.taps(uuid) else [], state, hold)
        host_routes.forget_tap(uuid, tap, state, hold)
        forwards.sweep("", state, hold)


def release_all() -> None:
    """Takes every filter away, of running guests too: what uninstalling the hooks means. Raises GuestnetError."""
    state = State()
    with state.lock() as hold:
        nft.nft(filters.remove(), hold)
        checksum_guard.unload(state)
        bridge_guard.remove(state, hold)
        bridge_ports.release(state.tapnames(), state)
        state.forget_ports()
        host_routes.forget_all(state, hold)
        forwards.close_all(state, hold)


def adopt_network(xml: bytes) -> None:
    """Keeps what an active network's XML says, as `started` would; `tidy` closes its bridge. Raises GuestnetError."""
    hook_data = xmlread.Node("hookData", {})
    hook_data.children = [xmlread.parse(xml)]
    networks.keep(hook_data, State())


def review_bridges() -> None:
    """Notes which bridges are managed by now, once all active networks are known. Raises GuestnetError."""
    state = State()
    with state.lock():
        bridge_guard.review(state, again=True)


def tidy(active_networks: set[str], known_networks: set[str]) -> None:
    """Removes what no running guest and no active network needs: receipts, and chains that nobody has a receipt for.

    `known_networks`: those that had a receipt before anybody asked which are active. Raises GuestnetError.
    """
    state = State()
    for name in sorted(known_networks - active_networks):
        networks.forget(name, state)
    with state.lock() as hold:
        living = {tap for tap in state.tapnames() if port_guard.lives(tap, state)}
        port_guard.release(sorted((state.tapnames() | kernel.guarded_taps()) - living), state, hold)
        port_guard.settle_held(state, hold)
        for link in sorted(kernel.segments() - networks.segments(state)):
            nft.nft(networks.forgotten(link), hold)
        checksum_guard.tidy(state)
        state.prune()
        plug_marks.forget(state)
        tagging.sweep(state)
        bridge_guard.review(state)
        bridge_guard.settle(state, hold)
        host_routes.tidy(state, hold)
        forwards.sweep("", state, hold)

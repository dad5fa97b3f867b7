"""The calls for single ports of a network: a NIC is plugged in, moves to another network, or is unplugged.

At `port-created` the NIC's tap does not exist yet, so a helper waits for it (`hotplug`). A NIC that moves within its
bridge is guarded for its new network at once; should it not move after all, it is guarded as before.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet import log, xmlread
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import address_owners, guardable, taps
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.hook.enforce import (
    bridge_guard,
    bridge_ports,
    checksum_guard,
    forwards,
    port_guard,
    reachability,
    tagging,
)
from libvirt_guestnet.hook.helpers import hotplug
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.hook.read import hostwide, libvirt_records, next_hop, vlan_membership, wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.parse import TextError
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt

Guard = Callable[[hotplug.Plug, str, UnlockedState], bool]


def create_port(hook_data: xmlread.Node, state: UnlockedState) -> None:
    """Writes the network's receipt from its latest XML, for the domain's `start`. If the NIC is plugged into a running
    domain, for which no `start` follows, leaves a helper behind."""
    networks.remember_network(hook_data, state)
    found = hotplug.plug(hook_data)
    if found is None:
        return
    port_guard.sweep(state)
    domain = bridge_guard.joined(found.domain_with(), state)
    try:
        if not _admits(domain, state):
            return
    except TextError as error:  # named here, as the call itself names only the network
        raise GuestnetError(f"new NIC of domain {found.domain.name!r}: {error}") from error
    promise = hotplug.promised(found, state)
    by_host = any(nic.default != hostwide.DECLARED for nic in domain.nics)
    try:
        _await(found, promise, state, guard_by_default if by_host else guard_plugged)
    finally:
        promise.hand_over()


def _await(found: hotplug.Plug, promise: Promise, state: UnlockedState, guard: Guard) -> None:
    """Leaves a helper behind that waits for a NIC and calls `guard`; one that moves within its bridge is guarded at
    once."""
    # It may also be another NIC with that MAC address: no call says which.
    stays = hotplug.staying(found)
    try:
        if stays.moves:
            with state.lock() as locked:
                hotplug.forget_others(found, stays, locked)
                _guard_one(found, stays.tap, locked)
        hotplug.leave_helper(found, state, lambda tap: guard(found, tap, state), stays, promise)
    except (GuestnetError, OSError):
        with state.lock() as locked:
            locked.drop_plugging(found.portid)  # the call fails, so there will be no such NIC
        if stays.moves:
            _put_back(found.domain.name, found.uuid, state)
        raise


def _put_back(name: str, uuid: str, state: UnlockedState) -> None:
    """Guards a NIC that does not move after all as libvirt's record says. Never fails: errors are logged."""
    try:
        record = libvirt_records.record(name)
        if record is not None and record.domain.text_of("uuid") == uuid:
            domain_calls.repair(record.domain, state)
    except GuestnetError as error:
        log.complain(f"domain {name}: a NIC that did not move is not guarded as before: {error}")


def _admits(domain: Domain, state: UnlockedState) -> bool:
    """Whether a NIC that is being plugged in concerns us. Raises GuestnetError if it must be refused."""
    guardable.check(domain)
    if not _ours(domain, state):
        return False
    admitted = address_owners.admit(domain, state)
    with state.lock() as locked:
        address_owners.recheck(admitted, locked)
        forwards.check_plugged(domain, locked)
    return True


def _ours(domain: Domain, state: State) -> bool:
    wanted = (vlan_membership.tap_vlans, wanted_forwards.port_forwards)
    ours = port_guard.planned(domain, state) or next_hop.host_routes(domain)
    return bool(ours) or domain_calls.is_impaired(domain) or any(of(domain) for of in wanted)


def guard_plugged(found: hotplug.Plug, tap: str, state: UnlockedState) -> bool:
    """The helper's work, once the new NIC's tap exists. False if the tap is not on the NIC's bridge: it has moved on,
    and another helper is at work, or it is not there yet. Raises GuestnetError."""
    with state.lock() as locked:
        if locked.plugging(found.portid) is None:
            return True  # unplugged again
        if not links.is_on(tap, found.bridge):
            return False
        domain = _guard_one(found, tap, locked)
    if found.qdisc:
        checksum_guard.guard_when_limited(tap, found.qdisc, state)
    _impair(found, domain, tap, state)
    return True


def _impair(found: hotplug.Plug, domain: Domain, tap: str, state: UnlockedState) -> None:
    """Never fails: what cannot be impaired is logged."""
    if not domain_calls.is_impaired(domain):
        return
    if found.qdisc:
        checksum_guard.await_limits(links.index_of(tap), found.qdisc)
    with state.lock() as locked:
        for message in domain_calls.impair(domain, locked, whole=False):
            log.complain(message)


def guard_by_default(found: hotplug.Plug, tap: str, state: UnlockedState) -> bool:
    """The same for a NIC that only this host's default guards: without its guard, too, its tap stays up."""
    try:
        return guard_plugged(found, tap, state)
    except taps.OthersTapError:
        raise
    except Exception as error:  # whatever the bug or the damage
        what = f"domain {found.domain.name!r}: new NIC {found.mac} is not guarded as this host's default says"
        log.complain(f"{what}: {error}")
        return True


def _guard_one(found: hotplug.Plug, tap: str, locked: LockedState) -> Domain:
    """Returns the domain with this NIC alone."""
    domain = bridge_guard.joined(found.domain_with(tap), locked)
    taps.check([domain], locked)
    receipts = port_guard.wanted(domain, locked)
    bridge_guard.settle_pending(locked)
    port_guard.clear(receipts, locked)
    port_guard.put(port_guard.record(found.uuid, receipts, locked), receipts, [], locked, limited=bool(found.qdisc))
    tagging.tag(domain, locked, whole=False)
    bridge_ports.settle(domain.name, receipts, locked)
    try:
        reachability.connect_nic(domain, tap, locked)
    except GuestnetError as error:  # the NIC is guarded, so its tap can stay up
        log.complain(f"domain {found.domain.name}: new NIC {found.mac} is not routed to: {error}")
    forwards.claim(domain, locked, whole=False)
    try:
        forwards.activate({found.uuid}, locked)
    except GuestnetError as error:  # the NIC can stay up, and the failed forward may be another guest's
        log.complain(f"domain {found.domain.name}: new NIC {found.mac}: {error}")
    return domain


def release_port(hook_data: xmlread.Node, state: UnlockedState) -> None:
    """Removes the filter of an unplugged NIC, once its tap is gone.

    A NIC that only moved to another network has a new port by now, and keeps its tap: it stays guarded, unless only the
    old network wanted that.
    """
    port = hook_data.one("networkport")
    if port is None:
        return
    portid, uuid = port.text_of("uuid"), port.text_of("owner/uuid")
    with state.lock() as locked:
        locked.drop_plugging(portid)
        receipts = [r for r in map(locked.sound_port, locked.taps(uuid)) if r and r.portid == portid]
        port_guard.release([r.tap for r in receipts if not links.exists(r.tap, r.ifindex) or _left(r, locked)], locked)
        tagging.sweep(locked)
        reachability.disconnect_old_bridge(port, locked)
        forwards.sweep("", locked)
        domain_calls.sweep_impaired(locked)
    name = port.text_of("owner/name")
    if any(libvirt_records.port_of(name, uuid, receipt.tap) not in ("", portid) for receipt in receipts):
        _put_back(name, uuid, state)  # libvirt gave up a move for which the NIC was guarded already


def _left(receipt: PortReceipt, state: State) -> bool:
    """Whether a tap moved to a network on which it is not guarded."""
    network = state.network(receipt.network)
    off = links.master_of(receipt.tap) == ""
    moved = network is not None and not off and not links.is_on(receipt.tap, network.bridge)
    expected = any((p.uuid, p.mac) == (receipt.uuid, receipt.mac) for p in state.pluggings())
    return moved and not receipt.own and not expected

"""The work behind `lifecycle.TABLE`: from stdin to the kernel and the receipts, under one deadline."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NamedTuple

from libvirt_guestnet import log
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.routing import gateway as router
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.errors import GuestnetError, NotLedError
from libvirt_guestnet.hook import networks, ports
from libvirt_guestnet.hook.admission import address_owners, guardable, mtu, taps
from libvirt_guestnet.hook.enforce import (
    bridge_guard,
    bridge_ports,
    checksum_guard,
    forwards,
    host_routes,
    port_guard,
    reachability,
    tagging,
)
from libvirt_guestnet.hook.helpers import hotplug
from libvirt_guestnet.hook.lifecycle import SECONDS
from libvirt_guestnet.hook.read import host_routed, next_hop, values, vlan_membership, wanted_forwards, xmlread
from libvirt_guestnet.hook.services import bridge_members
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import PortReceipt

DEADLINE_SECONDS = SECONDS
# `start` comes so soon after `migrate`; a note of a migration that failed before it is none for a later start.
_COMES_SECONDS = 120


class DeadlineError(GuestnetError):
    """The hook took too long."""


def call(hook: str, argv: list[str], function: str, veto: bool, data: bytes | None) -> int:
    """One hook call; `data` is None if it did not come in time. Whatever happens: one line on stderr, nothing on
    stdout, the status the table asks for."""
    name, operation = argv[1], argv[2]
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(DEADLINE_SECONDS)
    try:
        if data is None:
            expired(0, None)
        elif not data.strip():
            from libvirt_guestnet.hook import caller

            raise GuestnetError(caller.without_input(hook))
        else:
            FUNCTIONS[function](xmlread.parse(data), State())
    except GuestnetError as error:
        return _failed(f"{hook} {name} {operation}: {error}", veto)
    except Exception as error:  # closed, with one line, whatever the bug or the damage
        return _failed(f"{hook} {name} {operation}: internal error: {type(error).__name__}: {error}", veto)
    finally:
        signal.alarm(0)
    return 0


def _failed(text: str, veto: bool) -> int:
    sys.stderr.write(f"libvirt-guestnet: {log.line(text)}\n")
    return 1 if veto else 0


def expired(_signal: int, _frame: FrameType | None) -> None:
    """What SIGALRM does: raises DeadlineError."""
    raise DeadlineError(f"not done within {DEADLINE_SECONDS} s; is the host overloaded? Start again")


class Told(NamedTuple):
    """What is to be said of guests that are repaired: of NICs left out, and of guests that cannot be led to."""

    refused: list[str]
    unled: list[str]


class _Wanted(NamedTuple):
    """What a domain's ports need: guards, and the host as gateway."""

    domain: xmlread.Node
    receipts: list[PortReceipt]
    gateways: list[router.RoutedTap]


def guard(domain: xmlread.Node, state: State) -> None:
    """Puts the filter on every guarded port of a domain that starts, and takes it off those that are guarded no more.

    Raises GuestnetError, with nothing changed, when a NIC is not to be, or something that it is to have is somebody's.
    """
    guardable.check(domain, state)
    mtu.check(domain, state)
    taps.check([domain], state)
    migrates = state.incoming(domain.text_of("name"), within=_COMES_SECONDS)
    guard_all([domain], state, admitted=address_owners.admit(domain, state, ask_lans=not migrates), late=bool(migrates))


def guard_all(
    domains: list[xmlread.Node],
    state: State,
    settle: bool = True,
    anew: bool = False,
    admitted: address_owners.Admitted | None = None,
    *,
    late: bool = False,
) -> None:
    """The same for several, in one transaction.

    `settle`: finishes what a killed call left undone at the bridge guard. `anew`: what all ports share is written
    again, whatever may have become of it. `admitted` is what one that starts may have, if nobody else got it meanwhile.
    `late`: they run already. Raises GuestnetError, with nothing changed, when one of them names a tap that belongs to
    another domain.
    """
    wanted = [_wanted(domain, state) for domain in domains]
    with state.lock() as hold:
        taps.check(domains, state)
        host_routes.sweep(state, hold)
        if admitted:
            address_owners.recheck(admitted, state)
        if settle:
            bridge_guard.settle_pending(state, hold)
        if anew:
            state.put_shared("")
        _put(wanted, state, hold, late)
        if anew and settle:
            port_guard.settle_held(state, hold)
        for each in wanted:
            if anew:
                bridge_members.join(each.domain, state)
            tagging.tag(each.domain, state)
            bridge_ports.settle(each.domain.text_of("name"), each.receipts, state)
            router.prepare(each.gateways)
            forwards.claim(each.domain, state)


def _wanted(domain: xmlread.Node, state: State) -> _Wanted:
    gateways = [host_routed.gateways(port) for port in host_routed.routed_ports(domain)]
    # What cannot be read is refused before anything is changed.
    next_hop.reaches(domain)
    wanted_forwards.ways(domain, state.network)
    vlan_membership.tap_vlans(domain, state.network)
    return _Wanted(domain, port_guard.wanted(domain, state), gateways)


def _put(wanted: list[_Wanted], state: State, hold: int, late: bool) -> None:
    receipts = [receipt for each in wanted for receipt in each.receipts]
    port_guard.clear(receipts, state, hold)
    guarded = {receipt.tap for receipt in receipts}
    stale = sorted(tap for each in wanted for tap in _stale(each.domain, guarded, state))
    for each in wanted:
        host_routes.expect(each.domain.text_of("uuid"), each.domain.text_of("name"), each.gateways, state)
    # Of many ports all that was learnt is listed at once; for one, its own sets are faster than everybody's.
    numbers = nft.numbers_of_all() if len(wanted) > 1 and any(r.dhcp or r.claims for r in receipts) else nft.numbers
    batch = "".join(port_guard.record(e.domain.text_of("uuid"), e.receipts, state, numbers, late=late) for e in wanted)
    gate = router.gate([gateway for each in wanted for gateway in each.gateways])
    port_guard.put(batch + gate, receipts, stale, state, hold)


def arrive(domain: xmlread.Node, state: State) -> None:
    """Leads to a guest that is there. Ways in that cannot be opened are reported: that is no reason to kill it."""
    taps.check([domain], state)
    reachability.arrive(domain, state)
    try:
        reachability.open_ways([domain], state)
    except GuestnetError as error:
        _failed(f"domain {domain.text_of('name')}: {error}", veto=False)


def _stale(domain: xmlread.Node, guarded: set[str], state: State) -> list[str]:
    """Taps with a receipt that nobody is guarded by: this domain's others, and names whose device is another's no more
    (see `owners`)."""
    uuid = domain.text_of("uuid")
    present = values.taps(domain)
    taken_over = {tap for tap in present & state.tapnames() if (r := state.port(tap)) and r.uuid != uuid}
    mine = {tap for tap in state.taps(uuid) if not (tap in present and _network_sleeps(tap, state))}
    return sorted((mine | taken_over) - guarded)


def _network_sleeps(tap: str, state: State) -> bool:
    """Whether a port guarded by its network's defaults sits on a network that was destroyed: it keeps what it has."""
    receipt = state.port(tap)
    return receipt is not None and not receipt.own and state.network(receipt.network) is None


def repair(domain: xmlread.Node, state: State, settle: bool = True) -> None:
    """Puts everything in place for a guest that runs already. Raises GuestnetError: at the end, where a NIC had to be
    left out, and NotLedError where something on the host keeps us from leading to it."""
    try:
        told = repair_all([domain], state, settle)
    except GuestnetError:
        keep([domain.text_of("uuid")], state)
        raise
    reachability.open_ways([domain], state, force=True)
    if any(told):
        raise (GuestnetError if told.refused else NotLedError)("; ".join([*told.refused, *told.unled]))


def repair_all(domains: list[xmlread.Node], state: State, settle: bool = True) -> Told:
    """The same for several together, but for their ways in. Raises GuestnetError when it fails for one of them.

    A NIC that cannot be guarded, or whose tap belongs to another domain, is left out: its domain's others are guarded.
    What is to be said of them.
    """
    aside = [f"domain {d.text_of('name')!r}: {each}" for d in domains for each in guardable.set_aside(d, state)]
    mine, refused = taps.own(domains, state)
    address_owners.check_changes(mine, state)
    guard_all(mine, state, settle, anew=True, late=True)
    return Told([*aside, *refused], [each for domain in mine for each in reachability.arrive_anyway(domain, state)])


def keep(uuids: Iterable[str], state: State) -> None:
    """Has running domains be guarded as they were: what their XML asks for now cannot be. Raises GuestnetError."""
    with state.lock() as hold:
        state.put_shared("")
        for uuid in uuids:
            port_guard.restore(uuid, router.gate(host_routes.gateways(uuid, state)), state, hold)


def release(domain: xmlread.Node, state: State) -> None:
    """Takes the filters of a domain that is gone away again."""
    uuid = domain.text_of("uuid")
    _release(uuid, values.taps(domain) & state.tapnames(), state)
    with state.lock():
        state.drop_incoming(domain.text_of("name"))


def _release(uuid: str, named: set[str], state: State) -> None:
    with state.lock() as hold:
        bridge_guard.settle_pending(state, hold)
        mine = {tap for tap in named if (receipt := state.sound_port(tap)) and receipt.uuid == uuid}
        port_guard.release(sorted({*mine, *state.taps(uuid), *port_guard.gone(state)}), state, hold)
        state.forget_domain(uuid)
        tagging.untag(uuid, state)
        host_routes.forget(uuid, state, hold)
        host_routes.sweep(state, hold)
        forwards.sweep(uuid, state, hold)


FUNCTIONS: dict[str, Callable[[xmlread.Node, State], None]] = {
    function.__name__: function
    for function in (
        guard,
        arrive,
        repair,
        release,
        bridge_ports.expect,
        ports.create_port,
        ports.release_port,
        networks.prepare_network,
        networks.start_network,
        networks.remember_network,
        networks.forget_network,
    )
}


def guard_domain(xml: bytes, settle: bool = True) -> None:
    """Does everything for a live domain's XML that the hooks would have done by now. Raises GuestnetError."""
    repair(xmlread.parse(xml), State(), settle)


def forget_ended(uuids: Iterable[str]) -> None:
    """Takes away what is left of domains that do not run, and whose `release` was killed: a tap that somebody else made
    is still there, and would be theirs for ever. Raises GuestnetError."""
    state = State()
    names = state.owned()
    for uuid in sorted(names.keys() & set(uuids)):
        if hotplug.running(names[uuid], uuid) is None:
            _release(uuid, state.tapnames(), state)


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
    from libvirt_guestnet.datapath.netlink import kernel
    from libvirt_guestnet.hook.helpers import plug_marks

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

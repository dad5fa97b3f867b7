"""The calls for domains: guard the ports of one that starts, route to it once it runs, and take all that away again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libvirt_guestnet import log
from libvirt_guestnet.datapath.routing import gateway as router
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.errors import GuestnetError, NotAdmittedError, NotRoutedError
from libvirt_guestnet.hook.admission import address_owners, guardable, mtu, taps
from libvirt_guestnet.hook.enforce import bridge_guard, bridge_ports, port_guard
from libvirt_guestnet.hook.processes.deadline import DeadlineError
from libvirt_guestnet.hook.read import host_routed, hostwide, vlan_membership, wanted_forwards, wants
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt
from libvirt_guestnet.xmlread import Node

# `start` follows `migrate` within this time. An older note is of a migration that failed, and no longer counts.
_COMES_SECONDS = 120


class RepairResult(NamedTuple):
    """What a repair could not do: messages about NICs that were left out, about guests without all their routes, and
    about taps that do not impair what they should."""

    refused: list[str]
    unrouted: list[str]
    unimpaired: list[str]


class _Wanted(NamedTuple):
    """What a domain's ports need: guards, and the host as gateway."""

    domain: Domain
    receipts: list[PortReceipt]
    gateways: list[router.RoutedTap]


def guard(xml: Node, state: UnlockedState) -> None:
    """Puts the filter on every guarded port of a starting domain, and removes it from ports that are guarded no more.

    Raises GuestnetError, with nothing changed, if a NIC is not allowed, or something that it asks for is in use. What
    only this host's default asks for holds up nobody: if it fails, that is logged, and the rest is done.
    """
    domain = bridge_guard.joined(xml, state)
    covered = [nic for nic in domain.nics if nic.default != hostwide.DECLARED]
    if not covered:
        _guard(domain, state)
        return
    try:
        if _know({nic.network for nic in covered if nic.network and nic.receipt is None}, state):
            domain = bridge_guard.joined(xml, state)
        _guard(domain, state)
    except NotAdmittedError:
        raise
    except Exception as error:  # whatever the bug or the damage
        _go_on(xml, domain, state, error)


def _know(names: set[str], state: UnlockedState) -> bool:
    """Has the state know networks that started before this host's default came. Returns whether it does now."""
    if not names:
        return False
    from libvirt_guestnet.hook.calls import networks  # only the first guest on a network needs it

    return networks.know(names, state)


def _go_on(xml: Node, domain: Domain, state: UnlockedState, error: Exception) -> None:
    """Guards what somebody has declared of a domain, after guarding all of it has failed. Raises GuestnetError."""
    late, declared = isinstance(error, DeadlineError), any(nic.is_declared for nic in domain.nics)
    if late and declared:
        raise error
    log.report(f"domain {domain.name!r}: not guarded as this host's default says: {error}; it goes on")
    if not late:
        _guard(bridge_guard.joined(xml, state, hostwide.DECLARED), state)


def _guard(domain: Domain, state: UnlockedState) -> None:
    guardable.check(domain)
    mtu.check(domain, state)
    taps.check([domain], state)
    migrates = state.incoming(domain.name, within=_COMES_SECONDS)
    admitted = address_owners.admit(domain, state, ask_lans=not migrates)
    for message in guard_all([domain], state, admitted=admitted, late=bool(migrates)):
        log.report(message)


def guard_all(
    domains: list[Domain],
    state: UnlockedState,
    settle: bool = True,
    rewrite: bool = False,
    admitted: address_owners.Admitted | None = None,
    *,
    late: bool = False,
    open_first: bool = False,
) -> list[str]:
    """The same for several, in one transaction. Returns messages about taps that cannot be impaired: that holds nobody
    up.

    `settle`: finishes what a killed call left undone at the bridge guard. `rewrite`: what all ports share is written
    again, as somebody may have changed it. `admitted`: the addresses that a starting domain may have, unless another
    guest got them meanwhile. `late`: the domains run already; `open_first`: without a guard so far, and lose no frame
    by getting one. Raises GuestnetError, with nothing changed, if one of them names a tap that belongs to another.
    """
    wanted = [_wanted(domain, state) for domain in domains]
    with state.lock() as locked:
        taps.check(domains, locked)
        _sweep_routes(locked)
        if admitted:
            address_owners.recheck(admitted, locked)
        if settle:
            bridge_guard.settle_pending(locked)
        if rewrite:
            locked.put_shared("")
        _put(wanted, locked, late, open_first)
        if rewrite and settle:
            port_guard.settle_held(locked)
        for each in wanted:
            if rewrite:
                from libvirt_guestnet.hook.enforce import bridge_members

                bridge_members.join(each.domain, locked)
            _tag(each.domain, locked)
            bridge_ports.settle(each.domain.name, each.receipts, locked)
            router.prepare(each.gateways)
            _claim_forwards(each.domain, locked)
        return [message for each in wanted for message in impair(each.domain, locked)]


def _sweep_routes(locked: LockedState) -> None:
    """`host_routes.sweep`, where there is anything to do: a guest waits for every import."""
    if locked.host_routes():
        from libvirt_guestnet.hook.enforce import host_routes

        host_routes.sweep(locked)


def _tag(domain: Domain, locked: LockedState) -> None:
    """`tagging.tag`, where there is anything to do."""
    if vlan_membership.tap_vlans(domain) or locked.tap_vlans():
        from libvirt_guestnet.hook.enforce import tagging

        tagging.tag(domain, locked)


def _claim_forwards(domain: Domain, locked: LockedState) -> None:
    """`forwards.claim`, where there is anything to do."""
    if wanted_forwards.port_forwards(domain) or locked.forwards():
        from libvirt_guestnet.hook.enforce import forwards

        forwards.claim(domain, locked)


def impair(domain: Domain, locked: LockedState, whole: bool = True) -> list[str]:
    """`impairing.impair`, where there is anything to do: most hosts know no such thing, and hooks start often."""
    if not is_impaired(domain) and not locked.impaired_taps():
        return []
    from libvirt_guestnet.hook.enforce import impairing

    try:
        return impairing.impair(domain, locked, whole)
    except GuestnetError as error:
        return [f"domain {domain.name!r}: its taps are not impaired: {error}"]


def is_impaired(domain: Domain) -> bool:
    """Whether any of its ports is to be impaired. Raises GuestnetError."""
    return any(policy.impairment for policy, _ in domain.policies())


def sweep_impaired(locked: LockedState) -> None:
    """Forgets taps that no longer exist."""
    if locked.impaired_taps():
        from libvirt_guestnet.hook.enforce import impairing

        impairing.sweep(locked)


def _wanted(domain: Domain, state: State) -> _Wanted:
    wants.check(domain)  # first, so that XML which cannot be carried out is refused before anything is changed
    gateways = [host_routed.gateways(port) for port in host_routed.routed_ports(domain)]
    return _Wanted(domain, port_guard.wanted(domain, state), gateways)


def _put(wanted: list[_Wanted], locked: LockedState, late: bool, open_first: bool) -> None:
    receipts = [receipt for each in wanted for receipt in each.receipts]
    port_guard.clear(receipts, locked)
    guarded = {receipt.tap for receipt in receipts}
    stale = sorted(tap for each in wanted for tap in _stale(each.domain, guarded, locked))
    for each in (each for each in wanted if each.gateways):
        from libvirt_guestnet.hook.enforce import host_routes

        host_routes.expect(each.domain.uuid, each.domain.name, each.gateways, locked)
    fresh = {receipt.tap for receipt in receipts if not receipt.trusted and locked.port(receipt.tap) is None}
    # For many ports, all sets are listed at once; for a single port, listing its own sets is faster.
    numbers = nft.numbers_of_all() if len(wanted) > 1 and any(r.dhcp or r.claims for r in receipts) else nft.numbers
    batch = "".join(port_guard.record(e.domain.uuid, e.receipts, locked, numbers, late=late) for e in wanted)
    gate = router.gate([gateway for each in wanted for gateway in each.gateways])
    if open_first:
        port_guard.put_opened(batch + gate, receipts, fresh, stale, locked)
    else:
        port_guard.put(batch + gate, receipts, stale, locked)


def connect(xml: Node, state: UnlockedState) -> None:
    """Makes the routes and forwards to a running guest. A forward that cannot be opened is only reported: for an error,
    libvirt would kill the guest."""
    from libvirt_guestnet.hook.enforce import reachability

    domain = bridge_guard.joined(xml, state)
    taps.check([domain], state)
    reachability.connect(domain, state)
    try:
        reachability.open_forwards([domain], state)
    except GuestnetError as error:
        log.tell(f"domain {domain.name}: {error}")
    if is_router(xml):
        from libvirt_guestnet.hook.processes import arbiters

        arbiters.see_to(domain.name)


def _stale(domain: Domain, guarded: set[str], state: State) -> list[str]:
    """Taps whose receipt guards no port any more: other taps of this domain, and taps of another domain whose device is
    gone, while a new one has its name (see `admission.taps`)."""
    present = domain.taps
    taken_over = {tap for tap in present & state.tapnames() if (r := state.port(tap)) and r.uuid != domain.uuid}
    own = {tap for tap in state.taps(domain.uuid) if not (tap in present and _network_sleeps(tap, state))}
    return sorted((own | taken_over) - guarded)


def _network_sleeps(tap: str, state: State) -> bool:
    """Whether a port is guarded by the defaults of a network that was destroyed: then it keeps its guard."""
    receipt = state.port(tap)
    asked = receipt is not None and not (receipt.own or receipt.by_host)
    return receipt is not None and asked and state.network(receipt.network) is None


def repair(xml: Node, state: UnlockedState, settle: bool = True, *, open_first: bool = False) -> None:
    """Makes everything that a running guest must have; `open_first` as of `guard_all`. Raises GuestnetError; if a NIC
    had to be left out, at the end, and NotRoutedError if something on the host prevents a route to it."""
    from libvirt_guestnet.hook.enforce import reachability

    domain = bridge_guard.joined(xml, state)
    try:
        result = repair_all([domain], state, settle, open_first=open_first)
    except GuestnetError:
        keep([domain.uuid], state, settle)
        raise
    reachability.open_forwards([domain], state, force=True)
    if any(result):
        wrong = GuestnetError if result.refused or result.unimpaired else NotRoutedError
        raise wrong("; ".join(message for messages in result for message in messages))


def repair_all(
    domains: list[Domain], state: UnlockedState, settle: bool = True, *, open_first: bool = False
) -> RepairResult:
    """The same for several domains together, without their forwards. Raises GuestnetError when it fails for one of
    them.

    A NIC that cannot be guarded, or whose tap belongs to another domain, is left out, and its domain's others are
    guarded. Returns messages about them.
    """
    from libvirt_guestnet.hook.enforce import reachability

    found = [guardable.without_unguardable(domain) for domain in domains]
    aside = [f"domain {domain.name!r}: {each}" for domain, wrong in found for each in wrong]
    guarded, refused = taps.own([domain for domain, _ in found], state)
    address_owners.check_changes(guarded, state)
    unimpaired = guard_all(guarded, state, settle, rewrite=True, late=True, open_first=open_first)
    unrouted = [each for domain in guarded for each in reachability.try_to_connect(domain, state)]
    return RepairResult([*aside, *refused], unrouted, unimpaired)


def keep(uuids: Iterable[str], state: UnlockedState, settle: bool = False) -> None:
    """Guards running domains as before, since what their XML asks for now is not possible. With `settle` bridges are
    closed as if it were: nobody keeps one open by asking for that. Raises GuestnetError."""
    from libvirt_guestnet.hook.enforce import host_routes

    with state.lock() as locked:
        locked.put_shared("")
        for uuid in uuids:
            port_guard.restore(uuid, router.gate(host_routes.gateways(uuid, locked)), locked)
        if settle:
            bridge_guard.settle_pending(locked)


def release(xml: Node, state: UnlockedState) -> None:
    """Takes the filters of a domain that is gone away again."""
    domain = Domain(xml)
    if is_router(xml):
        from libvirt_guestnet.hook.processes import revive

        revive.see_to(xml, state)
    release_all_of(domain.uuid, domain.taps & state.tapnames(), state)
    with state.lock() as locked:
        locked.drop_incoming(domain.name)


def is_router(xml: Node) -> bool:
    """Whether a domain says that it is a virtual router."""
    return any(mark.get("image") == "router" for mark in xml.all(f"metadata|{NAMESPACE} domain", "|"))


def release_all_of(uuid: str, named: set[str], state: UnlockedState) -> None:
    """Removes everything that one domain had; `named` are taps that may be its own. Goes on after a failure, so that,
    say, routes are removed though filters cannot be. Raises GuestnetError at the end: the first failure."""
    from libvirt_guestnet.hook.enforce import forwards, host_routes, tagging

    failures: list[GuestnetError] = []
    with state.lock() as locked:
        parts: tuple[Callable[[], None], ...] = (
            lambda: _unguard(uuid, named, locked),
            lambda: tagging.untag(uuid, locked),
            lambda: host_routes.delete(uuid, locked),
            lambda: host_routes.sweep(locked),
            lambda: forwards.sweep(uuid, locked),
            lambda: _unimpair(uuid, locked),
        )
        for take_away in parts:
            try:
                take_away()
            except DeadlineError:
                raise
            except GuestnetError as error:
                failures.append(error)
    if failures:
        raise failures[0]


def _unimpair(uuid: str, locked: LockedState) -> None:
    if locked.impaired_taps():
        from libvirt_guestnet.hook.enforce import impairing

        impairing.release(uuid, locked)
        impairing.sweep(locked)


def _unguard(uuid: str, named: set[str], locked: LockedState) -> None:
    bridge_guard.settle_pending(locked)
    own = {tap for tap in named if (receipt := locked.sound_port(tap)) and receipt.uuid == uuid}
    port_guard.release(sorted({*own, *locked.taps(uuid), *port_guard.gone(locked)}), locked)
    locked.forget_domain(uuid)

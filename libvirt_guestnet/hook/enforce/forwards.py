"""Port forwards and floating addresses of guests. They are claimed at `start`, which is refused if another guest or the
host has one of them, and active once the guest runs.

Receipts change first. Then `settle` makes the kernel agree, by writing our whole table again from all receipts. If a
call is killed in between, the next call of any guest finishes its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libvirt_guestnet import log
from libvirt_guestnet.datapath.firewalls.accepts import Masqueraded, Passage, RoutedLink, Wanted
from libvirt_guestnet.datapath.forwards.table import TABLE, accepts, batch, claims, sizes
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run import culprits, grammar
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import lease_forwards
from libvirt_guestnet.hook.enforce.allow_rules import Through, passages
from libvirt_guestnet.hook.enforce.forward_targets import Targets
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.hook.read import wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.model.claims import Claim, clashes
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import ForwardsInKernel, PortForwards


def claim(domain: Domain, locked: LockedState, whole: bool = True) -> None:
    """Records the forwards that a domain asks for; if `domain` has only some of its ports, it is not the `whole` of it.
    New ones are not active yet.

    Raises GuestnetError, with nothing changed, when another guest or the host itself has one of their addresses or
    ports.
    """
    wanted = wanted_forwards.port_forwards(domain)
    receipts = locked.forwards()
    if not (wanted or receipts):
        return
    uuid = domain.uuid
    others = [each for each in receipts if each.uuid != uuid and _exists(each)]
    before = {each.tap: each for each in receipts if each.uuid == uuid}
    check(wanted, others, [each for each in before.values() if each.active])
    _check_text(wanted)
    for each in wanted:
        old = before.get(each.tap)
        index = links.index_of(each.tap)
        active = old is not None and old.active and old.ifindex == index
        locked.put_forwards(each._replace(ifindex=index, active=active))
    stale = set(before) - {each.tap for each in wanted} if whole else set()
    for tap in sorted(stale | {each.tap for each in receipts if not _exists(each)} - {each.tap for each in wanted}):
        locked.drop_forwards(tap)


def _check_text(wanted: list[PortForwards]) -> None:
    """Raises GuestnetError if nft or a firewall could not be given these, so that only this guest is refused."""
    wanted = list(map(lease_forwards.any_of, wanted))
    grammar.check_nft(batch(wanted))
    if accepted := list(accepts(wanted)):
        from libvirt_guestnet.datapath.firewalls import registry

        registry.check(accepted)


def check_plugged(domain: Domain, state: State) -> None:
    """Raises GuestnetError when what a NIC that is just being plugged in asks for is taken."""
    if wanted := wanted_forwards.port_forwards(domain):
        _check_text(wanted)
        receipts = state.forwards()
        # If the NIC only moves, what it has had so far is its own.
        own = domain.uuid, wanted[0].mac
        check(wanted, [each for each in receipts if (each.uuid, each.mac) != own and _exists(each)], [])


def check(wanted: list[PortForwards], others: list[PortForwards], active: list[PortForwards]) -> None:
    """Raises GuestnetError when another guest, or a program of the host, has one of the wanted addresses or ports. What
    a guest has already is not checked against the host again: a program that came later gives way."""
    requested = [claim for each in wanted for claim in claims(each)]
    taken = [claim for each in others for claim in claims(each)]
    for claimed, other in clashes(requested, taken, each_other=True):
        raise GuestnetError(f"{claimed.owner}: {claimed} is already forwarded to {other.owner} ({other})")
    have = {claim for each in active for claim in claims(each)}
    if new := [claim for claim in requested if claim not in have]:
        check_host(new)


def check_host(new: list[Claim]) -> None:
    """Raises GuestnetError when a program of the host listens on one of these."""
    from libvirt_guestnet.datapath.forwards import listeners

    found = listeners.taken(new)
    if found is not None:
        claimed, listener = found
        raise GuestnetError(
            f"{claimed.owner}: {claimed} cannot be forwarded: {listener.owner} on this host listens on {listener}"
        )


def activate(uuids: set[str], locked: LockedState, force: bool = False) -> None:
    """Opens what domains have claimed, now that they run. Raises GuestnetError after opening what can be opened."""
    for each in locked.forwards():
        if each.uuid in uuids and not each.active and _exists(each):
            locked.put_forwards(each._replace(active=True))
    settle(locked, force)
    _report_refused([each for each in locked.forwards() if each.uuid in uuids], locked)


def _report_refused(ports: list[PortForwards], state: State) -> None:
    allowed = Targets(state)
    for each in ports:
        for to in allowed.refused(each):
            log.report(f"guest {each.domain!r}: nothing is forwarded to {to}: that address is not its port's own")


def sweep(uuid: str, locked: LockedState) -> None:
    """Closes the forwards of a domain that is gone ("": of none), and of taps that no longer exist."""
    for each in locked.forwards():
        if each.uuid == uuid or not _exists(each):
            locked.drop_forwards(each.tap)
    settle(locked)


def delete_on_bridge(tap: str, bridge: str, locked: LockedState) -> None:
    """Deletes the forwards to a tap through a bridge in which the tap is no more; `settle` must follow."""
    if any((each.tap, each.bridge) == (tap, bridge) for each in locked.forwards()):
        locked.drop_forwards(tap)


def close_all(locked: LockedState) -> None:
    """Closes every forward, of running guests too."""
    for each in locked.forwards():
        locked.drop_forwards(each.tap)
    settle(locked)


def settle(locked: LockedState, force: bool = False) -> None:
    """Makes the kernel have exactly the active forwards, and makes other firewalls accept these and what is routed
    without translation. If the receipts say that this is done already, nothing happens, unless `force` is given.

    Raises GuestnetError, after trying everything, with what failed.
    """
    active, through = _active(locked), passages(locked)
    # The sources are not compared: they follow from the rest, and firewalls would have to be imported for them.
    hidden = _texts(each for each in through if isinstance(each, Masqueraded))
    wanted = ForwardsInKernel(tuple(active), _texts(through), masqueraded=hidden)
    before, nothing = locked.forwards_in_kernel(), not (active or through)
    is_settled = before is None if nothing else before is not None and before._replace(sources=()) == wanted
    if is_settled and (nothing or not force):
        return
    wanted = wanted._replace(sources=tuple(_sources([*accepts(active), *through])))
    with Promise(notes.path(locked, notes.CHANGING, "forwards"), locked):
        failures = _carry_out(before or ForwardsInKernel(), wanted, through, locked)
    if failures:
        raise GuestnetError(f"guests cannot be reached yet: {'; '.join(failures)}")
    if nothing:
        locked.drop_forwards_in_kernel()
    else:
        locked.put_forwards_in_kernel(wanted)


def _carry_out(
    before: ForwardsInKernel, wanted: ForwardsInKernel, through: list[Through], locked: LockedState
) -> list[str]:
    """Changes the kernel, and other firewalls, from one to the other. Returns what failed."""
    sources = tuple(sorted({*before.sources, *wanted.sources}))
    locked.put_forwards_in_kernel(before._replace(through=(), sources=sources, changing=True))
    hidden = [each for each in through if isinstance(each, Masqueraded)]
    refused = culprits.left_out(list(wanted.forwards), lambda some: nft(batch(some, hidden), locked.descriptor))
    opened = [each for each in wanted.forwards if each not in dict(refused)]
    _forget_flows(before.forwards, opened)
    failures = culprits.named(refused, lambda each: f"guest {each.domain!r}")
    return failures + _arrange(opened, through, set(before.sources) - set(wanted.sources), locked)


def _sources(wanted: list[Wanted]) -> list[str]:
    """The prefixes that some firewalls must be given. If nothing is wanted, no firewall is imported."""
    if not wanted:
        return []
    from libvirt_guestnet.datapath.firewalls import registry

    return registry.sources(wanted)


def _active(state: State) -> list[PortForwards]:
    allowed = Targets(state)
    return [lease_forwards.followed(allowed.kept(each), state) for each in state.forwards() if each.active]


def following(state: State) -> list[PortForwards]:
    """The active forwards of ports that have some to a leased address, as they should be now."""
    taps = {each.tap for each in state.forwards() if lease_forwards.follows(each)}
    return [each for each in _active(state) if each.tap in taps]


def follow(state: UnlockedState) -> None:
    """Makes the forwards of `following` what they should be. Raises GuestnetError as `settle`."""
    with state.lock() as locked:
        settle(locked)


def try_to_settle(locked: LockedState, force: bool = False) -> None:
    """Calls `settle`, but reports a failure instead of raising it: what guests ask for must not stop the caller."""
    try:
        settle(locked, force)
    except GuestnetError as error:
        log.report(str(error))


def _forget_flows(before: Iterable[PortForwards], now: Iterable[PortForwards]) -> None:
    """Ends the flows of forwards that are new or gone; those of all others go on."""
    was, is_ = ({(each.bridge, one) for each in ports for one in _one_by_one(each)} for ports in (before, now))
    changed = [claim for bridge, one in was ^ is_ for claim in claims(one)]
    if changed:
        from libvirt_guestnet.datapath.forwards import conntrack
        from libvirt_guestnet.datapath.routing import gateway

        conntrack.forget(changed, [str(host.address) for host in gateway.host_addresses()])


def _texts(through: Iterable[Through]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, each)) for each in through)


def _one_by_one(port: PortForwards) -> list[PortForwards]:
    """A port's forwards one by one."""
    bare = PortForwards("", "", "", "", "")
    one = [bare._replace(forwards=(forward,)) for forward in port.forwards]
    return [*one, *(bare._replace(floating=(floating,)) for floating in port.floating)]


def lost(state: State) -> list[str]:
    """What `settle` put into the kernel and somebody else took out of it. Raises GuestnetError."""
    from libvirt_guestnet.datapath.run.nft import sizes_of

    through = passages(state)
    wanted = any(each.active for each in state.forwards()) or any(isinstance(each, Masqueraded) for each in through)
    present, put = sizes_of(TABLE) if wanted else {}, state.forwards_in_kernel() or ForwardsInKernel()
    # Compared with what was written, not with what was asked for: what the kernel refused would be missing for ever.
    changed = not put.changing and present != sizes(put.forwards, len(put.masqueraded))
    return [*([TABLE] if wanted and (changed or not present) else []), *_not_accepting(state)]


def _not_accepting(state: State) -> list[str]:
    """Which firewalls lack accepts of ours that they had."""
    wanted = wanted_accepts(state)
    if not wanted:
        return []
    from libvirt_guestnet.datapath.firewalls import registry

    return registry.missing(wanted)


def wanted_accepts(state: State) -> list[Wanted]:
    """What the host's other firewalls must accept now."""
    return [*accepts(_active(state)), *passages(state)]


def _arrange(active: list[PortForwards], through: list[Through], gone: set[str], locked: LockedState) -> list[str]:
    """Has other firewalls accept these. Returns what failed."""
    from libvirt_guestnet.datapath.firewalls import registry
    from libvirt_guestnet.datapath.firewalls.contract import Change
    from libvirt_guestnet.datapath.routing import gateway

    # libvirt switches forwarding on for nat and route networks only.
    targets = [*(f.to for each in active for f in each.forwards), *(f.to for each in active for f in each.floating)]
    for version in sorted({6 if ":" in to else 4 for to in targets}):
        gateway.forward(version)
    wanted = [*accepts(active), *through]
    return registry.arrange(Change(wanted, sorted(gone), locked.descriptor, _names(active, locked)))


def _names(active: list[PortForwards], state: State) -> Callable[[Wanted], str]:
    """Names the guest of an accept, for messages."""
    owners = {accept: each.domain for each in active for accept in accepts([each])}

    def name(wanted: Wanted) -> str:
        routes = ((receipt.domain, route.prefix) for receipt in state.host_routes() for route in receipt.routes)
        routed = next((domain for domain, prefix in routes if prefix == str(wanted.guest)), "")
        domain = routed if isinstance(wanted, Passage | Masqueraded | RoutedLink) else owners.get(wanted)
        return f"guest {domain!r}" if domain else f"{wanted.guest} on {wanted[0]}"

    return name


def _exists(port: PortForwards) -> bool:
    return bool(port.ifindex) and links.index_of(port.tap) == port.ifindex

"""NICs whose plug helper has given up or was killed: they are guarded once libvirt's record shows them.

`hotplug` writes a mark for each NIC that is being plugged in. The helper has the mark's lock, and removes the mark when
it is done. A mark that nobody has locked is dealt with by any later hook call (`unfinished`), the service and `guestnet
hooks sync`. It is also removed with the NIC (`port-deleted`) and with its domain (`release`).
"""

from __future__ import annotations

from contextlib import suppress

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.nft import listed
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import taps
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.enforce import bridge_guard, checksum_guard, port_guard
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.read import hostwide, libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import Plugging

# libvirt records a NIC once it exists, which another hook may delay. After this time no NIC is expected any more.
_LOST_SECONDS = 600.0


def see_to(state: UnlockedState) -> None:
    """Guards the NICs that exist by now. Never fails: errors are logged, and the next call tries again."""
    with state.lock() as locked:
        marks = left(locked)
    for mark in marks:
        with suppress(GuestnetError):  # such as a record that cannot be read: a repair of that guest reports it
            _see_to(mark, state)


def forget(locked: LockedState) -> None:
    """Removes the marks of NICs that are guarded, need no guard or are gone."""
    for mark in left(locked):
        with suppress(GuestnetError):
            if _is_done(mark, locked):
                locked.drop_plugging(mark.portid)


def left(locked: LockedState) -> list[Plugging]:
    """The marks whose lock no helper has."""
    return [each for each in locked.pluggings() if notes.is_broken(locked.plugging_path(each.portid))]


def _see_to(mark: Plugging, state: UnlockedState) -> None:
    tap = _tap(mark, state)
    owner = taps.owner_but(mark.uuid, tap, state)
    if owner:  # that domain's guard stays, and its tap stays up
        log.complain(f"domain {mark.domain}: new NIC {mark.mac} is not guarded: tap {tap} belongs to domain {owner!r}")
    elif tap and not _is_done(mark, state):
        _guard(tap, mark, state)
    elif not tap and _is_guarded_early(mark, state):
        repair.repair([mark.domain], "after a move that did not come")
    with state.lock() as locked:
        forget(locked)


def _guard(tap: str, mark: Plugging, state: State) -> None:
    repair.repair([mark.domain], "after its plug helper gave up")
    done = _is_done(mark, state)
    by_host = not done and _is_by_host(mark, state)
    if not (done or by_host):
        links.set_down(tap)
    lacks = "is not guarded as this host's default says" if by_host else f"cannot be guarded, {tap} is down"
    outcome = "is under guard" if done else lacks
    log.complain(f"domain {mark.domain}: new NIC {mark.mac}, whose plug helper gave up, {outcome}")


def _is_by_host(mark: Plugging, state: State) -> bool:
    """Whether only this host's default guards the NIC."""
    domain = _domain(mark, state)
    return domain is not None and any(
        nic.default != hostwide.DECLARED for nic in domain.nics if nic.portid == mark.portid
    )


def _is_guarded_early(mark: Plugging, state: State) -> bool:
    """Whether a NIC was guarded for a move within its bridge that libvirt's record does not show."""
    domain = _domain(mark, state)
    ports = map(state.sound_port, domain.taps) if domain is not None else ()
    return any(port.portid == mark.portid and port.uuid == mark.uuid for port in ports if port)


def _is_done(mark: Plugging, state: State) -> bool:
    domain = _domain(mark, state)
    if domain is None:
        return True
    tap = _tap(mark, state)
    if not tap:
        return state.plugging_age(mark.portid) > _LOST_SECONDS
    if taps.owner_but(mark.uuid, tap, state):
        return True
    return _is_guarded(tap, mark, state) or not _is_wanted(domain, tap, state)


def _domain(mark: Plugging, state: State) -> Domain | None:
    """The mark's domain by libvirt's record, if it runs."""
    record = libvirt_records.record(mark.domain)
    domain = bridge_guard.joined(record.domain, state) if record is not None else None
    return domain if domain is not None and domain.uuid == mark.uuid else None


def _is_guarded(tap: str, mark: Plugging, state: State) -> bool:
    found = state.port(tap)
    port = (mark.uuid, mark.mac, mark.portid, links.index_of(tap))  # a NIC that moved may have its old port's receipt
    if found is None or (found.uuid, found.mac, found.portid, found.ifindex) != port:
        return False
    # A receipt alone does not prove a guard: it is written before the chains.
    return found.trusted or (
        bool(listed("chain", *TABLE.split(), f"tap-{tap}")) and tap not in checksum_guard.lost(state)
    )


def _tap(mark: Plugging, state: State) -> str:
    """The NIC's tap; "" until libvirt's record has it."""
    domain = _domain(mark, state)
    nics = domain.nics if domain is not None else ()
    return next((nic.tap for nic in nics if nic.portid == mark.portid), "")


def _is_wanted(domain: Domain, tap: str, state: State) -> bool:
    try:
        return any(receipt.tap == tap for receipt in port_guard.planned(domain, state))
    except GuestnetError:
        return True

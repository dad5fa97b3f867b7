"""Finishing the work of processes that were killed: any later call leaves a process behind that does it, and so does
the service itself.

docs/lifecycle.md lists the processes that go on after a hook call. Each has the lock of a note (`processes.notes`), or
of a receipt, until its work is done. If a repair was killed, its guests are still in its spool. A hook call that was
killed itself leaves nothing here: the next calls set it right by what they always do.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what `signal` adds takes a millisecond
import os

from libvirt_guestnet import log
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import detached, notes
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState

_SECONDS, _LONGEST_SECONDS = 5, 600
_OF_PROCESSES = (notes.CONNECTING, notes.CHANGING, notes.SETTLING, notes.SYNCING, notes.REVIVING, notes.ARBITRATING)
_SPOOLS, _REPAIR = ("reconnect", "repairing"), "reconnect.lock"
_WHEN = "after a process of ours was killed"


def see_to() -> None:
    """At the end of a call: leaves a process behind for what is unfinished. Never fails: errors are logged."""
    try:
        state = UnlockedState()
    except GuestnetError:  # the state is of another version: the call itself has reported that
        return
    if not _is_noted(state):
        return
    signal.alarm(_SECONDS)
    try:
        if is_left(state):
            detached.leave(lambda: finish(state), _LONGEST_SECONDS, "finish the work of a killed process")
    except (GuestnetError, OSError) as error:
        log.complain(f"the unfinished work of a killed process is left to the next call: {error}")
    finally:
        signal.alarm(0)


def is_left(state: UnlockedState) -> bool:
    """Whether a process that is gone may have left something unfinished. Raises GuestnetError."""
    if any(notes.broken(state, kind) for kind in _OF_PROCESSES) or _is_repair_left(state):
        return True
    plugging = (name.removesuffix(".json") for name in notes.names(state, "plugging"))
    if any(notes.is_broken(state.plugging_path(portid)) for portid in plugging):
        return True
    if not notes.names(state, "incoming"):
        return False
    with state.lock() as locked:  # as we lock marks for a moment, others would take us for a helper
        return bool(_no_longer_awaited(locked))


def _is_noted(state: State) -> bool:
    """Whether there are notes, of processes that run or were killed."""
    return any(notes.names(state, kind) for kind in (*_OF_PROCESSES, *_SPOOLS, "incoming", "plugging"))


def _is_repair_left(state: State) -> bool:
    lock = f"{state.root}/{_REPAIR}"
    spooled = any(notes.names(state, kind) for kind in _SPOOLS)
    return spooled and (notes.is_broken(lock) or not os.path.exists(lock))


def _no_longer_awaited(locked: LockedState) -> list[str]:
    """The guests that migrate to here, for which a process waited that is gone."""
    names = [name.removesuffix(".json") for name in notes.names(locked, "incoming") if name.endswith(".json")]
    return [name for name in names if notes.is_broken(locked.incoming_path(name)) and locked.awaited(name)]


def finish(state: UnlockedState) -> None:
    """Finishes everything, unless another process does already. Never fails: errors are logged."""
    from libvirt_guestnet.hook.calls import repair
    from libvirt_guestnet.hook.helpers import plug_marks

    lock = os.open(f"{state.root}/{_REPAIR}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        repair.main(lock)
        if repair.locked(lock):
            _finish_promises(state)
            plug_marks.see_to(state)
    finally:
        notes.close(lock)


def _finish_promises(state: UnlockedState) -> None:
    from libvirt_guestnet.hook.calls import repair
    from libvirt_guestnet.hook.enforce import bridge_guard, checksum_guard
    from libvirt_guestnet.hook.read import libvirt_records

    with state.lock() as locked:
        broken = {kind: notes.broken(locked, kind) for kind in _OF_PROCESSES}
        guests = {*broken[notes.CONNECTING], *_no_longer_awaited(locked)}
    if guests or broken[notes.CHANGING]:
        repair.repair(sorted(guests), _WHEN)
    if broken[notes.SETTLING]:
        checksum_guard.settle_all(state)
    for uuid in broken[notes.REVIVING]:
        from libvirt_guestnet.hook.processes import revive

        revive.revive(uuid)
    for router in broken[notes.ARBITRATING]:
        from libvirt_guestnet.hook.processes import arbiters

        arbiters.see_to(router)
    with state.lock() as locked:
        if broken[notes.SYNCING]:
            bridge_guard.settle_pending(locked)
        for kind, names in broken.items():
            for note in (notes.path(locked, kind, name) for name in names):
                if notes.is_broken(note):
                    notes.forget(note)
        for name in _no_longer_awaited(locked):
            if not libvirt_records.record_size(name):
                locked.drop_incoming(name)

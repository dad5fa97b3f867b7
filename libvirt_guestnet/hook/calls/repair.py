"""After the daemon has restarted: one process repairs all guests, and nobody waits for it (decision 26).

libvirt calls `reconnect` for every running guest at once, waits for each call, and would kill the guest if it failed.
So the hook only puts the guest's name into a spool. Unless this process runs already, the hook also starts it; a lock
that it inherits says that it runs. Guests are repaired many at a time, in one nft transaction, which writes everything
that they must have: that takes less time than finding out what is missing or was changed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from libvirt_guestnet import log
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.calls.domain import RepairResult, keep, repair_all
from libvirt_guestnet.hook.enforce import bridge_guard, reachability, zones
from libvirt_guestnet.hook.processes import deadline, notes
from libvirt_guestnet.hook.processes.deadline import Deadline
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.libvirt_records import Record
from libvirt_guestnet.state.folder import ROOT
from libvirt_guestnet.state.locked import Lock, LockedState, UnlockedState

# The folders with the names of guests to be repaired, and of those that are being repaired.
SPOOL, TAKEN = f"{ROOT}/reconnect", f"{ROOT}/repairing"
# The descriptor of the lock, as the hook file opens it.
_LOCK = 9
# How long it waits for more guests: the daemon should have the processors until it is ready again.
_QUIET_SECONDS, _MOST_SECONDS = 0.2, 1.0
# How many guests, and octets of records, are repaired together: no guest starts meanwhile; parsed, they grow 30 times.
_TOGETHER, _OCTETS_TOGETHER = 64, 2 << 20
_said: set[str] = set()
_MOST_SAID = 1000


def main(lock: int = _LOCK) -> int:
    """Repairs until the spool is empty. `lock` is the descriptor of the lock that says that a process does."""
    signal.signal(signal.SIGALRM, deadline.expired)
    notes.keep_from_forks(lock)
    os.set_inheritable(lock, False)  # so that no program that we run keeps it if we are killed
    while spooled() and locked(lock):
        _settle()
        names = _taken()
        repair(names, "after the daemon's restart")
        for name in names:
            os.unlink(f"{TAKEN}/{name}")
        flock(lock, LOCK_UN)  # hooks that came meanwhile relied on us because of the lock: look again
    return 0


def locked(lock: int) -> bool:
    """Takes the lock; False if another process repairs."""
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def spooled() -> list[str]:
    """The guests to be repaired, with those whose repair was killed."""
    return sorted({*_names(SPOOL), *_names(TAKEN)})


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _settle() -> None:
    end, before = time.monotonic() + _MOST_SECONDS, [""]
    while (now := _names(SPOOL)) != before and time.monotonic() < end:
        before = now
        time.sleep(_QUIET_SECONDS)


def _taken() -> list[str]:
    """Moves the names in the spool to where they stay until the guests are repaired, and returns all of these."""
    os.makedirs(TAKEN, 0o700, exist_ok=True)
    for name in _names(SPOOL):
        os.rename(f"{SPOOL}/{name}", f"{TAKEN}/{name}")
    return sorted(_names(TAKEN))


def repair(names: list[str], when: str) -> None:
    """Repairs those of these guests that run, as `reconnect` asks for. Never fails: errors are logged."""
    uuids = {uuid for chunk in _chunks(names) for uuid in _repaired(chunk, when)}
    try:
        with Deadline():
            reachability.open_forwards_of(uuids, UnlockedState(), force=True)
    except Exception as error:  # the guests are guarded all the same
        log.complain(f"forwards to guests are not repaired {when}: {error}")
    try:
        with Deadline(), UnlockedState().lock() as locked:
            zones.settle(locked)
    except Exception as error:
        log.complain(f"zones may not be kept apart {when}: {error}")


def _chunks(names: list[str]) -> Iterator[list[str]]:
    """The guests in groups that are repaired together; one with a long record is alone."""
    chunk: list[str] = []
    octets = 0
    for name in names:
        size = libvirt_records.record_size(name)
        if chunk and (len(chunk) == _TOGETHER or octets + size > _OCTETS_TOGETHER):
            yield chunk
            chunk, octets = [], 0
        chunk.append(name)
        octets += size
    if chunk:
        yield chunk


def _repaired(names: list[str], when: str) -> list[str]:
    """Repairs guests together or, where that fails, each half of them; a failure for a single one is logged. Returns
    the UUIDs of those that are repaired."""
    try:
        with Deadline():
            return _together(names)
    except Exception as error:  # no bug or damage that concerns one guest may keep the others unguarded
        if len(names) > 1:
            half = len(names) // 2
            return _repaired(names[:half], when) + _repaired(names[half:], when)
        if not isinstance(error, _EndedError):
            log.complain(f"guest {names[0]} is not repaired {when}: {error}")
            _keep(names[0], when)
        return []


def _keep(name: str, when: str) -> None:
    """Guards a guest as before: an error in its XML must not be a way to remove its guard."""
    try:
        with Deadline():
            state = UnlockedState()
            keep((uuid for uuid, owner in state.owned().items() if owner == name), state)
    except Exception as error:
        log.complain(f"guest {name} may be without its guard {when}: {error}")


def _together(names: list[str]) -> list[str]:
    records = {name: record for name in names if (record := libvirt_records.record(name))}
    state = _Running(records)
    domains = [bridge_guard.joined(record.domain, state) for record in records.values()]
    result = repair_all(domains, state) if domains else RepairResult([], [], [])
    for text in (*result.refused, *_news([*result.unrouted, *result.unimpaired])):
        log.complain(text)
    return [domain.uuid for domain in domains]


def _news(messages: list[str]) -> list[str]:
    """Those messages that were not logged before, as the service tries again and again to route to a guest. It runs for
    years, and guests choose their names, so it remembers a limited number and may log a message twice."""
    new = [each for each in messages if each not in _said]
    if len(_said) > _MOST_SAID:
        _said.clear()
    _said.update(new[:_MOST_SAID])
    return new


class _EndedError(GuestnetError):
    """A domain does not run any more."""


class _Running(UnlockedState):
    """The state, with a lock that is refused unless all of these domains still run with the same taps. While a hook
    runs, libvirt's lock of the domain sees to that; here nothing does."""

    def __init__(self, records: dict[str, Record]) -> None:
        super().__init__()
        self._records = records

    def lock(self) -> Lock:
        return _LockWhile(self.root, self._check)

    def _check(self) -> None:
        for name, before in self._records.items():
            now = libvirt_records.record(name, before)
            if now is None or (now is not before and _ports(now) != _ports(before)):
                raise _EndedError(f"domain {name} ended, or has other taps now")
            self._records[name] = now


class _LockWhile(Lock):
    def __init__(self, root: str, check: Callable[[], None]) -> None:
        super().__init__(root)
        self._check = check

    def __enter__(self) -> LockedState:
        locked = super().__enter__()
        try:
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return locked


def _ports(record: Record) -> list[str]:
    domain = record.domain
    return [domain.text_of("uuid"), *(target.get("dev") for target in domain.all("devices/interface/target"))]

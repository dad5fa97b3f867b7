"""After the daemon has restarted: one process repairs all guests, and nobody waits for it (decision 26).

`reconnect` comes for every running guest at once; libvirt waits for each call, and would kill the guest if it failed.
So the hook only leaves the guest's name in a spool and, unless it runs already, starts this process, which has
inherited the lock that says so. Guests are repaired many at a time, in one nft transaction: what each is to have is put
there whatever is there, which takes less than finding out what is missing, or was tampered with.
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
from libvirt_guestnet.hook.enforce import bridge_guard, reachability
from libvirt_guestnet.hook.processes import deadline, notes
from libvirt_guestnet.hook.processes.deadline import Deadline
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.libvirt_records import Record
from libvirt_guestnet.state.folder import ROOT
from libvirt_guestnet.state.locked import Lock, LockedState, UnlockedState

# Guests to be repaired, and those that it is at.
SPOOL, TAKEN = f"{ROOT}/reconnect", f"{ROOT}/repairing"
# What the hook file calls its descriptor of the lock.
_LOCK = 9
# Guests reconnect side by side: the daemon shall have the processors until it is back.
_QUIET_SECONDS, _MOST_SECONDS = 0.2, 1.0
# Nobody starts while they are repaired. A tree of libvirt's records takes up to 30 times the memory of their text.
_TOGETHER, _OCTETS_TOGETHER = 64, 2 << 20
_said: set[str] = set()
_MOST_SAID = 1000


def main(lock: int = _LOCK) -> int:
    """Repairs until the spool is empty; a descriptor of the lock says that somebody does."""
    signal.signal(signal.SIGALRM, deadline.expired)
    notes.keep_from_forks(lock)
    os.set_inheritable(lock, False)  # nor does a program of ours have it when we are killed
    while spooled() and locked(lock):
        _settle()
        names = _taken()
        repair(names, "after the daemon's restart")
        for name in names:
            os.unlink(f"{TAKEN}/{name}")
        flock(lock, LOCK_UN)  # who came meanwhile saw that we are at work, and went: look again
    return 0


def locked(lock: int) -> bool:
    """Whether nobody else repairs; from now on we do."""
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def spooled() -> list[str]:
    """The guests to be repaired, also those at which a process was killed."""
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
    """The guests that are in the spool by now, moved to where they stay until they are repaired."""
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


def _chunks(names: list[str]) -> Iterator[list[str]]:
    """Guests that are repaired together; one whose record is long, by itself."""
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
    except Exception as error:  # the other guests must not suffer, whatever the bug or the damage
        if len(names) > 1:
            half = len(names) // 2
            return _repaired(names[:half], when) + _repaired(names[half:], when)
        if not isinstance(error, _EndedError):
            log.complain(f"guest {names[0]} is not repaired {when}: {error}")
            _keep(names[0], when)
        return []


def _keep(name: str, when: str) -> None:
    """Guards a guest as it was: whoever may change its XML must not be able to take its guard off by an error in it."""
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
    result = repair_all(domains, state) if domains else RepairResult([], [])
    for text in (*result.refused, *_news(result.unrouted)):
        log.complain(text)
    return [domain.uuid for domain in domains]


def _news(messages: list[str]) -> list[str]:
    """Those messages that were not logged before: the service tries again and again to route to a guest. It runs for
    years, and guests choose their names, so it remembers a bounded number; beyond that it logs again."""
    new = [each for each in messages if each not in _said]
    if len(_said) > _MOST_SAID:
        _said.clear()
    _said.update(new[:_MOST_SAID])
    return new


class _EndedError(GuestnetError):
    """A domain does not run any more."""


class _Running(UnlockedState):
    """The state, whose lock is had only while all of some domains run, with the taps that they had: libvirt does not
    hold them still, as it does for a hook."""

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

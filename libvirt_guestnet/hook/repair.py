"""After the daemon has restarted: one process repairs all guests, and nobody waits for it.

`reconnect` comes for every running guest at once; libvirt waits for each call, and would kill the guest if it failed.
So the hook only leaves the guest's name in a spool and, unless it runs already, starts this process, which has
inherited the lock that says so. Guests are repaired many at a time, in one nft transaction: what each is to have is put
there whatever is there, which takes less than finding out what is missing, or was tampered with.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import arrival, entry, hotplug, log
from libvirt_guestnet.hook.hotplug import Record
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.state import ROOT, Lock, State

SPOOL = f"{ROOT}/reconnect"
# What the hook file calls its descriptor of the lock.
_LOCK = 9
# Guests reconnect side by side: the daemon shall have the processors until it is back.
_QUIET_SECONDS, _MOST_SECONDS = 0.2, 1.0
# Nobody starts while they are repaired.
_TOGETHER = 64


def main() -> int:
    """Repairs until the spool is empty."""
    signal.signal(signal.SIGALRM, entry.expired)
    while os.listdir(SPOOL) and _locked():
        _settle()
        repair(_taken(), "after the daemon's restart")
        flock(_LOCK, LOCK_UN)  # who came meanwhile saw that we are at work, and went: look again
    return 0


def _locked() -> bool:
    try:
        flock(_LOCK, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle() -> None:
    end, before = time.monotonic() + _MOST_SECONDS, [""]
    while (now := os.listdir(SPOOL)) != before and time.monotonic() < end:
        before = now
        time.sleep(_QUIET_SECONDS)


def _taken() -> list[str]:
    names = sorted(os.listdir(SPOOL))
    for name in names:
        os.unlink(f"{SPOOL}/{name}")
    return names


def repair(names: list[str], when: str) -> None:
    """Does for those of these guests that run what `reconnect` asks for. Never fails: the log is told."""
    chunks = (names[first : first + _TOGETHER] for first in range(0, len(names), _TOGETHER))
    domains = [domain for chunk in chunks for domain in _repaired(chunk, when)]
    try:
        with _Deadline():
            arrival.open_ways(domains, State(), force=True)
    except Exception as error:  # guarded they are
        log.complain(f"ways in to guests are not repaired {when}: {error}")


def _repaired(names: list[str], when: str) -> list[Node]:
    """Repairs guests together or, where that fails, each half of them: for one alone it is said. Those that are."""
    try:
        with _Deadline():
            return _together(names)
    except Exception as error:  # the other guests must not suffer, whatever the bug or the damage
        if len(names) > 1:
            half = len(names) // 2
            return _repaired(names[:half], when) + _repaired(names[half:], when)
        if not isinstance(error, _EndedError):
            log.complain(f"guest {names[0]} is not repaired {when}: {error}")
        return []


def _together(names: list[str]) -> list[Node]:
    records = {name: record for name in names if (record := hotplug.record(name))}
    domains = [record.domain for record in records.values()]
    if domains:
        entry.repair_all(domains, _Running(records))
    return domains


class _Deadline:
    """What is inside of a `with` is interrupted as a hook is."""

    def __enter__(self) -> None:
        signal.alarm(entry.DEADLINE_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)


class _EndedError(GuestnetError):
    """A domain does not run any more."""


class _Running(State):
    """The state, whose lock is had only while all of some domains run, with the taps that they had: libvirt does not
    hold them still, as it does for a hook."""

    def __init__(self, records: dict[str, Record]) -> None:
        super().__init__()
        self._records = records

    def lock(self) -> Lock:
        return _LockWhile(super().lock().path, self._check)

    def _check(self) -> None:
        for name, known in self._records.items():
            now = hotplug.record(name, known)
            if now is None or (now is not known and _ports(now) != _ports(known)):
                raise _EndedError(f"domain {name} ended, or has other taps now")
            self._records[name] = now


class _LockWhile(Lock):
    def __init__(self, path: str, check: Callable[[], None]) -> None:
        super().__init__(path)
        self._check = check

    def __enter__(self) -> int:
        hold = super().__enter__()
        try:
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return hold


def _ports(record: Record) -> list[str]:
    domain = record.domain
    return [domain.text_of("uuid"), *(target.get("dev") for target in domain.all("devices/interface/target"))]

"""After the daemon has restarted: one process repairs all guests, and nobody waits for it.

`reconnect` comes for every running guest at once; libvirt waits for each call, and would kill the guest if it failed.
So the hook only leaves the guest's XML in a spool and, unless it runs already, starts this process, which has inherited
the lock that says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import entry, hotplug, log, xmlread
from libvirt_guestnet.hook.lifecycle import TABLE
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.state import ROOT, Lock, State

SPOOL = f"{ROOT}/reconnect"
# What the hook file calls its descriptor of the lock.
_LOCK = 9
# Guests reconnect side by side: the daemon shall have the processors until it is back.
_QUIET_SECONDS, _MOST_SECONDS = 0.2, 1.0
# A hook that was killed while it wrote will not go on.
_WRITTEN_SECONDS = 5


def main() -> int:
    """Repairs until the spool is empty."""
    signal.signal(signal.SIGALRM, entry.expired)
    while os.listdir(SPOOL) and _locked():
        _settle()
        for name in sorted(os.listdir(SPOOL)):
            _repair(f"{SPOOL}/{name}")
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


def _repair(path: str) -> None:
    with open(path, "rb") as file:
        data = file.read(xmlread.MAX_BYTES + 1)
    if not data.rstrip().endswith(b"</domain>") and time.time() - os.stat(path).st_mtime < _WRITTEN_SECONDS:
        return
    os.unlink(path)
    repair(lambda: xmlread.parse(data), "after the daemon's restart")


def repair(read: Callable[[], Node], when: str) -> None:
    """Does for one running guest what `reconnect` asks for. Never fails: the log is told."""
    signal.alarm(entry.DEADLINE_SECONDS)
    try:
        domain = read()
        FUNCTION(domain, _Running(domain))
    except _EndedError:
        return
    except Exception as error:  # the other guests must not suffer, whatever the bug or the damage
        log.complain(f"a guest is not repaired {when}: {error}")
    finally:
        signal.alarm(0)


FUNCTION: Callable[[Node, State], None] = entry.FUNCTIONS[TABLE["qemu", "reconnect"][0] or ""]


class _EndedError(GuestnetError):
    """The domain does not run any more."""


class _Running(State):
    """The state, whose lock is had only while a domain runs: libvirt does not hold it still, as it does for a hook."""

    def __init__(self, domain: Node) -> None:
        super().__init__()
        self._domain = domain

    def lock(self) -> Lock:
        return _LockWhile(super().lock().path, self._check)

    def _check(self) -> None:
        now = hotplug.running(self._domain.text_of("name"), self._domain.text_of("uuid"))
        if now is None or _taps(now) != _taps(self._domain):
            raise _EndedError("the domain ended, or has other taps now")


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


def _taps(domain: Node) -> list[str]:
    return [target.get("dev") for target in domain.all("devices/interface/target")]

"""Work that goes on after the hook has returned, in a fork for which libvirt does not wait."""

from __future__ import annotations

import os
from collections.abc import Callable

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.processes.notes import Promise


def leave(work: Callable[[], None], seconds: int, why: str, promise: Promise | None = None) -> None:
    """Leaves a process behind that does `work`, and is interrupted after so many seconds, as a hook is. As long as it
    runs, it has the lock of its note, `promise`.

    Raises OSError or GuestnetError (its message says what for: `why`) when the process cannot be made.
    """
    middle = os.fork()
    if middle == 0:
        _detach(work, seconds, promise)
    if os.waitpid(middle, 0)[1] != 0:
        raise GuestnetError(f"the helper that would {why} could not be started: is the host out of processes?")


def _detach(work: Callable[[], None], seconds: int, promise: Promise | None) -> None:
    """Runs in the middle process: forks the helper, which becomes a child of init, and ends."""
    status = 1
    try:
        os.setsid()
        notes.let_go(promise)
        if os.fork() == 0:
            _run(work, seconds)
        status = 0
    finally:
        os._exit(status)


def _run(work: Callable[[], None], seconds: int) -> None:
    import signal

    signal.alarm(seconds)
    try:
        # libvirt waits until no process has the hook's pipes open any more.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        work()
    finally:
        os._exit(0)

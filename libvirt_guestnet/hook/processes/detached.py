"""Work that goes on after the hook has returned: a fork of it, with everything imported, and nobody's child."""

from __future__ import annotations

import os
from collections.abc import Callable

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.processes.notes import Promise


def leave(work: Callable[[], None], seconds: int, why: str, promise: Promise | None = None) -> None:
    """Leaves a process behind that does `work`, and is interrupted as a hook is after so many seconds. It has the lock
    of the note of that, `promise`, as long as it is there.

    Raises OSError or GuestnetError, which says what it was for, when it cannot be made.
    """
    middle = os.fork()
    if middle == 0:
        _detach(work, seconds, promise)
    if os.waitpid(middle, 0)[1] != 0:
        raise GuestnetError(f"the helper that would {why} could not be started: is the host out of processes?")


def _detach(work: Callable[[], None], seconds: int, promise: Promise | None) -> None:
    """In the middle process: makes the helper a child of init and ends."""
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
        # libvirt waits until nobody holds the hook's pipes any more.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        work()
    finally:
        os._exit(0)

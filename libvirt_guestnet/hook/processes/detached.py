"""Work that goes on after the hook has returned, in a fork for which libvirt does not wait."""

from __future__ import annotations

import os
from collections.abc import Callable

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.processes.notes import Promise

_left: set[int] = set()  # children that nobody has waited for: a service or a command outlives its helpers


def leave(work: Callable[[], None], seconds: int, why: str, promise: Promise | None = None) -> None:
    """Leaves a process behind that does `work`, and is interrupted after so many seconds, as a hook is. As long as it
    runs, it has the lock of its note, `promise`.

    Raises GuestnetError (its message says what for: `why`) when the process cannot be made.
    """
    _left.difference_update([child for child in _left if os.waitpid(child, os.WNOHANG)[0]])
    try:
        child = os.fork()
    except OSError as error:
        what = f"the helper that would {why} could not be started ({error.strerror})"
        raise GuestnetError(f"{what}: is the host out of processes?") from error
    if child == 0:
        _run(work, seconds, promise)
    _left.add(child)


def _run(work: Callable[[], None], seconds: int, promise: Promise | None) -> None:
    import _signal as signal  # type: ignore[import-not-found]  # what `signal` adds takes 4 ms

    _left.clear()  # its parent's, not its own
    try:
        os.setsid()
        notes.let_go(promise)
        signal.alarm(seconds)
        # libvirt waits until no process has the hook's pipes open any more.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        work()
    finally:
        os._exit(0)

"""Leaving behind the processes that decide which of a pair of routers serves, one for each pair."""

from __future__ import annotations

import os
import sys
import time
from fcntl import LOCK_EX, LOCK_NB, flock

from libvirt_guestnet import log
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import detached, notes
from libvirt_guestnet.state.locked import UnlockedState

_TRIES, _PAUSE = 20, 0.05


def see_to(router: str) -> None:
    """Leaves a process behind that looks after the pair of a router, if it is one of a pair and nobody does yet. Never
    fails: errors are logged, as the router runs in any case."""
    try:
        detached.leave(lambda: _become(router), 0, f"look after the pair of router {router}")
    except (GuestnetError, OSError) as error:
        log.complain(f"nobody decides whether router {router!r} is to serve, if it is one of a pair: {error}")


def _become(router: str) -> None:
    main = f"{__file__.rpartition('/hook/')[0]}/router/launch.py"
    os.execv(sys.executable, [sys.executable, "-IS", main, router])  # noqa: S606 (no shell is what is wanted)


def taken(state: UnlockedState, pair: str) -> str | None:
    """The note of this process's work, locked until it ends; None where another process has it, and not just to see
    whether somebody has: then it has it for a moment."""
    note = notes.path(state, notes.ARBITRATING, pair)
    os.makedirs(os.path.dirname(note), 0o700, exist_ok=True)
    for _ in range(_TRIES):
        file = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(file, LOCK_EX | LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(note)):  # else it was removed as that of a killed process
                notes.keep_from_forks(file)
                return note
        except (BlockingIOError, FileNotFoundError):
            time.sleep(_PAUSE)
        os.close(file)
    return None

"""Notes of work that a process has taken on: it has the lock of one until that is done.

A note whose lock nobody has is of a process that was killed; `helpers.unfinished` has its work finished (decision 55).
Notes are empty files under /run/libvirt-guestnet, or receipts. Who looks whether somebody has one has its lock for a
moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock

from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState

# A guest that has migrated here, until the host routes to it and has announced it twice more; forwards that are being
# changed; checksum guards that are being moved to tcx; a `guestnet hooks sync`.
CONNECTING, CHANGING, SETTLING, SYNCING = "connecting", "changing", "settling", "syncing"
_held: set[int] = set()


class Promise:
    """A note of this process's own."""

    def __init__(self, path: str, _locked: LockedState) -> None:
        """Takes on the note, which is made if it is not there; under the state's lock, so that nobody takes it for one
        whose process is gone."""
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        flock(self.file, LOCK_EX)  # who looks has it for a moment
        _held.add(self.file)

    def __enter__(self) -> Promise:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """All is done, or owed to whoever finds the note."""
        if kind is None:
            self.kept()
        else:
            self.hand_over()

    def kept(self) -> None:
        """All is done."""
        forget(self.path)
        self.hand_over()

    def hand_over(self) -> None:
        """To a fork of this process, or to whoever finds the note."""
        close(self.file)


def path(state: State, kind: str, name: str) -> str:
    """Where a note is that is no receipt."""
    return f"{state.root}/{kind}/{name}"


@contextmanager
def promised(state: UnlockedState, kind: str, name: str) -> Iterator[None]:
    """What is inside of a `with` is noted, and owed no more if it ends by itself, be it with an error."""
    with state.lock() as locked:
        promise = Promise(path(locked, kind, name), locked)
    try:
        yield
    finally:
        promise.kept()


def keep_from_forks(file: int) -> None:
    """The same of another lock of this process's."""
    _held.add(file)


def close(file: int) -> None:
    """Of what this process has the lock of."""
    _held.discard(file)
    os.close(file)


def let_go(but: Promise | None) -> None:
    """Of a fork: what its parent has promised is not this one's, but for one."""
    for file in _held - ({but.file} if but else set()):
        os.close(file)
    _held.intersection_update({but.file} if but else set())


def names(state: State, kind: str) -> list[str]:
    """Of all notes of a kind."""
    try:
        return sorted(os.listdir(f"{state.root}/{kind}"))
    except FileNotFoundError:
        return []


def is_broken(note: str) -> bool:
    """Whether there is such a note, of a process that is gone."""
    try:
        file = os.open(note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def broken(state: State, kind: str) -> list[str]:
    """The names of those notes of a kind whose process is gone."""
    return [name for name in names(state, kind) if is_broken(path(state, kind, name))]


def is_at_work(state: State, kind: str) -> bool:
    """Whether the process of a note of a kind is there."""
    return set(names(state, kind)) > set(broken(state, kind))


def forget(note: str) -> None:
    """Nothing is owed by it any more."""
    with suppress(FileNotFoundError):
        os.unlink(note)

"""Notes of work that a process has begun: it has the file lock of its note until the work is done.

So a note that nobody has locked is of a process that was killed: `helpers.unfinished` has its work finished (decision
55). Notes are empty files under /run/libvirt-guestnet, or receipts. Whoever looks whether a note is locked locks it for
a moment himself.
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
        """Makes the note, if it is not there, and locks it: under the state's lock, so that nobody takes it meanwhile
        for one whose process was killed."""
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        flock(self.file, LOCK_EX)  # who looks has it for a moment
        _held.add(self.file)

    def __enter__(self) -> Promise:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Removes the note after success; else leaves it, with the work, to whoever finds it."""
        if kind is None:
            self.kept()
        else:
            self.hand_over()

    def kept(self) -> None:
        """Removes the note: all is done."""
        forget(self.path)
        self.hand_over()

    def hand_over(self) -> None:
        """Leaves the note to a fork of this process, or to whoever finds it."""
        close(self.file)


def path(state: State, kind: str, name: str) -> str:
    """The path of a note that is no receipt."""
    return f"{state.root}/{kind}/{name}"


@contextmanager
def promised(state: UnlockedState, kind: str, name: str) -> Iterator[None]:
    """Notes the work inside of a `with`. The note goes when the work ends by itself, be it with an error."""
    with state.lock() as locked:
        promise = Promise(path(locked, kind, name), locked)
    try:
        yield
    finally:
        promise.kept()


def keep_from_forks(file: int) -> None:
    """Has `let_go` close another lock of this process, too."""
    _held.add(file)


def close(file: int) -> None:
    """Gives up a lock that this process has."""
    _held.discard(file)
    os.close(file)


def let_go(but: Promise | None) -> None:
    """To be called in a fork: closes the locks of its parent, but for one that it has taken over."""
    for file in _held - ({but.file} if but else set()):
        os.close(file)
    _held.intersection_update({but.file} if but else set())


def names(state: State, kind: str) -> list[str]:
    """The names of all notes of a kind."""
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
    """Removes a note: its work is done."""
    with suppress(FileNotFoundError):
        os.unlink(note)

"""Notes of work that a process has begun: the process has the file lock of its note until the work is done.

So a note that nobody has locked is of a process that was killed, and `helpers.unfinished` finishes its work (decision
55). Notes are empty files under /run/libvirt-guestnet, or receipts. To see whether a note is locked, a process has to
lock it for a moment itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock

from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState

# Kinds of notes: a guest that has migrated to here, until it is routed to and announced twice more; forwards that are
# being changed; checksum guards that are being moved to tcx; a `guestnet hooks sync`; a router that may have crashed; a
# pair of routers, by its first one's name.
CONNECTING, CHANGING, SETTLING, SYNCING = "connecting", "changing", "settling", "syncing"
REVIVING, ARBITRATING = "reviving", "arbitrating"
_held: set[int] = set()


class Promise:
    """A note of this process."""

    def __init__(self, path: str, _locked: LockedState) -> None:
        """Makes and locks the note. Under the state's lock, nobody takes it for one of a killed process in between."""
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        flock(self.file, LOCK_EX)  # another process that looks at the note may have the lock for a moment
        _held.add(self.file)

    def __enter__(self) -> Promise:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Removes the note after success; after an error leaves it to whichever process finds it and does the work."""
        if kind is None:
            self.kept()
        else:
            self.hand_over()

    def kept(self) -> None:
        """Removes the note, as the work is done."""
        forget(self.path)
        self.hand_over()

    def hand_over(self) -> None:
        """Leaves the note to a fork of this process or, if there is none, to whichever process finds it."""
        close(self.file)


def path(state: State, kind: str, name: str) -> str:
    """The path of a note that is no receipt."""
    return f"{state.root}/{kind}/{name}"


@contextmanager
def promised(state: UnlockedState, kind: str, name: str) -> Iterator[None]:
    """Notes the work inside of a `with`. The note is removed when the work ends by itself, even with an error."""
    with state.lock() as locked:
        promise = Promise(path(locked, kind, name), locked)
    try:
        yield
    finally:
        promise.kept()


def keep_from_forks(file: int) -> None:
    """Makes `let_go` close another lock of this process, too."""
    _held.add(file)


def close(file: int) -> None:
    """Gives up a lock that this process has."""
    _held.discard(file)
    os.close(file)


def let_go(but: Promise | None) -> None:
    """To be called in a fork: closes the locks of its parent, except the one that it takes over."""
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
    """Whether the note exists and its process is gone."""
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
    """Whether the process of any note of a kind still runs."""
    return set(names(state, kind)) > set(broken(state, kind))


def forget(note: str) -> None:
    """Removes a note, as its work is done."""
    with suppress(FileNotFoundError):
        os.unlink(note)

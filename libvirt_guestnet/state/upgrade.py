"""Converts the first form of the folder, which had no number (0.2.0), to the second.

Receipts are the same in both. `reach/` became `host-routes/`, `ways/` became `forwards/`, and `arriving/`, where notes
are, `connecting/`. What `settled/ways.json` said is in a file of another form. `shared`, which was no JSON, is removed:
that part of the nft table is written again with the next port.

Each step leaves either the old name or the new one, so that another process can go on if this one is killed. A process
of the version before may still run, such as a helper that waits for a migration: what it writes later has an old name
again, and replaces what has the new one.

What cannot be converted, such as a file in the place of a folder, is reported and stays where it is: every call comes
by here, and no guest's start may fail because of that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from libvirt_guestnet.light_typing import Any
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.receipts import ForwardsInKernel, PortForwards
from libvirt_guestnet.state.serialiser import DamagedError, report

_FOLDERS = {"reach": "host-routes", "ways": "forwards", "arriving": "connecting"}


Put = Callable[[ForwardsInKernel], None]
"""`LockedState.put_forwards_in_kernel`, which only the lock's holder has."""


def take_over(root: str, put: Put) -> None:
    """Renames what has an old name."""
    for old, new in _FOLDERS.items():
        with _past_failure():
            _move_all(f"{root}/{old}", f"{root}/{new}")
    with _past_failure():
        _take_over_settled(f"{root}/settled", put)
    with _past_failure(), suppress(FileNotFoundError):
        os.unlink(f"{root}/shared")


@contextmanager
def _past_failure() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        report(DamagedError(str(error.filename), error.strerror))


def _move_all(old: str, new: str) -> None:
    if not os.path.lexists(old):
        return
    names = os.listdir(old)
    os.makedirs(new, 0o700, exist_ok=True)
    for name in names:
        with _past_failure(), suppress(FileNotFoundError):  # a note, whose process has just ended
            os.replace(f"{old}/{name}", f"{new}/{name}")
    os.rmdir(old)


def _take_over_settled(folder: str, put: Put) -> None:
    path = f"{folder}/ways.json"
    if os.path.lexists(path):
        put(_settled(path))
        os.unlink(path)
    if os.path.lexists(folder):
        os.rmdir(folder)


def _settled(path: str) -> ForwardsInKernel:
    """The forwards that the kernel had; none if the file is damaged, even if some are wanted."""
    try:
        said = (serialiser.load(path) or {}).get("is")
        return _read(said if isinstance(said, dict) else {}, path)
    except (DamagedError, TypeError, ValueError):
        return ForwardsInKernel()


def _read(said: dict[str, Any], path: str) -> ForwardsInKernel:
    """In the old form, each forward of a port was an object; now it is a list."""
    forwards = [serialiser.read(PortForwards, dict(each), path) for each in said.get("ways", ())]
    rest = {name: value for name, value in said.items() if name != "forwards"}
    return serialiser.read(ForwardsInKernel, rest, path)._replace(forwards=tuple(forwards))

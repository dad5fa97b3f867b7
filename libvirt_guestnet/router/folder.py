"""Where a router's two disks are on its host. They outlive its domain's runs, and go with its definition.

    /var/lib/libvirt-guestnet/routers/
        edge/                   0710 root, QEMU's group: QEMU may enter, and nobody but root may change what is there
            config              0640 root, QEMU's group: QEMU reads it, whatever its own confinement says
            leases              0600 QEMU's user: it writes what the router does
            topology            0600 root: the name of the topology that made it

libvirt leaves their owners alone, as the domain asks it to (decision 87). A router that somebody undefines by hand
leaves its folder behind: the note in it says whose it is (decision 117).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from libvirt_guestnet import parse, slots
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.ownfolder import ensure_own_folder
from libvirt_guestnet.router import disks

ROUTERS = Path(slots.FOLDER)
NOTE = "topology"
_LONGEST_NOTE = 300


class Owner(NamedTuple):
    """The numbers of the user and the group that QEMU runs as."""

    user: int
    group: int


def disk(name: str, which: str) -> Path:
    """The path of a router's disk, `disks.CONFIG` or `disks.LEASES`. Raises TextError for a name that no folder has."""
    return ROUTERS / parse.file_name(name) / which


def is_name(name: str) -> bool:
    """Whether a router can have that name: libvirt lets domains have others."""
    with suppress(parse.TextError):
        return bool(parse.file_name(name))
    return False


def exists(name: str) -> bool:
    """Whether there is anything in the place of a router's folder."""
    return os.path.lexists(disk(name, disks.CONFIG).parent)


def ensure(name: str, owner: Owner, topology: str = "") -> None:
    """A router's folder with its two disks, empty where there were none, and with its `topology` where that is known.
    Raises GuestnetError, also where a link or somebody else's folder is in their place."""
    config, leases = disk(name, disks.CONFIG), disk(name, disks.LEASES)
    try:
        for folder in (ROUTERS.parent, ROUTERS, config.parent):
            ensure_own_folder(folder)
        _give(config.parent, Owner(0, owner.group), 0o710)
        for path, size in ((config, disks.CONFIG_BYTES), (leases, disks.LEASES_BYTES)):
            disks.ensure_disk(path, size)
        _give(config, Owner(0, owner.group), 0o640)
        _give(leases, owner, 0o600)
        if topology:
            _note(config.parent / NOTE, topology)
    except OSError as error:
        raise GuestnetError(f"{error.filename or config.parent}: {error.strerror}") from error


def _give(path: Path, owner: Owner, mode: int) -> None:
    """Nobody but root, who may give files away, can put a link in its place meanwhile."""
    if os.geteuid() == 0:
        os.chown(path, *owner, follow_symlinks=False)
    path.chmod(mode)


def _note(path: Path, topology: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{topology}\n")


def found() -> dict[str, str]:
    """The routers that have a folder, each with its topology, "" where nothing says which. Raises GuestnetError."""
    try:
        names = sorted(each.name for each in ROUTERS.iterdir() if is_name(each.name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GuestnetError(f"{ROUTERS}: {error.strerror}") from error
    return {name: _topology(disk(name, NOTE)) for name in names}


def _topology(note: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        descriptor = os.open(note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_LONGEST_NOTE).decode("ascii").strip()
    return ""


def contents(name: str) -> dict[str, bytes]:
    """What a router's disks have, by their names, and its note; {} where there are none. Raises GuestnetError."""
    kept = {}
    for which in (disks.CONFIG, disks.LEASES, NOTE):
        with suppress(FileNotFoundError):
            kept[which] = _read(disk(name, which))
    return kept


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        return file.read(disks.CONFIG_BYTES)


def restore(name: str, owner: Owner, kept: dict[str, bytes]) -> None:
    """Makes the disks again with what `contents` found. Raises GuestnetError."""
    ensure(name, owner, kept.get(NOTE, b"").decode("ascii", "ignore").strip())
    for which, data in ((each, kept[each]) for each in (disks.CONFIG, disks.LEASES) if each in kept):
        try:
            with disk(name, which).open("r+b") as file:
                file.write(data)
        except OSError as error:
            raise GuestnetError(f"{disk(name, which)}: {error.strerror}") from error


def remove(name: str) -> None:
    """Removes a router's disks and its folder; what is gone already is success. Raises GuestnetError, also where
    somebody has put something else there."""
    folder = disk(name, disks.CONFIG).parent
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise GuestnetError(f"{folder}: {error.strerror}") from error
    try:
        for which in (disks.CONFIG, disks.LEASES, NOTE):
            with suppress(FileNotFoundError):
                os.unlink(which, dir_fd=inside)
        folder.rmdir()
    except OSError as error:
        raise GuestnetError(f"{folder}: {error.strerror}") from error
    finally:
        os.close(inside)
    for empty in (ROUTERS, ROUTERS.parent):
        with suppress(OSError):  # others are there, or it is not ours to remove
            empty.rmdir()


def document(name: str) -> bytes | None:
    """The encoded document on a router's disk, None where there is none. Raises GuestnetError."""
    path = disk(name, disks.CONFIG)
    if not os.path.lexists(path):
        return None
    return disks.read(path)

"""The files of guests with an image file: each guest has a folder, which only root writes to.

    /var/lib/libvirt-guestnet/guests/NAME/
        disk.qcow2      its disk, which stands on the image: what the guest wrote, and so its owner's
        seed.img        what it is told (NoCloud); made again from the topology

The image itself is only ever read. What it says of itself is checked here, and QEMU is told what it is: QEMU never
looks for itself, nor follows what an image names (decision 92).
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import qcow2
from libvirt_guestnet.model.disk_image import ImageFormat
from libvirt_guestnet.ownfolder import ensure_own_folder

FOLDER = Path("/var/lib/libvirt-guestnet/guests")
DISK_FILE, SEED_FILE = "disk.qcow2", "seed.img"
_SEED_BYTES = 1 << 20
_READABLE_BY_ALL = 0o004
_ENTERED_BY_ALL = 0o001


class Place(NamedTuple):
    """Where a guest's files are."""

    disk: Path
    seed: Path


def place(guest: str) -> Place:
    """Raises GuestnetError for a name that is none of a folder."""
    if "/" in guest or guest in ("", ".", ".."):
        raise GuestnetError(f"guest {guest!r} cannot have a folder of its name")
    return Place(FOLDER / guest / DISK_FILE, FOLDER / guest / SEED_FILE)


@dataclass(frozen=True)
class GuestFiles:
    """What is there of a guest: its disk's head, and its seed; None where there is none. `image_size` is that of the
    image that it is to begin with, in bytes."""

    disk: qcow2.Head | None = None
    seed: bytes | None = None
    image_size: int = 0


def look(guest: str) -> GuestFiles:
    """The files of a guest. Raises GuestnetError for a disk that is none."""
    at = place(guest)
    head, seed = _read(at.disk, qcow2.HEAD_BYTES), _read(at.seed, _SEED_BYTES)
    try:
        return GuestFiles(qcow2.read_head(head) if head is not None else None, seed)
    except GuestnetError as error:
        raise GuestnetError(f"{at.disk}: {error}") from error


def image_size(file: str, kind: ImageFormat) -> int:
    """The size in bytes of the disk in an image. Raises GuestnetError for a file that is not what its name says, that
    names other files, or that QEMU's user cannot read."""
    try:
        with _opened(Path(file)) as descriptor:
            if not os.fstat(descriptor).st_mode & _READABLE_BY_ALL:
                raise GuestnetError(f"QEMU's user cannot read it: chmod o+r {file}")
            check_folders(Path(file).resolve())
            head, size = os.pread(descriptor, qcow2.HEAD_BYTES, 0), os.fstat(descriptor).st_size
        return _qcow2_size(head) if kind is ImageFormat.QCOW2 else _raw_size(head, size)
    except GuestnetError as error:
        raise GuestnetError(f"image {file}: {error}") from error


def check_folders(path: Path) -> None:
    """Raises GuestnetError where not everybody can come to a file: libvirt does not give an image to QEMU's user, since
    it is not one guest's alone."""
    for folder in path.parents:
        if not folder.stat().st_mode & _ENTERED_BY_ALL:
            raise GuestnetError(f"QEMU's user cannot enter {folder}: put it elsewhere, such as into /srv")


def _qcow2_size(head: bytes) -> int:
    found = qcow2.read_head(head)
    if found.backing:
        raise GuestnetError(
            f"it stands on another file, {found.backing!r}, which is not read: make it whole (qemu-img convert)"
        )
    return found.size


def _raw_size(head: bytes, size: int) -> int:
    if head.startswith(qcow2.MAGIC):
        raise GuestnetError("it is a qcow2 file: give it a name that ends in .qcow2")
    if head[510:512] != b"\x55\xaa":
        raise GuestnetError("it is no disk: no boot sector is there")
    if size % 512:
        raise GuestnetError("it is no disk: its size is no multiple of 512 bytes")
    return size


def make_disk(guest: str, image: str, kind: ImageFormat, size: int) -> None:
    """Makes a guest's disk. Raises GuestnetError, also where it has one already."""
    path = place(guest).disk
    data = qcow2.overlay(image, kind, size)
    _ensure_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error


def write_seed(guest: str, data: bytes) -> None:
    """Replaces a guest's seed, whole; one that runs keeps the old one. It may have passwords: only root reads it, and
    QEMU, which libvirt gives it to. Raises GuestnetError."""
    path = place(guest).seed
    _ensure_folder(path.parent)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error


def remove_seed(guest: str) -> None:
    """Removes a guest's seed, if there is one, and its folder, if nothing is left there. Raises GuestnetError."""
    _remove(place(guest).seed)


def remove_disk(guest: str) -> None:
    """The same of its disk, with all that the guest wrote."""
    _remove(place(guest).disk)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error


def _ensure_folder(path: Path) -> None:
    try:
        for each in (FOLDER.parent, FOLDER, path):
            ensure_own_folder(each)
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error


def _read(path: Path, most: int) -> bytes | None:
    """The beginning of a file; None where there is none."""
    if not os.path.lexists(path):
        return None
    with _opened(path, os.O_NOFOLLOW) as descriptor:
        return os.pread(descriptor, most, 0)


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """A regular file to be read: a pipe or a device could have a reader wait, or be anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags)
    except OSError as error:
        raise GuestnetError(error.strerror or "it cannot be read") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise GuestnetError("it is no regular file")
        yield descriptor
    except OSError as error:
        raise GuestnetError(error.strerror or "it cannot be read") from error
    finally:
        os.close(descriptor)

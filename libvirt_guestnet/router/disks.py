"""A router's two disks, which outlive it: small raw files on the host.

`config` has the document. The host writes it, also under a running router, which only reads it, when it starts: so a
router that libvirt or QEMU alone restarts comes back with what it did last, and with nothing that it wrote itself.
`leases` has what dnsmasq promised to whom. The router writes it at each change; to the host it is what a guest wrote.

Each has two slots, written in turn. A slot is a head of 512 bytes, "guestnet-slot SERIAL LENGTH SHA256", and the data;
it counts when its data is whole, and of two the one with the higher serial number (decision 82).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libvirt_guestnet import slots
from libvirt_guestnet.errors import GuestnetError

CONFIG, LEASES = "config", slots.LEASES
"""The serial numbers of the two virtio disks, by which the appliance knows them."""

CONFIG_BYTES = LEASES_BYTES = slots.DISK_BYTES
HEAD_BYTES = slots.HEAD_BYTES


def ensure_disk(path: Path, size: int) -> None:
    """A file of that size, empty where there was none. Only its owner reads it: leases are about guests. Raises
    GuestnetError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error


def read(path: Path) -> bytes | None:
    """The data of the slot that counts, None where none does. Reads no more than the file of that size has. Raises
    GuestnetError."""
    with _opened(path, os.O_RDONLY) as descriptor:
        slot = slots.newest(descriptor)
    return slot.data if slot else None


def write(path: Path, data: bytes) -> None:
    """Writes the slot that does not count, to which then the other one gives way. A reader at any moment finds the old
    data or the new. Raises GuestnetError, also for data that is longer than a slot."""
    with _opened(path, os.O_RDWR) as descriptor:
        room = slots.room(descriptor)
        if len(data) > room - HEAD_BYTES:
            raise GuestnetError(f"{path}: {len(data)} bytes are more than a slot has, {room - HEAD_BYTES}")
        newest = slots.newest(descriptor)
        serial = newest.serial + 1 if newest else 1
        start = serial % 2 * room
        head = b"guestnet-slot %d %d %s\n" % (serial, len(data), hashlib.sha256(data).hexdigest().encode())
        for place, part in ((start + HEAD_BYTES, data), (start, head.ljust(HEAD_BYTES, b"\0"))):
            if os.pwrite(descriptor, part, place) != len(part):
                raise GuestnetError(f"{path}: not all was written; is the file system full?")
            os.fsync(descriptor)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise GuestnetError(f"{path}: {error.strerror}") from error

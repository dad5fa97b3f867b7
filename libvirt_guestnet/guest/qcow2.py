"""The head of a qcow2 file: what an image says of itself, and a new disk that begins as another file is. Pure.

QEMU's docs/interop/qcow2.txt draws it. Nothing of a file is believed but what is checked here: an image that others
made may name any file of the host as its backing file or as the file of its data, and QEMU would read that.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError

MAGIC = b"QFI\xfb"
HEAD_BYTES = 1 << 16
"""As much of a file as `read_head` looks at."""

MOST_BYTES = 16 << 40
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_PER_L1 = _CLUSTER // 8 * _CLUSTER  # bytes of the disk that an entry of the first table stands for
_V3_BYTES = 104
_BACKING_FORMAT, _END = 0xE2792ACA, 0
# Incompatible features that change nothing about which files are read: dirty, corrupt, compression type, extended L2.
_KNOWN_FEATURES = 1 | 2 | 8 | 16


class Head(NamedTuple):
    """`size` is the disk's in bytes, `backing` the file that it stands on ("": none)."""

    size: int
    backing: str


def read_head(data: bytes) -> Head:
    """What a file says that begins with these bytes. Raises GuestnetError where it is no qcow2 file, or has its data in
    another one or under a key."""
    if len(data) < 72 or not data.startswith(MAGIC):
        raise GuestnetError("it is no qcow2 file")
    version, backing_at, backing_bytes, bits, size, encrypted = struct.unpack_from(">IQIIQI", data, 4)
    if version not in (2, 3) or not 9 <= bits <= 21 or not 0 < size <= MOST_BYTES:
        raise GuestnetError("its qcow2 header is broken")
    features = struct.unpack_from(">Q", data, 72)[0] if version == 3 and len(data) >= _V3_BYTES else 0
    if features & ~_KNOWN_FEATURES:
        raise GuestnetError("its data is in another file, or it has features that are not known: convert it")
    if encrypted:
        raise GuestnetError("it is encrypted")
    return Head(size, _backing(data, backing_at, backing_bytes) if backing_at else "")


def _backing(data: bytes, at: int, size: int) -> str:
    name = data[at : at + size]
    if not 0 < size <= 1023 or len(name) != size:
        raise GuestnetError("its qcow2 header is broken")
    return name.decode("utf-8", "backslashreplace")


def overlay(backing: str, backing_format: str, size: int) -> bytes:
    """A disk that begins as the file `backing` is, and has room for `size` bytes; zeros, with which it ends, may be
    left out. Raises GuestnetError for a size or name that has no room."""
    name, kind = backing.encode(), backing_format.encode()
    if not 0 < size <= MOST_BYTES or size % 512 or len(name) > 1023:
        raise GuestnetError(f"no disk can stand on {backing} with {size} bytes")
    entries = -(-size // _PER_L1)
    table_clusters = -(-entries * 8 // _CLUSTER)
    extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(8, b"\0") + struct.pack(">II", _END, 0)
    at = _V3_BYTES + len(extensions)
    # The clusters: this head, the refcount table, its one block, the first table.
    head = MAGIC + struct.pack(">IQIIQI", 3, at, len(name), _CLUSTER_BITS, size, 0)
    head += struct.pack(">IQQIIQ", entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0)
    head += struct.pack(">QQQII", 0, 0, 0, 4, _V3_BYTES)
    counts = struct.pack(">H", 1) * (3 + table_clusters)
    clusters = (head + extensions + name, struct.pack(">Q", 2 * _CLUSTER), counts)
    return b"".join(cluster.ljust(_CLUSTER, b"\0") for cluster in clusters) + bytes(table_clusters * _CLUSTER)

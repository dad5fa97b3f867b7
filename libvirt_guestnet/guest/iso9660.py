"""A small ISO 9660 image with Joliet's long names, of a few files: what a NoCloud seed is. Pure.

It is written here as its bytes follow from the files alone, so that a plan sees a seed that was changed, and as no
program has to be installed. ECMA-119 says where which byte is; the same files are listed twice, as each of the two
forms of names has a directory of its own::

    sector 16   volume descriptor, 17 that of Joliet, 18 the end of them
           19   path tables, of each form in both byte orders
           23   root directory, 24 that of Joliet
           25   the files, one after the other
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

SECTOR = 2048
_DESCRIPTORS, _PATH_TABLES, _ROOTS, _FILES = 16, 19, 23, 25
_DATE = bytes((100, 1, 1, 0, 0, 0, 0))  # 2000-01-01, in a directory
_NO_DATE = b"0" * 16 + b"\0"  # in a volume descriptor
_JOLIET = b"%/E"
_DIRECTORY = 2


class _Place(NamedTuple):
    name: str
    sector: int
    size: int


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image. Raises ValueError for more files than a directory of one sector has, or a label that is too long."""
    places, sector = [], _FILES
    for name, data in sorted(files.items()):
        places.append(_Place(name, sector, len(data)))
        sector += _sectors(len(data))
    parts = [bytes(_DESCRIPTORS * SECTOR)]
    parts += [_descriptor(label, sector, joliet) for joliet in (False, True)]
    parts.append(_padded(b"\xffCD001\x01"))
    parts += [_padded(_path_table(root, order)) for root in (_ROOTS, _ROOTS + 1) for order in "<>"]
    parts += [_directory(places, joliet) for joliet in (False, True)]
    parts += [_padded(data) for _, data in sorted(files.items())]
    return b"".join(parts)


def _sectors(size: int) -> int:
    return -(-size // SECTOR)


def _padded(data: bytes) -> bytes:
    return data + bytes(_sectors(len(data)) * SECTOR - len(data))


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _descriptor(label: str, sectors: int, joliet: bool) -> bytes:
    """A volume descriptor, ECMA-119 8.4 and 8.5."""
    text = _wide if joliet else _narrow
    tables = _PATH_TABLES + 2 * joliet
    table_size = len(_path_table(_ROOTS, "<"))
    data = bytes((2 if joliet else 1,)) + b"CD001\x01\0" + text("", 32) + text(label, 32) + bytes(8)
    data += _both32(sectors) + (_JOLIET if joliet else b"").ljust(32, b"\0")
    data += _both16(1) + _both16(1) + _both16(SECTOR) + _both32(table_size)
    data += struct.pack("<II", tables, 0) + struct.pack(">II", tables + 1, 0)
    data += _record(b"\0", _ROOTS + joliet, SECTOR, _DIRECTORY)
    data += text("", 128) * 4 + text("", 37) * 3 + _NO_DATE * 4 + b"\x01"
    return _padded(data)


def _narrow(text: str, size: int) -> bytes:
    return _fits(text.encode("ascii"), size).ljust(size)


def _wide(text: str, size: int) -> bytes:
    data = _fits(text.encode("utf-16-be"), size)
    return data + b"\0 " * ((size - len(data)) // 2) + bytes(size % 2)


def _fits(data: bytes, size: int) -> bytes:
    if len(data) > size:
        raise ValueError(f"{data!r} is longer than {size} bytes")
    return data


def _path_table(root: int, order: str) -> bytes:
    return struct.pack(f"{order}BBIHBB", 1, 0, root, 1, 0, 0)


def _directory(places: list[_Place], joliet: bool) -> bytes:
    name: Callable[[str], bytes] = (lambda text: text.encode("utf-16-be")) if joliet else _short
    root = _ROOTS + joliet
    records = [_record(dots, root, SECTOR, _DIRECTORY) for dots in (b"\0", b"\x01")]
    records += [_record(found, at, size, 0) for found, at, size in sorted((name(p.name), *p[1:]) for p in places)]
    return _padded(_fits(b"".join(records), SECTOR))


def _short(name: str) -> bytes:
    """A name as ISO 9660 without Joliet has it, for who knows no better."""
    return re.sub("[^A-Z0-9]", "_", name.upper())[:8].encode("ascii") + b".;1"


def _record(name: bytes, sector: int, size: int, flags: int) -> bytes:
    """A directory record, ECMA-119 9.1."""
    length = 33 + len(name) + (len(name) + 1) % 2
    data = bytes((length, 0)) + _both32(sector) + _both32(size) + _DATE + bytes((flags, 0, 0)) + _both16(1)
    return (data + bytes((len(name),)) + name).ljust(length, b"\0")

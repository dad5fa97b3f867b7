"""Netlink messages and their attributes, as octets: written and read here alone. Pure, and on the hook path.

Reading stops at the first malformed message or attribute: nothing is guessed from half of one. The kernel writes none,
but a datagram that is longer than its receiver's buffer is cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from libvirt_guestnet.light_typing import NamedTuple

ERROR, DONE = 2, 3
REQUEST, ACK, REPLACE, EXCL, CREATE, DUMP = 0x001, 0x004, 0x100, 0x200, 0x400, 0x300
NESTED = 0x8000
"""The flag of an attribute that contains others."""
_KIND = 0x3FFF  # without the two flags of a kind
_HEADER, _ATTRIBUTE, _U32, _ERRNO = (struct.Struct(text) for text in ("=IHHII", "=HH", "=I", "=i"))


class Message(NamedTuple):
    """A message of the kernel's; `number` is that of the request which it answers."""

    kind: int
    number: int
    body: bytes


def request(kind: int, flags: int, body: bytes, number: int = 1) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """Every whole message of a datagram."""
    while len(data) >= _HEADER.size:
        length, kind, _, number, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield Message(kind, number, data[_HEADER.size : length])
        data = data[length + 3 & ~3 :]


def refusal(body: bytes) -> int:
    """The errno in the body of an ERROR message; 0 for an acknowledgement."""
    return -int(_ERRNO.unpack_from(body)[0])


def encode(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes by kind and value, each padded."""
    padded = ((kind, data, -len(data) % 4) for kind, data in attributes)
    return b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(pad) for kind, data, pad in padded
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """Every whole attribute, by its kind."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & _KIND] = data[_ATTRIBUTE.size : length]
        data = data[length + 3 & ~3 :]
    return found


def u32(number: int) -> bytes:
    """A number as most attributes have it: in the machine's order."""
    return _U32.pack(number)


def number(data: bytes) -> int:
    """The opposite."""
    return int(_U32.unpack(data)[0])

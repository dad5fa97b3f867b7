"""What a virtual router's disks have, read: the newest whole slot (decision 82), and dnsmasq's leases in it. On the
hook path. A guest may have written it all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.parse import Address

FOLDER = "/var/lib/libvirt-guestnet/routers"
LEASES = "leases"
DISK_BYTES = 2 << 20
HEAD_BYTES = 512
_HEAD = re.compile(rb"guestnet-slot ([0-9]{1,15}) ([0-9]{1,8}) ([0-9a-f]{64})\n\0*")
_MOST_LINES = 20_000
_MOST_SECONDS = (1 << 62) - 1
_DUID = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){0,129}")


class Slot(NamedTuple):
    """What one slot has."""

    serial: int
    data: bytes


class LeaseLine(NamedTuple):
    """A line of dnsmasq's: `client` is a MAC address, or of DHCPv6 a DUID; `expires` is in seconds since 1970, 0 for
    never; the `name` may be anything."""

    expires: int
    client: str
    address: Address
    name: str


def leases_of(router: str) -> list[LeaseLine]:
    """What a router's disk says; none where there is none. Raises TextError for a name that no folder has."""
    path = f"{FOLDER}/{parse.file_name(router)}/{LEASES}"
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            slot = newest(descriptor)
        finally:
            os.close(descriptor)
        return list(lease_lines(slot.data.decode("ascii", "replace"))) if slot else []
    return []


def room(descriptor: int) -> int:
    """The bytes of a slot of that disk."""
    return min(os.fstat(descriptor).st_size, DISK_BYTES) // 2


def newest(descriptor: int) -> Slot | None:
    """The slot that counts, None where none does. Reads no more than the file of that size has."""
    each = room(descriptor)
    slots = [slot for start in (0, each) if (slot := _slot(descriptor, start, each))]
    return max(slots, default=None)


def _slot(descriptor: int, start: int, room: int) -> Slot | None:
    head = _HEAD.fullmatch(os.pread(descriptor, HEAD_BYTES, start))
    if head is None or int(head[2]) > room - HEAD_BYTES:
        return None
    data = os.pread(descriptor, int(head[2]), start + HEAD_BYTES)
    whole = hashlib.sha256(data).hexdigest().encode() == head[3]
    return Slot(int(head[1]), data) if whole else None


def lease_lines(text: str) -> Iterator[LeaseLine]:
    """The leases in a lease file of dnsmasq's. What is no lease is left out."""
    for line in text.splitlines()[:_MOST_LINES]:
        words = line.split(" ")
        with suppress(GuestnetError):
            if len(words) == 5:
                yield _lease(*words)


def _lease(expires: str, client: str, address: str, name: str, duid: str) -> LeaseLine:
    """Of DHCPv6 the second word is the IAID, and the last one the DUID."""
    ip = parse.address(address)
    who = parse.mac(client) if ip.version == 4 else duid
    if ip.version == 6 and not _DUID.fullmatch(who):
        raise parse.TextError(f"{parse.shown(who)} is no DUID")
    return LeaseLine(parse.number(expires, 0, _MOST_SECONDS), who, ip, name)

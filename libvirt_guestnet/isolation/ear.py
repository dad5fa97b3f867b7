"""A listener at every device of this host at once, which sees each frame with its tags, also those that a NIC's driver
keeps beside the frame (packet(7), PACKET_AUXDATA)."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from libvirt_guestnet.isolation import frames
from libvirt_guestnet.isolation.frames import Frame
from libvirt_guestnet.isolation.link import DOT1Q, Sighting, Tag, Tags

_ETH_P_ALL, _SOL_PACKET, _AUXDATA, _STATISTICS = 3, 263, 8, 6
_SO_RCVBUFFORCE, _BUFFER, _LARGEST = 33, 32 << 20, 65536
_AUX = struct.Struct("=IIIHHHH")
_HAS_TAG, _HAS_PROTOCOL = 0x10, 0x40
_MOST_SIGHTINGS = 64


class Heard(NamedTuple):
    """By frame number, where it was seen; and how many frames the kernel had to leave out, as nobody read them in
    time."""

    sightings: dict[int, list[Sighting]]
    lost: int


class Ear:
    """As a context manager. What is sent while it is open is kept until `listen` looks at it."""

    def __enter__(self) -> Ear:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        self._sightings: dict[int, list[Sighting]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def listen(self, sent: Sequence[Frame], seconds: float, calm: float, is_done: Callable[[dict[int, list[Sighting]]], bool]) -> Heard:  # fmt: skip  # noqa: E501
        """Where these were seen: for `seconds` at most, and for `calm` seconds after all is heard that must be."""
        end, calming = time.monotonic() + seconds, False
        while (left := end - time.monotonic()) > 0:
            if select.select([self._socket], [], [], min(left, 0.1))[0]:
                self._take(sent)
            if not calming and is_done(self._sightings):
                calming, end = True, min(end, time.monotonic() + calm)
        _, lost = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        return Heard(self._sightings, lost)

    def _take(self, sent: Sequence[Frame]) -> None:
        data, extra, _, (device, _, direction, *_) = self._socket.recvmsg(_LARGEST, 128)
        if frames.MARK not in data:
            return
        for number, frame in enumerate(sent):
            seen = frames.seen(data, frame.packet, device, direction == socket.PACKET_OUTGOING, _offloaded(extra))
            if seen is not None:
                note(self._sightings.setdefault(number, []), seen)


def note(found: list[Sighting], seen: Sighting) -> None:
    """Adds what is new. Of one frame so much at each device that a guest who sends it back again and again, with other
    tags, neither fills the memory nor hides where else it was seen."""
    here = (each for each in found if (each.device, each.outgoing) == (seen.device, seen.outgoing))
    if seen not in found and sum(1 for _ in here) < _MOST_SIGHTINGS:
        found.append(seen)


def _offloaded(extra: list[tuple[int, int, bytes]]) -> Tags:
    return tuple(_tags(extra))


def _tags(extra: list[tuple[int, int, bytes]]) -> Iterator[Tag]:
    for level, kind, data in extra:
        if (level, kind) == (_SOL_PACKET, _AUXDATA) and len(data) >= _AUX.size:
            status, *_, tci, protocol = _AUX.unpack_from(data)
            if status & _HAS_TAG:
                yield Tag(protocol if status & _HAS_PROTOCOL else DOT1Q, tci & 0xFFF)

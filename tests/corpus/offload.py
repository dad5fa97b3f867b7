"""Frames with the header in which a virtio guest asks the host to finish them: for a checksum, for segments.

A guest writes `struct virtio_net_hdr` before each frame (virtio 1.2, 5.1.6). With NEEDS_CSUM the host sums the frame
from `start` on and writes 16 bits at `start + offset`: in software where the frame leaves by a NIC that has no checksum
offload, else in that NIC. Both happen behind every filter. The guest chooses where, and by padding chooses what:
`rewritten` makes such frames. A frame of the corpus is what the guest sends and what leaves a NIC without offload.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

NEEDS_CSUM, DATA_VALID = 1, 2
NONE, TCPV4, UDP, TCPV6, UDP_L4, ECN = 0, 1, 3, 4, 5, 0x80
GSO = {"TCPv4": TCPV4, "TCPv6": TCPV6, "UFO": UDP, "USO": UDP_L4, "TCPv4 ECN": TCPV4 | ECN, "TCPv6 ECN": TCPV6 | ECN}
AT = {TCPV4: 16, TCPV6: 16, UDP: 6, UDP_L4: 6}
"""Where the checksum lies in the transport header that a GSO type names."""

_SMALLEST = 60


class Header(NamedTuple):
    """struct virtio_net_hdr, in its order. Places are octets from the frame's beginning, `offset` from `start`."""

    flags: int = 0
    gso: int = NONE
    header_length: int = 0
    segment: int = 0
    start: int = 0
    offset: int = 0

    def packed(self) -> bytes:
        """The ten octets before the frame, in this machine's byte order."""
        return struct.pack("=BBHHHH", *self)


class Offered(NamedTuple):
    """What a guest hands over, and what leaves a NIC without offload where nobody stops it."""

    header: Header
    frame: bytes
    seen: tuple[bytes, ...]

    def packed(self) -> bytes:
        """What is written to a tap with IFF_VNET_HDR or to a packet socket with PACKET_VNET_HDR."""
        return self.header.packed() + self.frame


def rewritten(forged: bytes, at: int, honest: bytes, offset: int = 0) -> Offered:
    """A frame with two honest octets at `at`, for which the host itself writes those of `forged`.

    The sum begins `offset` octets before. A 16-bit word behind the packet makes it what is wanted; it can be any but 0,
    which the kernel writes as 0xffff.
    """
    start, wanted = at - offset, int.from_bytes(forged[at : at + 2], "big")
    assert start >= 0 and wanted, "no checksum begins or ends like this"
    assert forged[at : at + 2] != honest, "there is nothing to write"
    frame = (forged[:at] + honest + forged[at + 2 :]).ljust(_SMALLEST, b"\0")
    frame += b"\0" * ((len(frame) - start) % 2)  # words are counted from `start`
    pad = -(wanted + ones_sum(frame[start:])) % 0xFFFF
    frame += pad.to_bytes(2, "big")
    written = frame[:at] + forged[at : at + 2] + frame[at + 2 :]
    return Offered(Header(NEEDS_CSUM, start=start, offset=offset), frame, (written,))


def unfinished(frame: bytes, start: int, offset: int) -> bytes:
    """A whole frame as an honest driver hands it over: its checksum is that of the pseudo-header alone."""
    at = start + offset
    blank = frame[:at] + b"\0\0" + frame[at + 2 :]
    wanted = int.from_bytes(frame[at : at + 2], "big")
    return frame[:at] + (-(wanted + ones_sum(blank[start:])) % 0xFFFF).to_bytes(2, "big") + frame[at + 2 :]


def finished(frame: bytes, start: int, offset: int) -> bytes:
    """What a device that computes checksums makes of a frame."""
    at = start + offset
    written = ~ones_sum(frame[start:]) & 0xFFFF or 0xFFFF
    return frame[:at] + written.to_bytes(2, "big") + frame[at + 2 :]


def ones_sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), between 0 and 0xffff."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def in_tag(offered: Offered, tag: bytes) -> Offered:
    """The same behind a VLAN tag of four octets."""
    header = offered.header
    if header.flags & NEEDS_CSUM:
        header = header._replace(start=header.start + len(tag))
    if header.header_length:
        header = header._replace(header_length=header.header_length + len(tag))
    return Offered(header, _behind(tag, offered.frame), tuple(_behind(tag, frame) for frame in offered.seen))


def _behind(tag: bytes, frame: bytes) -> bytes:
    return frame[:12] + tag + frame[12:]


def bare(heard: Sequence[bytes]) -> tuple[bytes, ...]:
    """Frames as they can be compared: without padding, and without the number that a host gives IPv6 fragments."""
    return tuple(_unnumbered(frame).rstrip(b"\0") for frame in heard)


def _unnumbered(frame: bytes) -> bytes:
    tag = 4 if frame[12:14] == b"\x81\0" else 0
    fragment = frame[12 + tag : 14 + tag] == b"\x86\xdd" and frame[20 + tag] == 44
    return frame[: 58 + tag] + b"\0\0\0\0" + frame[62 + tag :] if fragment else frame

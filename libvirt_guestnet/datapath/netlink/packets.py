"""Frames that the host sends to a LAN in its own name, and the socket that carries them."""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import struct
from ipaddress import IPv4Address, IPv6Address

ARP, IPV6 = 0x0806, 0x86DD
"""Ethernet types."""
_EVERYBODY, _ICMPV6 = b"\xff" * 6, 58


class PacketSocket:
    """A packet socket on one device, which receives frames of an Ethernet type (0: none), as a context manager, which
    `_socket.socket` itself is not."""

    def __init__(self, device: str, hears: int = 0) -> None:
        self._device, self._hears = device, hears

    def __enter__(self) -> _socket.socket:
        self._sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
        try:
            self._sock.bind((self._device, self._hears))
        except BaseException:
            self._sock.close()
            raise
        return self._sock

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def arp_request(mac: bytes, source: IPv4Address, target: IPv4Address) -> bytes:
    """A broadcast request; from 0.0.0.0 it is a probe (RFC 5227, 1.1), which nobody learns anything from."""
    addresses = mac + source.packed + bytes(6) + target.packed
    return _EVERYBODY + mac + struct.pack("!HHHBBH", ARP, 1, 0x0800, 6, 4, 1) + addresses


def icmpv6(mac: bytes, source: IPv6Address, group: IPv6Address, message: bytes) -> bytes:
    """An ICMPv6 message of an even number of bytes, its checksum still 0, to a multicast group on the link."""
    pseudo = source.packed + group.packed + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source.packed + group.packed
    return group_mac(group) + mac + struct.pack("!H", IPV6) + header + message


def group_mac(group: IPv6Address) -> bytes:
    """The MAC address of a multicast group (RFC 2464, 7)."""
    return b"\x33\x33" + group.packed[12:]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""Asking routers over their control NICs whether they are there: echo requests (RFC 792), in sockets of their own."""

from __future__ import annotations

import os
import socket
import struct
import time
from array import array
from collections.abc import Iterable
from ipaddress import IPv4Address

from libvirt_guestnet.router.health import checksum

_MOST_BYTES = 256
_SO_ATTACH_FILTER = 26


class Pings:
    """Echo requests to some routers, and when each last answered. What an answer says is not believed further than that
    its sender and its random number are right. Close it, or use it in a `with` block. Raises OSError."""

    def __init__(self, addresses: Iterable[IPv4Address]) -> None:
        self._number = os.urandom(6)
        self._heard = dict.fromkeys(addresses, time.monotonic())
        self._sockets: dict[IPv4Address, socket.socket] = {}
        try:
            for address in self._heard:
                self._sockets[address] = _socket(address)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Pings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()

    def ask(self) -> None:
        """Asks each. One that cannot be reached is just not heard of."""
        head = struct.pack("!BBH", 8, 0, 0) + self._number
        packet = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
        for address, each in self._sockets.items():
            try:
                each.sendto(packet, (str(address), 0))
            except OSError:
                continue

    def listen(self) -> None:
        """Takes note of the answers that are there; of a flood, some at each call."""
        for address, each in self._sockets.items():
            self._listen(address, each)

    def _listen(self, address: IPv4Address, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                packet, (sender, _port) = sock.recvfrom(_MOST_BYTES)
            except OSError:
                return
            start = (packet[0] & 15) * 4
            if sender == str(address) and packet[start : start + 1] == b"\0" and packet[start + 4 :] == self._number:
                self._heard[address] = time.monotonic()

    def expect(self, address: IPv4Address) -> None:
        """Has its silence count from now on, since it was started."""
        self._heard[address] = time.monotonic()

    def silent(self, address: IPv4Address) -> float:
        """For how many seconds it has not answered."""
        return time.monotonic() - self._heard[address]


def _socket(address: IPv4Address) -> socket.socket:
    """One that has echo replies of this sender alone. All else that reaches the host by ICMP, of which anybody can send
    much, also the other router, takes no room in it."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    try:
        program = array("B", _program(address))
        where, size = program.buffer_info()
        made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", size // 8, where))
    except OSError:
        made.close()
        raise
    return made


def _program(address: IPv4Address) -> bytes:
    """In classic BPF, on a packet from its IP header on."""
    code = (
        (0x20, 0, 0, 12),  # ld [12], its sender
        (0x15, 0, 4, int(address)),  # jeq, else to the last one
        (0xB1, 0, 0, 0),  # ldx 4*([0]&0xf), the header's length
        (0x50, 0, 0, 0),  # ldb [x], ICMP's type
        (0x15, 0, 1, 0),  # jeq echo reply, else to the last one
        (0x06, 0, 0, _MOST_BYTES),  # ret, that much of it
        (0x06, 0, 0, 0),  # ret, nothing
    )
    return b"".join(struct.pack("=HBBI", *each) for each in code)

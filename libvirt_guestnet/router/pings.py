"""Asking routers over their control NICs whether they are there: echo requests (RFC 792), in an own socket."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from libvirt_guestnet.router.health import checksum

_MOST_BYTES = 256


class Pings:
    """Echo requests to some routers, and when each last answered. What an answer says is not believed further than that
    its sender and its random number are right. Close it, or use it in a `with` block. Raises OSError."""

    def __init__(self, addresses: Iterable[IPv4Address]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        self._number = os.urandom(6)
        self._heard = dict.fromkeys(addresses, time.monotonic())

    def __enter__(self) -> Pings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> None:
        """Asks each. One that cannot be reached is just not heard of."""
        head = struct.pack("!BBH", 8, 0, 0) + self._number
        packet = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
        for address in self._heard:
            try:
                self._socket.sendto(packet, (str(address), 0))
            except OSError:
                continue

    def listen(self) -> None:
        """Takes note of the answers that are there; of a flood, some at each call."""
        for _ in range(64):
            try:
                packet, (sender, _port) = self._socket.recvfrom(_MOST_BYTES)
            except OSError:
                return
            address = next((each for each in self._heard if str(each) == sender), None)
            start = (packet[0] & 15) * 4
            if address and packet[start : start + 1] == b"\0" and packet[start + 4 :] == self._number:
                self._heard[address] = time.monotonic()

    def expect(self, address: IPv4Address) -> None:
        """Has its silence count from now on, since it was started."""
        self._heard[address] = time.monotonic()

    def silent(self, address: IPv4Address) -> float:
        """For how many seconds it has not answered."""
        return time.monotonic() - self._heard[address]

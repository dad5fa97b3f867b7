"""Packets of protocols that have no ports, from and to raw sockets in the namespaces of a box."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.box import Box

GRE, ESP, L2TP = 47, 50, 115
# Sends a packet of the protocol; or hears one, until half a second after the input has ended, and says from whom.
SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_RAW, int(sys.argv[2]))
sock.sendto(bytes.fromhex(sys.argv[3]), (sys.argv[1], 0))
"""
HEAR = """
import os, select, socket, sys
socks = [socket.socket(f, socket.SOCK_RAW, int(sys.argv[1])) for f in (socket.AF_INET, socket.AF_INET6)]
os.write(1, b".")
if select.select([*socks, 0], [], [])[0] == [0]:
    socks = select.select(socks, [], [], 0.5)[0]
for each in select.select(socks, [], [], 0)[0]:
    data, (who, *_) = each.recvfrom(2048)
    print(who, (data[20:] if each.family == socket.AF_INET else data).hex())
"""
INSIDE = "45000014000000004001f9a40a0101010a010102"  # the header of an IPv4 packet
# GRE's header with a protocol type (RFC 2784), of which the kernel reads more than that; ESP's with an SPI and a
# number (RFC 4303); L2TPv3's with a session (RFC 3931).
PAYLOADS = {GRE: f"00000800{INSIDE}", ESP: f"1234567800000001{INSIDE}", L2TP: f"00000001{INSIDE}"}


class Tunnels:
    """The namespaces of a box, as those who send and hear packets of a protocol."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def heard(self, who: str, whom: str, address: str, protocol: int = GRE) -> str:
        """From whom `whom` has it when `who` sends a packet to the address; "" if it gets none."""
        with self.hearing(whom, protocol) as ear:
            self.send(who, address, protocol)
            source, _, data = ear().strip().partition(" ")
            assert data in ("", PAYLOADS.get(protocol, "00"))
            return source

    @contextmanager
    def hearing(self, who: str, protocol: int) -> Iterator[Callable[[], str]]:
        """A socket of the protocol is open; gives what it has heard."""
        enter = ["nsenter", "-t", self.box.pid, "--net", "--mount", "--", *self._in(who)]
        argv = [*enter, sys.executable, "-c", HEAR, str(protocol)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == "."
            yield lambda: process.communicate()[0]
            process.kill()

    def send(self, who: str, address: str, protocol: int = GRE) -> None:
        self.box.ok(*self._in(who), sys.executable, "-c", SEND, address, str(protocol), PAYLOADS.get(protocol, "00"))

    def _in(self, who: str) -> list[str]:
        return [] if who == "host" else ["ip", "netns", "exec", who]

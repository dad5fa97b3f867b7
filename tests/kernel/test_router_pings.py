"""Whether the host hears its routers' answers while others flood it with ICMP."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address

from libvirt_guestnet.router.health import checksum
from libvirt_guestnet.router.pings import Pings

ROUTERS = (IPv4Address("127.0.0.8"), IPv4Address("127.0.0.9"))
STRANGER = "127.0.0.7"


def flood(sender: str, count: int = 2000) -> None:
    """Echo replies that nobody asked for, to the host: of a router, or of whom a ping of the host's leads to."""
    head = struct.pack("!BBHHH", 0, 0, 0, 1, 1)
    packet = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.bind((sender, 0))
        for _ in range(count):
            sock.sendto(packet, ("127.0.0.1", 0))


def silent_after(pings: Pings, router: IPv4Address, flooder: str) -> float:
    """How long a router has been silent that answers, once one look of the arbiter's has listened."""
    time.sleep(0.3)
    flood(flooder)
    pings.ask()
    time.sleep(0.1)
    pings.listen()
    return pings.silent(router)


def test_a_flood_of_anybody_elses_makes_no_router_silent(namespace: None) -> None:
    with Pings(ROUTERS) as pings:
        for flooder in (STRANGER, str(ROUTERS[1])):
            assert silent_after(pings, ROUTERS[0], flooder) < 0.3

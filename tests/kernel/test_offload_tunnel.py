"""A tunnel of a guest's own that the host is to cut (Linux 6.17, QEMU 10.2): inside it, and nowhere else."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network

import frames
import offload
import pytest
from make import ME4, THEM, THEM4, mine
from offload import NEEDS_CSUM, TCPV4, Header, Offered, unfinished
from scapy.all import IP, TCP, UDP, Ether, Raw  # type: ignore[attr-defined]
from scapy.layers.vxlan import VXLAN
from support.offload_wire import NEWEST, OLDEST, OffloadWire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.port_facts import PortGuard

_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
# TUN_F_CSUM, TSO4, TSO6, USO4, USO6; then UDP_TUNNEL_GSO and its checksum.
_ALL, _TUNNEL = 0x67, 0x180
_TUNNEL_IPV4 = 0x20
_OUTER, _INNER_NETWORK, _INNER = 34, 64, 84
_MSS, _DATA = 1000, bytes(range(250)) * 12
PLACES = (
    *((outer, _INNER_NETWORK, _INNER) for outer in (14, 20, 26, 30, 36, 42)),
    *((_OUTER, network, _INNER) for network in (34, 40, 44, 70)),
    *((_OUTER, _INNER_NETWORK, start) for start in (34, 50, 64)),
)


class TunnelWire(OffloadWire):
    """`places` are those of the outer transport header and of the inner network header, as the guest says."""

    places = (0, 0)
    able = False

    def offer(self) -> None:
        """What QEMU does for a guest that knows of tunnels."""
        fcntl.ioctl(self.queues[0], _TUNSETVNETHDRSZ, struct.pack("=i", 24))
        try:
            fcntl.ioctl(self.queues[0], _TUNSETOFFLOAD, _ALL | _TUNNEL)
            self.able = True
        except OSError as error:
            assert error.errno == errno.EINVAL

    def send(self, offered: Offered, queue: int = 0) -> None:
        # Number of buffers, hash value and report, padding, and the two places.
        rest = struct.pack("=HIHHHH", 0, 0, 0, 0, *(self.places if offered.header.gso else (0, 0)))
        with suppress(OSError):
            os.write(self.queues[queue], offered.header.packed() + rest + offered.frame)


@pytest.fixture
def wire(namespace: None) -> Iterator[TunnelWire]:
    wire = TunnelWire("vme0000000a")
    wire.offer()
    yield wire
    wire.close()


def _packet(number: int, sequence: int, data: bytes) -> bytes:
    inner = IP(src="192.0.2.1", dst="192.0.2.2", id=9 + number) / TCP(dport=80, seq=sequence, flags="A") / Raw(data)
    outer = IP(src=ME4, dst=THEM4, id=7 + number) / UDP(sport=5000, dport=4789, chksum=0) / VXLAN(vni=7)
    return mine(outer / Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / inner, THEM)


def _tunnelled(start: int = _INNER) -> Offered:
    whole = unfinished(_packet(0, 1, _DATA), _INNER, 16)
    header = Header(NEEDS_CSUM, TCPV4 | _TUNNEL_IPV4, 104, _MSS, start, 16)
    parts = [_packet(n, 1 + n * _MSS, _DATA[n * _MSS :][:_MSS]) for n in range(len(_DATA) // _MSS)]
    return Offered(header, whole, tuple(parts))


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_a_tunnel_is_cut_inside_and_nowhere_else(wire: TunnelWire, way: str) -> None:
    """A kernel before 6.17 takes no such frame at all."""
    owned = (ip_network(frames.ME4), ip_network(frames.ME6))
    kernel.nft(filters.guard(PortGuard(wire.tap, frames.ME, owned)))
    wire.guard(way)
    wire.places = (_OUTER, _INNER_NETWORK)
    honest = _tunnelled()
    expected = offload.bare(honest.seen) if wire.able else ()
    assert offload.bare(wire.heard(honest)) == expected
    for outer, network, start in PLACES:
        wire.places = (outer, network)
        assert wire.heard(_tunnelled(start)) == (), (outer, network, start)

"""Frames that are really sent from a guest's own end of its tap, and what is heard of them.

The guest has nothing to boot, so the test speaks in its place: by a copy of QEMU's own descriptor of the tap
(`pidfd_getfd`), which works while the guest is paused, too, and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_PIDFD_GETFD, _CLONE_NEWNET = 438, 0x40000000
_ETH_P_ALL, _SO_RCVBUFFORCE = 0x0003, 33
_TUNGETIFF, _TUNGETVNETHDRSZ, _IFF_VNET_HDR = 0x800454D2, 0x800454D7, 0x4000
_BROADCAST = b"\xff" * 6


@contextmanager
def entered(path: str) -> Iterator[None]:
    """This thread in another network namespace: sockets that it opens stay there."""
    with _opened("/proc/thread-self/ns/net") as home, _opened(path) as there:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def ear(namespace: str, device: str) -> socket.socket:
    """Hears all that goes through a device. Raises OSError when there is none."""
    with entered(namespace):
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    heard.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    try:
        heard.bind((device, 0))
    except OSError:
        heard.close()
        raise
    return heard


def taps(pids: list[int]) -> dict[str, tuple[int, int]]:
    """By tap, the process that has it and its descriptor there."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fdinfo"):
                with suppress(OSError):
                    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    found.update({line.split()[1]: (pid, int(fd)) for line in text.splitlines() if line[:4] == "iff:"})
    return found


class Mouth:
    """A copy of another process's descriptor of a tap: what is sent by it comes from the guest."""

    def __init__(self, pid: int, fd: int) -> None:
        """Raises OSError."""
        process = os.pidfd_open(pid)
        try:
            self.fd: int = _LIBC.syscall(_SYS_PIDFD_GETFD, process, fd, 0)
        finally:
            os.close(process)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        flags = struct.unpack_from("H", fcntl.ioctl(self.fd, _TUNGETIFF, bytes(40)), 16)[0]
        size = struct.unpack("i", fcntl.ioctl(self.fd, _TUNGETVNETHDRSZ, bytes(4)))[0]
        self.header = bytes(size) if flags & _IFF_VNET_HDR else b""

    def send(self, frame: bytes) -> None:
        os.write(self.fd, self.header + frame)

    def close(self) -> None:
        os.close(self.fd)


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def link_local(mac: str) -> str:
    """What the guest has to form of its MAC address (EUI-64)."""
    own = bytearray(octets(mac))
    own[0] ^= 2
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + bytes(own[:3]) + b"\xff\xfe" + bytes(own[3:]))


def arp(mac: str, sender: str, target: str, to: bytes = _BROADCAST, reply: bool = False, frame_mac: str = "") -> bytes:
    own = octets(mac)
    asked = to if reply else bytes(6)
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2 if reply else 1)
    inside = own + socket.inet_aton(sender) + asked + socket.inet_aton(target)
    return to + octets(frame_mac or mac) + b"\x08\x06" + body + inside + bytes(18)


def udp(mac: str, source: str, target: str, payload: bytes, to: bytes = _BROADCAST) -> bytes:
    """A datagram of either family."""
    datagram = struct.pack(">HHHH", 40000, 9, 8 + len(payload), 0) + payload
    if ":" in source:
        datagram = _summed6(datagram, source, target)
        head = struct.pack(">IHBB", 6 << 28, len(datagram), 17, 64)
        return to + octets(mac) + b"\x86\xdd" + head + _packed6(source) + _packed6(target) + datagram
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0x4000, 64, 17, 0) + ends
    summed = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return to + octets(mac) + b"\x08\x00" + summed + datagram


def _packed6(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def _summed6(datagram: bytes, source: str, target: str) -> bytes:
    pseudo = _packed6(source) + _packed6(target) + struct.pack(">II", len(datagram), 17)
    return datagram[:6] + struct.pack(">H", checksum(pseudo + datagram) or 0xFFFF) + datagram[8:]


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def heard(ears: socket.socket, seconds: float, matters: Callable[[bytes], bool]) -> bytes:
    """The first frame that matters, b"" if none comes in time."""
    end = time.monotonic() + seconds
    while select.select([ears], [], [], max(0.0, end - time.monotonic()))[0]:
        with suppress(OSError):  # the device may go
            frame = ears.recv(65536)
            if matters(frame):
                return frame
        if time.monotonic() > end:
            break
    return b""


def leaking(
    namespace: str,
    device: str,
    mouth: Mouth,
    forged: dict[str, bytes],
    honest: Callable[[bytes], bytes],
    seconds: float,
) -> tuple[set[str], bool]:
    """Which of the forged frames a device hears, and whether an honest one, sent behind them, gets there. Each frame
    has the name in it; the honest one is sent again while it does not come."""
    with closing(ear(namespace, device)) as listening:
        for frame in forged.values():
            mouth.send(frame)
        found: set[str] = set()
        end, came = time.monotonic() + seconds, b""
        while not came and time.monotonic() < end:
            token = os.urandom(8).hex().encode()
            mouth.send(honest(token))

            def matters(frame: bytes, token: bytes = token) -> bool:
                found.update(name for name, sent in forged.items() if is_same(frame, sent))
                return token in frame

            came = heard(listening, 1.0, matters)
    return found, bool(came)


def is_same(frame: bytes, sent: bytes) -> bool:
    """Routers change the ends of the frame and the hop limit: the datagram's own ends and what it carries stay."""
    if sent[12:14] in (b"\x08\x00", b"\x86\xdd"):
        return frame[12:14] == sent[12:14] and frame[-24:] == sent[-24:]
    return frame[: len(sent) - 18] == sent[: len(sent) - 18]

"""Bridges full of real taps in throw-away network namespaces, and the frames their guests would send."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNATTACHFILTER, _TUNSETOFFLOAD = 0x400454CA, 0x401054D5, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _TUN_F_CSUM = 0x0002, 0x1000, 0x4000, 1
_libc = ctypes.CDLL(None, use_errno=True)

SINK = "sink"
SINK_MAC = bytes.fromhex("5254ffffffff")


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "cannot change the network namespace (root is needed)")


def new_namespace() -> int:
    """A new network namespace, as a file descriptor; the caller stays where it is. Raises OSError."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_NEWNET))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        _checked(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Runs the block in a network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.setns(namespace, _CLONE_NEWNET))
    try:
        yield
    finally:
        _checked(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


def mac(port: int) -> bytes:
    """The MAC of a guest by its number."""
    return bytes.fromhex("525400") + port.to_bytes(3, "big")


def ip4(port: int) -> IPv4Address:
    """The IPv4 address of a guest by its number."""
    return IPv4Address("10.1.0.1") + port


def ip6(port: int) -> IPv6Address:
    """The IPv6 address of a guest by its number."""
    return IPv6Address("fd61::1") + port


def tap_name(port: int) -> str:
    """The name of a guest's tap by its number."""
    return f"t{port}"


class Bridge:
    """A bridge with one tap per guest and a sink, in one namespace.

    The sink is a tap that is known to the bridge as the owner of SINK_MAC; it counts every frame and drops it at once
    (a socket filter does), so nobody has to read it.
    """

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        self.taps: list[int] = []
        with inside(namespace):
            # The kernel's own IPv6 chatter on a thousand taps is no part of the question.
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            _ip(["link add br0 type bridge stp_state 0 forward_delay 0", "link set br0 up"])
            self._sink = _tap(SINK)
            # Or checksums that are asked for would be computed here, which is no part of the question.
            fcntl.ioctl(self._sink, _TUNSETOFFLOAD, _TUN_F_CSUM)
            _drop_everything(self._sink)
            _ip([f"link set {SINK} master br0", f"link set {SINK} up"])
            subprocess.run(
                ["bridge", "fdb", "add", SINK_MAC.hex(":"), "dev", SINK, "master", "static"], check=True, timeout=10
            )

    def grow(self, ports: int) -> None:
        """Adds guests until there are so many."""
        new = range(len(self.taps), ports)
        with inside(self.namespace):
            self.taps += [_tap(tap_name(port)) for port in new]
            _ip([f"link set {tap_name(port)} master br0 up" for port in new])
        time.sleep(0.3)  # the bridge starts forwarding when it has noticed the carrier

    def indexes(self, ports: range) -> list[int]:
        """The kernel's numbers of guests' taps."""
        with inside(self.namespace):
            return [socket.if_nametoindex(tap_name(port)) for port in ports]

    def counted(self) -> int:
        """Frames that arrived at the sink so far."""
        with inside(self.namespace):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return next(int(line.split()[12]) for line in lines if line.split()[0] == f"{SINK}:")


def _tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    return fd


def _drop_everything(tap: int) -> None:
    # struct sock_fprog with one instruction: "return 0" bytes of the packet.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
    fcntl.ioctl(tap, _TUNATTACHFILTER, struct.pack("H6xQ", 1, ctypes.addressof(instruction)))


def _ip(commands: Sequence[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True, timeout=120)


def frames(port: int) -> dict[str, bytes]:
    """The frames measured, by name, as this guest sends them to the sink's MAC, each behind a virtio-net header."""
    return {
        "tcp4-64": _plain(_tcp4(port, 64)),
        "tcp4-1500": _plain(_tcp4(port, 1514)),
        "tcp6-74": _plain(_tcp6(port, 74)),
        "tcp6-1500": _plain(_tcp6(port, 1514)),
        "udp4-64": _plain(_udp4(port, 64)),
        "arp": _plain(_arp(port)),
        # As virtio guests send it: the host, or the NIC, is to compute the checksum.
        "tcp4-1500 offloaded": _offloaded(_tcp4(port, 1514), 34),
        "tcp6-1500 offloaded": _offloaded(_tcp6(port, 1514), 54),
    }


_NEEDS_CSUM, _TCP_CHECKSUM = 1, 16


def _plain(frame: bytes) -> bytes:
    return bytes(10) + frame


def _offloaded(frame: bytes, start: int) -> bytes:
    return struct.pack("=BBHHHH", _NEEDS_CSUM, 0, 0, 0, start, _TCP_CHECKSUM) + frame


def _ethernet(port: int, kind: int) -> bytes:
    return SINK_MAC + mac(port) + struct.pack("!H", kind)


def _ip4_header(port: int, length: int, protocol: int) -> bytes:
    target = IPv4Address("10.1.255.254").packed
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0x4000, 64, protocol, 0, ip4(port).packed, target)
    total = sum(struct.unpack("!10H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + header[12:]


_TCP = struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 0x50, 0x10, 1000, 0, 0)


def _tcp4(port: int, size: int) -> bytes:
    return (_ethernet(port, 0x0800) + _ip4_header(port, size - 14, 6) + _TCP).ljust(size, b"\0")


def _udp4(port: int, size: int) -> bytes:
    udp = struct.pack("!HHHH", 40000, 5000, size - 34, 0)
    return (_ethernet(port, 0x0800) + _ip4_header(port, size - 14, 17) + udp).ljust(size, b"\0")


def _tcp6(port: int, size: int) -> bytes:
    header = struct.pack("!IHBB16s16s", 6 << 28, size - 54, 6, 64, ip6(port).packed, IPv6Address("fd61::ffff").packed)
    return (_ethernet(port, 0x86DD) + header + _TCP).ljust(size, b"\0")


def _arp(port: int) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    body = mac(port) + ip4(port).packed + SINK_MAC + IPv4Address("10.1.255.254").packed
    return (_ethernet(port, 0x0806) + head + body).ljust(60, b"\0")

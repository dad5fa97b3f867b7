"""The size of the largest packet that reaches another host whole, found by sending some: echo requests that may not be
fragmented, whatever the kernel believes to know of the path (IP_PMTUDISC_PROBE)."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.doctor.host_ways import policy_of
from libvirt_guestnet.doctor.ways import VXLAN_HEADERS, Measured
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import NetworkState, Snapshot
from libvirt_guestnet.metadata.policy import Vxlan

_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3
_KIND = {4: (8, 0), 6: (128, 129)}
_HEADER = {4: 20, 6: 40}
_SMALL, _ECHO, _TRIES, _SECONDS = 100, 8, 3, 0.7


def measured(snapshot: Snapshot) -> Iterator[Measured]:
    """The path of each active VXLAN network to each host that it names. Raises GuestnetError."""
    for network in snapshot.networks:
        said = policy_of(network) if network.topology is not None and network.live is not None else None
        if said is not None and isinstance(said.carrier, Vxlan):
            yield from _of(network, said.carrier)


def _of(network: NetworkState, vxlan: Vxlan) -> Iterator[Measured]:
    if not vxlan.remotes:
        yield Measured(network.name, "")
    for remote in vxlan.remotes:
        needed = vxlan.mtu + VXLAN_HEADERS[remote.version]
        yield Measured(network.name, str(remote), needed, largest(str(remote), remote.version, needed, vxlan.device))


def largest(remote: str, version: int, wanted: int, device: str = "") -> int:
    """The size in bytes, IP header included, of the largest packet up to `wanted` that another host answers; 0 if it
    answers none. Raises GuestnetError where none can be sent."""
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.getprotobyname("ipv6-icmp")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
            sock.setsockopt(*_MTU_DISCOVER[version], _PROBE)
            if device and links.index_of(device):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            return search(lambda size: _answers(sock, remote, version, size), wanted)
    except OSError as error:
        raise GuestnetError(f"no packets can be sent to {remote}: {error.strerror}") from error


def search(answers: Callable[[int], bool], wanted: int) -> int:
    """The largest size up to `wanted` that is answered, given that smaller ones are wherever a larger one is; 0 for
    none. Pure."""
    if answers(wanted):
        return wanted
    if not answers(_SMALL):
        return 0
    low, high = _SMALL, wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if answers(middle) else (low, middle)
    return low


def _answers(sock: socket.socket, remote: str, version: int, size: int) -> bool:
    """Whether a packet of that size is answered with its number. One that is too large for the device here is none."""
    number = os.urandom(4)
    body = bytes(size - _HEADER[version] - _ECHO)
    request, reply = _KIND[version]
    message = struct.pack("!BBH4s", request, 0, 0, number) + body
    if version == 4:  # the kernel writes ICMPv6's own
        message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
    for _ in range(_TRIES):
        try:
            sock.sendto(message, (remote, 0))
        except OSError:
            return False
        if _heard(sock, version, struct.pack("!BB2x4s", reply, 0, number)):
            return True
    return False


def _heard(sock: socket.socket, version: int, wanted: bytes) -> bool:
    end = time.monotonic() + _SECONDS
    while (left := end - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
        with suppress(OSError):
            data = sock.recv(65535)
            start = (data[0] & 15) * 4 if version == 4 and data else 0
            found = data[start : start + 8]
            if found[:2] == wanted[:2] and found[4:] == wanted[4:]:
                return True
    return False


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

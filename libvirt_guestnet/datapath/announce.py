"""Telling a LAN that an address is at this host now: gratuitous ARP, unsolicited neighbour advertisements."""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from libvirt_guestnet.datapath.routes import Published

_EVERYBODY, _ALL_NODES_MAC = b"\xff" * 6, bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1")
_ICMPV6, _ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_ADDRESS = 58, 136, 0x20000000, 2


def announce(entries: Iterable[Published]) -> None:
    """Sends one announcement for each address from its device's own MAC. Where that cannot be done (the device is down,
    or has no IPv6 address of its own) neighbours find out when they next ask."""
    for device, addresses in _by_device(entries).items():
        try:
            with _PacketSocket(device) as sock:
                mac = sock.getsockname()[4]
                for frame in _frames(device, mac, addresses):
                    sock.send(frame)
        except OSError:
            continue


def _by_device(entries: Iterable[Published]) -> dict[str, list[IPv4Address | IPv6Address]]:
    found: dict[str, list[IPv4Address | IPv6Address]] = {}
    for address, device in entries:
        found.setdefault(device, []).append(ip_address(address))
    return found


class _PacketSocket:
    """A packet socket on one device; `_socket.socket` itself is no context manager."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> _socket.socket:
        self._sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
        try:
            self._sock.bind((self._device, 0))
        except BaseException:
            self._sock.close()
            raise
        return self._sock

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def _frames(device: str, mac: bytes, addresses: list[IPv4Address | IPv6Address]) -> Iterable[bytes]:
    source = _link_local(device)
    for address in addresses:
        if isinstance(address, IPv4Address):
            yield gratuitous_arp(mac, address)
        elif source is not None:
            yield unsolicited_advertisement(mac, source, address)


def gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """An ARP announcement: a broadcast request from and for the same address (RFC 5227, 3)."""
    packed = address.packed
    return _EVERYBODY + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + packed + bytes(6) + packed


def unsolicited_advertisement(mac: bytes, source: IPv6Address, address: IPv6Address) -> bytes:
    """A neighbour advertisement to all nodes that overrides what they have cached (RFC 4861, 7.2.6)."""
    option = bytes([_TARGET_LINK_ADDRESS, 1]) + mac
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + option
    pseudo = source.packed + _ALL_NODES.packed + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", 0x86DD) + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _link_local(device: str) -> IPv6Address | None:
    try:
        with open("/proc/self/net/if_inet6") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:  # a kernel without IPv6
        return None
    found = (line[0] for line in lines if line[5] == device and line[3] == "20")
    address = next(found, None)
    return IPv6Address(bytes.fromhex(address)) if address else None

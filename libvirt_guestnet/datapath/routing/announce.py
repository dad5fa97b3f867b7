"""Announcing that this host now answers for an address: gratuitous ARP, unsolicited neighbour advertisements."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink.packets import PacketSocket, arp_request, icmpv6
from libvirt_guestnet.state.receipts import ProxyEntry

_ALL_NODES = IPv6Address("ff02::1")
_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_ADDRESS = 136, 0x20000000, 2


def announce(entries: Iterable[ProxyEntry]) -> None:
    """Sends one announcement for each address from its device's own MAC address. If that is not possible (the device is
    down, or has no IPv6 address of its own), neighbours find out when they next ask."""
    for device, addresses in _by_device(entries).items():
        try:
            with PacketSocket(device) as sock:
                mac = sock.getsockname()[4]
                for frame in _frames(device, mac, addresses):
                    sock.send(frame)
        except OSError:
            continue


def _by_device(entries: Iterable[ProxyEntry]) -> dict[str, list[IPv4Address | IPv6Address]]:
    found: dict[str, list[IPv4Address | IPv6Address]] = {}
    for address, device in entries:
        found.setdefault(device, []).append(parse.address(address))
    return found


def _frames(device: str, mac: bytes, addresses: list[IPv4Address | IPv6Address]) -> Iterable[bytes]:
    source = _link_local(device)
    for address in addresses:
        if isinstance(address, IPv4Address):
            yield gratuitous_arp(mac, address)
        elif source is not None:
            yield unsolicited_advertisement(mac, source, address)


def gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """An ARP announcement: a broadcast request from and for the same address (RFC 5227, 3)."""
    return arp_request(mac, address, address)


def unsolicited_advertisement(mac: bytes, source: IPv6Address, address: IPv6Address) -> bytes:
    """A neighbour advertisement to all nodes that overrides what they have cached (RFC 4861, 7.2.6)."""
    option = bytes([_TARGET_LINK_ADDRESS, 1]) + mac
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + option
    return icmpv6(mac, source, _ALL_NODES, message)


def _link_local(device: str) -> IPv6Address | None:
    try:
        with open("/proc/self/net/if_inet6") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:  # a kernel without IPv6
        return None
    found = (line[0] for line in lines if line[5] == device and line[3] == "20")
    address = next(found, None)
    return IPv6Address(bytes.fromhex(address)) if address else None

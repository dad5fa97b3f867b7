"""Frames that pretend to be somebody else's, one small set per kind in `model.FORGERIES`. Pure, standard library only.

A listener knows a frame again by its packet, in which no two checks have the same number: one guest's forged frame is
what its neighbour may send. (A number behind the packet would not do: bridges trim Ethernet padding.) It is where
nobody looks: in IPv6's flow label, ARP's target hardware address, DHCP's transaction or else in what UDP carries.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.datapath.port.port_facts import link_local

BROADCAST = "ff:ff:ff:ff:ff:ff"
_EVERYONE = IPv4Address("255.255.255.255")
_ALL_NODES, _ALL_NODES_MAC = IPv6Address("ff02::1"), "33:33:00:00:00:01"
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_UDP, _ICMPV6 = 17, 58
_NA, _RA = 136, 134
NONCES = 1 << 20  # as many as there are flow labels


@dataclass(frozen=True)
class Identity:
    """Somebody on a link: MAC, IPv4 and IPv6 address."""

    mac: str
    ip4: IPv4Address
    ip6: IPv6Address


def forged(kind: str, me: Identity, them: Identity, nonce: int = 0) -> list[bytes]:
    """The frames of one kind that `me` sends to pass for `them`, with a number below NONCES. KeyError on an unknown
    kind."""
    return _KINDS[kind](me, them, nonce)


def honest(mac: str, nonce: int = 0) -> bytes:
    """A frame that every port may send: the listener must see it, or it proves nothing about forged ones."""
    return _ethernet(mac, _ALL_NODES_MAC, _IPV6, _ip6_udp(link_local(mac), _ALL_NODES, nonce))


def broadcast4(me: Identity, nonce: int) -> bytes:
    """What a port with that address may send, for everybody on its link, at the discard port (RFC 863)."""
    return _ethernet(me.mac, BROADCAST, _IPV4, _ip4_udp(me.ip4, _EVERYONE, _said(nonce)))


def unicast4(me: Identity, them: Identity, nonce: int) -> bytes:
    """The same for one: where nobody has that MAC address, bridges send it to everybody."""
    return _ethernet(me.mac, them.mac, _IPV4, _ip4_udp(me.ip4, them.ip4, _said(nonce)))


def announced(me: Identity, nonce: int) -> bytes:
    """An ARP request for the sender's own address (RFC 5227, 2.3)."""
    return _ethernet(me.mac, BROADCAST, _ARP, _arp_packet(1, me.mac, me.ip4, nonce))


def empty_ra(me: Identity, nonce: int) -> bytes:
    """A router advertisement by which nobody gets a router or a prefix: its lifetime is 0, and it has no options."""
    message = struct.pack("!BBHBBHII", _RA, 0, 0, 64, 0, 0, 0, 0)
    return _ethernet(me.mac, _ALL_NODES_MAC, _IPV6, _ip6(link_local(me.mac), _ICMPV6, message, nonce))


def packet(frame: bytes) -> bytes:
    """The packet in one of these frames, without Ethernet header and padding."""
    ether_type = int.from_bytes(frame[12:14], "big")
    if ether_type == _ARP:
        return frame[14:42]
    if ether_type == _IPV4:
        return frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
    return frame[14 : 54 + int.from_bytes(frame[18:20], "big")]


def _mac(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    return [_ethernet(them.mac, BROADCAST, _IPV4, _ip4_udp(me.ip4, _EVERYONE, _said(nonce)))]


def _arp(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    claims = [(1, me.mac, them.ip4), (2, me.mac, them.ip4), (2, them.mac, me.ip4)]
    return [_ethernet(me.mac, BROADCAST, _ARP, _arp_packet(*claim, nonce)) for claim in claims]


def _ipv4(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    return [_ethernet(me.mac, BROADCAST, _IPV4, _ip4_udp(them.ip4, _EVERYONE, _said(nonce)))]


def _ipv6(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    return [_ethernet(me.mac, _ALL_NODES_MAC, _IPV6, _ip6_udp(them.ip6, _ALL_NODES, nonce))]


def _nd(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    """Neighbour advertisements (RFC 4861, 4.4): their address here, and mine at their MAC."""
    frames = []
    for target, option_mac in ((them.ip6, me.mac), (me.ip6, them.mac)):
        message = struct.pack("!BBHI", _NA, 0, 0, 0x20000000) + target.packed + b"\2\1" + _octets(option_mac)
        frames.append(_ethernet(me.mac, _ALL_NODES_MAC, _IPV6, _ip6(me.ip6, _ICMPV6, message, nonce)))
    return frames


def _ra(me: Identity, _them: Identity, nonce: int) -> list[bytes]:
    """A router advertisement (RFC 4861, 4.2) with a prefix of its own, plain and behind an extension header."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + IPv6Address("fd66:6666::").packed
    message = struct.pack("!BBHBBHII", _RA, 0, 0, 64, 0, 1800, 0, 0) + prefix + b"\1\1" + _octets(me.mac)
    source = link_local(me.mac)
    plain = _ip6(source, _ICMPV6, message, nonce)
    hidden = _ip6(source, 60, bytes([_ICMPV6, 0, 1, 4, 0, 0, 0, 0]) + message, nonce, _ICMPV6)
    return [_ethernet(me.mac, _ALL_NODES_MAC, _IPV6, sent) for sent in (plain, hidden)]


def _dhcp_offer(me: Identity, them: Identity, nonce: int) -> list[bytes]:
    """A DHCP offer (RFC 2131) that names the sender as router, from the server's port and from another."""
    header = (
        struct.pack("!BBBBIHH", 2, 1, 6, 0, nonce, 0, 0x8000) + bytes(4) + them.ip4.packed + me.ip4.packed + bytes(4)
    )
    options = b"\x63\x82\x53\x63\x35\x01\x02\x36\x04" + me.ip4.packed + b"\x03\x04" + me.ip4.packed + b"\xff"
    message = header + _octets(them.mac).ljust(16, b"\0") + bytes(192) + options
    offers = [_ip4_udp(me.ip4, _EVERYONE, message, port, 68) for port in (67, 4011)]
    return [_ethernet(me.mac, BROADCAST, _IPV4, offer) for offer in offers]


_KINDS = {
    "mac": _mac,
    "arp": _arp,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "nd": _nd,
    "ra": _ra,
    "dhcp-offer": _dhcp_offer,
}


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _ethernet(source: str, destination: str, ether_type: int, payload: bytes) -> bytes:
    return _octets(destination) + _octets(source) + struct.pack("!H", ether_type) + payload.ljust(46, b"\0")


def _arp_packet(operation: int, sender_mac: str, sender: IPv4Address, nonce: int) -> bytes:
    return (
        struct.pack("!HHBBH", 1, _IPV4, 6, 4, operation)
        + _octets(sender_mac)
        + sender.packed
        + nonce.to_bytes(6, "big")
        + sender.packed
    )


def _said(nonce: int) -> bytes:
    return b"guestnet %05x" % nonce


def _ip4_udp(source: IPv4Address, destination: IPv4Address, payload: bytes, sport: int = 9, dport: int = 9) -> bytes:
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, _UDP, 0) + source.packed
    header += destination.packed
    return header[:10] + _checksum(header) + header[12:] + datagram


def _ip6_udp(source: IPv6Address, destination: IPv6Address, nonce: int) -> bytes:
    payload = _said(nonce)
    datagram = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
    checksum = _checksum(_pseudo(source, destination, _UDP, datagram))
    return (
        _ip6_header(source, destination, _UDP, len(datagram), hops=64, nonce=nonce)
        + datagram[:6]
        + checksum
        + datagram[8:]
    )


def _ip6(source: IPv6Address, next_header: int, payload: bytes, nonce: int, upper: int | None = None) -> bytes:
    """An ICMPv6 packet to all nodes with hop limit 255; `upper` is ICMPv6 where `next_header` is 8 octets before it."""
    message = payload if upper is None else payload[8:]
    checksum = _checksum(_pseudo(source, _ALL_NODES, _ICMPV6, message))
    payload = payload[: len(payload) - len(message)] + message[:2] + checksum + message[4:]
    return _ip6_header(source, _ALL_NODES, next_header, len(payload), hops=255, nonce=nonce) + payload


def _ip6_header(
    source: IPv6Address, destination: IPv6Address, next_header: int, length: int, *, hops: int, nonce: int
) -> bytes:
    return struct.pack("!IHBB", 6 << 28 | nonce, length, next_header, hops) + source.packed + destination.packed


def _pseudo(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    return source.packed + destination.packed + struct.pack("!II", len(payload), protocol) + payload


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)

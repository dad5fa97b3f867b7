"""What may be seen of the port on the wire, written from the standards and not from the filter's rules.

It knows the identity of the corpus' port and answers with what is wrong, or nothing. It says less than the filter does
(an unknown protocol from the own address is all right), but what it says holds wherever the frame was made.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from make import ME, ME4, ME6, MY_LL

_MAC = bytes.fromhex(ME.replace(":", ""))
_IP4, _IP6 = IPv4Address(ME4).packed, {IPv6Address(ME6).packed, IPv6Address(MY_LL).packed}
_NOBODY4, _NOBODY6 = bytes(4), bytes(16)
_ICMP_OF_ROUTERS = {4, 5, 9, 18}
_ICMPV6_OF_ROUTERS = {130, 134, 137, 141, 142, 148, 149, 151, 152, 153}
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _ICMPV6, _UDP = 0, 43, 44, 60, 58, 17
_RS, _NS, _NA = 133, 135, 136


def wrong(frame: bytes) -> str:
    """What no frame of this port may be, or "" if it may be sent."""
    if frame[6:12] != _MAC:
        return "another's MAC"
    look = {0x0806: _arp, 0x8035: _rarp, 0x0800: _ip4, 0x86DD: _ip6}.get(int.from_bytes(frame[12:14], "big"))
    return look(frame[14:]) if look else "an EtherType that no guest has"


def _arp(arp: bytes) -> str:
    operation, hardware, sender, target = arp[6:8], arp[8:14], arp[14:18], arp[24:28]
    if arp[:6] != b"\0\1\x08\0\6\4" or operation not in (b"\0\1", b"\0\2"):
        return "no ARP request or reply"
    if hardware != _MAC:
        return "another's MAC in ARP"
    probe = operation == b"\0\1" and sender == _NOBODY4 and target == _IP4
    return "" if sender == _IP4 or probe else "another's address in ARP"


def _rarp(rarp: bytes) -> str:
    own = rarp[:8] == b"\0\1\x08\0\6\4\0\3" and rarp[8:14] == rarp[18:24] == _MAC
    return "" if own and rarp[14:18] == rarp[24:28] == _NOBODY4 else "RARP for another"


def _ip4(packet: bytes) -> str:
    length = 4 * (packet[0] & 15)
    if packet[0] >> 4 != 4 or length < 20 or len(packet) < length:
        return "no IPv4 header"
    protocol, source, first = packet[9], packet[12:16], not (packet[6] & 0x1F or packet[7])
    whole = first and not packet[6] & 0x20
    payload = packet[length:]
    if source not in (_IP4, _NOBODY4):
        return "another's IPv4 address"
    asks = protocol == _UDP and whole and payload[:4] == b"\0\x44\0\x43" and packet[16:20] == b"\xff" * 4
    if source == _NOBODY4 and protocol != 2 and not asks:
        return "nobody's IPv4 address"
    if first and protocol == 1 and payload[:1] and payload[0] in _ICMP_OF_ROUTERS:
        return "a router's ICMP"
    if first and protocol == 2 and payload[:1] and payload[0] in (0x11, 0x13, 0x14, 0x30, 0x32):
        return "a router's IGMP"
    if protocol == 103:
        return "PIM"
    return _dhcp(payload) if first and protocol == _UDP else ""


def _dhcp(udp: bytes) -> str:
    if udp[2:4] == b"\0\x44":
        return "a DHCP server"
    if udp[2:4] != b"\0\x43":
        return ""
    own = udp[8:11] == b"\1\1\6" and udp[32:36] == bytes(4) and udp[36:42] == _MAC
    return "" if own else "DHCP for another"


def _ip6(packet: bytes) -> str:
    if len(packet) < 40:  # another version in it harms nobody: receivers drop what is not 6 (RFC 8200)
        return "no IPv6 header"
    source, following, payload = packet[8:24], packet[6], packet[40:]
    if source not in _IP6 and source != _NOBODY6:
        return "another's IPv6 address"
    while following in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT) and len(payload) >= 8:
        if following == _FRAGMENT and (payload[2] or payload[3] & 0xF8):
            return "" if source in _IP6 else "nobody's fragment"
        size = 8 if following == _FRAGMENT else 8 * (payload[1] + 1)
        following, payload = payload[0], payload[size:]
    if following == 103:
        return "PIM"
    if following == _ICMPV6 and payload:
        return _icmpv6(source, payload, int.from_bytes(packet[4:6], "big"))
    if source == _NOBODY6:
        return "nobody's IPv6 address"
    return "a DHCPv6 server" if following == _UDP and payload[2:4] == b"\x02\x22" else ""


def _icmpv6(source: bytes, message: bytes, length: int) -> str:
    kind = message[0]
    if kind in _ICMPV6_OF_ROUTERS:
        return "a router's ICMPv6"
    if kind in (_NS, _NA, _RS):
        options = message[8 if kind == _RS else 24 : length]
        target = message[8:24]
        if target not in _IP6 and (kind == _NA or (kind == _NS and source == _NOBODY6)):
            return "another's target"
        return _options(options)
    return "nobody's ICMPv6" if source == _NOBODY6 and kind not in (131, 132, 143) else ""


def _options(options: bytes) -> str:
    while options:
        size = 8 * options[1] if len(options) >= 2 else 0
        if not size or size > len(options):
            return "a damaged ND option"
        if options[0] in (1, 2) and options[2:8] != _MAC:
            return "another's MAC in ND"
        options = options[size:]
    return ""

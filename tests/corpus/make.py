"""Whose frames these are, and the pieces they are made of."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    BOOTP,
    DHCP,
    IP,
    LLC,
    SNAP,
    UDP,
    Dot3,
    Ether,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    Raw,
    RouterAlert,
    checksum,
)

# ME is the port's own identity, THEM a neighbour's. VIRTUAL is a VRRP router's (RFC 5798), which nobody gave us.
ME, THEM, VIRTUAL = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "00:00:5e:00:01:05"
ME4, THEM4, GATEWAY4 = "10.61.1.10", "10.61.1.11", "10.61.1.1"
ME6, THEM6, GATEWAY6 = "fd61:1::a", "fd61:1::b", "fd61:1::1"
MY_LL, THEIR_LL = "fe80::5054:ff:fe00:a", "fe80::5054:ff:fe00:b"
ALL = "ff:ff:ff:ff:ff:ff"
_UDP_CHECKSUM = 14 + 20 + 6  # where it is in a frame
NODES, NODES_MAC, ROUTERS = "ff02::1", "33:33:00:00:00:01", "ff02::2"


def mine(payload: Any, to: str = ALL) -> bytes:
    """A frame from my MAC, built."""
    return bytes(Ether(src=ME, dst=to) / payload)


def typed(ethertype: int, payload: Any = b"", to: str = ALL) -> bytes:
    """A frame from my MAC with a given EtherType."""
    return bytes(Ether(src=ME, dst=to, type=ethertype) / (payload or marked(48)))


def marked(size: int = 32) -> Raw:
    """Payload."""
    return Raw(b"guestnet" * (size // 8))


def arp(sender: str, hw: str = ME, target: str = THEM4, op: int = 1, **more: Any) -> ARP:
    return ARP(op=op, hwsrc=hw, psrc=sender, pdst=target, **more)


def dhcp(
    kind: str,
    mac: str = ME,
    op: int = 1,
    sport: int = 68,
    dport: int = 67,
    src: str = "0.0.0.0",
    dst: str = "255.255.255.255",
    giaddr: str = "0.0.0.0",
    ciaddr: str = "0.0.0.0",
) -> Any:
    chaddr = bytes.fromhex(mac.replace(":", ""))
    options = [("message-type", kind), "end"]
    bootp = BOOTP(op=op, chaddr=chaddr, xid=7, giaddr=giaddr, ciaddr=ciaddr) / DHCP(options=options)
    return IP(src=src, dst=dst) / UDP(sport=sport, dport=dport) / bootp


def igmp(kind: int, group: str = "0.0.0.0", extra: bytes = b"") -> Raw:
    """An IGMP message (RFC 2236) with its checksum."""
    body = bytes(map(int, group.split("."))) + extra
    return Raw(bytes([kind, 0]) + int(checksum(bytes([kind, 0, 0, 0]) + body)).to_bytes(2, "big") + body)


def sll(mac: str) -> Any:
    return ICMPv6NDOptSrcLLAddr(lladdr=mac)


def tll(mac: str) -> Any:
    return ICMPv6NDOptDstLLAddr(lladdr=mac)


def from_ll(*parts: Any, src: str = MY_LL, dst: str = NODES, hlim: int = 255) -> Any:
    """An IPv6 packet with these headers in this order."""
    packet = IPv6(src=src, dst=dst, hlim=hlim)
    for part in parts:
        if part is not None:
            packet = packet / part
    return packet


def na(target: str, *options: Any, src: str = MY_LL) -> Any:
    return from_ll(ICMPv6ND_NA(tgt=target, R=0, O=1), *options, src=src)


def ns(target: str, *options: Any, src: str = MY_LL, dst: str = "ff02::1:ff00:b") -> Any:
    return from_ll(ICMPv6ND_NS(tgt=target), *options, src=src, dst=dst)


NONCE = ICMPv6NDOptUnknown(type=14, len=1, data=b"\1\2\3\4\5\6")
STRANGE_OPTION = ICMPv6NDOptUnknown(type=253, len=1, data=b"\1\2\3\4\5\6")
ROUTER_ALERT = IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"")])


def _by_hand(kind: int, following: int) -> list[Any]:
    """An extension header that scapy does not know, in RFC 6564's format: next header, length, padding."""
    return [kind, Raw(bytes([following, 0, 1, 4, 0, 0, 0, 0]))]


def ah(following: int) -> bytes:
    """An authentication header with a checksum of 96 bits (RFC 4302): 24 octets."""
    return bytes([following, 4, 0, 0]) + b"\0\0\1\1" + b"\0\0\0\1" + b"guestnet" + b"\0" * 4


def vrrp(router: int) -> Raw:
    """An advertisement of a virtual router, as VRRP and CARP begin it (RFC 9568)."""
    return Raw(bytes([0x21, router, 100, 1]) + b"guestnet" * 4)


def first_fragment(following: int, more: bool = True) -> bytes:
    """The fragment header of a datagram's first part."""
    return bytes([following, 0, 0, int(more), 0, 0, 0, 7])


# How a message hides behind extension headers: what stands between the IPv6 header and it. A number is the IPv6
# header's own next header where scapy would not know.
def hidings(message: int) -> dict[str, list[Any]]:
    """`message` is the protocol number of what follows."""
    dest, long_dest = IPv6ExtHdrDestOpt(), IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)] * 3)
    hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    return {
        "a hop-by-hop option (RFC 7113)": [hop],
        "a destination option (RFC 7113)": [dest],
        "three destination options (THC fake_router26)": [dest, dest, dest],
        "192 octets of destination options": [long_dest],
        "a routing header (RFC 5095)": [IPv6ExtHdrRouting(addresses=[])],
        "hop-by-hop and destination options": [hop, dest],
        "an atomic fragment (RFC 6946)": [IPv6ExtHdrFragment(id=6)],
        "a destination option and an atomic fragment": [dest, IPv6ExtHdrFragment(id=6)],
        "an atomic fragment and a destination option": [IPv6ExtHdrFragment(id=6), dest],
        "two atomic fragments": [IPv6ExtHdrFragment(id=6), IPv6ExtHdrFragment(id=7)],
        "a first fragment (RFC 6980)": [IPv6ExtHdrFragment(m=1, id=6)],
        "a first fragment and a destination option (RFC 7113)": [IPv6ExtHdrFragment(m=1, id=6), dest],
        "hop-by-hop, destination and a first fragment": [hop, dest, IPv6ExtHdrFragment(m=1, id=6)],
        "AH (RFC 4302)": [51, Raw(ah(message))],
        "a destination option and AH": [60, Raw(bytes([51, 0, 1, 4, 0, 0, 0, 0]) + ah(message))],
        "AH and a destination option": [51, Raw(ah(60) + bytes([message, 0, 1, 4, 0, 0, 0, 0]))],
        "a first fragment of AH": [44, Raw(first_fragment(51) + ah(message))],
        "an atomic fragment of AH": [44, Raw(first_fragment(51, more=False) + ah(message))],
        "a mobility header (RFC 6275)": _by_hand(135, message),
        "HIP (RFC 7401)": _by_hand(139, message),
        "shim6 (RFC 5533)": _by_hand(140, message),
        "an experimental header (RFC 3692)": _by_hand(253, message),
        "a second experimental header (RFC 3692)": _by_hand(254, message),
    }


def hidden(hiding: list[Any], message: Any, src: str = MY_LL, dst: str = NODES, hlim: int = 255) -> bytes:
    """The message behind extension headers."""
    if isinstance(hiding[0], int):
        built = bytes(from_ll(message, src=src, dst=dst))[40:]
        return mine(IPv6(src=src, dst=dst, hlim=hlim, nh=hiding[0]) / hiding[1] / Raw(built))
    return mine(from_ll(*hiding, message, src=src, dst=dst, hlim=hlim))


def snapped(ethertype: int, payload: Any, length: int | None = None, tags: bytes = b"") -> bytes:
    """A packet in LLC/SNAP (RFC 1042), behind VLAN tags if any, with its true length or another."""
    inner = bytes(LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=ethertype) / payload)
    if not tags and length is None:
        return bytes(Dot3(src=ME, dst=ALL) / inner)
    size = len(inner) if length is None else length
    return _addresses() + tags + size.to_bytes(2, "big") + inner


def tagged(ethertype: int, payload: Any, *tags: tuple[int, int]) -> bytes:
    """A packet behind VLAN tags, each (EtherType of the tag, VLAN)."""
    return _addresses() + tag_bytes(*tags) + ethertype.to_bytes(2, "big") + bytes(payload)


def tag_bytes(*tags: tuple[int, int]) -> bytes:
    return b"".join(kind.to_bytes(2, "big") + vlan.to_bytes(2, "big") for kind, vlan in tags)


def inside(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame, or its 802.3 content with its length, behind VLAN tags of its own or more of them."""
    return frame[:12] + tag_bytes(*tags) + frame[12:]


def sentinel(number: int, source: str = ME4) -> bytes:
    """An honest frame that is told from every other: what was sent before it has arrived, or never will."""
    first, before = _first_sentinel(source)
    digits = b"%08d" % number
    # RFC 1624: many are made, and scapy would take a millisecond for each.
    total = (~before & 0xFFFF) + sum(struct.unpack("!4H", digits)) - sum(struct.unpack("!4H", b"00000000"))
    return (
        first[:_UDP_CHECKSUM] + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + first[_UDP_CHECKSUM + 2 : -8] + digits
    )


@cache
def _first_sentinel(source: str) -> tuple[bytes, int]:
    """The one of number 0, and its UDP checksum."""
    first = mine(IP(src=source, dst="255.255.255.255") / UDP(sport=9, dport=9) / Raw(b"sentinel00000000"))
    return first, int.from_bytes(first[_UDP_CHECKSUM : _UDP_CHECKSUM + 2], "big")


def is_same(heard: bytes, sent: bytes) -> bool:
    """Whether a frame that was heard is the one that was sent: bridges cut padding, and packet sockets hand a VLAN tag
    over beside the frame."""
    return heard[6:12] == sent[6:12] and sent.rstrip(b"\0")[-24:] in heard


def _addresses() -> bytes:
    return bytes.fromhex(ALL.replace(":", "") + ME.replace(":", ""))

"""What a guest forges by offload: each frame is honest where filters see it and forged where it leaves the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forged import ADVERTISE, RA, REDIRECT
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
    NODES_MAC,
    ROUTER_ALERT,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    arp,
    dhcp,
    from_ll,
    igmp,
    marked,
    mine,
    na,
    ns,
    sll,
    tll,
    typed,
)
from offload import AT, ECN, GSO, NEEDS_CSUM, UDP_L4, Header, Offered, rewritten, unfinished
from offload import UDP as UFO
from scapy.all import (  # type: ignore[attr-defined]
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
)

_ALERT = [b"\x94\x04\x00\x00"]


def _v4(payload: Any, **fields: Any) -> bytes:
    return mine(IP(**{"src": ME4, "dst": THEM4, **fields}) / payload)


def _v6(*parts: Any, src: str = ME6, dst: str = THEM6, hlim: int = 64) -> bytes:
    return mine(from_ll(*parts, src=src, dst=dst, hlim=hlim))


def _patched(frame: bytes, at: int, word: str) -> bytes:
    return frame[:at] + bytes.fromhex(word) + frame[at + 2 :]


_FROM_THEM = mine(IP(src=THEM4, dst=GATEWAY4) / UDP(sport=9, dport=9) / marked())
_SERVED = mine(dhcp("offer", op=2, sport=67, dport=68, src=ME4))
_QUERY = igmp(0x11)
_NA_FORGED = na("fd61:1:0:0:1:0:0:a", tll(ME), src=ME6)

# The forged frame, where 16 bits of it are to be written, and what the filter sees there.
_REWRITES: dict[str, tuple[bytes, int, str]] = {
    "Ethernet: a neighbour's source MAC": (_patched(_v4(UDP(sport=9, dport=9) / marked()), 10, "000b"), 10, "000a"),
    "Ethernet: 802.1X": (typed(0x888E, IP(src=ME4, dst=THEM4) / UDP(sport=9, dport=9) / marked()), 12, "0800"),
    "ARP hardware type": (_patched(mine(arp(ME4)), 14, "0006"), 14, "0001"),
    "ARP protocol type": (_patched(mine(arp(ME4)), 16, "86dd"), 16, "0800"),
    "ARP lengths": (_patched(mine(arp(ME4)), 18, "0504"), 18, "0604"),
    "ARP operation: RARP": (mine(arp(ME4, op=3)), 20, "0001"),
    "ARP operation: a reply from 0.0.0.0": (mine(arp("0.0.0.0", op=2, target=ME4)), 20, "0001"),
    "ARP sender's MAC": (mine(arp(ME4, hw=THEM)), 26, "000a"),
    "ARP sender's MAC, its first half": (mine(arp(ME4, hw="02:00:00:00:00:0a")), 22, "5254"),
    "ARP sender: the gateway": (mine(arp(GATEWAY4, op=2, hwdst=THEM)), 30, "010a"),
    "ARP sender: a neighbour": (mine(arp(THEM4)), 30, "010a"),
    "ARP sender: off-link": (mine(arp("192.0.1.10")), 28, "0a3d"),
    "ARP sender, across two words": (mine(arp("10.62.2.10")), 29, "3d01"),
    "ARP target: a probe for a neighbour's address": (mine(arp("0.0.0.0", target=THEM4)), 40, "010a"),
    "IPv4 header length": (mine(IP(src=ME4, dst=THEM4, ihl=4) / UDP(sport=9, dport=9) / marked()), 14, "4500"),
    "IPv4 fragment offset: a DHCP server's first fragment": (
        _v4(UDP(sport=67, dport=68, len=900) / marked(240), flags="MF"),
        20,
        "2003",
    ),
    "IPv4 fragment offset: a DHCP server, not to be fragmented": (
        mine(IP(src=ME4, dst=THEM4, flags="DF") / UDP(sport=67, dport=68) / marked(240)),
        20,
        "0003",
    ),
    "IPv4 TTL and protocol: an IGMP query": (_v4(_QUERY, dst="224.0.0.1", proto=2, ttl=1), 22, "0132"),
    "IPv4 TTL and protocol: PIM": (_v4(marked(), dst="224.0.0.13", proto=103, ttl=1), 22, "0132"),
    "IPv4 TTL and protocol: an ICMP redirect": (_v4(ICMP(type=5, code=1, gw=ME4) / marked()), 22, "4032"),
    "IPv4 source: a neighbour, UDP": (_FROM_THEM, 28, "010a"),
    "IPv4 source: a neighbour, TCP": (mine(IP(src=THEM4, dst=GATEWAY4) / TCP() / marked()), 28, "010a"),
    "IPv4 source: a neighbour, ICMP": (mine(IP(src=THEM4, dst=GATEWAY4) / ICMP() / marked()), 28, "010a"),
    "IPv4 source: a neighbour, behind options": (
        mine(IP(src=THEM4, dst=GATEWAY4, options=[b"\1\1\1\0"]) / UDP(sport=9, dport=9) / marked()),
        28,
        "010a",
    ),
    "IPv4 source: the gateway": (_v4(UDP(sport=9, dport=9) / marked(), src=GATEWAY4), 28, "010a"),
    "IPv4 source: off-link": (_v4(UDP(sport=9, dport=9) / marked(), src="192.0.1.10"), 26, "0a3d"),
    "IPv4 source, across two words": (_v4(UDP(sport=9, dport=9) / marked(), src="10.62.2.10"), 27, "3d01"),
    "IPv4 source: a neighbour, in a later fragment": (_v4(marked(), src=THEM4, frag=3, proto=17), 28, "010a"),
    "IPv4 destination: DHCP from nobody by unicast": (mine(dhcp("discover", dst="255.255.1.11")), 32, "ffff"),
    "UDP port: a DHCP server": (_SERVED, 36, "0045"),
    "UDP port: a DHCP server, behind IPv4 options": (
        _v4(UDP(sport=67, dport=68) / marked(240), options=[b"\x01" * 8], dst="255.255.255.255"),
        44,
        "0045",
    ),
    "UDP port: another's DHCP release": (mine(dhcp("release", mac=THEM, src=ME4, dst=GATEWAY4)), 36, "0045"),
    "UDP port: a DHCP relay": (mine(dhcp("discover", src=ME4, sport=67, giaddr=ME4)), 36, "0045"),
    "UDP port: nobody's datagram that is not DHCP": (mine(dhcp("discover", src="0.0.0.0", sport=69)), 34, "0044"),
    "DHCP operation: a reply": (mine(dhcp("discover", op=2)), 42, "0101"),
    "DHCP client's MAC: a neighbour's": (mine(dhcp("discover", mac=THEM)), 74, "000a"),
    "DHCP relay's address": (mine(dhcp("discover", giaddr="10.61.0.0")), 66, "0000"),
    "ICMP type: redirect": (_v4(ICMP(type=5, code=1, gw=ME4) / marked()), 34, "0800"),
    "ICMP type: router advertisement": (_v4(ICMP(type=9) / marked(), dst="224.0.0.1"), 34, "0800"),
    "ICMP type: redirect behind options": (_v4(ICMP(type=5, gw=ME4) / marked(), options=[b"\1" * 4]), 38, "0800"),
    "IGMP type: a query": (_v4(_QUERY, dst="224.0.0.1", proto=2), 34, "1600"),
    "IGMP type: a query with router alert": (_v4(_QUERY, dst="224.0.0.1", ttl=1, proto=2, options=_ALERT), 38, "1600"),
    "IPv6 next header: a router advertisement": (mine(from_ll(RA)), 20, "32ff"),
    "IPv6 next header: PIM": (mine(IPv6(src=MY_LL, dst="ff02::d", nh=103, hlim=1) / marked()), 20, "3201"),
    "IPv6 source: a neighbour, UDP": (_v6(UDP(sport=9, dport=9), marked(), src=THEM6), 36, "000a"),
    "IPv6 source: a neighbour, TCP": (_v6(TCP(), marked(), src=THEM6), 36, "000a"),
    "IPv6 source: a neighbour, behind a destination option": (_v6(IPv6ExtHdrDestOpt(), TCP(), src=THEM6), 36, "000a"),
    "IPv6 source: a neighbour's link-local": (_v6(UDP(sport=9, dport=9), marked(), src=THEIR_LL), 36, "000a"),
    "IPv6 source: the gateway": (_v6(UDP(sport=9, dport=9), marked(), src=GATEWAY6), 36, "000a"),
    "IPv6 source: off-link": (_v6(UDP(sport=9, dport=9), marked(), src="2001:1::a"), 22, "fd61"),
    "IPv6 source: a neighbour, in a later fragment": (
        _v6(IPv6ExtHdrFragment(nh=17, offset=9), marked(), src=THEM6),
        36,
        "000a",
    ),
    "UDP port: a DHCPv6 server": (mine(from_ll(ADVERTISE, dst=THEIR_LL)), 56, "0225"),
    "UDP port: a DHCPv6 server, behind a destination option": (
        mine(from_ll(IPv6ExtHdrDestOpt(), ADVERTISE, dst=THEIR_LL)),
        64,
        "0225",
    ),
    "ICMPv6 type: router advertisement": (mine(from_ll(RA), NODES_MAC), 54, "8000"),
    "ICMPv6 type: redirect": (mine(from_ll(REDIRECT, dst=THEIR_LL)), 54, "8000"),
    "ICMPv6 type: an advertisement of the gateway": (mine(na(GATEWAY6, tll(ME))), 54, "8000"),
    "ICMPv6 type: an MLD query": (mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery(), hlim=1)), 62, "8300"),
    "ICMPv6 type: router advertisement behind a destination option": (
        mine(from_ll(IPv6ExtHdrDestOpt(), RA)),
        62,
        "8000",
    ),
    "IPv6 fragment offset: a router advertisement's first fragment": (
        mine(from_ll(IPv6ExtHdrFragment(m=1, id=6), RA)),
        56,
        "0049",
    ),
    "ND target: a neighbour": (mine(na(THEM6, tll(ME), src=ME6)), 76, "000a"),
    "ND target: the gateway": (mine(na(GATEWAY6, tll(ME), src=ME6)), 76, "000a"),
    "ND target, where a TCP checksum would lie": (mine(_NA_FORGED), 70, "0000"),
    "ND target: detection of a neighbour's address": (mine(ns(THEM6, src="::")), 76, "000a"),
    "ND option: a neighbour's MAC in an advertisement": (mine(na(ME6, tll(THEM), src=ME6)), 84, "000a"),
    "ND option: a neighbour's MAC in a solicitation": (mine(ns(THEM6, sll(THEM), src=ME6)), 84, "000a"),
    "ND option: a neighbour's MAC in a router solicitation": (
        mine(from_ll(ICMPv6ND_RS(), sll(THEM), dst="ff02::2")),
        68,
        "000a",
    ),
    "ND option: its length": (
        mine(from_ll(ICMPv6ND_NA(tgt=ME6, R=0, O=1), Raw(b"\2\0" + bytes(tll(ME))[2:]), src=ME6)),
        78,
        "0201",
    ),
}

# Where the sum begins: as far before the word as in UDP, as in TCP, and at the word itself.
OFFSETS = {"as in UDP": 6, "as in TCP": 16, "summed from there": 0}


def _attacks() -> Iterator[tuple[str, Offered]]:
    for name, (forged, at, honest) in _REWRITES.items():
        for how, offset in OFFSETS.items():
            if at >= offset:
                yield f"{name} ({how})", rewritten(forged, at, bytes.fromhex(honest), offset)


def _bootp(mac: str) -> bytes:
    return bytes(dhcp("request", mac=mac, src=ME4))[28:].ljust(300, b"\0")


def _asked(payload: Any, **fields: Any) -> bytes:
    return mine(IP(src=ME4, dst="255.255.255.255", id=7, **fields) / payload)


def _cut(frame: bytes, start: int, gso: int, size: int, *seen: bytes) -> Offered:
    header = Header(NEEDS_CSUM, gso, start + 8, size, start, 6)
    return Offered(header, unfinished(frame, start, 6), seen)


def _dhcp_by_uso() -> Offered:
    """The filter reads the first of two messages; they are cut apart behind it."""
    client = UDP(sport=68, dport=67)
    seen = [
        mine(IP(src=ME4, dst="255.255.255.255", id=7 + n) / client / Raw(_bootp(mac)))
        for n, mac in enumerate((ME, THEM))
    ]
    return _cut(_asked(client / Raw(_bootp(ME) + _bootp(THEM))), 34, UDP_L4, 300, *seen)


def _dhcp_by_ufo() -> Offered:
    """A message in fragments, of which others may overlap what the filter has read."""
    whole = _asked(UDP(sport=68, dport=67) / Raw(_bootp(ME)))
    parts = whole[34 : 34 + 160], whole[34 + 160 :]
    first, last = _asked(Raw(parts[0]), proto=17, flags="MF"), _asked(Raw(parts[1]), proto=17, frag=20)
    return _cut(whole, 34, UFO, 160, first, last)


def _dhcpv6_by_uso() -> Offered:
    client, solicit = UDP(sport=546, dport=547), bytes(marked(80))
    packets = [mine(from_ll(client, Raw(part), dst="ff02::1:2", hlim=1)) for part in (solicit, solicit, 2 * solicit)]
    return _cut(packets[2], 54, UDP_L4, 80, *packets[:2])


ATTACKS = {
    **dict(_attacks()),
    "DHCP by USO: the second message has a neighbour's MAC": _dhcp_by_uso(),
    "DHCP by UFO: in fragments that others may overlap": _dhcp_by_ufo(),
    "DHCPv6 by USO: more messages than were seen": _dhcpv6_by_uso(),
}
PLAIN = {name: forged for name, (forged, _at, _honest) in _REWRITES.items()}
"""The forged frames themselves: what a filter that is worth something stops when they are sent openly."""

EARLY = {name for name, offered in ATTACKS.items() if offered.header.start < 20}
"""Newer kernels themselves refuse a sum that begins so early (virtio_net_hdr_to_skb): a control run may lack these."""


# What cannot be summed or cut as its header asks: no driver sends it, and what becomes of it is chance.
_TCP4, _UDP4 = _v4(TCP() / marked(2000)), _v4(UDP(sport=9, dport=9) / marked(2000))
_TCP6, _UDP6 = _v6(TCP(), marked(2000)), _v6(UDP(sport=9, dport=9), marked(2000))
_PACKETS: dict[str, tuple[bytes, int, set[str]]] = {
    # The frame, where its transport header begins, and the GSO types that it may have.
    "ARP": (mine(arp(ME4)).ljust(60, b"\0"), 14, set()),
    "ARP with a long tail": (mine(arp(ME4)).ljust(2000, b"\0"), 14, set()),
    "ICMP": (_v4(ICMP() / marked(2000)), 34, set()),
    "ICMPv6": (_v6(ICMPv6EchoRequest(), marked(2000)), 54, set()),
    "neighbour advertisement": (mine(na(ME6, tll(ME), src=ME6)), 54, set()),
    "router solicitation": (mine(from_ll(ICMPv6ND_RS(), sll(ME), dst="ff02::2")), 54, set()),
    "IGMP": (_v4(igmp(0x16, "239.1.2.3"), dst="239.1.2.3", ttl=1, proto=2, options=_ALERT), 38, set()),
    "ESP": (_v4(marked(2000), proto=50), 34, set()),
    "GRE": (_v4(Raw(b"\0\0\x08\0" + _TCP4[14:]), proto=47), 34, set()),
    "SCTP": (_v4(marked(2000), proto=132), 34, set()),
    "IPv4 in IPv4": (_v4(Raw(_TCP4[14:]), proto=4), 34, set()),
    "IPv6 in IPv6": (_v6(Raw(_TCP6[14:]))[:20] + b"\x29" + _v6(Raw(_TCP6[14:]))[21:], 54, set()),
    "TCP over IPv4": (_TCP4, 34, {"TCPv4", "TCPv4 ECN"}),
    "TCP over IPv6": (_TCP6, 54, {"TCPv6", "TCPv6 ECN"}),
    "UDP over IPv4": (_UDP4, 34, {"UFO", "USO"}),
    "UDP over IPv6": (_UDP6, 54, {"UFO", "USO"}),
    "TCP behind IPv4 options": (_v4(TCP() / marked(2000), options=[b"\1" * 4]), 38, {"TCPv4", "TCPv4 ECN"}),
    "UDP behind a destination option": (
        _v6(IPv6ExtHdrDestOpt(), UDP(sport=9, dport=9), marked(2000)),
        62,
        {"UFO", "USO"},
    ),
    "TCP behind a destination option": (_v6(IPv6ExtHdrDestOpt(), TCP(), marked(2000)), 62, {"TCPv6", "TCPv6 ECN"}),
    "IPv4 first fragment of TCP": (_v4(TCP() / marked(2000), flags="MF"), 34, set()),
    "IPv4 first fragment of UDP": (_v4(UDP(sport=9, dport=9, len=4000) / marked(2000), flags="MF"), 34, set()),
    "IPv4 later fragment of TCP": (_v4(marked(2000), proto=6, frag=100), 34, set()),
    "IPv4 later fragment of UDP": (_v4(marked(2000), proto=17, frag=100), 34, set()),
    "IPv6 first fragment of TCP": (_v6(IPv6ExtHdrFragment(m=1, id=3), TCP(), marked(2000)), 62, set()),
    "IPv6 first fragment of UDP": (_v6(IPv6ExtHdrFragment(m=1, id=3), UDP(sport=9, dport=9), marked(2000)), 62, set()),
    "IPv6 later fragment of TCP": (_v6(IPv6ExtHdrFragment(nh=6, offset=100, id=3), marked(2000)), 62, set()),
    "IPv6 later fragment of UDP": (_v6(IPv6ExtHdrFragment(nh=17, offset=100, id=3), marked(2000)), 62, set()),
}


def _misfits() -> Iterator[tuple[str, Offered]]:
    for what, (frame, start, fitting) in _PACKETS.items():
        for kind, gso in GSO.items():
            if kind not in fitting:
                header = Header(NEEDS_CSUM, gso, start + 20, 500, start, AT[gso & ~ECN])
                yield f"{what} to be cut as {kind}", Offered(header, frame, (frame,))
        if not fitting:
            for how, offset in (("UDP", 6), ("TCP", 16)):
                header = Header(NEEDS_CSUM, start=start, offset=offset)
                yield f"{what} to be summed as {how}", Offered(header, frame, (frame,))


MISFITS = dict(_misfits())

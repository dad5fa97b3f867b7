"""What honest guests ask of the host by offload, and the whole frames that must leave it: each exactly these."""

from __future__ import annotations

from typing import Any

from make import ME4, ME6, MY_LL, ROUTERS, THEM, THEM4, THEM6, dhcp, from_ll, marked, mine
from offload import DATA_VALID, ECN, NEEDS_CSUM, TCPV4, TCPV6, UDP_L4, Header, Offered, unfinished
from offload import UDP as UFO
from scapy.all import (  # type: ignore[attr-defined]
    ICMP,
    IP,
    TCP,
    UDP,
    Ether,
    ICMPv6ND_RS,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    Raw,
)
from scapy.layers.vxlan import VXLAN

_TEXT = bytes(range(1, 251)) * 64  # more than a page: of longer frames the kernel keeps only the headers in one piece
_MSS = 1000
_FAR4, _FAR6 = "198.18.2.1", "fd61:12::1"
_OPTIONS = [b"\x07\x07\x04\0\0\0\0\0"]


def _v4(*parts: Any, src: str = ME4, dst: str = THEM4, **fields: Any) -> bytes:
    packet = IP(src=src, dst=dst, id=7, **fields)
    for part in parts:
        packet = packet / part
    return mine(packet, THEM)


def _v6(*parts: Any, src: str = ME6, dst: str = THEM6) -> bytes:
    return mine(from_ll(*parts, src=src, dst=dst, hlim=64), THEM)


def _tcp(seq: int = 1, flags: str = "PA", data: bytes = _TEXT[:500]) -> Any:
    return TCP(sport=4000, dport=80, seq=seq, ack=9, flags=flags, options=[("NOP", None)] * 4) / Raw(data)


def _udp(data: bytes = _TEXT[:500], dport: int = 4000) -> Any:
    return UDP(sport=4000, dport=dport) / Raw(data)


def _summed(frame: bytes, start: int, offset: int) -> Offered:
    return Offered(Header(NEEDS_CSUM, start=start, offset=offset), unfinished(frame, start, offset), (frame,))


def _cut(whole: bytes, seen: list[bytes], start: int, gso: int, size: int = _MSS) -> Offered:
    """`whole` is the frame with the checksum of all of it."""
    offset, length = (16, 24) if gso & ~ECN in (TCPV4, TCPV6) else (6, 8)
    header = Header(NEEDS_CSUM, gso, start + length, size, start, offset)
    return Offered(header, unfinished(whole, start, offset), tuple(seen))


def _chunks(size: int = _MSS) -> list[bytes]:
    return [_TEXT[at : at + size] for at in range(0, len(_TEXT), size)]


def _flags(number: int, flags: str) -> str:
    """Which of a long segment's flags each part has: CWR the first, FIN and PSH the last (RFC 3168, virtio 1.2)."""
    first, last = number == 0, number == len(_chunks()) - 1
    return "".join(flag for flag in flags if not (flag == "C" and not first) and not (flag in "PF" and not last))


def _tso4(flags: str = "PA", src: str = ME4, ecn: int = 0, **fields: Any) -> Offered:
    seen = [
        mine(IP(src=src, dst=THEM4, id=7 + n, **fields) / _tcp(1 + n * _MSS, _flags(n, flags), chunk), THEM)
        for n, chunk in enumerate(_chunks())
    ]
    start = 34 + len(b"".join(fields.get("options", [])))
    return _cut(_v4(_tcp(flags=flags, data=_TEXT), src=src, **fields), seen, start, TCPV4 | ecn)


def _tso6(*before: Any, flags: str = "PA", src: str = ME6, ecn: int = 0) -> Offered:
    seen = [_v6(*before, _tcp(1 + n * _MSS, _flags(n, flags), chunk), src=src) for n, chunk in enumerate(_chunks())]
    start = 54 + sum(len(bytes(header)) for header in before)
    return _cut(_v6(*before, _tcp(flags=flags, data=_TEXT), src=src), seen, start, TCPV6 | ecn)


def _uso4(port: int = 4000) -> Offered:
    seen = [mine(IP(src=ME4, dst=THEM4, id=7 + n) / _udp(chunk, port), THEM) for n, chunk in enumerate(_chunks())]
    return _cut(_v4(_udp(_TEXT, port)), seen, 34, UDP_L4)


def _uso6() -> Offered:
    return _cut(_v6(_udp(_TEXT)), [_v6(_udp(chunk)) for chunk in _chunks()], 54, UDP_L4)


def _ufo4() -> Offered:
    whole = _v4(_udp(_TEXT))
    datagram, size = whole[34:], 1480
    seen = [
        _v4(Raw(datagram[at : at + size]), proto=17, frag=at // 8, flags="MF" if at + size < len(datagram) else 0)
        for at in range(0, len(datagram), size)
    ]
    return _cut(whole, seen, 34, UFO, size)


def _ufo6() -> Offered:
    whole = _v6(_udp(_TEXT))
    datagram, size = whole[54:], 1448
    seen = []
    for at in range(0, len(datagram), size):
        more = int(at + size < len(datagram))
        fragment = IPv6ExtHdrFragment(nh=17, offset=at // 8, m=more, id=0)  # the host numbers them
        seen.append(_v6(fragment, Raw(datagram[at : at + size])))
    return _cut(whole, seen, 54, UFO, size)


def _tunnel(outer: Any, inner: Any, start: int, offset: int, v6: bool = False) -> Offered:
    """A guest's own VXLAN; the sum is that of the inner packet."""
    parts = (outer, VXLAN(vni=7), Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), inner)
    return _summed(_v6(*parts) if v6 else _v4(*parts), start, offset)


_INNER = IP(src="192.0.2.1", dst="192.0.2.2")
_PLAIN_UDP = UDP(sport=5000, dport=4789, chksum=0)
_RS = mine(from_ll(ICMPv6ND_RS(), src="::", dst=ROUTERS))
_SOLICIT = mine(from_ll(UDP(sport=546, dport=547), marked(), src=MY_LL, dst="ff02::1:2", hlim=1), "33:33:00:01:00:02")

HONEST = {
    "TCP over IPv4": _summed(_v4(_tcp()), 34, 16),
    "TCP over IPv6": _summed(_v6(_tcp()), 54, 16),
    "UDP over IPv4": _summed(_v4(_udp()), 34, 6),
    "UDP over IPv6": _summed(_v6(_udp()), 54, 6),
    "TCP over IPv4, no payload": _summed(_v4(_tcp(flags="S", data=b"")), 34, 16),
    "UDP over IPv6, an odd length": _summed(_v6(_udp(b"odd")), 54, 6),
    "TCP behind IPv4 options": _summed(_v4(_tcp(), options=_OPTIONS), 42, 16),
    "UDP behind IPv4 options": _summed(_v4(_udp(), options=_OPTIONS), 42, 6),
    "TCP behind the longest IPv4 options": _summed(_v4(_tcp(), options=[b"\1" * 40]), 74, 16),
    "TCP behind a destination option": _summed(_v6(IPv6ExtHdrDestOpt(), _tcp()), 62, 16),
    "UDP behind a destination option": _summed(_v6(IPv6ExtHdrDestOpt(), _udp()), 62, 6),
    "UDP behind hop-by-hop options": _summed(_v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]), _udp()), 62, 6),
    "TCP behind a routing header": _summed(_v6(IPv6ExtHdrRouting(addresses=[]), _tcp()), 62, 16),
    "UDP behind three headers": _summed(
        _v6(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=[]), _udp()), 78, 6
    ),
    "mDNS over IPv4": _summed(mine(IP(src=ME4, dst="224.0.0.251") / _udp(dport=5353), "01:00:5e:00:00:fb"), 34, 6),
    "DHCP renewal": _summed(mine(dhcp("request", src=ME4, dst=THEM4), THEM), 34, 6),
    "DHCP discover": _summed(mine(dhcp("discover")), 34, 6),
    "DHCPv6 solicit": _summed(_SOLICIT, 54, 6),
    "TSO over IPv4": _tso4(),
    "TSO over IPv4, last of a stream": _tso4("FPA"),
    "TSO over IPv4 behind options": _tso4(options=_OPTIONS),
    "TSO over IPv4 with ECN": _tso4("CPA", ecn=ECN),
    "TSO over IPv6": _tso6(),
    "TSO over IPv6 with ECN": _tso6(flags="CPA", ecn=ECN),
    "TSO over IPv6 behind a destination option": _tso6(IPv6ExtHdrDestOpt()),
    "USO over IPv4": _uso4(),
    "USO over IPv6": _uso6(),
    "USO over IPv4 to HTTP/3's port": _uso4(443),
    "UFO over IPv4": _ufo4(),
    "UFO over IPv6": _ufo6(),
    "VXLAN over IPv4, the outer checksum": _summed(
        _v4(UDP(sport=5000, dport=4789), VXLAN(vni=7), Ether(_v4(_tcp()))), 34, 6
    ),
    "VXLAN over IPv4, inner TCP": _tunnel(_PLAIN_UDP, _INNER / _tcp(), 84, 16),
    "VXLAN over IPv4, inner UDP": _tunnel(_PLAIN_UDP, _INNER / _udp(), 84, 6),
    "VXLAN over IPv6, inner TCP": _tunnel(_PLAIN_UDP, _INNER / _tcp(), 104, 16, v6=True),
    "VXLAN over IPv4 with its own checksum, inner TCP": _tunnel(UDP(sport=5000, dport=4789), _INNER / _tcp(), 84, 16),
    "TCP over IPv4, said to be valid": Offered(Header(DATA_VALID), _v4(_tcp()), (_v4(_tcp()),)),
    "UDP over IPv6, said to be valid": Offered(Header(DATA_VALID), _v6(_udp()), (_v6(_udp()),)),
    "an echo with nothing asked": Offered(Header(), _v4(ICMP() / marked()), (_v4(ICMP() / marked()),)),
    "a solicitation with nothing asked": Offered(Header(), _RS, (_RS,)),
    "TCP over IPv4 with its headers' length": Offered(Header(header_length=66), _v4(_tcp()), (_v4(_tcp()),)),
}

# A router passes on what another guest or NIC has left unfinished, from where it routes.
FORWARDED = {
    "TCP over IPv4, forwarded": _summed(_v4(_tcp(), src=_FAR4, ttl=63), 34, 16),
    "UDP over IPv6, forwarded": _summed(_v6(_udp(), src=_FAR6), 54, 6),
    "TSO over IPv4, forwarded": _tso4(src=_FAR4, ttl=63),
    "TSO over IPv6, forwarded": _tso6(src=_FAR6),
}

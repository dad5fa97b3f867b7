"""What honest guests send: Linux, Windows and BSD with static, DHCP and SLAAC addresses, and their host's QEMU."""

from __future__ import annotations

from typing import Any

from make import (
    GATEWAY4,
    ME,
    ME4,
    ME6,
    MY_LL,
    NODES,
    NONCE,
    ROUTER_ALERT,
    ROUTERS,
    THEM,
    THEM4,
    THEM6,
    ah,
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
from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
)

_ALERT = [b"\x94\x04\x00\x00"]


def _igmp(kind: int, src: str = ME4, dst: str = "224.0.0.22", group: str = "0.0.0.0") -> bytes:
    return mine(IP(src=src, dst=dst, ttl=1, proto=2, options=_ALERT) / igmp(kind, group))


def _v4(payload: Any, to: str = THEM, **fields: Any) -> bytes:
    return mine(IP(**{"src": ME4, "dst": THEM4, **fields}) / payload, to)


def _v6(*parts: Any, to: str = THEM, src: str = ME6, dst: str = THEM6) -> bytes:
    return mine(from_ll(*parts, src=src, dst=dst, hlim=64), to)


def _raw6(following: int, payload: bytes) -> bytes:
    """What scapy would not know."""
    return mine(IPv6(src=ME6, dst=THEM6, nh=following) / Raw(payload), THEM)


def _dhcp6(kind: int) -> bytes:
    return _v6(
        UDP(sport=546, dport=547),
        Raw(bytes([kind, 0, 0, 7]) + bytes.fromhex("0001000a0003000152540000000a") + b"\0\x08\0\2\0\0"),
        to="33:33:00:01:00:02",
        src=MY_LL,
        dst="ff02::1:2",
    )


ARPS = {
    "ARP request (RFC 826)": mine(arp(ME4)),
    "ARP request with a filled-in target MAC (Windows NUD)": mine(arp(ME4, hwdst=THEM), THEM),
    "ARP reply": mine(arp(ME4, op=2, hwdst=THEM), THEM),
    "ARP announcement (RFC 5227)": mine(arp(ME4, target=ME4)),
    "ARP announcement as a reply (Linux arp_notify, arping -A)": mine(arp(ME4, target=ME4, op=2, hwdst=ME)),
    "ARP probe (RFC 5227)": mine(arp("0.0.0.0", target=ME4)),
    "ARP request padded to 60 octets": mine(arp(ME4)).ljust(60, b"\0"),
    "RARP: QEMU's announcement after a migration": typed(
        0x8035, ARP(op=3, hwsrc=ME, psrc="0.0.0.0", hwdst=ME, pdst="0.0.0.0")
    ).ljust(60, b"\0"),
}

IPV4 = {
    "IPv4 ICMP echo": _v4(ICMP() / marked()),
    "IPv4 ICMP unreachable": _v4(ICMP(type=3, code=4) / marked()),
    "IPv4 router solicitation (RFC 1256)": _v4(ICMP(type=10), dst="224.0.0.2"),
    "IPv4 TCP with options": _v4(TCP() / marked(), options=[b"\x01\x01\x01\x00"]),
    "IPv4 UDP": _v4(UDP(sport=4000, dport=53) / marked()),
    "IPv4 UDP with record route": _v4(UDP(sport=4000, dport=53) / marked(), options=[b"\x07\x07\x04\0\0\0\0\0"]),
    "IPv4 SCTP": _v4(marked(), proto=132),
    "IPv4 mDNS (RFC 6762)": _v4(UDP(sport=5353, dport=5353) / marked(), "01:00:5e:00:00:fb", dst="224.0.0.251"),
    "IPv4 LLMNR (RFC 4795)": _v4(UDP(sport=5000, dport=5355) / marked(), "01:00:5e:00:00:fc", dst="224.0.0.252"),
    "IPv4 SSDP (Windows)": _v4(UDP(sport=5000, dport=1900) / marked(), "01:00:5e:7f:ff:fa", dst="239.255.255.250"),
    "IPv4 NetBIOS broadcast (Windows)": _v4(UDP(sport=137, dport=137) / marked(), dst="10.61.1.255"),
    "IPv4 first fragment": _v4(UDP(sport=9, dport=9, len=2000) / marked(800), flags="MF", id=9),
    "IPv4 later fragment": _v4(marked(80), frag=101, proto=17, id=9),
    "IPv4 first fragment of an echo": _v4(ICMP() / marked(800), flags="MF", id=10),
    "IPv4 later fragment of an echo": _v4(marked(80), frag=101, proto=1, id=10),
    "IPv4 GRE with another's packet inside": _v4(
        Raw(b"\0\0\x08\0" + bytes(IP(src=THEM4, dst=GATEWAY4) / UDP() / marked())), proto=47
    ),
    "IPv4 in IPv4, another's packet inside": _v4(IP(src=THEM4, dst=GATEWAY4) / UDP() / marked(), proto=4),
    "IPv4 ESP": _v4(marked(), proto=50),
    "IPv4 VXLAN with a router advertisement inside": _v4(UDP(sport=5000, dport=4789) / marked(80)),
    "IPv4 AH with TCP (RFC 4302)": _v4(Raw(ah(6) + bytes(TCP()) + b"guestnet" * 4), proto=51),
    "IPv4 HIP (RFC 7401)": _v4(Raw(b"\x3b\4\1\x21" + b"guestnet" * 4), proto=139),
    "IPv4 shortest first fragment (RFC 791)": _v4(UDP(sport=9, dport=9, len=900) / marked(40), flags="MF", id=11),
    "IPv4 QUIC (RFC 9000)": _v4(UDP(sport=50000, dport=443) / marked()),
    "IPv4 an answer to a client whose port is Babel's": _v4(UDP(sport=53, dport=6696) / marked()),
    "IPv4 full MTU": _v4(UDP(sport=9, dport=9) / Raw(b"x" * 1472)),
    "DHCP discover": mine(dhcp("discover")),
    "DHCP request": mine(dhcp("request")),
    "DHCP decline": mine(dhcp("decline")),
    "DHCP renewal from the own address": mine(dhcp("request", src=ME4, dst=GATEWAY4)),
    "DHCP rebinding": mine(dhcp("request", src=ME4)),
    "DHCP inform (Windows)": mine(dhcp("inform", src=ME4)),
    "DHCP release": mine(dhcp("release", src=ME4, dst=GATEWAY4)),
    "IGMPv1 report": _igmp(0x12, dst="239.1.2.3", group="239.1.2.3"),
    "IGMPv2 report": _igmp(0x16, dst="239.1.2.3", group="239.1.2.3"),
    "IGMPv2 leave": _igmp(0x17, dst="224.0.0.2", group="239.1.2.3"),
    "IGMPv3 report": _igmp(0x22),
    "IGMPv3 report without an address": _igmp(0x22, src="0.0.0.0"),
    "IGMPv2 leave without an address": _igmp(0x17, src="0.0.0.0", dst="224.0.0.2", group="239.1.2.3"),
    "IGMPv2 report without an address": _igmp(0x16, src="0.0.0.0", dst="239.1.2.3", group="239.1.2.3"),
}

IPV6 = {
    "IPv6 ICMP echo": _v6(ICMPv6EchoRequest(), marked()),
    "IPv6 TCP": _v6(TCP(), marked()),
    "IPv6 UDP": _v6(UDP(sport=4000, dport=53), marked()),
    "IPv6 mDNS (RFC 6762)": _v6(UDP(sport=5353, dport=5353), marked(), src=MY_LL, dst="ff02::fb"),
    "IPv6 LLMNR (RFC 4795)": _v6(UDP(sport=5000, dport=5355), marked(), src=MY_LL, dst="ff02::1:3"),
    "IPv6 TCP behind a destination option": _v6(IPv6ExtHdrDestOpt(), TCP(), marked()),
    "IPv6 UDP behind a destination option": _v6(IPv6ExtHdrDestOpt(), UDP(sport=4000, dport=53), marked()),
    "IPv6 first fragment": _v6(IPv6ExtHdrFragment(m=1, id=3), UDP(sport=4000, dport=53, len=2000), marked(800)),
    "IPv6 later fragment": _v6(IPv6ExtHdrFragment(nh=17, offset=101, id=3), marked(80)),
    "IPv6 first fragment of an echo": _v6(IPv6ExtHdrFragment(m=1, id=4), ICMPv6EchoRequest(), marked(800)),
    "IPv6 later fragment of an echo": _v6(IPv6ExtHdrFragment(nh=58, offset=101, id=4), marked(80)),
    "IPv6 later fragment of ESP": _v6(IPv6ExtHdrFragment(nh=50, offset=101, id=5), marked(80)),
    "IPv6 AH with TCP (RFC 4302)": _raw6(51, ah(6) + bytes(TCP()) + b"guestnet" * 4),
    "IPv6 AH with ESP (RFC 4302)": _raw6(51, ah(50) + b"guestnet" * 4),
    "IPv6 HIP (RFC 7401)": _raw6(139, b"\x3b\4\1\x21" + b"guestnet" * 4),
    "IPv6 a mobile node's binding update (RFC 6275)": _raw6(135, b"\x3b\1\5\0" + b"guestnet" * 4),
    "IPv6 no next header (RFC 8200)": _raw6(59, b"guestnet" * 4),
    "IPv6 no next header behind a destination option": _raw6(60, b"\x3b\0\1\4\0\0\0\0" + b"guestnet" * 4),
    "IPv6 QUIC (RFC 9000)": _v6(UDP(sport=50000, dport=443), marked()),
    "IPv6 an answer to a client whose port is RIPng's": _v6(UDP(sport=53, dport=521), marked()),
    "IPv6 atomic fragment with UDP (RFC 6946)": _v6(IPv6ExtHdrFragment(id=6), UDP(sport=4000, dport=53), marked()),
    "IPv6 unreachable": _v6(ICMPv6DestUnreach(), marked(80)),
    "IPv6 packet too big": _v6(ICMPv6PacketTooBig(mtu=1280), marked(80)),
    "IPv6 in IPv6, another's packet inside": _v6(IPv6(src=THEM6, dst=ME6), UDP(), marked()),
    "IPv6 full MTU": _v6(UDP(sport=9, dport=9), Raw(b"x" * 1452)),
    "NS with own address": mine(ns(THEM6, sll(ME), src=ME6)),
    "NS from the link-local address": mine(ns(THEM6, sll(ME))),
    "NS without option (NUD)": mine(ns(THEM6, src=ME6, dst=THEM6), THEM),
    "NS with an option, unicast (Windows NUD)": mine(ns(THEM6, sll(ME), src=ME6, dst=THEM6), THEM),
    "NA for own address": mine(na(ME6, tll(ME), src=ME6)),
    "NA for own address from the link-local address": mine(na(ME6, tll(ME))),
    "NA without option, unicast": mine(na(ME6, src=ME6), THEM),
    "NA for own link-local": mine(na(MY_LL, tll(ME))),
    "DAD for own address (RFC 4862)": mine(ns(ME6, src="::", dst="ff02::1:ff00:a")),
    "DAD for own link-local": mine(ns(MY_LL, src="::", dst="ff02::1:ff00:a")),
    "enhanced DAD (RFC 7527; Linux, FreeBSD)": mine(ns(MY_LL, NONCE, src="::", dst="ff02::1:ff00:a")),
    "router solicitation": mine(from_ll(ICMPv6ND_RS(), sll(ME), dst=ROUTERS)),
    "router solicitation without option": mine(from_ll(ICMPv6ND_RS(), dst=ROUTERS)),
    "router solicitation without an address": mine(from_ll(ICMPv6ND_RS(), src="::", dst=ROUTERS)),
    "MLDv1 report": mine(from_ll(ROUTER_ALERT, ICMPv6MLReport(mladdr="ff02::fb"), dst="ff02::fb", hlim=1)),
    "MLDv1 done": mine(from_ll(ROUTER_ALERT, ICMPv6MLDone(mladdr="ff02::fb"), dst=ROUTERS, hlim=1)),
    "MLDv2 report": mine(from_ll(ROUTER_ALERT, ICMPv6MLReport2(), dst="ff02::16", hlim=1)),
    "MLDv2 report during DAD (RFC 3590)": mine(
        from_ll(ROUTER_ALERT, ICMPv6MLReport2(), src="::", dst="ff02::16", hlim=1)
    ),
    "MLDv1 report during DAD (RFC 3590)": mine(
        from_ll(ROUTER_ALERT, ICMPv6MLReport(mladdr="ff02::fb"), src="::", dst="ff02::fb", hlim=1)
    ),
    "MLDv1 done during DAD (RFC 3590)": mine(
        from_ll(ROUTER_ALERT, ICMPv6MLDone(mladdr="ff02::fb"), src="::", dst=ROUTERS, hlim=1)
    ),
    "MLDv2 report of two groups during DAD (RFC 3590)": mine(
        from_ll(
            ROUTER_ALERT,
            ICMPv6MLReport2(
                records=[ICMPv6MLDMultAddrRec(rtype=4, dst=group) for group in ("ff02::1:ff00:a", "ff02::fb")]
            ),
            src="::",
            dst="ff02::16",
            hlim=1,
        )
    ),
    "DHCPv6 solicit": _v6(UDP(sport=546, dport=547), marked(), to="33:33:00:01:00:02", src=MY_LL, dst="ff02::1:2"),
    "DHCPv6 release": _dhcp6(8),
    "DHCPv6 information request": _dhcp6(11),
    "IPv6 to all nodes": _v6(UDP(sport=4000, dport=4000), marked(), to="33:33:00:00:00:01", src=MY_LL, dst=NODES),
}

HONEST = {**ARPS, **IPV4, **IPV6}

# Needs an MTU of 9000 on the way.
JUMBO = {
    "IPv4 jumbo frame": _v4(UDP(sport=9, dport=9) / Raw(b"x" * 8972)),
    "IPv6 jumbo frame": _v6(UDP(sport=9, dport=9), Raw(b"x" * 8952)),
}

"""The frame corpus: what an honest guest sends, and what a guest that pretends to be somebody else sends.

Every frame is named and says whose it is. ME is the port's own identity, THEM a neighbour's.
"""

from __future__ import annotations

from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    BOOTP,
    DHCP,
    ICMP,
    IP,
    LLC,
    SNAP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    Raw,
    RouterAlert,
)
from scapy.contrib.igmp import IGMP

ME, THEM = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
ME4, THEM4, GATEWAY4 = "10.61.1.10", "10.61.1.11", "10.61.1.1"
ME6, THEM6 = "fd61:1::a", "fd61:1::b"
MY_LL, THEIR_LL = "fe80::5054:ff:fe00:a", "fe80::5054:ff:fe00:b"
ALL = "ff:ff:ff:ff:ff:ff"
NODES, NODES_MAC = "ff02::1", "33:33:00:00:00:01"


def _mine(payload: object, to: str = ALL) -> bytes:
    return bytes(Ether(src=ME, dst=to) / payload)


def _marked(size: int = 32) -> Raw:
    return Raw(b"guestnet" * (size // 8))


def _arp(sender: str, hw: str = ME, target: str = THEM4, op: int = 1, **more: object) -> ARP:
    return ARP(op=op, hwsrc=hw, psrc=sender, pdst=target, **more)


def _dhcp(kind: str, mac: str = ME, op: int = 1, sport: int = 68, dport: int = 67, src: str = "0.0.0.0") -> object:
    chaddr = bytes.fromhex(mac.replace(":", ""))
    options = [("message-type", kind), "end"]
    header = IP(src=src, dst="255.255.255.255") / UDP(sport=sport, dport=dport)
    return header / BOOTP(op=op, chaddr=chaddr, xid=7) / DHCP(options=options)


def _na(target: str, option: object | None, src: str = MY_LL) -> object:
    message = IPv6(src=src, dst=NODES, hlim=255) / ICMPv6ND_NA(tgt=target, R=0, O=1)
    return message / option if option else message


def _ns(target: str, option: object | None, src: str = MY_LL, dst: str = "ff02::1:ff00:b") -> object:
    message = IPv6(src=src, dst=dst, hlim=255) / ICMPv6ND_NS(tgt=target)
    return message / option if option else message


_NONCE = ICMPv6NDOptUnknown(type=14, len=1, data=b"\1\2\3\4\5\6")
_RA = ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64) / ICMPv6NDOptSrcLLAddr(lladdr=ME)
_HOP_ROUTER_ALERT = IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"")])

HONEST = {
    "ARP request (RFC 826)": _mine(_arp(ME4)),
    "ARP reply": _mine(_arp(ME4, op=2, hwdst=THEM), THEM),
    "ARP announcement (RFC 5227)": _mine(_arp(ME4, target=ME4)),
    "ARP probe (RFC 5227)": _mine(_arp("0.0.0.0", target=ME4)),
    "IPv4 ICMP echo": _mine(IP(src=ME4, dst=THEM4) / ICMP() / _marked(), THEM),
    "IPv4 TCP with options": _mine(IP(src=ME4, dst=THEM4, options=[b"\x01\x01\x01\x00"]) / TCP() / _marked(), THEM),
    "IPv4 UDP": _mine(IP(src=ME4, dst=THEM4) / UDP(sport=4000, dport=53) / _marked(), THEM),
    "IPv4 mDNS": _mine(IP(src=ME4, dst="224.0.0.251", ttl=255) / UDP(sport=5353, dport=5353) / _marked()),
    "IPv4 first fragment": _mine(IP(src=ME4, dst=THEM4, flags="MF", id=9) / UDP(len=2000) / _marked(800), THEM),
    "IPv4 later fragment": _mine(IP(src=ME4, dst=THEM4, frag=101, proto=17, id=9) / _marked(80), THEM),
    "IPv4 GRE": _mine(IP(src=ME4, dst=THEM4, proto=47) / _marked(), THEM),
    "IPv4 full MTU": _mine(IP(src=ME4, dst=THEM4) / UDP() / Raw(b"x" * 1472), THEM),
    "DHCP discover": _mine(_dhcp("discover")),
    "DHCP renewal from the own address": _mine(_dhcp("request", src=ME4)),
    "IGMPv3 report without an address": _mine(
        IP(src="0.0.0.0", dst="224.0.0.22", proto=2, options=[b"\x94\x04\x00\x00"]) / IGMP(type=0x22) / _marked()
    ),
    "IPv6 ICMP echo": _mine(IPv6(src=ME6, dst=THEM6) / ICMPv6EchoRequest() / _marked(), THEM),
    "IPv6 link-local": _mine(IPv6(src=MY_LL, dst=NODES) / UDP(sport=5353, dport=5353) / _marked()),
    "IPv6 TCP behind a destination option": _mine(
        IPv6(src=ME6, dst=THEM6) / IPv6ExtHdrDestOpt() / TCP() / _marked(), THEM
    ),
    "IPv6 fragment": _mine(IPv6(src=ME6, dst=THEM6) / IPv6ExtHdrFragment(nh=17, offset=10, id=3) / _marked(80), THEM),
    "IPv6 unreachable": _mine(IPv6(src=ME6, dst=THEM6) / ICMPv6DestUnreach() / _marked(80), THEM),
    "NS with own address": _mine(_ns(THEM6, ICMPv6NDOptSrcLLAddr(lladdr=ME), src=ME6)),
    "NS without option (NUD)": _mine(_ns(THEM6, None, src=ME6, dst=THEM6), THEM),
    "NA for own address": _mine(_na(ME6, ICMPv6NDOptDstLLAddr(lladdr=ME), src=ME6)),
    "NA for own link-local": _mine(_na(MY_LL, ICMPv6NDOptDstLLAddr(lladdr=ME))),
    "DAD for own address (RFC 4862)": _mine(_ns(ME6, None, src="::", dst="ff02::1:ff00:a")),
    "enhanced DAD (RFC 7527)": _mine(_ns(MY_LL, _NONCE, src="::", dst="ff02::1:ff00:a")),
    "router solicitation": _mine(
        IPv6(src=MY_LL, dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=ME)
    ),
    "router solicitation without an address": _mine(IPv6(src="::", dst="ff02::2", hlim=255) / ICMPv6ND_RS()),
    "MLDv2 report": _mine(IPv6(src=MY_LL, dst="ff02::16", hlim=1) / _HOP_ROUTER_ALERT / ICMPv6MLReport2()),
    "MLDv2 report during DAD (RFC 3590)": _mine(
        IPv6(src="::", dst="ff02::16", hlim=1) / _HOP_ROUTER_ALERT / ICMPv6MLReport2()
    ),
    "DHCPv6 solicit": _mine(IPv6(src=MY_LL, dst="ff02::1:2") / UDP(sport=546, dport=547) / _marked()),
}

FORGED = {
    "mac: another's source MAC": bytes(Ether(src=THEM, dst=ALL) / IP(src=ME4, dst=THEM4) / ICMP() / _marked()),
    "mac: a multicast source MAC": bytes(
        Ether(src="53:54:00:00:00:0a", dst=ALL) / IP(src=ME4, dst=THEM4) / UDP() / _marked()
    ),
    "arp: another's address": _mine(_arp(THEM4)),
    "arp: the gateway's address in a reply": _mine(_arp(GATEWAY4, op=2, hwdst=THEM)),
    "arp: another's MAC inside": _mine(_arp(ME4, hw=THEM)),
    "arp: a probe for another's address": _mine(_arp("0.0.0.0", target=THEM4)),
    "arp: a reply from 0.0.0.0": _mine(_arp("0.0.0.0", op=2, target=ME4)),
    "arp: wrong hardware length": _mine(_arp(ME4, hwlen=5)),
    "arp: wrong protocol": _mine(_arp(ME4, ptype=0x86DD)),
    "arp: RARP": bytes(Ether(src=ME, dst=ALL, type=0x8035) / _arp(ME4, op=3)),
    "arp: InARP": _mine(_arp(ME4, op=8)),
    "ipv4: another's source": _mine(IP(src=THEM4, dst=GATEWAY4) / UDP() / _marked()),
    "ipv4: another's source in a later fragment": _mine(IP(src=THEM4, dst=GATEWAY4, frag=3, proto=17) / _marked()),
    "ipv4: source 0.0.0.0": _mine(IP(src="0.0.0.0", dst=THEM4) / UDP(sport=1, dport=2) / _marked()),
    "ipv4: loopback source": _mine(IP(src="127.0.0.1", dst=THEM4) / UDP() / _marked()),
    "ipv4: multicast source": _mine(IP(src="224.0.0.1", dst=THEM4) / UDP() / _marked()),
    "ipv4: broadcast source": _mine(IP(src="255.255.255.255", dst=THEM4) / UDP() / _marked()),
    "ipv4: ICMP redirect": _mine(IP(src=ME4, dst=THEM4) / ICMP(type=5, code=1, gw=ME4) / _marked()),
    "ipv4: ICMP router advertisement": _mine(IP(src=ME4, dst="224.0.0.1") / ICMP(type=9) / _marked()),
    "ipv4: IGMP query": _mine(IP(src=ME4, dst="224.0.0.1", proto=2) / IGMP(type=0x11) / _marked()),
    "dhcp-offer: from port 67": _mine(_dhcp("offer", op=2, sport=67, dport=68, src=ME4)),
    "dhcp-offer: from another port": _mine(_dhcp("offer", op=2, sport=4011, dport=68, src=ME4)),
    "dhcp-offer: another's hardware address in a discover": _mine(_dhcp("discover", mac=THEM)),
    "dhcp-offer: DHCPv6 advertise": _mine(IPv6(src=MY_LL, dst=THEIR_LL) / UDP(sport=547, dport=546) / _marked()),
    "dhcp-offer: DHCPv6 from another port": _mine(IPv6(src=MY_LL, dst=THEIR_LL) / UDP(sport=9, dport=546) / _marked()),
    "ipv6: another's source": _mine(IPv6(src=THEM6, dst=NODES) / UDP() / _marked()),
    "ipv6: another's link-local": _mine(IPv6(src=THEIR_LL, dst=NODES) / UDP() / _marked()),
    "ipv6: multicast source": _mine(IPv6(src="ff02::1", dst=NODES) / UDP() / _marked()),
    "ipv6: loopback source": _mine(IPv6(src="::1", dst=NODES) / UDP() / _marked()),
    "ipv6: unspecified source": _mine(IPv6(src="::", dst=NODES) / UDP() / _marked()),
    "nd: NA for another's address": _mine(_na(THEM6, ICMPv6NDOptDstLLAddr(lladdr=ME), src=ME6)),
    "nd: NA with another's MAC": _mine(_na(ME6, ICMPv6NDOptDstLLAddr(lladdr=THEM), src=ME6)),
    "nd: NA with two options": _mine(
        _na(ME6, ICMPv6NDOptDstLLAddr(lladdr=ME) / ICMPv6NDOptDstLLAddr(lladdr=THEM), src=ME6)
    ),
    "nd: NA behind a destination option": _mine(
        IPv6(src=ME6, dst=NODES, hlim=255) / IPv6ExtHdrDestOpt() / ICMPv6ND_NA(tgt=THEM6) / ICMPv6NDOptDstLLAddr()
    ),
    "nd: NA in a fragment": _mine(
        IPv6(src=ME6, dst=NODES, hlim=255) / IPv6ExtHdrFragment(m=1, id=5) / ICMPv6ND_NA(tgt=THEM6) / _marked()
    ),
    "nd: NS with another's MAC": _mine(_ns(THEM6, ICMPv6NDOptSrcLLAddr(lladdr=THEM), src=ME6)),
    "nd: NS with its own MAC second": _mine(
        _ns(THEM6, ICMPv6NDOptSrcLLAddr(lladdr=THEM) / ICMPv6NDOptSrcLLAddr(lladdr=ME), src=ME6)
    ),
    "nd: DAD for another's address": _mine(_ns(THEM6, None, src="::", dst="ff02::1:ff00:b")),
    "nd: redirect": _mine(IPv6(src=MY_LL, dst=THEIR_LL, hlim=255) / ICMPv6ND_Redirect(tgt=MY_LL, dst=THEM6)),
    "ra: router advertisement": _mine(IPv6(src=MY_LL, dst=NODES, hlim=255) / _RA),
    "ra: behind a hop-by-hop option": _mine(
        IPv6(src=MY_LL, dst=NODES, hlim=255) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / _RA
    ),
    "ra: in an atomic fragment": _mine(IPv6(src=MY_LL, dst=NODES, hlim=255) / IPv6ExtHdrFragment(id=6) / _RA),
    "ra: in a first fragment": _mine(IPv6(src=MY_LL, dst=NODES, hlim=255) / IPv6ExtHdrFragment(m=1, id=6) / _RA),
    "ra: router advertisement with VLAN 0": bytes(
        Ether(src=ME, dst=NODES_MAC) / Dot1Q(vlan=0) / IPv6(src=MY_LL, dst=NODES, hlim=255) / _RA
    ),
    "vlan: a tag that nobody gave": bytes(
        Ether(src=ME, dst=ALL) / Dot1Q(vlan=7) / IP(src=ME4, dst=THEM4) / UDP() / _marked()
    ),
    "vlan: VLAN 0 (CVE-2021-27853)": bytes(
        Ether(src=ME, dst=ALL) / Dot1Q(vlan=0) / IP(src=ME4, dst=THEM4) / UDP() / _marked()
    ),
    "vlan: two tags": bytes(
        Ether(src=ME, dst=ALL) / Dot1Q(vlan=0) / Dot1Q(vlan=7) / IP(src=ME4, dst=THEM4) / UDP() / _marked()
    ),
    "vlan: 802.1ad": bytes(
        Ether(src=ME, dst=ALL, type=0x88A8) / Dot1AD(vlan=7) / IP(src=ME4, dst=THEM4) / UDP() / _marked()
    ),
    "llc: IPv4 in SNAP (CVE-2021-27854)": bytes(
        Dot3(src=ME, dst=ALL) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x0800) / IP(src=ME4, dst=THEM4) / UDP()
    ),
    "llc: spanning tree": bytes(Dot3(src=ME, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / _marked()),
    "ethertype: LLDP": bytes(Ether(src=ME, dst="01:80:c2:00:00:0e", type=0x88CC) / _marked(48)),
    "ethertype: PPPoE discovery": bytes(Ether(src=ME, dst=ALL, type=0x8863) / _marked(48)),
    "ethertype: unknown": bytes(Ether(src=ME, dst=ALL, type=0x1234) / _marked(48)),
}

"""What a guest sends that pretends to be somebody else, or something else than a guest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from make import (
    ALL,
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
    NODES,
    NONCE,
    ROUTER_ALERT,
    STRANGE_OPTION,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    VIRTUAL,
    ah,
    arp,
    dhcp,
    first_fragment,
    from_ll,
    hidden,
    hidings,
    igmp,
    marked,
    mine,
    na,
    ns,
    sll,
    snapped,
    tag_bytes,
    tagged,
    tll,
    typed,
    vrrp,
)
from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    ICMP,
    IP,
    LLC,
    SNAP,
    TCP,
    UDP,
    Dot3,
    Ether,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
)

RA = ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64) / sll(ME)
REDIRECT = ICMPv6ND_Redirect(tgt=MY_LL, dst=THEM6)
ADVERTISE = UDP(sport=547, dport=546) / marked()
_ALERT = [b"\x94\x04\x00\x00"]
_SPOOFED = IP(src=THEM4, dst=GATEWAY4) / UDP(sport=9, dport=9) / marked()


def _nowhere(message: Any, dst: str) -> bytes:
    """A listener's message from ::."""
    return mine(from_ll(ROUTER_ALERT, message, src="::", dst=dst, hlim=1))


def _from(mac: str, payload: Any) -> bytes:
    return bytes(Ether(src=mac, dst=ALL) / payload)


def _v4(payload: Any, **fields: Any) -> bytes:
    return mine(IP(**{"src": ME4, "dst": THEM4, **fields}) / payload)


def _igmp(kind: int, src: str = ME4, dst: str = "224.0.0.1", extra: bytes = b"") -> bytes:
    return mine(IP(src=src, dst=dst, ttl=1, proto=2, options=_ALERT) / igmp(kind, extra=extra))


def _empty(padding: bytes, proto: int) -> bytes:
    """A first fragment that ends behind its IPv4 header, and what a filter may read there."""
    return _v4(b"", flags="MF", proto=proto) + padding + b"guestnet" * 4


def _empty6(*before: int) -> bytes:
    """A first fragment of UDP that ends behind its fragment header, perhaps behind other headers."""
    headers = b"".join(bytes([following, 0, 1, 4, 0, 0, 0, 0]) for following in (*before[1:], 44) if before)
    packet = IPv6(src=MY_LL, dst=NODES, nh=(*before, 44)[0]) / Raw(headers + first_fragment(17))
    return mine(packet) + bytes(UDP(sport=9, dport=9) / marked())


MACS = {
    "mac: another's source MAC": _from(THEM, IP(src=ME4, dst=THEM4) / ICMP() / marked()),
    "mac: another's source MAC and address": _from(THEM, IP(src=THEM4, dst=GATEWAY4) / UDP() / marked()),
    "mac: another's source MAC in IPv6": _from(THEM, IPv6(src=ME6, dst=NODES) / UDP() / marked()),
    "mac: another's source MAC in ARP": _from(THEM, arp(ME4)),
    "mac: a VRRP router's (RFC 5798)": _from(VIRTUAL, IP(src=ME4, dst="224.0.0.18", proto=112, ttl=255) / vrrp(5)),
    "mac: a multicast source MAC": _from("53:54:00:00:00:0a", IP(src=ME4, dst=THEM4) / UDP() / marked()),
    "mac: all zeros": _from("00:00:00:00:00:00", IP(src=ME4, dst=THEM4) / UDP() / marked()),
}

ARPS = {
    "arp: another's address": mine(arp(THEM4)),
    "arp: the gateway's address in a reply": mine(arp(GATEWAY4, op=2, hwdst=THEM)),
    "arp: an announcement of another's address": mine(arp(THEM4, target=THEM4)),
    "arp: an announcement of the gateway's as a reply": mine(arp(GATEWAY4, target=GATEWAY4, op=2)),
    "arp: another's MAC inside": mine(arp(ME4, hw=THEM)),
    "arp: another's MAC and address inside": mine(arp(THEM4, hw=THEM)),
    "arp: a VRRP MAC inside (RFC 5798)": mine(arp(ME4, hw=VIRTUAL)),
    "arp: a probe for another's address (RFC 5227 denial of service)": mine(arp("0.0.0.0", target=THEM4)),
    "arp: a probe with another's MAC": mine(arp("0.0.0.0", hw=THEM, target=ME4)),
    "arp: a reply from 0.0.0.0": mine(arp("0.0.0.0", op=2, target=ME4)),
    "arp: wrong hardware length": mine(arp(ME4, hwlen=5)),
    "arp: wrong protocol length": mine(arp(THEM4, plen=16)),
    "arp: wrong hardware type": mine(arp(THEM4, hwtype=6)),
    "arp: wrong protocol": mine(arp(ME4, ptype=0x86DD)),
    "arp: cut short": mine(Raw(bytes(arp(ME4))[:18]), ALL)[:12] + b"\x08\x06" + bytes(arp(THEM4))[:18],
    "arp: operation 0": mine(arp(ME4, op=0)),
    "arp: DRARP (RFC 1931)": mine(arp(ME4, op=5)),
    "arp: InARP request (RFC 2390)": mine(arp(ME4, op=8)),
    "arp: InARP reply (RFC 2390)": mine(arp(THEM4, op=9)),
    "arp: NAK (RFC 1577)": mine(arp(ME4, op=10)),
    "arp: RARP request in ARP": mine(arp(ME4, op=3)),
    "arp: RARP with an address (RFC 903)": typed(0x8035, arp(ME4, op=3)),
    "arp: RARP asking for another's MAC": typed(
        0x8035, ARP(op=3, hwsrc=ME, psrc="0.0.0.0", hwdst=THEM, pdst="0.0.0.0")
    ),
    "arp: RARP that is an ARP request": typed(0x8035, arp(ME4, op=1)),
    "arp: RARP server's answer (RFC 903)": typed(0x8035, ARP(op=4, hwsrc=ME, psrc=ME4, hwdst=THEM, pdst=THEM4)),
}

IPV4 = {
    "ipv4: another's source": mine(_SPOOFED),
    "ipv4: the gateway's source": _v4(UDP() / marked(), src=GATEWAY4),
    "ipv4: another's source, TCP": _v4(TCP() / marked(), src=THEM4),
    "ipv4: another's source, ICMP": _v4(ICMP() / marked(), src=THEM4),
    "ipv4: another's source with options": _v4(UDP() / marked(), src=THEM4, options=[b"\x01\x01\x01\x00"]),
    "ipv4: another's source in a first fragment": _v4(UDP() / marked(), src=THEM4, flags="MF"),
    "ipv4: another's source in a later fragment": _v4(marked(), src=THEM4, frag=3, proto=17),
    "ipv4: another's source in GRE's outer header": _v4(marked(), src=THEM4, proto=47),
    "ipv4: another's source, to the DHCP server (clean-traffic)": mine(dhcp("request", src=THEM4)),
    "ipv4: source 0.0.0.0": _v4(UDP(sport=1, dport=2) / marked(), src="0.0.0.0"),
    "ipv4: source 0.0.0.0 by broadcast (clean-traffic)": _v4(UDP() / marked(), src="0.0.0.0", dst="255.255.255.255"),
    "ipv4: source 0.0.0.0, from the DHCP client's port": _v4(
        UDP(sport=68, dport=9) / marked(), src="0.0.0.0", dst="255.255.255.255"
    ),
    "ipv4: source 0.0.0.0, DHCP by unicast": mine(dhcp("discover", dst=THEM4)),
    "ipv4: loopback source": _v4(UDP() / marked(), src="127.0.0.1"),
    "ipv4: multicast source": _v4(UDP() / marked(), src="224.0.0.1"),
    "ipv4: broadcast source": _v4(UDP() / marked(), src="255.255.255.255"),
    "ipv4: the subnet's broadcast source": _v4(UDP() / marked(), src="10.61.1.255"),
    "ipv4: reserved source": _v4(UDP() / marked(), src="240.0.0.1"),
    "ipv4: link-local source (RFC 3927)": _v4(UDP() / marked(), src="169.254.1.1"),
    "ipv4: an off-link source": _v4(UDP() / marked(), src="192.0.2.1"),
    "ipv4: ICMP redirect (RFC 792)": _v4(ICMP(type=5, code=1, gw=ME4) / marked()),
    "ipv4: ICMP redirect behind options": _v4(ICMP(type=5, code=1, gw=ME4) / marked(), options=[b"\x01" * 4]),
    "ipv4: ICMP redirect in a first fragment": _v4(ICMP(type=5, gw=ME4) / marked(), flags="MF"),
    "ipv4: ICMP router advertisement (RFC 1256)": _v4(ICMP(type=9) / marked(), dst="224.0.0.1"),
    "ipv4: ICMP source quench (RFC 6633)": _v4(ICMP(type=4) / marked()),
    "ipv4: ICMP address mask reply (RFC 950)": _v4(ICMP(type=18) / marked()),
    "ipv4: IGMPv1/v2 query": _igmp(0x11),
    "ipv4: IGMPv3 query": _igmp(0x11, extra=b"\x02\x7d\0\0"),
    "ipv4: IGMP query from 0.0.0.0": _igmp(0x11, src="0.0.0.0"),
    "ipv4: IGMP query without router alert": _v4(igmp(0x11), dst="224.0.0.1", proto=2),
    "ipv4: IGMP query in a first fragment": _v4(igmp(0x11), dst="224.0.0.1", proto=2, flags="MF"),
    "ipv4: DVMRP probe (RFC 1075)": _igmp(0x13, dst="224.0.0.4"),
    "ipv4: PIMv1": _igmp(0x14, dst="224.0.0.2"),
    "ipv4: multicast router advertisement (RFC 4286)": _igmp(0x30, dst="224.0.0.106"),
    "ipv4: multicast router termination (RFC 4286)": _igmp(0x32, dst="224.0.0.106"),
    "ipv4: PIM hello (makes a snooping bridge's router port)": _v4(marked(), dst="224.0.0.13", proto=103, ttl=1),
    **{
        f"ipv4: a first fragment without payload, {name} in the padding": _empty(bytes(harmless), proto)
        for name, proto, harmless in (
            ("UDP", 17, UDP(sport=9, dport=9)),
            ("an echo", 1, ICMP()),
            ("TCP", 6, TCP()),
        )
    },
    "ipv4: a first fragment of seven octets": _v4(Raw(bytes(UDP(sport=9, dport=9))[:7]), flags="MF", proto=17)
    + b"guestnet" * 3,
    "ipv4: a first fragment without payload behind options": _v4(b"", flags="MF", proto=17, options=[b"\x01" * 40])
    + bytes(UDP(sport=9, dport=9) / marked()),
    **{
        f"ipv4: {name} behind AH": _v4(Raw(ah(proto) + bytes(message)), proto=51)
        for name, proto, message in (
            ("ICMP redirect", 1, ICMP(type=5, code=1, gw=ME4) / marked()),
            ("IGMP query", 2, igmp(0x11)),
            ("a DHCP offer", 17, UDP(sport=67, dport=68) / marked(240)),
            ("a PIM hello", 103, marked()),
        )
    },
    "ipv4: IGMPv3 report from 0.0.0.0 to another group": _igmp(0x22, src="0.0.0.0", dst="224.0.0.1"),
    "ipv4: IGMPv2 leave from 0.0.0.0 to another group": _igmp(0x17, src="0.0.0.0", dst="239.1.2.3"),
    "ipv4: IGMPv2 report from 0.0.0.0 with 1400 octets": _igmp(
        0x16, src="0.0.0.0", dst="239.1.2.3", extra=b"guestnet" * 175
    ),
    "ipv4: header length below 20": _v4(UDP() / marked(), ihl=4),
    "ipv4: header longer than the packet": _v4(marked(8), ihl=15, proto=1),
    "ipv4: version 6": _v4(UDP() / marked(), version=6),
}

DHCPS = {
    "dhcp-offer: from port 67": mine(dhcp("offer", op=2, sport=67, dport=68, src=ME4)),
    "dhcp-offer: an acknowledgement": mine(dhcp("ack", op=2, sport=67, dport=68, src=ME4)),
    "dhcp-offer: a NAK (denial of service)": mine(dhcp("nak", op=2, sport=67, dport=68, src=ME4)),
    "dhcp-offer: from another port": mine(dhcp("offer", op=2, sport=4011, dport=68, src=ME4)),
    "dhcp-offer: by unicast": mine(dhcp("offer", op=2, sport=67, dport=68, src=ME4, dst=THEM4)),
    "dhcp-offer: from the gateway's address": mine(dhcp("offer", op=2, sport=67, dport=68, src=GATEWAY4)),
    "dhcp-offer: from 0.0.0.0": mine(dhcp("offer", op=2, sport=67, dport=68)),
    "dhcp-offer: behind IPv4 options": _v4(
        UDP(sport=67, dport=68) / marked(240), options=[b"\x01" * 8], dst="255.255.255.255"
    ),
    "dhcp-offer: in a first fragment": _v4(UDP(sport=67, dport=68, len=900) / marked(240), flags="MF"),
    "dhcp-offer: another's hardware address in a discover (starvation)": mine(dhcp("discover", mac=THEM)),
    "dhcp-offer: another's hardware address in a release": mine(dhcp("release", mac=THEM, src=ME4, dst=GATEWAY4)),
    "dhcp-offer: a reply to a relay": mine(dhcp("offer", op=2, sport=67, dport=67, src=ME4, mac=ME)),
    "dhcp-offer: a relay nobody asked for": mine(dhcp("discover", src=ME4, sport=67, giaddr=ME4)),
    "dhcp-offer: a relayed discover from 0.0.0.0": mine(dhcp("discover", giaddr=THEM4)),
    "dhcp-offer: a request in fragments that may overlap": _v4(
        UDP(sport=68, dport=67, len=308) / Raw(bytes(dhcp("request"))[28:]), flags="MF", dst=GATEWAY4
    ),
    "dhcp-offer: DHCPv6 advertise": mine(from_ll(ADVERTISE, dst=THEIR_LL)),
    "dhcp-offer: DHCPv6 from a global address": mine(from_ll(ADVERTISE, src=ME6, dst=THEM6)),
    "dhcp-offer: DHCPv6 leasequery's end (RFC 5460)": mine(
        from_ll(UDP(sport=547, dport=546), Raw(b"\x10\0\0\7guestnet"), dst=THEIR_LL)
    ),
    "dhcp-offer: DHCPv6 from another port": mine(from_ll(UDP(sport=9, dport=546), marked(), dst=THEIR_LL)),
    **{
        f"dhcp-offer: DHCPv6 behind {name}": hidden(hiding, ADVERTISE, dst=THEIR_LL)
        for name, hiding in hidings(17).items()
    },
}

IPV6 = {
    "ipv6: another's source": mine(from_ll(UDP(), marked(), src=THEM6)),
    "ipv6: another's source, TCP": mine(from_ll(TCP(), marked(), src=THEM6)),
    "ipv6: another's source behind a destination option": mine(from_ll(IPv6ExtHdrDestOpt(), TCP(), src=THEM6)),
    "ipv6: another's source in a first fragment": mine(from_ll(IPv6ExtHdrFragment(m=1), UDP(), marked(), src=THEM6)),
    "ipv6: another's source in a later fragment": mine(
        from_ll(IPv6ExtHdrFragment(nh=17, offset=9), marked(), src=THEM6)
    ),
    "ipv6: the gateway's source": mine(from_ll(UDP(), marked(), src=GATEWAY6)),
    "ipv6: another's link-local": mine(from_ll(UDP(), marked(), src=THEIR_LL)),
    "ipv6: another of the subnet's addresses": mine(from_ll(UDP(), marked(), src="fd61:1::dead")),
    "ipv6: an off-link source": mine(from_ll(UDP(), marked(), src="2001:db8::1")),
    "ipv6: multicast source": mine(from_ll(UDP(), marked(), src="ff02::1")),
    "ipv6: loopback source": mine(from_ll(UDP(), marked(), src="::1")),
    "ipv6: IPv4-mapped source": mine(from_ll(UDP(), marked(), src="::ffff:10.61.1.11")),
    "ipv6: unspecified source": mine(from_ll(UDP(), marked(), src="::")),
    "ipv6: unspecified source, DHCPv6": mine(from_ll(UDP(sport=546, dport=547), marked(), src="::", dst="ff02::1:2")),
    "ipv6: MLDv1 query": mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery(), hlim=1)),
    "ipv6: MLDv2 query": mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery2(), hlim=1)),
    "ipv6: MLD query without router alert": mine(from_ll(ICMPv6MLQuery(), hlim=1)),
    "ipv6: MLD query from ::": mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery(), src="::", hlim=1)),
    "ipv6: MLD report for another": mine(from_ll(ROUTER_ALERT, ICMPv6MLReport2(), src=THEIR_LL, dst="ff02::16")),
    "ipv6: PIM hello": mine(IPv6(src=MY_LL, dst="ff02::d", nh=103, hlim=1) / marked()),
    "ipv6: MLDv1 report from :: to one host (OVN)": _nowhere(ICMPv6MLReport(mladdr="ff02::fb"), THEIR_LL),
    "ipv6: MLDv1 report from :: with 1400 octets": _nowhere(
        ICMPv6MLReport(mladdr="ff02::fb") / Raw(b"guestnet" * 175), "ff02::fb"
    ),
    "ipv6: MLDv1 done from :: to one host": _nowhere(ICMPv6MLDone(mladdr="ff02::fb"), THEM6),
    "ipv6: MLDv2 report from :: to one host (OVN)": _nowhere(ICMPv6MLReport2(), THEIR_LL),
    "ipv6: MLDv2 report from :: to all nodes": _nowhere(ICMPv6MLReport2(), NODES),
    "ipv6: MLDv2 report from :: with 1400 octets to one host": _nowhere(
        ICMPv6MLReport2() / Raw(b"guestnet" * 175), THEIR_LL
    ),
    "ipv6: MLDv2 report from :: with 1400 octets": _nowhere(ICMPv6MLReport2() / Raw(b"guestnet" * 175), "ff02::16"),
    "ipv6: MLDv2 report from :: without router alert": mine(from_ll(ICMPv6MLReport2(), src="::", dst="ff02::16")),
    "ipv6: another's source with no next header": mine(IPv6(src=THEM6, dst=NODES, nh=59) / marked()),
    "ipv6: a first fragment without payload, UDP in the padding": _empty6(),
    "ipv6: a first fragment without payload behind a hop-by-hop option": _empty6(0),
    "ipv6: a first fragment without payload behind two headers": _empty6(0, 60),
    "ipv6: a first fragment of AH alone (RFC 7112)": mine(
        IPv6(src=MY_LL, dst=NODES, nh=44) / Raw(first_fragment(51) + ah(58))
    ),
    "ipv6: a later fragment of AH": mine(from_ll(IPv6ExtHdrFragment(nh=51, offset=101, id=5), marked(80))),
    "ipv6: version 4": mine(IPv6(version=4, src=THEM6, dst=NODES) / UDP() / marked()),
    "ipv6: version 4, TCP from the own address": mine(IPv6(version=4, src=ME6, dst=THEM6) / TCP() / marked()),
    "ipv6: version 15, TCP from the own address": mine(IPv6(version=15, src=ME6, dst=THEM6) / TCP() / marked()),
    "ipv6: TCP longer than the packet": mine(IPv6(src=ME6, dst=THEM6, plen=1400) / TCP() / marked()),
    **{
        f"ipv6: {name}": mine(from_ll(ICMPv6Unknown(type=kind), marked(24)))
        for name, kind in {
            "router renumbering (RFC 2894)": 138,
            "inverse neighbour solicitation (RFC 3122)": 141,
            "inverse neighbour advertisement (RFC 3122)": 142,
            "home agent's address discovery reply (RFC 6275)": 145,
            "home agent's prefix advertisement (RFC 6275)": 147,
            "certification path solicitation (RFC 3971)": 148,
            "certification path advertisement (RFC 3971)": 149,
            "multicast router advertisement (RFC 4286)": 151,
            "multicast router solicitation (RFC 4286)": 152,
            "multicast router termination (RFC 4286)": 153,
            "fast handover's router advertisement (RFC 5568)": 154,
            "RPL control (RFC 6550)": 155,
        }.items()
    },
    **{
        f"ipv6: MLD query behind {name}": hidden(hiding, ICMPv6MLQuery(), hlim=1)
        for name, hiding in hidings(58).items()
    },
}


def _options(own: Any, theirs: Any) -> Iterator[tuple[str, list[Any]]]:
    """Link-layer options in every position, among every kind of neighbour."""
    yield "another's MAC", [theirs]
    yield "two options, another's second", [own, theirs]
    yield "two options, another's first", [theirs, own]
    yield "another's behind a nonce", [NONCE, theirs]
    yield "another's behind an unknown option", [STRANGE_OPTION, theirs]
    yield "another's before an unknown option", [theirs, STRANGE_OPTION]
    yield "another's behind an MTU option", [ICMPv6NDOptMTU(), theirs]
    yield "another's as the tenth", [own] * 9 + [theirs]
    yield "own MAC twice", [own, own]
    yield "an option of length zero", [Raw(b"\2\0" + b"\0" * 6)]
    yield "an option of length two", [Raw(bytes(theirs)[:1] + b"\2" + bytes(theirs)[2:] + b"\0" * 8)]
    yield "an option that is cut short", [Raw(bytes(theirs)[:4])]


NDS = {
    "nd: NA for another's address": mine(na(THEM6, tll(ME), src=ME6)),
    "nd: NA for another's link-local": mine(na(THEIR_LL, tll(ME))),
    "nd: NA for the gateway": mine(na(GATEWAY6, tll(ME))),
    "nd: NA for another's address without option": mine(na(THEM6, src=ME6)),
    "nd: NA from another's address": mine(na(THEM6, tll(ME), src=THEM6)),
    "nd: NA with a source option": mine(na(ME6, sll(THEM), src=ME6)),
    "nd: NA from ::": mine(na(ME6, tll(ME), src="::")),
    "nd: NS from another's address": mine(ns(ME6, sll(ME), src=THEM6)),
    "nd: NS with a target option": mine(ns(THEM6, tll(THEM), src=ME6)),
    "nd: DAD for another's address (RFC 4862 denial of service)": mine(ns(THEM6, src="::")),
    "nd: DAD for another's address, with a nonce": mine(ns(THEM6, NONCE, src="::")),
    "nd: DAD with a link-layer option": mine(ns(ME6, sll(THEM), src="::")),
    "nd: DAD with own link-layer option": mine(ns(ME6, sll(ME), src="::")),
    "nd: DAD with two options": mine(ns(ME6, NONCE, sll(THEM), src="::")),
    "nd: DAD to one host (OVN)": mine(ns(ME6, src="::", dst=THEM6)),
    "nd: DAD to all nodes": mine(ns(ME6, src="::", dst=NODES)),
    "nd: RS from :: to one host": mine(from_ll(ICMPv6ND_RS(), src="::", dst=THEIR_LL)),
    "nd: redirect": mine(from_ll(REDIRECT, dst=THEIR_LL)),
    "nd: redirect with the own MAC": mine(from_ll(REDIRECT, tll(ME), dst=THEIR_LL)),
    "nd: redirect from the gateway": mine(from_ll(REDIRECT, src="fe80::1", dst=THEIR_LL)),
    "nd: redirect from a global address": mine(from_ll(REDIRECT, src=ME6, dst=THEM6)),
    "nd: RS with another's MAC": mine(from_ll(ICMPv6ND_RS(), sll(THEM), dst="ff02::2")),
    "nd: RS with own MAC first": mine(from_ll(ICMPv6ND_RS(), sll(ME), sll(THEM), dst="ff02::2")),
    "nd: RS with a link-layer option from ::": mine(from_ll(ICMPv6ND_RS(), sll(THEM), src="::", dst="ff02::2")),
    **{f"nd: NA with {n}": mine(na(ME6, *options, src=ME6)) for n, options in _options(tll(ME), tll(THEM))},
    **{f"nd: NS with {n}": mine(ns(THEM6, *options, src=ME6)) for n, options in _options(sll(ME), sll(THEM))},
    **{
        f"nd: {what} behind {name}": hidden(hiding, message)
        for what, message in {
            "NA": ICMPv6ND_NA(tgt=THEM6) / tll(ME),
            "NS": ICMPv6ND_NS(tgt=ME6) / sll(THEM),
            "redirect": REDIRECT,
        }.items()
        for name, hiding in hidings(58).items()
    },
}


def _headless(following: int) -> Any:
    """A first fragment that ends before its upper-layer header, which the second one brings."""
    return IPv6ExtHdrFragment(nh=60, m=1, id=8) / Raw(bytes([following, 0, 1, 4, 0, 0, 0, 0]))


RAS = {
    "ra: router advertisement": mine(from_ll(RA)),
    "ra: by unicast": bytes(Ether(src=ME, dst=THEM) / from_ll(RA, dst=THEIR_LL)),
    "ra: without options": mine(from_ll(ICMPv6ND_RA(routerlifetime=1800))),
    "ra: with lifetime zero for the gateway (RFC 4861 denial of service)": mine(
        from_ll(ICMPv6ND_RA(routerlifetime=0), src="fe80::1")
    ),
    "ra: from a global address": mine(from_ll(RA, src=ME6)),
    "ra: from ::": mine(from_ll(RA, src="::")),
    "ra: hop limit 1": mine(from_ll(RA, hlim=1)),
    **{f"ra: behind {name}": hidden(hiding, RA) for name, hiding in hidings(58).items()},
    "ra: first fragment with only extension headers (RFC 7113)": mine(from_ll(_headless(58))),
    "ra: first fragment with only extension headers, a harmless header in the padding": mine(from_ll(_headless(58)))
    + b"\x80\0\0\0"
    + b"guestnet" * 3,
    "ra: first fragment with only extension headers, DHCPv6": mine(from_ll(_headless(17))),
    "ra: first fragment of eight octets, overlapped by the next (RFC 5722)": mine(
        from_ll(IPv6ExtHdrFragment(nh=58, m=1, id=9), Raw(bytes(RA)[:8]))
    ),
    "ra: first fragment with an echo behind options, to be overlapped (RFC 5722)": mine(
        from_ll(IPv6ExtHdrFragment(nh=60, m=1, id=9), Raw(b"\x3a\0\1\4\0\0\0\0\x80\0\0\0\0\0\0\0"))
    ),
    "ra: fragment header in a fragment": mine(
        from_ll(IPv6ExtHdrFragment(nh=44, m=1, id=9), Raw(b"\x3a\0\0\0\0\0\0\1" + bytes(RA)))
    ),
}

_INNER = {
    "another's ARP": (0x0806, arp(THEM4)),
    "an honest packet": (0x0800, IP(src=ME4, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
    "another's source": (0x0800, _SPOOFED),
    "a DHCP offer": (0x0800, dhcp("offer", op=2, sport=67, dport=68, src=ME4)),
    "a router advertisement": (0x86DD, from_ll(RA)),
    "an NA for another": (0x86DD, na(THEM6, tll(ME))),
}
_TAGS = {
    "VLAN 0 (CVE-2021-27853)": [(0x8100, 0)],
    "VLAN 0 with a priority": [(0x8100, 0xE000)],
    "VLAN 7, which nobody gave": [(0x8100, 7)],
    "VLAN 4095": [(0x8100, 4095)],
    "VLAN 0 twice (CVE-2021-27853)": [(0x8100, 0), (0x8100, 0)],
    "VLAN 1 and 7 (double-tag hopping)": [(0x8100, 1), (0x8100, 7)],
    "VLAN 0 ten times": [(0x8100, 0)] * 10,
    "802.1ad": [(0x88A8, 7)],
    "802.1ad VLAN 0": [(0x88A8, 0)],
    "802.1ad and 802.1Q": [(0x88A8, 7), (0x8100, 7)],
    "802.1Q and 802.1ad": [(0x8100, 0), (0x88A8, 0)],
    "a legacy tag, 0x9100": [(0x9100, 7)],
    "legacy tags, 0x9100 and 802.1Q": [(0x9100, 0), (0x8100, 0)],
    "a legacy tag, 0x9200": [(0x9200, 7)],
}
VLANS = {
    f"vlan: {inner} in {name}": tagged(kind, payload, *tags)
    for name, tags in _TAGS.items()
    for inner, (kind, payload) in _INNER.items()
}
# To a trunk of VLANs 100 to 110 and 200, native VLAN 7. 802.1Q unless another source is named.
_TRUNK_TAGS = {
    "VLAN 99, below a trunk's": [(0x8100, 99)],
    "VLAN 111, above a trunk's": [(0x8100, 111)],
    "VLAN 1, a bridge's default": [(0x8100, 1)],
    "a trunk's VLAN twice": [(0x8100, 100), (0x8100, 100)],
    "a trunk's VLAN and another's (double-tag hopping; yersinia)": [(0x8100, 100), (0x8100, 300)],
    "another's VLAN and a trunk's": [(0x8100, 300), (0x8100, 100)],
    "a trunk's native VLAN and another's (double-tag hopping; yersinia)": [(0x8100, 7), (0x8100, 300)],
    "VLAN 0 and a trunk's (CVE-2021-27853)": [(0x8100, 0), (0x8100, 100)],
    "a trunk's VLAN and VLAN 0 (CVE-2021-27853)": [(0x8100, 100), (0x8100, 0)],
    "a trunk's VLAN ten times": [(0x8100, 100)] * 10,
    "a trunk's VLAN in 802.1ad": [(0x88A8, 100)],
    "a trunk's VLAN in 802.1ad with 802.1Q": [(0x88A8, 100), (0x8100, 100)],
    "a trunk's VLAN with 802.1ad inside": [(0x8100, 100), (0x88A8, 100)],
    "a trunk's VLAN in a legacy tag, 0x9100": [(0x9100, 100)],
    "a trunk's VLAN with a legacy tag inside, 0x9100": [(0x8100, 100), (0x9100, 100)],
    "a trunk's VLAN in a legacy tag, 0x9300": [(0x9300, 100)],
}
_HONEST = _INNER["an honest packet"]
VLANS |= {
    **{
        f"vlan: {inner} in {name}": tagged(*_INNER[inner], *tags)
        for name, tags in _TRUNK_TAGS.items()
        for inner in ("an honest packet", "a router advertisement")
    },
    "vlan: a tag over SNAP (RFC 1042)": snapped(0x8100, Raw(b"\0\x64\x08\0" + bytes(_HONEST[1]))),
    "vlan: a tag over SNAP in a trunk's VLAN": snapped(
        0x8100, Raw(b"\0\x64\x08\0" + bytes(_HONEST[1])), tags=tag_bytes((0x8100, 100))
    ),
    "vlan: SNAP in a trunk's VLAN (CVE-2021-27862)": snapped(*_HONEST, tags=tag_bytes((0x8100, 100))),
    "vlan: SNAP of length 1 in a trunk's VLAN (CVE-2021-27862)": snapped(
        *_HONEST, length=1, tags=tag_bytes((0x8100, 100))
    ),
    "vlan: a tag without a packet": tagged(0, marked(48), (0x8100, 100)),
    **{f"vlan: {size} octets of a tag": tagged(0x0800, b"", (0x8100, 100))[: 14 + size] for size in range(5)},
}
LLCS = {
    **{f"llc: {inner} in SNAP (CVE-2021-27854)": snapped(*packet) for inner, packet in _INNER.items()},
    **{
        f"llc: {inner} in VLAN 0 and SNAP (CVE-2021-27853)": snapped(*packet, tags=tag_bytes((0x8100, 0)))
        for inner, packet in _INNER.items()
    },
    **{
        f"llc: {inner} in two tags and SNAP (CVE-2021-27854)": snapped(
            *packet, tags=tag_bytes((0x8100, 0), (0x8100, 0))
        )
        for inner, packet in _INNER.items()
    },
    **{
        f"llc: {inner} in SNAP of length {length} (CVE-2021-27861)": snapped(*packet, length=length)
        for inner, packet in _INNER.items()
        for length in (0, 1, 1535)
    },
    **{
        f"llc: {inner} in VLAN 0 and SNAP of length 1 (CVE-2021-27862)": snapped(
            *packet, length=1, tags=tag_bytes((0x8100, 0))
        )
        for inner, packet in _INNER.items()
    },
    "llc: spanning tree (802.1D)": bytes(
        Dot3(src=ME, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / marked()
    ),
    "llc: spanning tree to everybody": bytes(Dot3(src=ME, dst=ALL) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / marked()),
    "llc: PVST+ (Cisco)": bytes(
        Dot3(src=ME, dst="01:00:0c:cc:cc:cd") / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=12, code=0x010B) / marked()
    ),
    "llc: CDP (Cisco)": bytes(
        Dot3(src=ME, dst="01:00:0c:cc:cc:cc") / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=12, code=0x2000) / marked()
    ),
    "llc: VTP (Cisco)": bytes(
        Dot3(src=ME, dst="01:00:0c:cc:cc:cc") / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=12, code=0x2003) / marked()
    ),
    "llc: GVRP (802.1Q)": bytes(Dot3(src=ME, dst="01:80:c2:00:00:21") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / marked()),
    "llc: IS-IS": bytes(Dot3(src=ME, dst="01:80:c2:00:00:14") / LLC(dsap=0xFE, ssap=0xFE, ctrl=3) / marked()),
    "llc: IPX (raw 802.3)": bytes(Dot3(src=ME, dst=ALL) / Raw(b"\xff\xff" + b"guestnet" * 5)),
}

ETHERTYPES = {
    "ethertype: LLDP (802.1AB)": typed(0x88CC, to="01:80:c2:00:00:0e"),
    "ethertype: LLDP to everybody": typed(0x88CC),
    "ethertype: flow control pause (802.3x)": typed(0x8808, to="01:80:c2:00:00:01"),
    "ethertype: LACP (802.3ad)": typed(0x8809, to="01:80:c2:00:00:02"),
    "ethertype: EAPOL (802.1X)": typed(0x888E, to="01:80:c2:00:00:03"),
    "ethertype: EAPOL to everybody": typed(0x888E),
    "ethertype: MVRP (802.1ak)": typed(0x88F5, to="01:80:c2:00:00:21"),
    "ethertype: PPPoE discovery (RFC 2516)": typed(0x8863),
    "ethertype: PPPoE session (RFC 2516)": typed(0x8864),
    "ethertype: MPLS": typed(0x8847),
    "ethertype: MACsec": typed(0x88E5),
    "ethertype: TRILL": typed(0x22F3),
    "ethertype: provider backbone (802.1ah)": typed(0x88E7),
    "ethertype: connectivity faults (802.1ag)": typed(0x8902),
    "ethertype: precision time (IEEE 1588)": typed(0x88F7),
    "ethertype: FCoE": typed(0x8906),
    "ethertype: RoCE": typed(0x8915),
    "ethertype: AoE": typed(0x88A2),
    "ethertype: AARP": typed(0x80F3),
    "ethertype: IPX": typed(0x8137),
    "ethertype: wake-on-LAN": typed(0x0842, Raw(b"\xff" * 6 + bytes.fromhex(THEM.replace(":", "")) * 16)),
    "ethertype: loopback test": typed(0x9000),
    "ethertype: unknown": typed(0x1234),
    "ethertype: the highest": typed(0xFFFF),
    "ethertype: 1536, the lowest": typed(0x0600),
}


def _spoken4(protocol: int, dst: str = THEM4, **fields: Any) -> bytes:
    return _v4(marked(), dst=dst, proto=protocol, ttl=1, **fields)


def _spoken6(protocol: int, dst: str) -> bytes:
    return mine(IPv6(src=MY_LL, dst=dst, nh=protocol, hlim=1) / marked())


def _by_port4(port: int, dst: str, sport: int | None = None) -> bytes:
    return _v4(UDP(sport=sport or port, dport=port) / marked(), dst=dst, ttl=1)


ROUTING = {
    "routing: VRRP from the own MAC (RFC 9568)": _v4(vrrp(5), dst="224.0.0.18", proto=112, ttl=255),
    "routing: VRRP by unicast (keepalived)": _v4(vrrp(5), proto=112, ttl=255),
    "routing: OSPF (RFC 2328)": _spoken4(89, "224.0.0.5"),
    "routing: OSPF by unicast": _spoken4(89),
    "routing: OSPF in a first fragment": _v4(marked(800), dst="224.0.0.5", proto=89, flags="MF"),
    "routing: OSPF in a later fragment": _v4(marked(80), dst="224.0.0.5", proto=89, frag=101),
    "routing: OSPF behind AH (RFC 4302)": _v4(Raw(ah(89) + b"guestnet" * 6), dst="224.0.0.5", proto=51),
    "routing: OSPF behind IPv4 options": _spoken4(89, "224.0.0.5", options=[b"\x01" * 8]),
    "routing: EIGRP (RFC 7868)": _spoken4(88, "224.0.0.10"),
    "routing: IGRP": _spoken4(9, "255.255.255.255"),
    "routing: IS-IS over IPv4": _spoken4(124),
    "routing: MANET (RFC 5498)": _spoken4(138, "224.0.0.109"),
    "routing: pfsync (OpenBSD)": _spoken4(240, "224.0.0.240"),
    "routing: RIPv2 (RFC 2453)": _by_port4(520, "224.0.0.9"),
    "routing: RIPv1 by broadcast (RFC 1058)": _by_port4(520, "255.255.255.255"),
    "routing: RIP by the subnet's broadcast": _by_port4(520, "10.61.1.255"),
    "routing: RIP by unicast": _by_port4(520, THEM4),
    "routing: RIP from another port": _by_port4(520, "224.0.0.9", sport=9),
    "routing: RIP in a first fragment": _v4(
        UDP(sport=520, dport=520, len=900) / marked(240), dst="224.0.0.9", flags="MF"
    ),
    "routing: Auto-RP (Cisco)": _by_port4(496, "224.0.1.39"),
    "routing: LDP discovery (RFC 5036)": _by_port4(646, "224.0.0.2"),
    "routing: OLSR (RFC 3626)": _by_port4(698, "255.255.255.255"),
    "routing: HSRP (RFC 2281)": _by_port4(1985, "224.0.0.2"),
    "routing: HSRP version 2": _by_port4(1985, "224.0.0.102"),
    "routing: GLBP (Cisco)": _by_port4(3222, "224.0.0.102"),
    "routing: Babel (RFC 8966)": _by_port4(6696, "224.0.0.111"),
    "routing: OSPFv3 (RFC 5340)": _spoken6(89, "ff02::5"),
    "routing: OSPFv3 in AH (RFC 4552)": mine(IPv6(src=MY_LL, dst="ff02::5", nh=51) / Raw(ah(89) + b"guestnet" * 6)),
    "routing: OSPFv3 behind a destination option": mine(
        IPv6(src=MY_LL, dst="ff02::5", nh=60) / Raw(b"\x59\0\1\4\0\0\0\0" + b"guestnet" * 4)
    ),
    "routing: OSPFv3 in an atomic fragment": mine(
        IPv6(src=MY_LL, dst="ff02::5", nh=44) / Raw(first_fragment(89, more=False) + b"guestnet" * 4)
    ),
    "routing: OSPFv3 in a later fragment": mine(from_ll(IPv6ExtHdrFragment(nh=89, offset=101, id=5), marked(80))),
    "routing: EIGRP over IPv6": _spoken6(88, "ff02::a"),
    "routing: VRRP over IPv6 from the own MAC (RFC 9568)": mine(
        IPv6(src=MY_LL, dst="ff02::12", nh=112, hlim=255) / vrrp(5)
    ),
    **{
        f"routing: {name}": mine(from_ll(UDP(sport=port, dport=port), marked(), dst=dst, hlim=1))
        for name, port, dst in (
            ("RIPng (RFC 2080)", 521, "ff02::9"),
            ("RIPng by unicast", 521, THEIR_LL),
            ("LDP discovery over IPv6 (RFC 7552)", 646, "ff02::2"),
            ("HSRP over IPv6", 2029, "ff02::66"),
            ("Babel over IPv6 (RFC 8966)", 6696, "ff02::1:6"),
        )
    },
}

FORGED = {**MACS, **ARPS, **IPV4, **DHCPS, **IPV6, **NDS, **RAS, **VLANS, **LLCS, **ETHERTYPES, **ROUTING}

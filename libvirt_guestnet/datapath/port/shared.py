"""The part of our nft table that is the same for every port: sets, and chains of rules without a port in them. Pure.

Such sets and chains exist once, not once for each port: before it changes a rule, nft reads the names of all sets and
chains, and the kernel's listing gets slower with the square of their number.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.port import dhcp_requests
from libvirt_guestnet.datapath.run.names import TABLE

_LINES: list[str] = dhcp_requests.shared()


def batch() -> str:
    """The part of a batch that is the same for every port."""
    return "\n".join([f"add table {TABLE}", *_LINES]) + "\n"


def _set(name: str, kind: str, *elements: int | str, size: int = 32) -> str:
    """Declares a shared set and returns how rules refer to it. Flushed each time, as an older version's differs."""
    listed = ", ".join(map(str, elements))
    _LINES.extend((
        f"add set {TABLE} {name} {{ {kind}; size {size}; }}",
        f"flush set {TABLE} {name}",
        f"add element {TABLE} {name} {{ {listed} }}",
    ))  # fmt: skip
    return f"@{name}"


def _chain(name: str, rules: Iterable[str]) -> str:
    """Declares a shared chain, and returns how rules refer to it."""
    _LINES.extend((f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"))
    _LINES.extend(f"add rule {TABLE} {name} {rule}" for rule in rules)
    return f"jump {name}"


# IP protocols of routing and virtual routers: IGRP, EIGRP, OSPF, PIM, VRRP and CARP, IS-IS, MANET, pfsync.
_BY_PROTOCOL = (9, 88, 89, 103, 112, 124, 138, 240)
# UDP ports of the same: MANET, Auto-RP, RIP, RIPng, LDP's discovery, OLSR, HSRP, HSRP over IPv6, GLBP, Babel.
_BY_PORT = (269, 496, 520, 521, 646, 698, 1985, 2029, 3222, 6696)
ROUTING = _set("routing-protocols", "type inet_proto", *_BY_PROTOCOL)
ROUTING_PORTS = _set("routing-ports", "type inet_service", *_BY_PORT)
# UDP ports that have rules of their own: the above, and DHCP's.
_PORTS4 = _set("judged-ports4", "type inet_service", 67, 68, *_BY_PORT)
_PORTS6 = _set("judged-ports6", "type inet_service", 546, 547, *_BY_PORT)

# ICMP types that every port may send. The others are for routers or name servers (RFC 792, 1256, 6633).
_ICMP = _set("icmp-types", "type icmp_type", 0, 3, 8, 10, 11, 12, 13, 14, 17, 42, 43)
# The same of ICMPv6: errors, echo, MLD reports, node information, mobile nodes' questions (RFC 4443, 3810, 4620, 6275).
ICMPV6 = _set("icmpv6-types", "type icmpv6_type", 1, 2, 3, 4, 128, 129, 131, 132, 139, 140, 143, 144, 146, 160, 161)
# IGMP of hosts: reports and leave (RFC 3376).
_IGMP = _set("igmp-types", "type igmp_type", 0x12, 0x16, 0x17, 0x22)
# IGMP of multicast routers: queries, DVMRP, PIM, MRD (RFC 4286).
IGMP_ROUTERS = _set("igmp-routers-types", "type igmp_type", 0x11, 0x13, 0x14, 0x30, 0x31, 0x32)
# ICMPv6 of multicast routers: MLD queries and MRD.
ROUTERS = _set("routers-types", "type icmpv6_type", 130, 151, 152, 153)
# Neighbour discovery with its inverse, and certification paths (RFC 4861, 3122, 3971).
ND = _set("nd-types", "type icmpv6_type", 133, 134, 135, 136, 137, 141, 142, 148, 149)
TAGS = _set("tag-types", "type ether_type", 0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)

# What no fragment may begin with: extension headers, AH, mobility, HIP, shim6 and those for experiments. Where the
# upper layer comes first, no other fragment can change what it is (RFC 7112, 7113).
EXTENSIONS = _set("extension-headers", "type inet_proto", 0, 43, 44, 51, 60, 135, 139, 140, 253, 254)
# Headers that nft cannot look past: AH, mobility, HIP and shim6 (RFC 4302, 6275, 7401, 5533). Their first octet says
# what follows: that may only be a protocol that passes unread anyway, or nothing.
_OPAQUE = _set("opaque-headers", "type inet_proto", 51, 135, 139, 140)
_UNREAD = _set("unread-headers", "typeof @th,0,8", 4, 6, 41, 50, 59, 132)
# Protocols that are not accepted unread, because they have rules of their own or may contain more than nft can see.
_NEVER4 = _set("never-plain4", "type inet_proto", 1, 2, 17, 51, *_BY_PROTOCOL)
_NEVER6 = _set("never-plain", "type inet_proto", 17, 51, 58, 135, 139, 140, 253, 254, *_BY_PROTOCOL)
# The lengths of MLD version 2 reports with their hop-by-hop header, by number of groups without sources (RFC 3810).
_MLD_LENGTHS = _set("mld-lengths", "typeof ip6 length . @th,48,16", *(f"{16 + 20 * n} . {n}" for n in range(32)))

# nft cannot compare two fields of a frame with each other. It can look up whether two octets are one of these pairs.
_SAME = _set("same-octets", "typeof @nh,0,8 . @th,0,8", *(f"{n:#04x} . {n:#04x}" for n in range(256)), size=256)
# A DAD question that reaches whoever has the address: it is sent to the address's group, both by IP and by Ethernet,
# and is valid by RFC 4861, 7.1.1, except for the checksum, which nft cannot verify.
ALOUD = "ip6 hoplimit 255 @th,0,16 0x8700 @ll,0,24 0x3333ff " + " ".join(
    f"{field},{first + bit},8 . @th,{168 + bit},8 {_SAME}"
    for field, first in (("@nh", 296), ("@ll", 24))
    for bit in (0, 8, 16)
)

# The protocol, and that the packet is no fragment, in one comparison.
_TCP4, _UDP4 = (f"@nh,48,32 & 0x3fff00ff == {number:#x}" for number in (6, 17))
# To one host, and not sent as routing protocols do: it may be an answer to a client that has such a port.
_ORDINARY = (
    f"udp dport {ROUTING_PORTS} udp sport != {ROUTING_PORTS} meta pkttype != broadcast meta pkttype != multicast"
)

# Most UDP can be accepted by comparing port numbers, which takes a fifth of the time of a look into a set: ports of
# clients and DNS by the first pair, QUIC by the second.
_FAR4, _FAR6 = (f"@th,16,16 != {first}-3222 @th,16,16 != 6696" for first in (67, 269))
_NEAR = "@th,16,16 270-495"

# Accepts most of what a guest sends, once its source address is checked. All ports share these rules, so they stay in
# the processor's cache, which a thousand ports' own rules would not. `@th` matches only if nft has found a whole IP
# header of that version and the frame is as long as that says; in TCP, the octet with the header's length is read.
PLAIN4 = _chain(
    "plain4",
    [
        f"{_TCP4} @th,96,8 != 0 accept",
        f"{_UDP4} {_FAR4} accept",
        f"{_UDP4} {_NEAR} accept",
        f"{_UDP4} udp dport != {_PORTS4} accept",
    ],
)
PLAIN6 = _chain(
    "plain6",
    [
        "@nh,48,8 6 @th,96,8 != 0 accept",
        f"@nh,48,8 17 {_FAR6} accept",
        f"@nh,48,8 17 {_NEAR} accept",
        f"@nh,48,8 17 udp dport != {_PORTS6} accept",
    ],
)

# Accepts the rest that any port may send, after fragments that hide something are dropped. A packet in fragments is
# judged by its first one, of which the first eight octets are there. But routing protocols' later fragments do not pass
# here, as a bridge looks at PIM in any fragment.
REST4 = _chain(
    "rest4",
    [
        f"icmp type {_ICMP} accept",
        f"ip frag-off & 0x1fff != 0 meta l4proto != {ROUTING} accept",
        f"igmp type {_IGMP} accept",
        f"udp dport != {_PORTS4} accept",
        f"{_ORDINARY} ip daddr != 224.0.0.0/3 accept",
        f"meta l4proto ah @th,0,8 {_UNREAD} accept",
        f"meta l4proto != {_NEVER4} accept",
    ],
)
REST6 = _chain(
    "rest6",
    [
        f"frag frag-off != 0 meta l4proto != {ROUTING} accept",
        "meta l4proto tcp accept",
        f"udp dport != {_PORTS6} accept",
        f"{_ORDINARY} ip6 daddr != ff00::/8 accept",
        f"icmpv6 type {ICMPV6} accept",
        f"meta l4proto {_OPAQUE} @th,0,8 {_UNREAD} accept",
        f"meta l4proto != {_NEVER6} accept",
    ],
)

# From the unspecified address, before the guest has one: MLD reports, and the search for routers. Never to one host.
NOWHERE4 = _chain(
    "nowhere4",
    [
        "ip daddr 224.0.0.0/4 igmp type { 0x12, 0x16 } ip length 28-32 accept",
        "ip daddr 224.0.0.2 igmp type 0x17 ip length 28-32 accept",
        "ip daddr 224.0.0.22 igmp type 0x22 accept",
    ],
)
NOWHERE6 = _chain(
    "nowhere6",
    [
        "ip6 daddr ff02::2 ip6 nexthdr icmpv6 icmpv6 type nd-router-solicit ip6 length 8 accept",
        # MLD reports before there is an address (RFC 3590); they have a hop-by-hop header.
        f"ip6 daddr ff02::16 ip6 nexthdr 0 icmpv6 type 143 ip6 length . @th,48,16 {_MLD_LENGTHS} accept",
        "ip6 daddr ff00::/8 ip6 nexthdr 0 icmpv6 type 131 ip6 length 32 accept",
        "ip6 daddr ff02::2 ip6 nexthdr 0 icmpv6 type 132 ip6 length 32 accept",
    ],
)

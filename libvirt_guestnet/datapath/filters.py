"""Port security as nft text: one ingress chain per tap, default drop.

Pure. Every value that reaches the text is an ipaddress object, a number, a checked MAC or a checked device name.

Two rules keep the filter closed where an nft expression cannot be evaluated (a header that is truncated, or that is
in another fragment, makes a rule *not match*): what passes is matched positively, and what no rule accepted drops.
Every drop is counted, and named by its rule's comment.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from libvirt_guestnet.datapath import learning
from libvirt_guestnet.datapath.learning import SOURCE, Learner, Server
from libvirt_guestnet.datapath.names import TABLE, check_device, check_mac, digits
from libvirt_guestnet.datapath.ranges import Prefix, Ranges, as_raw, as_set, merge, ranges
from libvirt_guestnet.slaac import eui64

DHCP_SERVER, RA_SENDER = "dhcp-server", "ra-sender"
ROLES = (DHCP_SERVER, RA_SENDER)


class Trunk(NamedTuple):
    """The tags of a port that sends tagged frames: one each, of a VLAN in `vlans` (first and last of each range).

    `service`: they are 802.1ad service tags instead of 802.1Q's. `native`: a frame may be untagged as well.
    """

    vlans: Ranges
    service: bool = False
    native: bool = False


class PortGuard(NamedTuple):
    """What one port may send.

    `owned`: its addresses (or prefixes, where the address is not known) as IP source and in ARP and ND.
    `pairs`: more that it owns, each with the MAC address that may announce it beside the port's own (VRRP, CARP) or "".
    `routed`: prefixes it may use as IP source only. `excluded`: carved out of every owned or routed prefix; a single
    owned address is never excluded, nor is a pair. `roles`: of ROLES. `log`: the kernel log tells of drops, at a
    limited rate. `trunk`: what holds for the port holds inside these tags; without it, it sends none.
    """

    tap: str
    mac: str
    owned: tuple[Prefix, ...] = ()
    routed: tuple[Prefix, ...] = ()
    excluded: tuple[Prefix, ...] = ()
    pairs: tuple[tuple[str, Prefix], ...] = ()
    roles: tuple[str, ...] = ()
    server: Server | None = None
    log: bool = False
    trunk: Trunk | None = None


def link_local(mac: str) -> IPv6Address:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    return eui64(IPv6Network("fe80::/64"), check_mac(mac))


def guard(port: PortGuard) -> str:
    """The nft batch that puts exactly this port's chains in place, whatever was there before.

    Addresses learnt by an earlier guard of the same tap stay learnt.
    """
    return shared() + own(port)


def shared() -> str:
    """The part of the batch that is the same for every port."""
    return "\n".join([f"add table {TABLE}", *_SHARED]) + "\n"


def own(port: PortGuard, fresh: bool = False) -> str:
    """The port's own part; the kernel refuses it where the shared one is not there.

    `fresh`: there was no guard of this tap, so nothing of it is deleted. A transaction that deletes takes 10 ms longer:
    nft ends when nobody can be looking at what is gone (nft_rcv_nl_event, Linux 5.18).
    """
    tap = check_device(port.tap)
    lines = [f"add table {TABLE}"]
    chains = (*_CHAINS, *(("vlan",) if port.trunk else ()))
    lines += [f"add chain {TABLE} {chain}-{tap}" for chain in chains]
    lines.append(
        f'add chain {TABLE} tap-{tap} {{ type filter hook ingress device "{tap}" priority filter; policy drop; }}'
    )
    lines += [f"flush chain {TABLE} {chain}-{tap}" for chain in ("tap", *chains)]
    lines += [] if port.trunk or fresh else _forget_chain("vlan", tap)
    return "\n".join([*lines, *_Rules(port, fresh).all()]) + "\n"


def release(taps: Iterable[str]) -> str:
    """The nft batch that removes these taps' chains; those that are gone already do not matter.

    `add` first makes `delete` tolerant on kernels and nft versions without `destroy`.
    """
    lines = [f"add table {TABLE}"]
    for tap in map(check_device, taps):
        # Jumps go first, then what they jump to, then the set that they look into.
        for action in ("add", "flush"):
            lines += [f"{action} chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
        lines += _forget_chain("vlan", tap)
        lines += [f"delete chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
        lines += learning.forget(tap)
    return "\n".join(lines) + "\n"


def remove() -> str:
    """The nft batch that removes our table with every port's chains."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


# No hyphen in a kind: "KIND-TAP" is then unambiguous whatever a tap is called.
_CHAINS = ("arp", "ip4", "ip4sent", "ip6", "ip6own", "ip6sent")


def _forget_chain(kind: str, tap: str) -> list[str]:
    return [f"{action} chain {TABLE} {kind}-{tap}" for action in ("add", "flush", "delete")]


# Sets that are the same for every port exist once: nft reads the names of all sets and chains there are before it
# changes a rule, and the kernel's listing gets slower with the square of their number.
_SHARED: list[str] = []


def _shared(name: str, kind: str, *elements: int) -> str:
    """Declares such a set and returns how rules refer to it. Flushed each time: an older version's may differ."""
    listed = ", ".join(map(str, elements))
    _SHARED.extend((
        f"add set {TABLE} {name} {{ type {kind}; size 32; }}",
        f"flush set {TABLE} {name}",
        f"add element {TABLE} {name} {{ {listed} }}",
    ))  # fmt: skip
    return f"@{name}"


_UDP, _PIM = 17, 103

# What may follow IP by itself. Everything else says who routes, queries, names or redirects (RFC 792, 1256, 6633).
_ICMP = _shared("icmp-types", "icmp_type", 0, 3, 8, 10, 11, 12, 13, 14, 17, 42, 43)
# Errors, echo, reports of a listener, node information, a mobile node's questions (RFC 4443, 3810, 4620, 6275).
_ICMPV6 = _shared("icmpv6-types", "icmpv6_type", 1, 2, 3, 4, 128, 129, 131, 132, 139, 140, 143, 144, 146, 160, 161)
# Reports and leave; not queries, DVMRP, PIM or MRD (RFC 3376, 4286).
_IGMP = _shared("igmp-types", "igmp_type", 0x12, 0x16, 0x17, 0x22)
# Inside a fragment only an upper layer may begin: where nothing precedes it, no other fragment can change what it is
# (RFC 7112, 7113). Extension headers, HIP, shim6 and those of experiments.
_EXTENSIONS = _shared("extension-headers", "inet_proto", 0, 43, 44, 60, 135, 139, 140, 253, 254)
# PIM makes a bridge take the port for a router's. Behind the others some receiver may look for more than nft does.
_STRANGE = _shared("never-plain", "inet_proto", _UDP, _PIM, 139, 140, 253, 254)
# Listeners' reports: version 1, done, version 2.
_MLD = _shared("mld-types", "icmpv6_type", 131, 132, 143)
# Neighbour discovery with its inverse, and certification paths (RFC 4861, 3122, 3971).
_ND = _shared("nd-types", "icmpv6_type", 133, 134, 135, 136, 137, 141, 142, 148, 149)
# MLD queries, and multicast routers (RFC 4286).
_ROUTERS = _shared("routers-types", "icmpv6_type", 130, 151, 152, 153)
_ND_TARGET = "@th,64,128"
_TAGS = _shared("tag-types", "ether_type", 0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)


def _shared_chain(name: str, *rules: str) -> str:
    """Declares a chain that is the same for every port, and returns how rules refer to it."""
    _SHARED.extend((f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"))
    _SHARED.extend(f"add rule {TABLE} {name} {rule}" for rule in rules)
    return f"jump {name}"


# Most of what a guest sends, once its source is known. Every port's frames go through these rules, so they stay in the
# processor's cache, where a thousand ports' own do not.
_PLAIN4 = _shared_chain("plain4", "meta l4proto tcp accept", "udp dport != 67-68 accept")
_PLAIN6 = _shared_chain("plain6", "ip6 nexthdr tcp accept", "ip6 nexthdr udp udp dport != 546 accept")


def _tag(trunk: Trunk) -> str:
    return "8021ad" if trunk.service else "8021q"


def _vlans(trunk: Trunk) -> str:
    return "{ " + ", ".join(f"{first:d}-{last:d}" for first, last in merge(trunk.vlans)) + " }"


class _Rules:
    """The rules of one port."""

    def __init__(self, port: PortGuard, fresh: bool) -> None:
        self.port, self.tap, self.mac, self.fresh = port, port.tap, check_mac(port.mac), fresh
        self.learner = Learner(self.tap, self.mac, port.server, port.excluded) if port.server else None
        self.virtual: dict[str, list[Prefix]] = {}
        for mac, prefix in port.pairs:
            if mac:
                self.virtual.setdefault(check_mac(mac), []).append(prefix)
        self.macs = list(dict.fromkeys([self.mac, *self.virtual]))

    def all(self) -> list[str]:
        chains = {
            "tap": self._ethernet(),
            "vlan": self._inside(self.port.trunk) if self.port.trunk else [],
            "arp": self._arp(),
            "ip4": self._ip4(),
            "ip4sent": self._ip4_sent(),
            "ip6": self._ip6(),
            "ip6own": self._ip6_own(),
            "ip6sent": self._ip6_sent(),
        }
        listed = [f"add rule {TABLE} {chain}-{self.tap} {rule}" for chain, rules in chains.items() for rule in rules]
        return [*self._learning(), *listed]

    def _learning(self) -> list[str]:
        learns = self.learner is not None and any(map(self.learner.spans, (4, 6)))
        if self.learner and learns:
            return self.learner.lines(self._drop, self.fresh)
        return [] if self.fresh else learning.forget(self.tap)

    def _drop(self, reason: str, match: str = "") -> list[str]:
        """Rules that drop what matches. The log's prefix is the port and the reason; headers follow it."""
        dropped = f'counter drop comment "{reason}"'
        log = f'limit rate 5/second log prefix "guestnet {self.tap} {reason}: "'
        rules = [log, dropped] if self.port.log else [dropped]
        return [f"{match} {rule}".strip() for rule in rules]

    def _owned(self, version: int) -> Ranges:
        mine = [IPv6Network(link_local(self.mac))] if version == 6 else []
        return merge([*ranges(version, mine), *self._given(version)])

    def _given(self, version: int) -> Ranges:
        pairs = ranges(version, [prefix for _, prefix in self.port.pairs])
        return merge([*ranges(version, self.port.owned, self.port.excluded), *pairs])

    def _learnt(self, version: int, field: str) -> list[str]:
        """What matches if the address there is one that the port has learnt; nothing if it does not learn."""
        learns = self.learner is not None and self.learner.spans(version)
        return [f"{field} @{learning.learnt_set(version, self.tap)}"] if learns else []

    def _announcers(self, version: int) -> list[tuple[str, Ranges]]:
        """Each MAC with the addresses it may announce: the port's own all of them."""
        lent = ((mac, ranges(version, prefixes)) for mac, prefixes in self.virtual.items())
        return [(mac, spans) for mac, spans in ((self.mac, self._owned(version)), *lent) if spans]

    def _ethernet(self) -> list[str]:
        # `ether type` reads the frame itself: it sees a VLAN tag that the kernel has already moved out of the way, and
        # a length field (LLC/SNAP) is no type, so tagged and 802.3 frames match none of the three.
        macs, trunk = self.macs[0] if len(self.macs) == 1 else f"{{ {', '.join(self.macs)} }}", self.port.trunk
        untagged = trunk is None or trunk.native
        return [
            *(self._common("ether type") if untagged else []),
            *self._drop("source MAC", f"ether saddr != {macs}"),
            *([f"ether type {_tag(trunk)} vlan id {_vlans(trunk)} goto vlan-{self.tap}"] if trunk else []),
            *(self._packets("ether type") if untagged else []),
            *(self._drop("VLAN", f"ether type {_tag(trunk)}") if trunk else []),
            *self._drop("VLAN tag", f"ether type {_TAGS}"),
            *self._drop("EtherType" if untagged else "untagged"),
        ]

    def _inside(self, trunk: Trunk) -> list[str]:
        """What is in a tag of the port's. Before the ingress hook the kernel takes the outermost tag out of the frame,
        and what follows it for the frame's protocol: so behind one tag every rule reads what it would without, and
        behind two none finds a packet."""
        of_type = f"ether type {_tag(trunk)} vlan type"
        return [
            *self._common(of_type),
            *self._packets(of_type),
            *self._drop("VLAN tag", f"{of_type} {_TAGS}"),
            *self._drop("EtherType"),
        ]

    def _packets(self, of_type: str) -> list[str]:
        own = f"0x{digits(self.mac)}00000000"
        return [
            # Not a verdict map: a hash lookup costs a frame 20 ns, a comparison 4.
            f"{of_type} arp goto arp-{self.tap}",
            f"{of_type} ip goto ip4-{self.tap}",
            f"{of_type} ip6 goto ip6-{self.tap}",
            # QEMU's announcement after a migration: RARP that asks for its own MAC and names no address.
            f"{of_type} 0x8035 @nh,0,64 0x0001080006040003 @nh,64,80 {own} @nh,144,80 {own} accept",
        ]

    def _common(self, of_type: str) -> list[str]:
        """What most frames are, in one rule each: nft compares MAC and EtherType at once."""
        own = f"ether saddr {self.mac} {of_type}"
        known6 = self._given(6)
        return [
            *(f"{own} ip {source} {_PLAIN4}" for source in self._sources()),
            *([f"{own} ip6 ip6 saddr {as_set(6, known6)} {_PLAIN6}"] if known6 else []),
            *(f"{own} ip6 {learnt} {_PLAIN6}" for learnt in self._learnt(6, SOURCE[6])),
        ]

    def _sources(self) -> list[str]:
        sources = merge([*self._owned(4), *ranges(4, self.port.routed, self.port.excluded)])
        return [*([f"ip saddr {as_set(4, sources)}"] if sources else []), *self._learnt(4, SOURCE[4])]

    def _arp(self) -> list[str]:
        rules = []
        for mac, sender, target in self._arp_senders():
            header = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
            rules += [
                f"{header} arp operation 1-2 {sender} accept",
                # RFC 5227: a probe asks for the prober's own future address, from 0.0.0.0.
                f"{header} arp operation request arp saddr ip 0.0.0.0 {target} accept",
            ]
        return [*rules, *self._drop("ARP")]

    def _arp_senders(self) -> list[tuple[str, str, str]]:
        """Each MAC with what matches its addresses as sender's and as target."""
        listed = [(mac, as_set(4, spans)) for mac, spans in self._announcers(4)]
        senders = [(mac, f"arp saddr ip {mine}", f"arp daddr ip {mine}") for mac, mine in listed]
        learnt = zip(self._learnt(4, "@nh,112,32"), self._learnt(4, "@nh,192,32"), strict=True)
        return senders + [(self.mac, sender, target) for sender, target in learnt]

    def _ip4(self) -> list[str]:
        return [
            *(f"{source} goto ip4sent-{self.tap}" for source in self._sources()),
            f"ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 {self._asks()} accept",
            f"ip saddr 0.0.0.0 ip daddr 224.0.0.0/4 igmp type {_IGMP} accept",
            *self._drop("IPv4 source"),
        ]

    def _asks(self) -> str:
        # A whole DHCP client message: a BOOTREQUEST over Ethernet that no relay forwarded, with the port's hardware
        # address (RFC 2131). In a fragment an overlapping one could change it.
        request = f"@th,64,24 0x010106 @th,256,32 0 @th,288,48 0x{digits(self.mac)}"
        return f"udp dport 67 ip frag-off & 0x3fff == 0 {request}"

    def _ip4_sent(self) -> list[str]:
        server = ["udp sport 67 udp dport 68 accept"] if DHCP_SERVER in self.port.roles else []
        return [
            _PLAIN4,
            f"icmp type {_ICMP} accept",
            # The rest of a datagram whose first fragment, and with it its first eight octets, is judged like a whole.
            "ip frag-off & 0x1fff != 0 meta l4proto != pim accept",
            f"{self._asks()} accept",
            *server,
            f"igmp type {_IGMP} accept",
            *self._drop("DHCP server", "udp dport 68"),
            *self._drop("DHCP client", "udp dport 67"),
            *self._drop("ICMP type", "meta l4proto icmp"),
            *self._drop("multicast router", "meta l4proto igmp"),
            *self._drop("multicast router", "meta l4proto pim"),
            # A transport that nft found, and that was not there for one of the rules above to judge.
            "meta l4proto != udp meta l4proto != pim accept",
            *self._drop("IPv4 header"),
        ]

    def _ip6(self) -> list[str]:
        owned, routed = self._owned(6), ranges(6, self.port.routed, self.port.excluded)
        unspecified = "ip6 saddr :: ip6 nexthdr icmpv6 icmpv6 type"
        dad = f"{unspecified} nd-neighbor-solicit"
        targets = [f"{_ND_TARGET} {as_raw(owned)}", *self._learnt(6, _ND_TARGET)]
        return [
            f"ip6 saddr {as_set(6, owned)} goto ip6own-{self.tap}",
            *(f"ether saddr {self.mac} {learnt} goto ip6own-{self.tap}" for learnt in self._learnt(6, SOURCE[6])),
            *([f"ip6 saddr {as_set(6, routed)} goto ip6sent-{self.tap}"] if routed else []),
            # Duplicate address detection (RFC 4862), or with a nonce and nothing else (RFC 7527).
            *(f"{dad} ip6 length 24 {target} accept" for target in targets),
            *(f"{dad} ip6 length 32 @th,192,16 0x0e01 {target} accept" for target in targets),
            f"{unspecified} nd-router-solicit ip6 length 8 accept",
            # RFC 3590: MLD reports before there is an address; they carry a hop-by-hop header.
            f"ip6 saddr :: icmpv6 type {_MLD} accept",
            *self._drop("IPv6 source"),
        ]

    def _ip6_own(self) -> list[str]:
        # An honest ND message has no extension header and one option, the sender's own link-layer address, or none:
        # anything longer could carry a second option that a receiver believes instead (RFC 4861, RFC 6980).
        nd, learnt = "ip6 nexthdr icmpv6 icmpv6 type", self._learnt(6, _ND_TARGET)
        mine = f"{_ND_TARGET} {as_raw(self._owned(6))}"
        targets = [(mac, f"{_ND_TARGET} {as_raw(spans)}") for mac, spans in self._announcers(6)]
        source = f"{{ {', '.join(f'0x0101{digits(mac)}' for mac in self.macs)} }}"
        advertised = [
            f"{nd} nd-neighbor-advert ip6 length 32 {target} @th,192,64 0x0201{digits(mac)} accept"
            for mac, target in [*targets, *((self.mac, target) for target in learnt)]
        ]
        announces = (
            [f"{nd} nd-router-advert ip6 saddr fe80::/10 ip6 hoplimit 255 accept"]
            if RA_SENDER in self.port.roles
            else []
        )
        return [
            _PLAIN6,
            f"{nd} nd-neighbor-solicit ip6 length 24 accept",
            f"{nd} nd-neighbor-solicit ip6 length 32 @th,192,64 {source} accept",
            *(f"{nd} nd-neighbor-advert ip6 length 24 {target} accept" for target in (mine, *learnt)),
            *advertised,
            f"{nd} nd-router-solicit ip6 length 8 accept",
            f"{nd} nd-router-solicit ip6 length 16 @th,64,64 {source} accept",
            *announces,
            f"goto ip6sent-{self.tap}",
        ]

    def _ip6_sent(self) -> list[str]:
        server = ["ip6 nexthdr udp udp sport 547 udp dport 546 accept"] if DHCP_SERVER in self.port.roles else []
        return [
            _PLAIN6,
            f"ip6 nexthdr icmpv6 icmpv6 type {_ICMPV6} accept",
            *server,
            *self._drop("IPv6 fragment", f"frag nexthdr {_EXTENSIONS}"),
            "frag frag-off != 0 accept",
            "meta l4proto tcp accept",
            "udp dport != 546 accept",
            f"icmpv6 type {_ICMPV6} accept",
            *self._drop("DHCPv6 server", "udp dport 546"),
            *self._drop("ND", f"icmpv6 type {_ND}"),
            *self._drop("multicast router", f"icmpv6 type {_ROUTERS}"),
            *self._drop("multicast router", "meta l4proto pim"),
            *self._drop("ICMPv6 type", "meta l4proto icmpv6"),
            f"meta l4proto != {_STRANGE} accept",
            *self._drop("IPv6 header"),
        ]

"""Port security as nft text: one ingress chain per tap, default drop.

Pure. Every value that reaches the text is an ipaddress object, a checked MAC or a checked device name.

Two rules keep the filter closed where an nft expression cannot be evaluated (a truncated header makes a rule *not
match*): what passes is matched positively, and the last accept needs a transport protocol that nft could find.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError

TABLE = "netdev guestnet"

Prefix = IPv4Network | IPv6Network
Ranges = list[tuple[int, int]]  # first and last address, both included

# Never in a prefix that a port may use: "this network", loopback, multicast, reserved and broadcast (RFC 6890), and
# other ports' IPv6 link-local addresses.
_NEVER: tuple[Prefix, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/3"),
    IPv6Network("::/127"),
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)

_DEVICE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_HEX = frozenset("0123456789abcdef")


class PortGuard(NamedTuple):
    """What one port may send.

    `owned`: its addresses (or prefixes, where the address is not known) as IP source and in ARP and ND.
    `routed`: prefixes it may use as IP source only. `excluded`: carved out of every prefix of the two; a single
    owned address is never excluded.
    """

    tap: str
    mac: str
    owned: tuple[Prefix, ...] = ()
    routed: tuple[Prefix, ...] = ()
    excluded: tuple[Prefix, ...] = ()


def check_device(name: str) -> str:
    """The name, if it can be written into nft text. Raises GuestnetError otherwise."""
    if 0 < len(name) <= 15 and _DEVICE.issuperset(name) and name not in (".", ".."):
        return name
    raise GuestnetError(f"device name {name!r} cannot be guarded: use letters, digits, '_', '.' and '-', at most 15")


def check_mac(mac: str) -> str:
    """The MAC in lower case. Raises GuestnetError unless it is six hex pairs of a unicast address."""
    text = mac.lower()
    pairs = text.split(":")
    if len(pairs) != 6 or not all(len(p) == 2 and _HEX.issuperset(p) for p in pairs) or int(pairs[0], 16) & 1:
        raise GuestnetError(f"{mac!r} is not a unicast MAC address")
    return text


def link_local(mac: str) -> IPv6Address:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    return eui64(IPv6Network("fe80::/64"), mac)


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The SLAAC address of a MAC in a /64 (RFC 4291, appendix A)."""
    octets = bytes.fromhex(check_mac(mac).replace(":", ""))
    interface_id = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(int(prefix.network_address) | int.from_bytes(interface_id, "big"))


def guard(port: PortGuard) -> str:
    """The nft batch that puts exactly this port's chains in place, whatever was there before."""
    tap, mac = check_device(port.tap), check_mac(port.mac)
    lines = [f"add table {TABLE}"]
    lines += [f"add chain {TABLE} {chain}-{tap}" for chain in _CHAINS]
    lines.append(
        f'add chain {TABLE} tap-{tap} {{ type filter hook ingress device "{tap}" priority filter; policy drop; }}'
    )
    lines += [f"flush chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
    lines += _rules("tap", tap, _ethernet(tap, mac))
    lines += _ip4_chains(port, tap, mac)
    lines += _ip6_chains(port, tap, mac)
    return "\n".join(lines) + "\n"


def release(taps: Iterable[str]) -> str:
    """The nft batch that removes these taps' chains; those that are gone already do not matter.

    `add` first makes `delete` tolerant on kernels and nft versions without `destroy`.
    """
    lines = [f"add table {TABLE}"]
    for tap in map(check_device, taps):
        # Jumps go first, then what they jump to.
        for action in ("add", "flush"):
            lines += [f"{action} chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
        lines += [f"delete chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
    return "\n".join(lines) + "\n"


def remove() -> str:
    """The nft batch that removes our table with every port's chains."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


# No hyphen in a kind: "KIND-TAP" is then unambiguous whatever a tap is called.
_CHAINS = ("arp", "ip4", "ip4sent", "ip6", "ip6own", "ip6sent")


def _rules(chain: str, tap: str, rules: Sequence[str]) -> list[str]:
    return [f"add rule {TABLE} {chain}-{tap} {rule}" for rule in rules]


def _drop(reason: str) -> str:
    return f'counter drop comment "{reason}"'


def _ethernet(tap: str, mac: str) -> list[str]:
    # `ether type` reads the frame itself: it sees a VLAN tag that the kernel has already moved out of the way, and
    # a length field (LLC/SNAP) is no type, so tagged and 802.3 frames match none of the three.
    return [
        f"ether saddr != {mac} {_drop('source MAC')}",
        f"ether type vmap {{ arp : goto arp-{tap}, ip : goto ip4-{tap}, ip6 : goto ip6-{tap} }}",
        _drop("EtherType"),
    ]


def _ip4_chains(port: PortGuard, tap: str, mac: str) -> list[str]:
    owned = _ranges(4, port.owned, port.excluded)
    sources = _merge([*owned, *_ranges(4, port.routed, port.excluded)])
    return [
        *_rules("arp", tap, _arp(mac, owned)),
        *_rules("ip4", tap, _ip4(tap, mac, sources)),
        *_rules("ip4sent", tap, _ip4_sent(mac)),
    ]


def _arp(mac: str, owned: Ranges) -> list[str]:
    if not owned:
        return [_drop("ARP")]
    sender = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
    mine = _set(4, owned)
    return [
        f"{sender} arp operation {{ request, reply }} arp saddr ip {mine} accept",
        # RFC 5227: a probe asks for the prober's own future address, from 0.0.0.0.
        f"{sender} arp operation request arp saddr ip 0.0.0.0 arp daddr ip {mine} accept",
        _drop("ARP"),
    ]


def _ip4(tap: str, mac: str, sources: Ranges) -> list[str]:
    sent = [f"ip saddr {_set(4, sources)} goto ip4sent-{tap}"] if sources else []
    reports = "membership-report-v1, membership-report-v2, membership-report-v3, leave-group"
    return [
        *sent,
        f"ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 {_chaddr(mac)} accept",
        f"ip saddr 0.0.0.0 ip daddr 224.0.0.0/24 igmp type {{ {reports} }} accept",
        _drop("IPv4 source"),
    ]


def _chaddr(mac: str) -> str:
    # DHCP's client hardware address: 28 octets into the message, 36 into the UDP datagram (RFC 2131).
    return f"@th,288,48 0x{mac.replace(':', '')}"


def _ip4_sent(mac: str) -> list[str]:
    return [
        "meta l4proto tcp accept",
        f"udp dport 68 {_drop('DHCP server')}",
        f"udp dport 67 {_chaddr(mac)} accept",
        f"udp dport 67 {_drop('DHCP client address')}",
        f"igmp type membership-query {_drop('IGMP query')}",
        f"icmp type {{ redirect, router-advertisement }} {_drop('ICMP redirect or router')}",
        "meta l4proto 0-255 accept",
        _drop("IPv4 header"),
    ]


def _ip6_chains(port: PortGuard, tap: str, mac: str) -> list[str]:
    owned = _ranges(6, [IPv6Network(link_local(mac)), *port.owned], port.excluded)
    routed = _ranges(6, port.routed, port.excluded)
    return [
        *_rules("ip6", tap, _ip6(tap, owned, routed)),
        *_rules("ip6own", tap, _ip6_own(tap, mac, owned)),
        *_rules("ip6sent", tap, _ip6_sent()),
    ]


def _ip6(tap: str, owned: Ranges, routed: Ranges) -> list[str]:
    sent = [f"ip6 saddr {_set(6, routed)} goto ip6sent-{tap}"] if routed else []
    unspecified = "ip6 saddr :: ip6 nexthdr icmpv6 icmpv6 type"
    return [
        f"ip6 saddr {_set(6, owned)} goto ip6own-{tap}",
        *sent,
        # Duplicate address detection (RFC 4862), with a nonce (RFC 7527).
        f"{unspecified} nd-neighbor-solicit ip6 length {{ 24, 32 }} @th,64,128 {_raw(owned)} accept",
        f"{unspecified} nd-router-solicit ip6 length 8 accept",
        # RFC 3590: MLD reports before there is an address; they carry a hop-by-hop header.
        "ip6 saddr :: icmpv6 type { mld-listener-report, mld2-listener-report, mld-listener-done } accept",
        _drop("IPv6 source"),
    ]


def _ip6_own(tap: str, mac: str, owned: Ranges) -> list[str]:
    # An honest ND message has no extension header and one option, the sender's own link-layer address, or none:
    # anything longer could carry a second option that a receiver believes instead (RFC 4861, RFC 6980).
    source, target = (f"0x{kind}01{mac.replace(':', '')}" for kind in ("01", "02"))
    nd, mine = "ip6 nexthdr icmpv6 icmpv6 type", f"@th,64,128 {_raw(owned)}"
    return [
        f"{nd} nd-neighbor-solicit ip6 length 24 accept",
        f"{nd} nd-neighbor-solicit ip6 length 32 @th,192,64 {source} accept",
        f"{nd} nd-neighbor-advert ip6 length 24 {mine} accept",
        f"{nd} nd-neighbor-advert ip6 length 32 {mine} @th,192,64 {target} accept",
        f"{nd} nd-router-solicit ip6 length 8 accept",
        f"{nd} nd-router-solicit ip6 length 16 @th,64,64 {source} accept",
        f"goto ip6sent-{tap}",
    ]


def _ip6_sent() -> list[str]:
    # By number where nft has no name: 148 and 149 certification paths (RFC 3971), 151 and 153 multicast routers.
    routers = (
        "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, "
        "router-renumbering, mld-listener-query, 148, 149, 151, 153"
    )
    return [
        "meta l4proto tcp accept",
        f"icmpv6 type {{ {routers} }} {_drop('ND or router')}",
        f"udp dport 546 {_drop('DHCPv6 server')}",
        "meta l4proto 0-255 accept",
        _drop("IPv6 header"),
    ]


def _ranges(version: int, prefixes: Iterable[Prefix], excluded: Iterable[Prefix]) -> Ranges:
    """The addresses of one family in `prefixes`; whatever is wider than one address loses `excluded` and bogons."""
    mine = [prefix for prefix in prefixes if prefix.version == version]
    singles = [_span(prefix) for prefix in mine if prefix.num_addresses == 1]
    wide = [_span(prefix) for prefix in mine if prefix.num_addresses > 1]
    for hole in (*_NEVER, *excluded):
        if hole.version == version:
            wide = [rest for span in wide for rest in _cut(span, _span(hole))]
    return _merge([*singles, *wide])


def _span(prefix: Prefix) -> tuple[int, int]:
    return int(prefix.network_address), int(prefix.broadcast_address)


def _cut(span: tuple[int, int], hole: tuple[int, int]) -> Ranges:
    parts = ((span[0], min(span[1], hole[0] - 1)), (max(span[0], hole[1] + 1), span[1]))
    return [(first, last) for first, last in parts if first <= last]


def _merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    # An anonymous nft set refuses overlapping intervals.
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _set(version: int, ranges: Ranges) -> str:
    address = IPv4Address if version == 4 else IPv6Address
    return _elements((str(address(first)), str(address(last))) for first, last in ranges)


def _raw(ranges: Ranges) -> str:
    """IPv6 addresses as integers, for raw payloads: nft 1.0.6 has no `icmpv6 taddr`."""
    return _elements((f"0x{first:032x}", f"0x{last:032x}") for first, last in ranges)


def _elements(pairs: Iterable[tuple[str, str]]) -> str:
    return "{ " + ", ".join(first if first == last else f"{first}-{last}" for first, last in pairs) + " }"

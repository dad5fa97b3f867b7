"""Address ranges as nft text: prefixes merged, with what nobody may use carved out. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Prefix = IPv4Network | IPv6Network
Ranges = list[tuple[int, int]]  # first and last address, both included

_LINK_LOCAL = IPv6Network("fe80::/10")

# Never in a prefix that a port may use: "this network", loopback, multicast, reserved and broadcast (RFC 6890), and
# other ports' IPv6 link-local addresses, unless the prefix is made of those.
_NEVER: tuple[Prefix, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/3"),
    IPv6Network("::/127"),
    IPv6Network("::ffff:0:0/96"),
    _LINK_LOCAL,
    IPv6Network("ff00::/8"),
)


def ranges(version: int, prefixes: Iterable[Prefix], excluded: Iterable[Prefix] = ()) -> Ranges:
    """The addresses of one family in `prefixes`; whatever is wider than one address loses `excluded` and bogons."""
    mine = [prefix for prefix in prefixes if prefix.version == version]
    singles = [_span(prefix) for prefix in mine if prefix.num_addresses == 1]
    excluded = [hole for hole in excluded if hole.version == version]
    wide = (rest for prefix in mine if prefix.num_addresses > 1 for rest in _without(prefix, excluded))
    return merge([*singles, *wide])


def _without(prefix: Prefix, excluded: Iterable[Prefix]) -> Ranges:
    spans = [_span(prefix)]
    for hole in (*_NEVER, *excluded):
        meant = hole is _LINK_LOCAL and prefix.network_address in _LINK_LOCAL
        if hole.version == prefix.version and not meant:
            spans = [rest for span in spans for rest in _cut(span, _span(hole))]
    return spans


def _span(prefix: Prefix) -> tuple[int, int]:
    return int(prefix.network_address), int(prefix.broadcast_address)


def _cut(span: tuple[int, int], hole: tuple[int, int]) -> Ranges:
    parts = ((span[0], min(span[1], hole[0] - 1)), (max(span[0], hole[1] + 1), span[1]))
    return [(first, last) for first, last in parts if first <= last]


def merge(spans: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, without overlaps, which an anonymous nft set refuses."""
    merged: Ranges = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def as_set(version: int, spans: Ranges) -> str:
    """An anonymous nft set of addresses."""
    address = IPv4Address if version == 4 else IPv6Address
    return _elements((str(address(first)), str(address(last))) for first, last in spans)


def as_raw(spans: Ranges) -> str:
    """The same as integers, for raw payloads: nft 1.0.6 has no `icmpv6 taddr`."""
    return _elements((hex(first), hex(last)) for first, last in spans)


def _elements(pairs: Iterable[tuple[str, str]]) -> str:
    return "{ " + ", ".join(first if first == last else f"{first}-{last}" for first, last in pairs) + " }"

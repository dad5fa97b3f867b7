"""Address ranges as nft text: prefixes merged, without the addresses that the port may not use. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.parse import Prefix

Ranges = list[tuple[int, int]]  # first and last address, both included

_FEW = 3
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
    """The addresses of one family in `prefixes`; all but single addresses lose `excluded` addresses and bogons."""
    of_version = [prefix for prefix in prefixes if prefix.version == version]
    singles = [span(prefix) for prefix in of_version if prefix.num_addresses == 1]
    wide = [rest for prefix in of_version if prefix.num_addresses > 1 for rest in _without_bogons(prefix)]
    if wide:
        wide = without(wide, (span(hole) for hole in excluded if hole.version == version))
    return merge([*singles, *wide])


def _without_bogons(prefix: Prefix) -> Ranges:
    meant = prefix.network_address in _LINK_LOCAL
    bogons = (span(hole) for hole in _NEVER if hole.version == prefix.version and not (meant and hole is _LINK_LOCAL))
    return without([span(prefix)], bogons)


def without(spans: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> Ranges:
    """What is left of the spans, merged. Both may be many: it takes the time of sorting them."""
    rest, cut, number = [], merge(holes), 0
    for first, last in merge(spans):
        free = first  # the first address that is in none of the holes so far
        while number < len(cut) and cut[number][1] < first:
            number += 1
        while number < len(cut) and cut[number][0] <= last:
            if cut[number][0] > free:
                rest.append((free, cut[number][0] - 1))
            free = cut[number][1] + 1
            if free > last:
                break  # it may cut the next span, too
            number += 1
        if free <= last:
            rest.append((free, last))
    return rest


def span(prefix: Prefix) -> tuple[int, int]:
    """The first and the last address."""
    first = int(prefix.network_address)
    return first, first | (1 << prefix.max_prefixlen - prefix.prefixlen) - 1


def merge(spans: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, without overlaps, which an anonymous nft set refuses."""
    merged: Ranges = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def parted(spans: Ranges) -> list[Ranges]:
    """The ranges, by what a rule each compares a frame with: one by one where they are few, else all together.

    nft makes a set of each list of several. The more sets there are on a host, the longer takes each change: nft reads
    them all, and the kernel goes through them all (decision 103). A few comparisons take a frame less time, too.
    """
    return [[each] for each in spans] if len(spans) <= _FEW else [spans]


def as_set(version: int, spans: Ranges) -> str:
    """An anonymous nft set of addresses."""
    address = IPv4Address if version == 4 else IPv6Address
    return _elements((str(address(first)), str(address(last))) for first, last in spans)


def as_raw(spans: Ranges) -> str:
    """The same as integers, for raw payloads: nft 1.0.6 has no `icmpv6 taddr`."""
    return _elements((hex(first), hex(last)) for first, last in spans)


def _elements(pairs: Iterable[tuple[str, str]]) -> str:
    return "{ " + ", ".join(first if first == last else f"{first}-{last}" for first, last in pairs) + " }"

"""Ranges of addresses, such as a pool of MetalLB's, as prefixes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from itertools import islice

from libvirt_guestnet import parse


def blocks(text: str, most: int) -> tuple[parse.Prefix, ...]:
    """The fewest prefixes with the addresses that a text says: a prefix, an address, or the first and the last of a
    range with a dash between. Raises TextError, also where there would be more than `most`."""
    low, dash, high = text.partition("-")
    if not dash:
        return (parse.prefix(text),)
    try:
        first, last = parse.address(low), parse.address(high)
    except parse.TextError:
        raise parse.TextError(
            f"{parse.shown(text)} is not a range of addresses such as 10.0.0.240-10.0.0.250"
        ) from None
    if first.version != last.version or int(first) > int(last):
        raise parse.TextError(f"{parse.shown(text)} is not a range: the lower address comes first")
    found = tuple(islice(_between(first, last), most + 1))
    if len(found) > most:
        raise parse.TextError(f"{parse.shown(text)} would be more than {most} prefixes: choose ends that are more even")
    return found


def _between(first: parse.Address, last: parse.Address) -> Iterator[parse.Prefix]:
    if isinstance(first, IPv4Address):
        assert isinstance(last, IPv4Address)
        return summarize_address_range(first, last)
    assert isinstance(last, IPv6Address)
    return summarize_address_range(first, last)

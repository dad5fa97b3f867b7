"""The one way from text to addresses, prefixes, numbers, MAC addresses and names of devices. Pure; on the hook path.
Decision 36.

Text comes from XML that a tenant wrote, from receipts, from libvirt's files and from what programs print, and what is
made of it goes into nft and iptables. So nothing passes that is not exactly what it claims to be: no scope id (the
`ipaddress` module takes any text for one, newlines included), no blank, sign, leading zero or digit of another script,
and nothing long. IPv6 may be in capitals or not shortened, as the RNG and libvirt allow: what is made of it is an
object, whose text is always the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.errors import GuestnetError

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

_DIGITS = frozenset("0123456789")
_IPV4, _IPV6 = frozenset("0123456789."), frozenset("0123456789abcdefABCDEF:")
# The parts of canonical IPv4 and MAC addresses: a network may have thousands of reservations, and sets are fast.
_OCTETS, _PAIRS = frozenset(map(str, range(256))), frozenset(f"{octet:02x}" for octet in range(256))
_DEVICE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_LONGEST_FILE_NAME = 128
# Folders of /proc/sys/net/ipv4/conf; for the kernel no devices either.
_NO_DEVICES = frozenset((".", "..", "all", "default"))
_NOWHERE = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")
_LONGEST_ADDRESS, _LONGEST_NUMBER = 39, 20
_SHOWN = 60
_QUANTITY = r"([0-9]{1,9})(?:\.([0-9]{1,6}))?([a-z%]{1,4})"
# By unit, how many of what is counted: microseconds, millionths, kbit/s.
_TIMES, _SHARES, _RATES = {"us": 1, "ms": 1000, "s": 10**6}, {"%": 10**4}, {"kbit": 1, "mbit": 1000, "gbit": 10**6}
_LONGEST_TIME, _HIGHEST_RATE = 60 * 10**6, 32 * 10**6


class TextError(GuestnetError, ValueError):
    """A text is not what it should be; the message shows the beginning of it, in one line."""


def shown(text: object) -> str:
    """A text for a message: quoted, in one line of ASCII, and not all of it if it is long."""
    beginning = str(text)[: _SHOWN + 1]
    return ascii(beginning) if len(beginning) <= _SHOWN else f"{beginning[:_SHOWN]!a}…"


@lru_cache(4096)
def address(text: str) -> Address:
    """Raises TextError."""
    if _is_plain_ipv4(text):
        return IPv4Address(ipv4_number(text))
    characters = _IPV6 if ":" in text else _IPV4
    if 0 < len(text) <= _LONGEST_ADDRESS and characters.issuperset(text):
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            pass
    raise TextError(f"{shown(text)} is not an IP address")


def address_text(text: str) -> str:
    """An address's text, as every other text of the same one is turned into. Raises TextError."""
    return text if _is_plain_ipv4(text) else str(address(text))


def _is_plain_ipv4(text: str) -> bool:
    """Whether it is an IPv4 address in its canonical form."""
    parts = text.split(".", 4)
    return len(parts) == 4 and _OCTETS.issuperset(parts)


def ipv4_number(plain: str) -> int:
    """The number that a canonical IPv4 address stands for; four times as fast as `ipaddress`."""
    first, second, third, fourth = map(int, plain.split("."))
    return first << 24 | second << 16 | third << 8 | fourth


@lru_cache(4096)
def prefix(text: str) -> Prefix:
    """A prefix in CIDR notation, or an address, which is a prefix of its own. Raises TextError."""
    start, slash, length = text.partition("/")
    try:
        first = address(start)
        bits = number(length, 0, first.max_prefixlen) if slash else first.max_prefixlen
    except TextError as error:
        raise TextError(f"{shown(text)} is not an IP prefix or address") from error
    try:
        return IPv4Network((int(first), bits)) if first.version == 4 else IPv6Network((int(first), bits))
    except ValueError as error:
        raise TextError(f"{shown(text)} has bits set beyond its prefix length") from error


def prefixes(text: str, most: int) -> tuple[Prefix, ...]:
    """Prefixes, or addresses, with commas between. Raises TextError, also where there are more than `most`."""
    parts = text.split(",", most)
    if len(parts) > most:
        raise TextError(f"{shown(text)} has more than {most} prefixes")
    return tuple(map(prefix, parts))


def routable(text: str) -> Prefix:
    """A prefix that can be behind a router: none with an address that is nobody's elsewhere, as multicast groups,
    loopback and link-local addresses are (RFC 6890), since the host itself uses those. Raises TextError."""
    found = prefix(text)
    for nowhere in map(prefix, _NOWHERE):
        if nowhere.version == found.version and nowhere.overlaps(found):
            raise TextError(f"{shown(text)} has addresses that are not routed: {nowhere}")
    return found


def fewest(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The fewest prefixes that have the same addresses, in order."""
    known = list(prefixes)
    four = ipaddress.collapse_addresses(each for each in known if isinstance(each, IPv4Network))
    six = ipaddress.collapse_addresses(each for each in known if isinstance(each, IPv6Network))
    return (*four, *six)


def enclosing(text: str) -> Prefix:
    """The prefix of that length that a text's address is in. Raises TextError."""
    start, _, length = text.partition("/")
    first = address(start)
    bits = number(length, 0, first.max_prefixlen)
    return ipaddress.ip_network((first.packed, bits), strict=False)


def netmask(text: str) -> int:
    """The prefix length that an IPv4 netmask stands for. Raises TextError."""
    value = address(text)
    host = ~int(value) & 0xFFFFFFFF
    if value.version == 4 and host & (host + 1) == 0:
        return 32 - host.bit_length()
    raise TextError(f"{shown(text)} is not a netmask")


def number(text: str, lowest: int, highest: int) -> int:
    """A decimal number. Raises TextError."""
    plain = 0 < len(text) <= _LONGEST_NUMBER and _DIGITS.issuperset(text) and (text[0] != "0" or len(text) == 1)
    if plain and lowest <= (value := int(text)) <= highest:
        return value
    raise TextError(f"{shown(text)} is not a number from {lowest} to {highest}")


def span(text: str, lowest: int, highest: int) -> tuple[int, int]:
    """A number, or the first and the last of a range with a dash between. Raises TextError."""
    low, dash, high = text.partition("-")
    first = number(low, lowest, highest)
    last = number(high, lowest, highest) if dash else first
    if first <= last:
        return first, last
    raise TextError(f"{shown(text)} is not a range: the lower number comes first")


def duration(text: str) -> int:
    """The microseconds in a text such as 20ms, 1.5ms, 500us or 2s. Raises TextError."""
    return _quantity(text, _TIMES, _LONGEST_TIME, "a time such as 20ms, 1.5ms, 500us or 2s, at most 60s")


def share(text: str) -> int:
    """The millionths in a text such as 1% or 0.1%. Raises TextError."""
    return _quantity(text, _SHARES, 10**6, "a share such as 1% or 0.1%, at most 100%, with four decimals at most")


def bit_rate(text: str) -> int:
    """The kbit/s in a text such as 512kbit, 10mbit or 1.5gbit. Raises TextError."""
    return _quantity(text, _RATES, _HIGHEST_RATE, "a rate such as 512kbit, 10mbit or 1.5gbit, at most 32gbit")


def _quantity(text: str, units: Mapping[str, int], highest: int, what: str) -> int:
    """A number with its unit, in whole parts of the smallest one, by integers alone: no text's fraction is rounded."""
    import re  # only what impairs links needs it, and it takes 2 ms

    found = re.fullmatch(_QUANTITY, text)
    if found and found[3] in units:
        fraction = found[2] or ""
        value, rest = divmod(int(found[1] + fraction) * units[found[3]], int("1" + "0" * len(fraction)))
        if not rest and 1 <= value <= highest:
            return value
    raise TextError(f"{shown(text)} is not {what}")


def mac(text: str) -> str:
    """A unicast MAC address, in lower case. Raises TextError unless it is six hexadecimal pairs."""
    pairs = text.lower().split(":", 6) if len(text) == 17 and text.isascii() else []
    if len(pairs) == 6 and _PAIRS.issuperset(pairs) and not int(pairs[0], 16) & 1:
        return ":".join(pairs)
    raise TextError(f"{shown(text)} is not a unicast MAC address")


def device(name: str) -> str:
    """A name that a network device can have and that can be written anywhere. Raises TextError."""
    if 0 < len(name) <= 15 and _DEVICE.issuperset(name) and name[0] != "-" and name not in _NO_DEVICES:
        return name
    raise TextError(
        f"device name {shown(name)} cannot be guarded: use letters, digits, '_', '.' and '-' (not first), at most 15"
    )


def file_name(text: str) -> str:
    """A guest's name as a file's: letters, digits, '_', '.' and '-', and no '.' or '-' first. Raises TextError."""
    if 0 < len(text) <= _LONGEST_FILE_NAME and _DEVICE.issuperset(text) and text[0] not in ".-":
        return text
    raise TextError(f"{shown(text)} cannot be a file's name: use letters, digits, '_', '.' and '-' (not first)")

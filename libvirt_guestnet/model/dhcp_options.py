"""DHCP options by name or number, and what may be in one. Pure.

What is made of one becomes a line of dnsmasq's configuration, which has directives that run programs. So a value is of
the type that its option has, or of one of a few plain forms: an address, a number, bytes, a prefix, a DNS name, or
printable text in quotes without anything that ends a quotation, an item or a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from libvirt_guestnet import parse
from libvirt_guestnet.parse import shown

MOST_VALUES = 32
_LONGEST_TEXT = 240  # one option of DHCPv4 has 255 bytes
_TEXT = re.compile(r"[ -~]*")
_NOT_IN_TEXT = frozenset('",\\#')
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*")
_SIZED = re.compile("[0-9]{1,10}[bsi]?")
_BITS = {"b": 8, "s": 16}
_BYTES = re.compile("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+")

# dnsmasq (2.85 to 2.91) writes a number of thousands of bytes for this one, unless it is told how many it has.
_UNSIZED = (4, "43")

Kind = Callable[[int, str], str]


@dataclass(frozen=True)
class DhcpOption:
    """An option of DHCPv4 or DHCPv6 (`version`), by dnsmasq's name of it or its number, with values as dnsmasq reads
    them."""

    version: int
    name: str
    values: tuple[str, ...]

    @property
    def dnsmasq(self) -> str:
        """As it stands in dnsmasq's dhcp-option=."""
        if self.version == 6:
            return ",".join((f"option6:{self.name}", *self.values))
        number = self.name.isdecimal()
        return ",".join((self.name if number else f"option:{self.name}", *self.values))


class OptionError(ValueError):
    """The message says what is wrong with an option's name or value."""


def option(version: int, name: str, values: Iterable[str]) -> DhcpOption:
    """The option with its values checked. Raises OptionError."""
    known = option_name(version, name)
    texts = tuple(values)
    if not 0 < len(texts) <= MOST_VALUES:
        raise OptionError(f"DHCP option {known} has 1 to {MOST_VALUES} values, not {len(texts)}")
    kind = _address if known in _ADDRESSES[version] else _KINDS[version].get(known, _free)
    if kind in _ALONE and len(texts) > 1:
        raise OptionError(f"DHCP option {known} has one value, not {len(texts)}")
    if kind is _route and len(texts) % 2:
        raise OptionError(f"DHCP option {known} has pairs of a prefix and the address of its gateway")
    made = tuple(_value(kind, version, known, index, t) for index, t in enumerate(texts))
    if kind is _free and len(made) > 1 and not _are_alike(made):
        raise OptionError(f"DHCP option {known}: several values of an option without a name are addresses, or texts")
    return DhcpOption(version, known, made)


def _are_alike(values: tuple[str, ...]) -> bool:
    """dnsmasq takes numbers and bytes alone, and does not start with what it cannot read."""
    texts = [each.startswith('"') for each in values]
    return all(texts) or (not any(texts) and all("." in each or "[" in each for each in values))


def _value(kind: Kind, version: int, name: str, index: int, text: str) -> str:
    try:
        if kind is _route:
            return str(parse.prefix(text)) if index % 2 == 0 else _address(4, text)
        made = kind(version, text)
        return f"{made}{_size_of(int(made))}" if (version, name) == _UNSIZED and made.isdecimal() else made
    except ValueError as error:
        raise OptionError(f"DHCP option {name}: {error}") from None


def _size_of(number: int) -> str:
    """What says how many bytes a number has: as few as hold it, as of other options."""
    return next((size for size, bits in _BITS.items() if number < 1 << bits), "i")


def option_name(version: int, text: str) -> str:
    """The one way to write an option: by name where it has one, else by number. Raises OptionError."""
    names = _KINDS[version]
    if text in _REFUSED[version]:
        raise OptionError(f"DHCP option {text} is not for options: {_REFUSED[version][text]}")
    if text in names:
        return text
    if not text.isdecimal() or not text.isascii():
        raise OptionError(f"{shown(text)} is neither the number nor dnsmasq's name of a DHCP{_V[version]} option")
    try:
        number = parse.number(text, 1, 254 if version == 4 else 65535)
    except parse.TextError as error:
        raise OptionError(str(error)) from None
    named = _NUMBERS[version].get(number, str(number))
    if named in _REFUSED[version]:
        raise OptionError(f"DHCP option {text} is not for options: {_REFUSED[version][named]}")
    return named


def names(version: int) -> tuple[str, ...]:
    """The names that options have."""
    return tuple(sorted(_KINDS[version]))


def text_value(text: str) -> str:
    """A text that may stand in quotes in dnsmasq's configuration. Raises ValueError."""
    if not 0 < len(text) <= _LONGEST_TEXT or not _TEXT.fullmatch(text) or _NOT_IN_TEXT & set(text):
        raise ValueError(
            f"{shown(text)} is not 1 to {_LONGEST_TEXT} printable ASCII characters without quotes, commas, # or \\"
        )
    if text != text.strip():
        raise ValueError(f"{shown(text)} begins or ends with a blank")
    return text


def _text(version: int, text: str) -> str:
    return f'"{text_value(text)}"'


def _address(version: int, text: str) -> str:
    found = parse.address(text)
    if found.version != version:
        raise ValueError(f"{found} is not an IPv{version} address")
    return f"[{found}]" if version == 6 else str(found)


def _number_of(bits: int) -> Kind:
    """dnsmasq cuts off what does not fit."""
    return lambda _version, text: str(parse.number(text, 0, (1 << bits) - 1))


def _flag(version: int, text: str) -> str:
    if text not in ("true", "false", "0", "1"):
        raise ValueError(f"{shown(text)} is neither true nor false")
    return "1" if text in ("true", "1") else "0"


def _dns_name(version: int, text: str) -> str:
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a DNS name")
    return text


def _route(version: int, text: str) -> str:
    raise AssertionError  # `_value` knows which of a pair it is


def _free(version: int, text: str) -> str:
    """An option whose type only its user knows: what looks like a number, bytes or an address is one."""
    if _SIZED.fullmatch(text):
        if int(text.rstrip("bsi")) > (1 << _BITS.get(text[-1], 32)) - 1:
            raise ValueError(f"{text} is a larger number than {_BITS.get(text[-1], 32)} bits hold")
        return text
    if _BYTES.fullmatch(text):
        return text.lower()
    try:
        return _address(version, text)
    except ValueError:
        return _text(version, text)


_BYTE, _SHORT, _LONG = map(_number_of, (8, 16, 32))
_ALONE = (_text, _flag, _BYTE, _SHORT, _LONG)
# Those without a name here that dnsmasq takes nothing but addresses for.
_ADDRESSES = {4: {"21", "32", "65", "68"}, 6: {"28"}}
_V = {4: "v4", 6: "v6"}
# As `dnsmasq --help dhcp` and `--help dhcp6` list them (2.89 to 2.91), those that make sense to hand out.
_NUMBERED: Mapping[int, Mapping[int, tuple[str, Kind]]] = {
    4: {
        2: ("time-offset", _LONG),
        6: ("dns-server", _address),
        7: ("log-server", _address),
        9: ("lpr-server", _address),
        13: ("boot-file-size", _SHORT),
        15: ("domain-name", _dns_name),
        16: ("swap-server", _address),
        17: ("root-path", _text),
        19: ("ip-forward-enable", _flag),
        23: ("default-ttl", _BYTE),
        26: ("mtu", _SHORT),
        33: ("static-route", _address),
        37: ("tcp-ttl", _BYTE),
        38: ("tcp-keepalive", _LONG),
        40: ("nis-domain", _text),
        41: ("nis-server", _address),
        42: ("ntp-server", _address),
        44: ("netbios-ns", _address),
        45: ("netbios-dd", _address),
        46: ("netbios-nodetype", _BYTE),
        47: ("netbios-scope", _text),
        48: ("x-windows-fs", _address),
        49: ("x-windows-dm", _address),
        66: ("tftp-server", _text),
        67: ("bootfile-name", _text),
        69: ("smtp-server", _address),
        70: ("pop3-server", _address),
        71: ("nntp-server", _address),
        74: ("irc-server", _address),
        100: ("posix-timezone", _text),
        101: ("tzdb-timezone", _text),
        119: ("domain-search", _dns_name),
        121: ("classless-static-route", _route),
        150: ("tftp-server-address", _address),
    },
    6: {
        22: ("sip-server", _address),
        23: ("dns-server", _address),
        24: ("domain-search", _dns_name),
        27: ("nis-server", _address),
        31: ("sntp-server", _address),
        32: ("information-refresh-time", _LONG),
        41: ("posix-timezone", _text),
        42: ("tzdb-timezone", _text),
        56: ("ntp-server", _address),
        59: ("bootfile-url", _text),
    },
}
_KINDS = {version: dict(found.values()) for version, found in _NUMBERED.items()}
_NUMBERS = {version: {n: name for n, (name, _) in found.items()} for version, found in _NUMBERED.items()}
_OWN = "the DHCP server says it itself"
_REFUSED: Mapping[int, Mapping[str, str]] = {
    4: {
        "1": "it follows from subnets",
        "netmask": "it follows from subnets",
        "3": "say gateway",
        "router": "say gateway",
        "12": "say hostname",
        "28": "it follows from subnets",
        "51": "say lease",
        "T1": _OWN,
        "T2": _OWN,
        **dict.fromkeys(map(str, (50, 52, 53, 54, 55, 57, 58, 59, 61, 81, 82)), _OWN),
        "118": "only who asks says it",
    },
    6: dict.fromkeys(map(str, (*range(1, 17), 18, 19, 25, 26)), _OWN),
}

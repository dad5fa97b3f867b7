"""Addresses, prefixes and MAC addresses in a topology file, read as `kinds` says."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network

from libvirt_guestnet.model.network import IPAddress, IPNetwork

from .. import parse
from .address_ranges import blocks
from .kinds import Kind, pattern
from .report import shown

_MAC = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"
# Unspecified, loopback, multicast and broadcast.
_NOBODYS = tuple(
    map(parse.prefix, ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "ff00::/8"))
)
MOST_BLOCKS = 64  # prefixes that a range of addresses may be; with IPv4 it is never more


def _read_mac(text: str) -> str:
    if not re.fullmatch(_MAC, text):
        raise ValueError(f"{shown(text)} is not a MAC address such as 52:54:00:12:34:56")
    first = int(text[:2], 16)
    if first & 1:
        raise ValueError(f"{text} is a multicast MAC address; the first byte must be even")
    if text.lower().startswith("fe:"):  # virNetDevTapCreateInBridgePort refuses it
        raise ValueError(
            f"libvirt keeps MAC addresses that start with fe for its taps; {text} needs another first byte"
        )
    if int(text.replace(":", ""), 16) == 0:
        raise ValueError("the MAC address is all zero")
    return text.lower()


def _read_ip(text: str) -> IPAddress:
    if "/" in text:
        raise ValueError(f"{shown(text)}: write the address without a prefix length; the subnet gives it")
    if "%" in text:
        raise ValueError(f"{shown(text)}: an address with a scope cannot be used here")
    try:
        return parse.address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None


def _read_ipv4(text: str) -> IPv4Address:
    address = _read_ip(text)
    if not isinstance(address, IPv4Address):
        raise ValueError(f"{text} is not an IPv4 address")
    return address


def _read_prefix(text: str) -> IPNetwork:
    if "/" not in text or "%" in text:
        raise ValueError(f"{shown(text)} is not a prefix such as 192.0.2.0/24 or fd00:1::/64")
    try:
        return parse.prefix(text)
    except ValueError:
        pass
    try:
        near = parse.enclosing(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a prefix such as 192.0.2.0/24 or fd00:1::/64") from None
    raise ValueError(f"{shown(text)} has bits set beyond its prefix length; did you mean '{near}'?")


def _read_pair(text: str) -> tuple[IPNetwork, ...]:
    found = blocks(text, MOST_BLOCKS) if "-" in text else (_read_prefix_or_ip(text),)
    for prefix in found:
        if prefix.prefixlen == 0:
            raise ValueError(f"{text} is every address: a guest that is trusted with that gets guarded: false")
        if _is_nobodys(prefix):
            raise ValueError(f"{prefix if len(found) > 1 else text} is no address that a guest can send from")
    return found


def _is_nobodys(prefix: IPNetwork) -> bool:
    """Whether an address of it is one that no host sends from."""
    return any(prefix.version == each.version and prefix.overlaps(each) for each in _NOBODYS)


def _read_prefix_or_ip(text: str) -> IPNetwork:
    return _read_prefix(text) if "/" in text else parse.prefix(str(_read_ip(text)))


def _read_client(text: str) -> IPNetwork:
    prefix = _read_prefix_or_ip(text)
    if prefix.prefixlen and (prefix.is_multicast or prefix.is_loopback):
        raise ValueError(f"{text} is no address that a client can have")
    return prefix


def _read_subnet(text: str) -> IPNetwork:
    prefix = _read_prefix(text)
    reserved = IPv4Network("0.0.0.0/8")
    if isinstance(prefix, IPv4Network) and (prefix.overlaps(reserved) or prefix.is_reserved):
        raise ValueError(f"{prefix} is reserved: guests cannot use it")
    if prefix.is_link_local or _is_nobodys(prefix):
        raise ValueError(f"{prefix} is not for ordinary addresses: guests cannot use it")
    return prefix


MAC = Kind(_read_mac, pattern(_MAC))
IP = Kind(_read_ip, pattern("[0-9A-Fa-f:.]+"))
IPV4 = Kind(_read_ipv4, {"type": "string", "format": "ipv4"})
PREFIX = Kind(_read_prefix, pattern("[0-9A-Fa-f:.]+/[0-9]{1,3}"))
SUBNET = Kind(_read_subnet, pattern("[0-9A-Fa-f:.]+/[0-9]{1,3}"))
PAIR = Kind(_read_pair, pattern("[0-9A-Fa-f:.]+(/[0-9]{1,3}|-[0-9A-Fa-f:.]+)?"))
CLIENT = Kind(_read_client, pattern("[0-9A-Fa-f:.]+(/[0-9]{1,3})?"))

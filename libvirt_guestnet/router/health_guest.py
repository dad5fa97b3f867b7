"""The guest that is played to try a router's health: it has an address on each of the router's guest networks. Pure.

Which one, and what a healthy router gives it, is read from the router's document, so that no topology file is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from libvirt_guestnet import parse
from libvirt_guestnet.router.document import Document
from libvirt_guestnet.router.tier import HEALTH_NAME

_GUEST = re.compile(rf"([0-9a-f:]{{17}}),([0-9.]{{7,15}}),{HEALTH_NAME}")
_TRANSLATED = re.compile(r"add rule inet guestnet sources oifname (eth[0-9]{1,3}) ip saddr (\S+) snat ip to \S+")


@dataclass(frozen=True)
class HealthGuest:
    """What a healthy router gives on its NIC `nic` with MAC address `nic_mac`: to a guest with this MAC address a lease
    of `address` with itself as gateway, an address for `dns_name`, and a way to `target` (None: not tried)."""

    nic: str
    nic_mac: str
    mac: str
    address: IPv4Address
    gateway: IPv4Address
    dns_name: str
    target: IPv4Address | None


def health_guests(document: Document) -> tuple[HealthGuest, ...]:
    """Those that a document has, in its order."""
    found = (_GUEST.fullmatch(line) for line in document.hosts.splitlines())
    return tuple(each for match in found if match for each in _guest(document, match[1], match[2]))


def _guest(document: Document, mac: str, text: str) -> Iterator[HealthGuest]:
    """On the network whose prefix has the address."""
    address = parse.address(text)
    nics = {words[1]: words[2] for words in _lines(document.net, "nic")}
    for _, nic, own in _lines(document.net, "address"):
        gateway = parse.address(own.partition("/")[0])
        if address not in (prefix := parse.enclosing(own)) or prefix.prefixlen == prefix.max_prefixlen:
            continue
        if isinstance(address, IPv4Address) and isinstance(gateway, IPv4Address):
            name = next((words[1] for words in _lines(document.names, str(gateway))), "")
            yield HealthGuest(nic, nics[nic], mac, address, gateway, name, _target(document, nic, str(prefix)))


def _lines(text: str, first: str) -> Iterator[list[str]]:
    """The lines that begin with this word, as words."""
    return (words for line in text.splitlines() if (words := line.split())[0] == first)


def _target(document: Document, nic: str, prefix: str) -> IPv4Address | None:
    """The gateway that the network's translated packets leave by; None where there is none, or pings stay inside."""
    found = (_TRANSLATED.fullmatch(line) for line in document.nft.splitlines())
    leaves = next((match[1] for match in found if match and match[2] == prefix), None)
    routes = _lines(document.net, "route")
    gateway = next((words[2] for words in routes if words[1] == "0.0.0.0/0" and words[3] == leaves), None)
    if gateway is None or any(_keeps_pings(line, nic) for line in document.nft.splitlines()):
        return None
    target = parse.address(gateway)
    return target if isinstance(target, IPv4Address) else None


def _keeps_pings(line: str, nic: str) -> bool:
    """Whether a line of an egress policy that lets all else out drops what a guest pings by IPv4."""
    start = f"add rule inet guestnet egress-{nic} meta nfproto ipv4 "
    return line.startswith((f"{start}meta l4proto 1 ", f"{start}counter")) and line.endswith(" drop")

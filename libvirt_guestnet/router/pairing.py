"""What the host knows of a pair of routers, by their disks alone: both documents say who they are to each other."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import NamedTuple

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.router import folder
from libvirt_guestnet.router.document import Document, decoded

SECOND = "-2"
"""What the second router's name ends with."""
_CONTROL = re.compile(r"address (eth[0-9]+) ([0-9.]+)/[0-9]+")


class Member(NamedTuple):
    """One of a pair: its domain's name, its address on the control network, and the MAC addresses of the NICs that only
    the one that serves may use."""

    router: str
    address: IPv4Address
    macs: frozenset[str]


def pair_of(router: str) -> tuple[Member, Member] | None:
    """The pair that a router is one of, the first one first; None for one that is alone. Raises GuestnetError."""
    for first in dict.fromkeys((router, router.removesuffix(SECOND))):
        one, two = _document(first), _document(first + SECOND)
        if one and two and one.sync and _are_a_pair(one, two):
            return _member(first, one), _member(first + SECOND, two)
    return None


def _document(router: str) -> Document | None:
    found = folder.document(router)
    return None if found is None else decoded(found)


def _are_a_pair(one: Document, two: Document) -> bool:
    ends = [
        re.findall(r"^IPv4_(?:address|Destination_Address) ([0-9.]+)$", each.sync, re.MULTILINE) for each in (one, two)
    ]
    return len(ends[0]) >= 2 and ends[0][:2] == ends[1][1::-1]


def _member(router: str, document: Document) -> Member:
    lines = document.net.splitlines()
    nics = [line.split(" ") for line in lines if line.startswith("nic ")]
    waiting = {words[1] for words in nics if len(words) == 6}
    own = [found for line in lines if (found := _CONTROL.fullmatch(line)) and found[1] not in waiting]
    if not own:
        raise GuestnetError(f"router {router}: its document has no control address")
    address = parse.address(own[0][2])
    assert isinstance(address, IPv4Address)
    return Member(router, address, frozenset(words[2] for words in nics if words[1] in waiting))

"""What is asked for at which address and port of the host, and when two cannot both have it. Pure; on the hook path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from libvirt_guestnet.model import ip_protocols

MOST_MOVED = 1024
"""Ports of one forward that may have other numbers in the guest: nft keeps an element for each of them."""
MOST_SOURCES = 64
"""Prefixes of clients that one forward may be limited to: nft keeps an element for each of them."""
ANYWHERE = {4: "0.0.0.0", 6: "::"}  # noqa: S104  (as the kernel names them; nothing is bound)


class Claim(NamedTuple):
    """`first` to `last` of a protocol at an address (of ANYWHERE: at every address of the host's), all of one that has
    no ports, whose they are 0; or, without a protocol, all of an address. `owner` is for messages."""

    at: str
    protocol: str
    first: int
    last: int
    owner: str = ""

    def __str__(self) -> str:
        if not self.protocol:
            return self.at
        asked = ip_protocols.service(self.protocol, self.first, self.last)
        return asked + ("" if self.at in ANYWHERE.values() else f" at {self.at}")


def clash(one: Claim, other: Claim) -> bool:
    """Whether somebody who asks could mean both. A whole address is never meant by "every address of the host"."""
    if not (one.protocol and other.protocol):
        return one.at == other.at
    if one.protocol != other.protocol or one.first > other.last or other.first > one.last:
        return False
    return one.at == other.at or _anywhere(one.at) == other.at or _anywhere(other.at) == one.at


def _anywhere(at: str) -> str:
    return ANYWHERE[6 if ":" in at else 4]


def clashes(new: Iterable[Claim], taken: Iterable[Claim]) -> Iterator[tuple[Claim, Claim]]:
    """Each new claim that meets a known one, with the first it meets."""
    old = list(taken)
    for claim in new:
        met = next((other for other in old if clash(claim, other)), None)
        if met is not None:
            yield claim, met

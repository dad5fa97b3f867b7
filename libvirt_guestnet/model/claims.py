"""What is asked for at which address and port of the host, and when two cannot both have it. Pure; on the hook path."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from libvirt_guestnet.light_typing import NamedTuple
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


class _Spans:
    """Spans of ports, each with a number, in the order of their first ports; and up to each the last port so far."""

    def __init__(self, found: list[tuple[int, int, int]]) -> None:
        self._spans = sorted(found)
        self._firsts = [first for first, _, _ in self._spans]
        self._lasts = list(accumulate((last for _, last, _ in self._spans), max))

    def meeting(self, first: int, last: int) -> int:
        """The lowest number of those that have one of these ports, _NONE if there is none."""
        found, at = _NONE, bisect_right(self._firsts, last) - 1
        while at >= 0 and self._lasts[at] >= first:
            _, ends, number = self._spans[at]
            found = min(found, number) if ends >= first else found
            at -= 1
        return found


class Claims:
    """Claims by where they are. What one of them meets is found among few, however many there are: guests wait for
    that."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self.all = list(claims)
        self._at: dict[str, int] = {}
        self._whole: dict[str, int] = {}
        spans: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for number, each in enumerate(self.all):
            self._at.setdefault(each.at, number)
            if not each.protocol:
                self._whole.setdefault(each.at, number)
            for where in (each.at, _everywhere(each.at)) if each.protocol else ():
                spans.setdefault((each.protocol, where), []).append((each.first, each.last, number))
        self._spans = {key: _Spans(found) for key, found in spans.items()}

    def met_by(self, claim: Claim) -> int:
        """The number of the first of them that clashes with it; their count, or more, if there is none."""
        if not claim.protocol:
            return self._at.get(claim.at, _NONE)
        anywhere = _anywhere(claim.at)
        places = (_everywhere(claim.at),) if claim.at == anywhere else (claim.at, anywhere)
        found = (self._spans[key] for key in ((claim.protocol, place) for place in places) if key in self._spans)
        met = min((each.meeting(claim.first, claim.last) for each in found), default=_NONE)
        return min(met, self._whole.get(claim.at, _NONE))


_NONE = 1 << 62


def _everywhere(at: str) -> str:
    """Stands for all addresses of a family."""
    return "*6" if ":" in at else "*4"


def clashes(new: Iterable[Claim], taken: Iterable[Claim], *, each_other: bool = False) -> Iterator[tuple[Claim, Claim]]:
    """Each new claim that meets a known one, or one of those before it (`each_other`), with the first it meets."""
    asked, known = list(new), list(taken)
    old = Claims([*known, *asked] if each_other else known)
    for number, claim in enumerate(asked, len(known)):
        met = old.met_by(claim)
        if met < min(number, len(old.all)):
            yield claim, old.all[met]

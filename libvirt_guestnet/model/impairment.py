"""What a link is to do to what the guest receives, for labs, as Linux's `netem` has it. Pure; on the hook path."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libvirt_guestnet import parse
from libvirt_guestnet.light_typing import NamedTuple


class Impairment(NamedTuple):
    """Times in microseconds, shares of all packets in millionths, `rate` in kbit/s; 0 stands for none of it.

    `delay` is of each packet, `jitter` by how much it differs at most; `reorder` is the share that is not delayed, and
    so comes before others.
    """

    delay: int = 0
    jitter: int = 0
    loss: int = 0
    duplicate: int = 0
    reorder: int = 0
    rate: int = 0

    def contradiction(self) -> tuple[str, str]:
        """The key that makes no sense with the others, and why; both "" where all do."""
        if self.jitter > self.delay:
            return "jitter", "it is longer than the delay, and no packet arrives before it is sent"
        if self.reorder and not self.delay:
            return "reorder", "packets that are not delayed only overtake others where there is a delay"
        return "", ""

    def words(self) -> dict[str, str]:
        """By key, what is said of it, as `READERS` read it."""
        return {key: _WRITERS[key](number) for key, number in self._asdict().items() if number}


def _time(microseconds: int) -> str:
    return _decimal(microseconds, 3, "ms")


def _share(millionths: int) -> str:
    return _decimal(millionths, 4, "%")


def _rate(kilobits: int) -> str:
    return _decimal(kilobits, 3, "mbit")


def _decimal(number: int, digits: int, unit: str) -> str:
    whole, rest = divmod(number, 10**digits)
    fraction = f"{rest:0{digits}}".rstrip("0")
    return f"{whole}.{fraction}{unit}" if fraction else f"{whole}{unit}"


_KINDS: dict[str, tuple[Callable[[str], int], Callable[[int], str]]] = {
    "delay": (parse.duration, _time),
    "jitter": (parse.duration, _time),
    "loss": (parse.share, _share),
    "duplicate": (parse.share, _share),
    "reorder": (parse.share, _share),
    "rate": (parse.bit_rate, _rate),
}
READERS: Mapping[str, Callable[[str], int]] = {key: read for key, (read, _) in _KINDS.items()}
_WRITERS = {key: write for key, (_, write) in _KINDS.items()}

"""A batch that is refused because of some of what is in it, tried without that: nobody's bad value blocks others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from libvirt_guestnet.datapath.run.program import RefusedBatchError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.parse import TextError

T = TypeVar("T")

# 4 ms each, or more: so many are enough to find a handful among a thousand, and take no hook to its deadline.
_MOST_TRIES = 100
_MOST_NAMES = 5


def left_out(items: Iterable[T], write: Callable[[list[T]], None]) -> list[tuple[T, GuestnetError]]:
    """Has `write`, which replaces what it wrote before, write all items but those because of which it is refused.

    Returns these, each with the complaint. Raises RefusedBatchError when even nothing is refused, and whatever else
    goes wrong.
    """
    search = _Search(write)
    search.take(list(items))
    if search.refused and not search.good:
        write([])
    return search.refused


def named(refused: list[tuple[T, GuestnetError]], name: Callable[[T], str]) -> list[str]:
    """A line for each complaint about what was left out, with whose that is."""
    whose: dict[str, list[str]] = {}
    for item, error in refused:
        whose.setdefault(str(error), []).append(name(item))
    return [f"{error} ({', '.join(dict.fromkeys(names[:_MOST_NAMES]))})" for error, names in whose.items()]


class _Search(Generic[T]):
    """What has been taken so far, and what was not; what was written last is all that was taken."""

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        self._write, self._tries = write, 0
        self.good: list[T] = []
        self.refused: list[tuple[T, GuestnetError]] = []

    def take(self, items: list[T]) -> None:
        """All of these that can be; by halves where they cannot all."""
        self._tries += 1
        try:
            self._write([*self.good, *items])
        except (RefusedBatchError, TextError) as error:
            if not items:
                raise
            self._halve(items, error)
        else:
            self.good += items

    def _halve(self, items: list[T], error: GuestnetError) -> None:
        if len(items) == 1 or self._tries > _MOST_TRIES:
            self.refused += [(item, error) for item in items]
            return
        middle = len(items) // 2
        self.take(items[:middle])
        self.take(items[middle:])

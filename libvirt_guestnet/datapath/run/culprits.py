"""Finding the items because of which a batch is refused: a bad value blocks only its own guest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libvirt_guestnet.datapath.run.program import RefusedBatchError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Generic, TypeVar
from libvirt_guestnet.parse import TextError

T = TypeVar("T")

# One takes 4 ms or more: this many are enough to find a few among a thousand, and fit into a hook's deadline.
_MOST_TRIES = 100
_MOST_NAMES = 5


def left_out(items: Iterable[T], write: Callable[[list[T]], None]) -> list[tuple[T, GuestnetError]]:
    """Calls `write`, which replaces what it wrote before, with all items except those because of which it is refused.

    Returns these, each with the error. Raises RefusedBatchError if even an empty batch is refused, and all other
    errors.
    """
    search = _Search(write)
    search.take(list(items))
    if search.refused and not search.good:
        write([])
    return search.refused


def named(refused: list[tuple[T, GuestnetError]], name: Callable[[T], str]) -> list[str]:
    """A line for each error about items that were left out, with the names of their guests."""
    whose: dict[str, list[str]] = {}
    for item, error in refused:
        whose.setdefault(str(error), []).append(name(item))
    return [f"{error} ({', '.join(dict.fromkeys(names[:_MOST_NAMES]))})" for error, names in whose.items()]


class _Search(Generic[T]):
    """The items accepted and refused so far. What was written last are all accepted items."""

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        self._write, self._tries = write, 0
        self.good: list[T] = []
        self.refused: list[tuple[T, GuestnetError]] = []

    def take(self, items: list[T]) -> None:
        """Accepts all of these items or, if that is refused, tries each half."""
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

"""Collects everything that is wrong with a topology file, and words the usual complaints."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from ..errors import Problem, TopologyError, Where

LISTED = 12
_COMPARISONS = 200_000  # a second or two; a file that is wrong everywhere need not be guessed at everywhere


class Report:
    """The problems found so far. Checks add to it and go on, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self._problems: set[Problem] = set()
        self._comparisons = _COMPARISONS

    def add(self, where: Where, message: str) -> None:
        """Note one problem."""
        self._problems.add(Problem(where, message))

    def unknown(self, where: Where, what: str, text: str, known: Collection[str]) -> None:
        """Note a name nobody knows, with a guess at what was meant."""
        self._comparisons -= len(known)
        self.add(where, unknown(what, text, known if self._comparisons >= 0 else ()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found wrong so far."""
        return not self._problems

    def finish(self) -> None:
        """Raise TopologyError with everything noted, in file order; do nothing when there is nothing."""
        if self._problems:
            raise TopologyError(sorted(self._problems))


def unknown(what: str, text: str, known: Iterable[str]) -> str:
    """The complaint about a name nobody knows: with the nearest known one, or with all of them when they are few."""
    names = sorted(set(known))
    near = nearest(text, names)
    if near:
        return f"unknown {what} {shown(text)}; did you mean '{near}'?"
    if 0 < len(names) <= LISTED:
        return f"unknown {what} {shown(text)}; known: {', '.join(names)}"
    return f"unknown {what} {shown(text)}"


def nearest(text: str, known: Iterable[str]) -> str | None:
    """The known name that was most probably meant."""
    return next(iter(difflib.get_close_matches(text[:100], sorted(set(known)), n=1)), None)


def shown(text: str) -> str:
    """Text from the file as it appears in a message: quoted, on one line, not endless."""
    return repr(text if len(text) <= 80 else text[:77] + "...")

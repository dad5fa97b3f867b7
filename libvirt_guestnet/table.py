"""Rows of facts as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from libvirt_guestnet.styled import Line, visible

# What a cell means for the reader, by its column's head and its text: a word of `styled`.
Meaning = Callable[[str, str], str]


def _nothing(_column: str, _cell: str) -> str:
    return ""


class Table(NamedTuple):
    """Heads of columns and lines of cells, none of which has control characters. Its text has columns as wide as they
    need to be."""

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    meaning: Meaning = _nothing

    def __str__(self) -> str:
        lines = [self.heads, *self.lines]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heads))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


Block = Table | Line


def as_text(blocks: Iterable[Block], between: str = "\n") -> str:
    """Tables and lines as text, with empty lines between."""
    return between.join(f"{block}\n" for block in blocks)


def made(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = (), meaning: Meaning = _nothing) -> Table | None:
    """Columns in the first row's key order; None for no rows."""
    if not rows:
        return None
    keys = [key for key in rows[0] if key not in skip]
    heads = [key.replace("_", " ").upper() for key in keys]
    return Table(heads, [[cell(row.get(key)) for key in keys] for row in rows], meaning)


def table(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """The same as text; empty for no rows."""
    found = made(rows, skip)
    return "" if found is None else f"{found}\n"


def cell(value: object) -> str:
    """A value for people, in one line."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(visible(str(each)) for each in value) or "-"
    return visible(str(value))

"""What changed between two looks at `status`, row by row: what `status --watch` writes where there is no terminal.
Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from libvirt_guestnet.table import cell

Row = Mapping[str, object]
Key = tuple[object, ...]

IS, NEW, CHANGED, GONE = "is", "new", "changed", "gone"
# By kind of row: what names one for people, and what tells it from others besides.
_NAMES = {
    "network": (("name",), ("topology",)),
    "port": (("guest", "port"), ("mac",)),
    "way": (("guest", "port", "at", "service"), ()),
    "route": (("guest", "port", "prefix"), ("table",)),
    "unguarded": (("guest", "mac"), ()),
    "router": (("guest",), ("topology",)),
    "drop": (("guest", "port", "reason"), ("tap",)),
}
_WORDS = {"way": "forward"}
# What changes all the time: for counters there is `--drops`.
_COUNTERS = ("drops", "reasons", "memory_free_mib")


class Event(NamedTuple):
    """A row that is there, new, changed or gone; `was` are the fields that were otherwise before."""

    what: str
    row: Row
    was: Row = MappingProxyType({})

    def text(self, at: str) -> str:
        """One line: the time, the kind, the name, what happened, and fields with what they are now."""
        kind = str(self.row["kind"])
        names, _ = _NAMES[kind]
        name = ".".join(_word(self.row[each]) for each in names if self.row[each] != "") or _word("")
        return " ".join([at, _WORDS.get(kind, kind), name, self.what, *self._details(names)])

    def _details(self, names: Sequence[str]) -> Iterator[str]:
        if self.what == CHANGED:
            yield from (f"{key}={_word(self.row[key])} (was {_word(old)})" for key, old in self.was.items())
        elif self.what != GONE:
            shown = ((key, value) for key, value in self.row.items() if key not in ("kind", *names, *_COUNTERS))
            yield from (f"{key}={_word(value)}" for key, value in shown if value not in (None, "", False, []))

    def json(self, at: str) -> dict[str, object]:
        return {"time": at, "event": self.what, **self.row, **({"was": dict(self.was)} if self.was else {})}


def events(before: Sequence[Row] | None, now: Sequence[Row]) -> list[Event]:
    """In the order of the rows, what is gone last. Before the first look there was None."""
    if before is None:
        return [Event(IS, row) for row in now]
    old, new = _by_key(before), _by_key(now)
    found = [
        Event(NEW, row) if key not in old else Event(CHANGED, row, _was(old[key], row)) for key, row in new.items()
    ]
    gone = [Event(GONE, row) for key, row in old.items() if key not in new]
    return [each for each in found if each.what == NEW or each.was] + gone


def _was(old: Row, new: Row) -> Row:
    return {key: value for key, value in old.items() if key not in _COUNTERS and new[key] != value}


def _by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    """Rows that nothing tells apart, such as NICs with one MAC address, are told apart by their order."""
    found: dict[Key, Row] = {}
    for row in rows:
        key: Key = (row["kind"], *(row[each] for names in _NAMES[str(row["kind"])] for each in names))
        while key in found:
            key = (*key, "")
        found[key] = row
    return found


def _word(value: object) -> str:
    """In one word: in quotation marks where it has blanks, or something that could be taken for another field."""
    text = cell(value)
    return text if text and not set(text) & set(" =\"'()") else json.dumps(text, ensure_ascii=False)

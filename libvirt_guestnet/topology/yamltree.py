"""YAML text to a tree of nodes that know their place, with bounds on everything.

Built from the parser's events, not by a loader: no tags, no anchors (so no alias bombs), no YAML 1.1 surprises
(a MAC address is not a base-60 number), and nesting stops before anything recurses deeply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import Problem, TopologyError, Where
from . import yamlwords

MAX_BYTES = 4 << 20  # 10,000 ports with explicit addresses are 1.3 MB
MAX_NODES = 500_000
MAX_DEPTH = 16
# What YAML calls non-printable, and the line breaks beyond \n: editors and parsers count lines differently there.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value; `plain` means written without quotes."""

    where: Where
    text: str
    plain: bool = True

    @property
    def empty(self) -> bool:
        return self.plain and self.text in ("", "~", "null")


@dataclass(frozen=True, slots=True)
class Sequence:
    where: Where
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries in file order; every key once."""

    where: Where
    entries: tuple[tuple[Scalar, Node], ...]


Node = Scalar | Sequence | Mapping
_Entry = tuple[Scalar, Node]


def parse(text: str, name: str, problems: list[Problem]) -> Node | None:
    """The file's one document, None when it is empty.

    Duplicate keys are noted in `problems` and the first one wins. Raises TopologyError when the text is not usable as
    YAML at all.
    """
    _check_text(text, name)
    builder = _Builder(text, name, problems)
    try:
        return builder.document()
    except yaml.YAMLError as error:
        line, column, words = yamlwords.explain(error, text)
        raise TopologyError([*problems, Problem(Where(name, line, column), words)]) from None
    finally:
        builder.close()


def _check_text(text: str, name: str) -> None:
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise _stop(Where(name, 1, 1), f"the file is larger than {MAX_BYTES >> 20} MiB")
    found = _FORBIDDEN.search(text)
    if found:
        before = text[: found.start()]
        where = Where(name, before.count("\n") + 1, found.start() - before.rfind("\n"))
        raise _stop(where, f"character U+{ord(found.group()):04X} is not allowed in a topology file")


class _Builder:
    def __init__(self, text: str, name: str, problems: list[Problem]) -> None:
        self._loader = _Loader(text)
        self._name = name
        self._problems = problems
        self._nodes = 0

    def close(self) -> None:
        self._loader.dispose()

    def document(self) -> Node | None:
        self._next()  # stream start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        root = self._node(self._next(), 0)
        self._next()  # document end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _stop(self._where(event), "a topology file holds one YAML document, here a second one starts")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        where = self._where(event)
        self._refuse(event, where, depth)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(where, event.value, event.style in (None, ""))
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(where, self._items(depth))
        return Mapping(where, self._entries(depth))

    def _refuse(self, event: Any, where: Where, depth: int) -> None:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent):
            raise _stop(where, f"YAML aliases are not supported: write out what *{str(event.anchor)[:40]} stands for")
        if event.anchor is not None:
            raise _stop(where, f"YAML anchors are not supported: remove &{str(event.anchor)[:40]}")
        if event.tag is not None:
            raise _stop(where, f"YAML tags are not supported: remove {event.tag[:80]!r}")
        if depth > MAX_DEPTH:
            raise _stop(where, f"nested more than {MAX_DEPTH} levels deep")
        if self._nodes > MAX_NODES:
            raise _stop(where, f"more than {MAX_NODES} values in one file")

    def _items(self, depth: int) -> tuple[Node, ...]:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return tuple(items)

    def _entries(self, depth: int) -> tuple[tuple[Scalar, Node], ...]:
        entries: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            if not isinstance(key, Scalar):
                self._problems.append(Problem(key.where, "a key must be a plain word, not a list or mapping"))
            elif key.text in entries:
                first = entries[key.text][0].where.line
                self._problems.append(Problem(key.where, f"duplicate key {key.text[:80]!r}, first on line {first}"))
            else:
                entries[key.text] = (key, value)
        return tuple(entries.values())

    def _next(self) -> Any:
        return self._loader.get_event()

    def _where(self, event: Any) -> Where:
        mark = event.start_mark
        return Where(self._name, mark.line + 1, mark.column + 1)


def _stop(where: Where, message: str) -> TopologyError:
    return TopologyError([Problem(where, message)])

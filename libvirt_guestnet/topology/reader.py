"""Nodes to declarations, by the declared keys. Everything wrong is reported; what is right is still returned."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import Where
from .kinds import Kind
from .report import LISTED, Report, nearest, shown, unknown
from .spec import At, Decl, Everything, Key, ListOf, MapOf, RecordKind, Type, Word, keys_of, made
from .yamltree import Mapping, Node, Scalar, Sequence

D = TypeVar("D", bound=Decl)


class _Bad(Exception):
    """This value is of no use; the report already says why."""


def read(node: Node, cls: type[D], report: Report) -> D | None:
    """The declaration in `node`; None when a required part is missing or unreadable (the report says so)."""
    try:
        return _record(node, cls, report)
    except _Bad:
        return None


def _value(node: Node, type_: Type, report: Report) -> Any:
    match type_:
        case Kind():
            return _scalar(node, type_, report)
        case ListOf():
            return _list(node, type_, report)
        case MapOf():
            return _map(node, type_, report)
        case RecordKind():
            if type_.word and isinstance(node, Scalar) and node.text == type_.word:
                return made(type_.cls, node.where, word=type_.word)
            return _record(node, type_.cls, report, type_.word)


def _scalar(node: Node, kind: Kind, report: Report) -> At[Any]:
    if not isinstance(node, Scalar):
        raise _wrong(node, "one value", report)
    if node.empty:
        raise _complain(node.where, "a value is missing here", report)
    try:
        return At(kind.read(node.text), node.where)
    except ValueError as error:
        raise _complain(node.where, str(error), report) from None


def _list(node: Node, type_: ListOf, report: Report) -> tuple[Any, ...]:
    if type_.all_word and isinstance(node, Scalar) and node.text == type_.all_word:
        return Everything(At(item, node.where) for item in type_.all_items)
    if type_.other_word and isinstance(node, Scalar) and node.text == type_.other_word:
        word = Word()
        word.at = node.where
        return word
    if type_.one and isinstance(node, Scalar):
        return (_value(node, type_.item, report),)
    if not isinstance(node, Sequence):
        raise _wrong(node, "a list: write [ … ], or lines that begin with '- '", report)
    if type_.length is not None and len(node.items) != type_.length:
        raise _complain(node.where, f"expected a list of exactly {type_.length}, not {len(node.items)}", report)
    items, bad = [], False
    for item in node.items:
        if isinstance(item, Scalar) and not item.empty and item.text in (type_.all_word, type_.other_word):
            message = f"{shown(item.text)} is no item of a list: write it alone, without brackets or a dash"
            raise _complain(item.where, message, report)
        try:
            items.append(_value(item, type_.item, report))
        except _Bad:
            bad = True
    # A record that failed is gone; a list of scalars is useful only as a whole.
    if bad and isinstance(type_.item, Kind):
        raise _Bad
    return tuple(items)


def _map(node: Node, type_: MapOf, report: Report) -> tuple[tuple[At[str], Any], ...]:
    if not isinstance(node, Mapping):
        raise _wrong(node, "a mapping of names", report)
    return tuple((_map_key(key, type_.key, report), _map_value(value, type_, report)) for key, value in node.entries)


def _map_key(key: Scalar, kind: Kind, report: Report) -> At[str]:
    try:
        return _scalar(key, kind, report)
    except _Bad:
        return At(key.text, key.where)  # others may still refer to it


def _map_value(node: Node, type_: MapOf, report: Report) -> Any:
    try:
        return _value(node, type_.value, report)
    except _Bad:
        return None


def _record(node: Node, cls: type[D], report: Report, word: str | None = None) -> D:
    known = keys_of(cls)
    if not isinstance(node, Mapping):
        raise _wrong(node, f"{word}, or {_mapping(known)}" if word else _mapping(known), report)
    values: dict[str, Any] = {}
    bad: set[str] = set()
    written = {name.text for name, _ in node.entries}
    for name, value in node.entries:
        meant: str | None = name.text
        if meant not in known:
            report.add(name.where, unknown("key", name.text, known))
            meant = nearest(name.text, known)  # so that what others say of it is not complained about as well
        if meant is None or (meant != name.text and meant in written):
            continue
        field, key = known[meant]
        try:
            values[field] = _value(value, key.type, report)
        except _Bad:
            bad.add(meant)
    _fill_in(node.where, known, values, bad, report)
    return cls(at=node.where, bad=frozenset(bad), **values)


def _mapping(known: dict[str, tuple[str, Key]]) -> str:
    required = [name for name, (_, key) in known.items() if key.required]
    if not required:
        return f"{{}}, or a mapping with some of the keys {', '.join(known)}"
    if len(known) > LISTED:
        return f"a mapping with the keys {', '.join(required)} and others"
    return f"a mapping with the keys {', '.join(known)}"


def _fill_in(
    where: Where, known: dict[str, tuple[str, Key]], values: dict[str, Any], bad: set[str], report: Report
) -> None:
    lost = False
    for name, (field, key) in known.items():
        if field in values:
            continue
        if key.unless and ({key.unless, key.unless.replace("-", "_")} & (bad | values.keys())):
            values[field] = At(key.otherwise, where)
            continue
        if key.required and name not in bad:
            report.add(where, f"the key '{name}' is missing")
        if key.default is not None:
            values[field] = () if isinstance(key.type, ListOf) else At(key.default, where)
            bad |= {name} if key.required else set()
        lost = lost or (key.required and key.default is None)
    if lost:
        raise _Bad


def _wrong(node: Node, expected: str, report: Report) -> _Bad:
    if isinstance(node, Scalar):
        found = "nothing" if node.empty else shown(node.text)
    else:
        found = "a list" if isinstance(node, Sequence) else "a mapping"
    return _complain(node.where, f"expected {expected}; found {found}", report)


def _complain(where: Where, message: str, report: Report) -> _Bad:
    report.add(where, message)
    return _Bad()

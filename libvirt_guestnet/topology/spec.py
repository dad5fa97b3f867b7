"""How keys are declared: once, as dataclass fields. Reading, key checking and the JSON Schema all follow from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, Generic, TypeVar

from ..errors import Where
from .kinds import OBJECT_NAME, Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class At(Generic[T]):
    """A value and where in the file it stands (where its record stands, for a default)."""

    value: T
    where: Where


def value(at: At[T] | None) -> T | None:
    """The bare value; None when the key was left out."""
    return at.value if at else None


def values(items: tuple[At[T], ...] | None) -> tuple[T, ...]:
    """The bare values; empty when the key was left out."""
    return tuple(at.value for at in items or ())


class Everything(tuple[Any, ...]):
    """The value of a list for which its word was written."""


class Word(tuple[Any, ...]):
    """The value of a list in the place of which its other word was written: empty but for its place in the file."""

    at: Where


@dataclass(frozen=True)
class ListOf:
    """A list; `length` fixes how many, `all_word` is a word that stands for `all_items`: they come as `Everything`.
    `other_word` may stand in its place, too, and comes as `Word`. With `one`, an item may stand without brackets.
    """

    item: Kind | RecordKind
    length: int | None = None
    all_word: str | None = None
    all_items: Sequence[str] = ()
    other_word: str | None = None
    one: bool = False


@dataclass(frozen=True)
class MapOf:
    """Names chosen by the user, each with a value."""

    value: Kind | ListOf | RecordKind
    key: Kind = OBJECT_NAME


@dataclass(frozen=True)
class RecordKind:
    """A mapping with fixed keys: the fields of a Decl class. `word` may stand in its place, and is one without any."""

    cls: type[Decl]
    word: str | None = None


Type = Kind | ListOf | MapOf | RecordKind


@dataclass(frozen=True, kw_only=True)
class Decl:
    """What the file says about one thing. `bad` are the keys that are there but could not be understood (a check that
    depends on them is pointless). `word` was written in its place."""

    at: Where
    bad: frozenset[str] = frozenset()
    word: str | None = None


@dataclass(frozen=True)
class Key:
    """One key of a record. `default` is the value when the key is left out, unless the doc says how it is derived.

    For a required key it stands in for a missing or unreadable value, so that the rest of the record is still checked.
    One that is required `unless` another is written has `otherwise` as its value then.
    """

    name: str
    type: Type
    doc: str
    required: bool
    default: Any
    unless: str | None = None
    otherwise: Any = None


def key(
    type_: Type,
    doc: str,
    *,
    required: bool = False,
    default: Any = None,
    name: str | None = None,
    unless: str | None = None,
    otherwise: Any = None,
) -> Any:
    """Declare a key as a dataclass field. The YAML name is the field's, with dashes, unless given."""
    extra = {"type": type_, "doc": doc, "required": required, "default": default, "name": name}
    extra |= {"unless": unless, "otherwise": otherwise}
    return field(metadata={"key": extra}) if required else field(default=None, metadata={"key": extra})


def keys_of(cls: type[Decl]) -> dict[str, tuple[str, Key]]:
    """YAML key → (field name, Key), in declaration order."""
    if cls not in _KEYS:
        pairs = [(each.name, _declared(each)) for each in fields(cls) if "key" in each.metadata]
        _KEYS[cls] = {declared.name: (name, declared) for name, declared in pairs}
    return _KEYS[cls]


_KEYS: dict[type[Decl], dict[str, tuple[str, Key]]] = {}
_D = TypeVar("_D", bound=Decl)


def made(cls: type[_D], at: Where, **said: Any) -> _D:
    """A declaration that no file has, with the defaults of its keys, all of it in one place."""
    known = keys_of(cls).values()
    defaults: dict[str, Any] = {name: At(key.default, at) for name, key in known if key.default is not None}
    return cls(at=at, **(defaults | said))


def _declared(each: Field[Any]) -> Key:
    extra = dict(each.metadata["key"])
    extra["name"] = extra["name"] or each.name.replace("_", "-")
    return Key(**extra)

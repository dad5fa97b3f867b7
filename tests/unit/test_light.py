"""What stands in for `typing` and `json` on the hook path does what they do."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import NamedTuple as TypingsNamedTuple

import pytest

from libvirt_guestnet import light_json
from libvirt_guestnet.light_typing import Generic, NamedTuple, NewType, TypeVar

PACKAGE = Path(__file__).parents[2]


class Point(NamedTuple):
    x: int
    y: int = 2
    label: str = ""

    @property
    def sum(self) -> int:
        return self.x + self.y


class TypingsPoint(TypingsNamedTuple):
    x: int
    y: int = 2
    label: str = ""


class Named(Point):
    """As derived classes of typing's, with the same fields."""

    size = 3


MAKE: list[Callable[[Any], Any]] = [
    lambda kind: kind(1),
    lambda kind: kind(1, 5, "five"),
    lambda kind: kind(x=1, label="one"),
    lambda kind: kind(1, label="one"),
    lambda kind: kind(1)._replace(y=7, label="y"),
    lambda kind: kind._make([1, 2, "three"]),
]
REFUSED: list[Callable[[Any], Any]] = [
    lambda kind: kind(),
    lambda kind: kind(1, 2, "", 4),
    lambda kind: kind(1, x=1),
    lambda kind: kind(1, z=1),
    lambda kind: kind(y=1),
    lambda kind: kind._make([1]),
    lambda kind: kind._make([1, 2, "", 4]),
]


@pytest.mark.parametrize("make", MAKE)
def test_a_named_tuple_is_made_as_typings(make: Callable[[Any], Any]) -> None:
    ours, theirs = make(Point), make(TypingsPoint)
    assert ours == theirs == tuple(ours) and hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).removeprefix("Typings")
    assert ours._asdict() == theirs._asdict() and list(ours._asdict()) == list(theirs._asdict())
    assert (ours.x, ours.y, ours.label) == ours and ours.sum == ours.x + ours.y
    assert pickle.loads(pickle.dumps(ours)) == ours


@pytest.mark.parametrize("make", REFUSED)
@pytest.mark.parametrize("kind", [Point, TypingsPoint])
def test_a_named_tuple_refuses_what_typings_refuses(make: Callable[[Any], Any], kind: Any) -> None:
    with pytest.raises(TypeError):
        make(kind)


def test_a_named_tuples_unknown_field_is_not_replaced() -> None:
    wrong: dict[str, Any] = {"z": 1}
    with pytest.raises(TypeError):
        Point(1)._replace(**wrong)


def test_a_named_tuple_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Point(1).z = 2  # type: ignore[attr-defined]


def test_a_named_tuples_class_says_what_typings_says() -> None:
    for name in ("_fields", "_field_defaults", "__match_args__"):
        assert getattr(Point, name) == getattr(TypingsPoint, name)
    assert Point.__annotations__ == {"x": "int", "y": "int", "label": "str"}
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_a_class_derived_from_a_named_tuples_has_its_fields() -> None:
    assert (Named(1, label="l"), Named._fields, Named(1)._replace(y=3).sum) == ((1, 2, "l"), Point._fields, 4)
    assert isinstance(Named(1)._replace(y=3), Named)


def test_names_for_type_checkers_do_nothing() -> None:
    kind = TypeVar("kind")

    class Box(Generic[kind]):
        def __init__(self, content: kind) -> None:
            self.content = content

    number = NewType("number", int)
    assert Box(number(3)).content == 3


TEXTS = [
    "{}",
    '{"a": [1, -2, 3.5, true, false, null, "ä\\n\\u20ac"], "b": {"c": []}}',
    ' \n{"a": 1}\t\r\n',
    '"text"',
    "1",
    '{"a": 1, "a": 2}',
    "[Infinity]",
    '["\\ud800"]',
]
NOT_JSON = ["", " ", "{", "{}{}", "{} x", "[1,]", "{'a': 1}", '{"a"}', '["\n"]', "nul", "\ufeff{}", "[01]", "\x0b1"]


@pytest.mark.parametrize("text", TEXTS)
def test_json_is_read_as_json_does(text: str) -> None:
    assert light_json.loads(text) == light_json.loads(text.encode()) == json.loads(text)


def test_what_is_no_number_is_read_as_json_does() -> None:
    assert math.isnan(light_json.loads("[NaN]")[0])


@pytest.mark.parametrize("text", NOT_JSON)
@pytest.mark.parametrize("module", [json, light_json])
def test_what_is_not_json_is_a_value_error(text: str, module: Any) -> None:
    with pytest.raises(ValueError):
        module.loads(text)


def test_what_is_not_json_is_one_too_where_nobody_has_imported_json() -> None:
    """As in a hook. The core cannot make its own error there."""
    code = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from libvirt_guestnet import light_json
for text in {NOT_JSON!r}:
    sys.modules.pop("json", None), sys.modules.pop("json.decoder", None)
    try:
        light_json.loads(text)
    except ValueError:
        continue
    sys.exit(f"{{text!r}} was read")
"""
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_octets_that_are_no_utf8_are_a_value_error() -> None:
    with pytest.raises(ValueError):
        light_json.loads(b'"\xff"')


def test_what_is_nested_too_deep_is_a_recursion_error() -> None:
    with pytest.raises(RecursionError):
        light_json.loads("[" * 1_000_000)


@pytest.mark.parametrize("value", [*map(json.loads, TEXTS), (1, ("a", True)), Point(1), {"p": Point(1), "n": None}])
def test_json_is_written_as_json_does(value: object) -> None:
    assert light_json.dumps(value) == json.dumps(value)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object()])
def test_what_json_cannot_write_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        light_json.dumps(value)

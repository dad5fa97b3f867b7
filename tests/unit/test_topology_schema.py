"""The schema for editors agrees with the loader, documents every key, and every key is used in some lab or test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.topology_files import GOOD, ROOT, SCHEMA, read_yaml

from libvirt_guestnet import topology


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_files_are_valid_for_both(path: Path) -> None:
    topology.load(path)
    jsonschema.Draft202012Validator(SCHEMA).validate(read_yaml(path))


@pytest.mark.parametrize(
    "name", ["unknown-keys", "missing-keys", "wrong-types", "interfaces", "vlan-mtu", "names", "unknown-names"]
)
def test_editors_see_simple_mistakes(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read_yaml(ROOT / "topologies" / "bad" / f"{name}.yaml"), SCHEMA)


def _keys(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of every record, as record.key."""
    for name, record in {"": schema, **schema["$defs"]}.items():
        for key, value in record["properties"].items():
            yield f"{name}.{key}", value


def _used(value: Any, schema: dict[str, Any], name: str = "") -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        schema = SCHEMA["$defs"][name]
    for option in schema.get("anyOf", ()):
        yield from _used(value, option, name)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _used(item, schema["items"])
    elif isinstance(value, dict) and "properties" in schema:
        for key, inner in value.items():
            yield f"{name}.{key}"
            yield from _used(inner, schema["properties"][key])
    elif isinstance(value, dict) and "additionalProperties" in schema:
        for inner in value.values():
            yield from _used(inner, schema["additionalProperties"])


def test_every_key_is_documented() -> None:
    for name, schema in _keys(SCHEMA):
        doc = schema.get("description", "")
        assert doc[:1].isalnum(), name
        assert doc.endswith((".", "…")), name


def test_every_key_is_exercised() -> None:
    used = {key for path in GOOD for key in _used(read_yaml(path), SCHEMA)}
    assert {name for name, _ in _keys(SCHEMA)} - used == set()

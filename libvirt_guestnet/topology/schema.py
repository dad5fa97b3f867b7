"""The JSON Schema of topology files, for editors. It knows the keys and their values; relations are the loader's."""

from __future__ import annotations

import inspect
from typing import Any

import yaml

from .keys import TopologyDecl
from .kinds import Kind
from .spec import Decl, Key, ListOf, MapOf, RecordKind, Type, keys_of

_ID = "https://libvirt-guestnet.org/schema/topology-1.json"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a topology file."""
    definitions: dict[str, Any] = {}
    root = _record(TopologyDecl, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, "title": "guestnet topology"}
    return head | root | {"$defs": dict(sorted(definitions.items()))}


def _record(cls: type[Decl], definitions: dict[str, Any]) -> dict[str, Any]:
    known = keys_of(cls)
    schema: dict[str, Any] = {"type": "object", "description": " ".join((inspect.getdoc(cls) or "").split())}
    schema["properties"] = {name: _key(key, definitions) for name, (_, key) in known.items()}
    if required := [name for name, (_, key) in known.items() if key.required and not key.unless]:
        schema["required"] = required
    for name, (_, key) in known.items():
        if key.unless:
            schema["anyOf"] = [{"required": [name]}, {"required": [key.unless]}]
    return schema | {"additionalProperties": False}


def _key(key: Key, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _type(key.type, definitions) | {"description": key.doc}
    return schema if key.default is None or key.required else schema | {"default": key.default}


def _type(type_: Type, definitions: dict[str, Any]) -> dict[str, Any]:
    match type_:
        case Kind():
            return dict(type_.schema)
        case ListOf():
            return _list(type_, definitions)
        case MapOf():
            value = _type(type_.value, definitions)
            return {"type": "object", "propertyNames": dict(type_.key.schema), "additionalProperties": value}
        case RecordKind():
            record = _reference(type_.cls, definitions)
            return {"anyOf": [{"const": yaml.safe_load(type_.word)}, record]} if type_.word else record


def _list(type_: ListOf, definitions: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _type(type_.item, definitions)}
    if type_.length is not None:
        schema |= {"minItems": type_.length, "maxItems": type_.length}
    words: list[dict[str, Any]] = [{"const": word} for word in (type_.all_word, type_.other_word) if word]
    words += [schema["items"]] if type_.one else []
    return {"anyOf": [*words, schema]} if words else schema


def _reference(cls: type[Decl], definitions: dict[str, Any]) -> dict[str, Any]:
    name = cls.__name__.removesuffix("Decl").lower()
    if name not in definitions:
        definitions[name] = {}
        definitions[name] = _record(cls, definitions)
    return {"$ref": f"#/$defs/{name}"}

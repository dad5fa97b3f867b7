"""Elements by chance out of libvirt's own RELAX NG schemas: whatever a user may have written, and libvirt takes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from lxml import etree
from support.elements import attribute

SCHEMAS = Path("/usr/share/libvirt/schemas")
_RNG = "{http://relaxng.org/ns/structure/1.0}"
_TEXT = st.characters(min_codepoint=32, max_codepoint=126)
_NUMBERS = {"int": -5, "integer": -5, "long": -5, "positiveInteger": 1}
_HIGHEST = 1 << 31


class Schema:
    """The definitions that a schema file has, with those of the files that it includes."""

    def __init__(self, file: str) -> None:
        self._defines: dict[str, Any] = {}
        self._load(file)

    def _load(self, file: str) -> None:
        root = etree.parse(SCHEMAS / file).getroot()
        for define in root.iter(f"{_RNG}define"):
            self._defines.setdefault(attribute(define, "name"), define)
        for include in root.iter(f"{_RNG}include"):
            self._load(attribute(include, "href"))

    def sample(self, draw: Any, name: str) -> Any:
        """The one element that a definition is, by chance."""
        root = etree.Element("root")
        self._children(draw, self._defines[name], root)
        (element,) = root
        return element

    def _children(self, draw: Any, node: Any, parent: Any) -> None:
        for child in node.iterchildren(f"{_RNG}*"):
            self._one(draw, child, parent)

    def _one(self, draw: Any, node: Any, parent: Any) -> None:
        kind = node.tag.removeprefix(_RNG)
        if kind == "ref":
            self._children(draw, self._defines[node.get("name")], parent)
        elif kind == "element":
            self._children(draw, node, etree.SubElement(parent, node.get("name")))
        elif kind == "attribute":
            holder = etree.Element("holder")
            self._children(draw, node, holder)
            plain = len(node) == 0
            parent.set(node.get("name"), draw(st.text(_TEXT, max_size=8)) if plain else holder.text or "")
        elif kind == "choice":
            self._one(draw, draw(st.sampled_from(list(node.iterchildren(f"{_RNG}*")))), parent)
        elif kind in ("optional", "zeroOrMore", "oneOrMore"):
            for _ in range(draw(st.integers(int(kind == "oneOrMore"), 1 if kind == "optional" else 2))):
                self._children(draw, node, parent)
        elif kind in ("group", "interleave"):
            self._children(draw, node, parent)
        elif kind != "empty":
            parent.text = (parent.text or "") + draw(_text(node))


@cache
def _text(node: Any) -> st.SearchStrategy[str]:
    if node.tag == f"{_RNG}value":
        return st.just(node.text)
    params = {param.get("name"): param.text for param in node.iterchildren(f"{_RNG}param")}
    if "pattern" in params:
        return st.from_regex(params["pattern"], fullmatch=True, alphabet=_TEXT)
    if node.get("type") == "NCName":
        return st.from_regex("[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True, alphabet=_TEXT)
    if node.tag == f"{_RNG}text" or node.get("type") == "string":
        return st.text(_TEXT, max_size=int(params.get("maxLength", "12")))
    lowest = int(params.get("minInclusive", _NUMBERS.get(node.get("type"), 0)))
    return st.integers(lowest, int(params.get("maxInclusive", _HIGHEST))).map(str)

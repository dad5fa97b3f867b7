"""Declaring XML: one call per element, children in document order, what is None left out."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import TypeAlias

from lxml import etree

Element: TypeAlias = etree._Element
Child: TypeAlias = Element | Iterable[Element] | None
Value: TypeAlias = object | None


def node(tag: str, *children: Child, text: str | None = None, **attributes: Value) -> Element:
    """An element with the given children (an iterable is spliced in, None skipped) and attributes (None omitted).

    True and False become libvirt's "yes" and "no"; everything else its `str()`.
    """
    element = etree.Element(tag)
    fill(element, *children, **attributes)
    element.text = text
    return element


def fill(element: Element, *children: Child, **attributes: Value) -> None:
    """Append children and set attributes as `node` does, on an element made elsewhere (one with a namespace)."""
    for name, value in attributes.items():
        if value is not None:
            element.set(name, _word(value))
    for child in children:
        if isinstance(child, etree._Element):
            element.append(child)
        elif child is not None:
            element.extend(child)


def maybe(wanted: object, tag: str, *children: Child, text: str | None = None, **attributes: Value) -> Element | None:
    """`node(...)` when `wanted` is true, else None: an element that may be missing, declared in its place."""
    return node(tag, *children, text=text, **attributes) if wanted else None


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def to_string(element: Element) -> str:
    """The element as indented text with a final newline: the same element always gives the same text."""
    printed = deepcopy(element)
    etree.indent(printed, space="  ")
    return etree.tostring(printed, encoding="unicode") + "\n"


def api_text(metadata: Element) -> str:
    """Our metadata as libvirt's setMetadata() calls want it: without the namespace.

    libvirt adds the namespace itself from the call's key and uri, and refuses text that already has it ("failed to
    create a new XML namespace", libvirt 9.0); what its metadata() call returns has none either.
    """
    plain = deepcopy(metadata)
    for element in plain.iter(etree.Element):
        element.tag = etree.QName(element).localname
    etree.cleanup_namespaces(plain)
    return to_string(plain)

"""What a test takes for granted in XML, with types: an element that is there, and an attribute that it has."""

from __future__ import annotations

from lxml import etree


def inside(element: etree._Element, path: str) -> etree._Element:
    """The first element below one at that path."""
    found = element.find(path)
    assert found is not None, f"no {path} in {_shown(element)}"
    return found


def attribute(element: etree._Element, name: str) -> str:
    """An attribute that it has."""
    value = element.get(name)
    assert value is not None, f"no {name} in {_shown(element)}"
    return value


def _shown(element: etree._Element) -> str:
    return etree.tostring(element, encoding="unicode", with_tail=False)

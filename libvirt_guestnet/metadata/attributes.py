"""Attributes of elements that somebody else wrote, checked as they are read: each error names the element.

All of these raise GuestnetError. On the hook path.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TypeVar
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.xmlread import Node

T = TypeVar("T")


def of_child(node: Node, child: str, attribute: str) -> str:
    """An attribute of the first child at a path, "" where there is none."""
    found = node.one(child)
    return found.get(attribute) if found else ""


def word(node: Node, attribute: str, *known: str) -> str:
    """The one of these words that an attribute is, or "" where there is none. Raises GuestnetError on any other: what
    somebody insists on by a word that nobody knows would silently not hold."""
    text = node.get(attribute)
    if text in ("", *known):
        return text
    raise GuestnetError(f"{_name(node)} {attribute}: {parse.shown(text)} is not {' or '.join(known)}")


def number(node: Node, attribute: str, highest: int) -> int:
    """The number from 1 on that an attribute is. Raises GuestnetError, as all of these do, with its name."""
    return _read(node, attribute, lambda text: parse.number(text, 1, highest))


def span(node: Node, attribute: str, highest: int) -> tuple[int, int]:
    """The numbers from 1 on that an attribute is, first and last."""
    return _read(node, attribute, lambda text: parse.span(text, 1, highest))


def address(node: Node, attribute: str) -> parse.Address:
    """The address that an attribute is."""
    return _read(node, attribute, parse.address)


def prefix(node: Node, attribute: str) -> parse.Prefix:
    """The prefix that an attribute is."""
    return _read(node, attribute, parse.prefix)


def routable(node: Node, attribute: str) -> parse.Prefix:
    """The prefix behind a router that an attribute is."""
    return _read(node, attribute, parse.routable)


def prefixes(node: Node, attribute: str, most: int) -> tuple[parse.Prefix, ...]:
    """The prefixes that an attribute lists with commas."""
    return _read(node, attribute, lambda text: parse.prefixes(text, most))


def protocol(node: Node, attribute: str) -> str:
    """The protocol of a forward that an attribute is."""
    return _read(node, attribute, ip_protocols.read)


def mac(node: Node, attribute: str) -> str:
    """The MAC address that an attribute is, in lower case."""
    return _read(node, attribute, parse.mac)


def device(node: Node, attribute: str) -> str:
    """The name of a device that an attribute is."""
    return _read(node, attribute, parse.device)


def quantity(node: Node, attribute: str, read: Callable[[str], int]) -> int:
    """What one of the parser's functions reads of an attribute; 0 where there is no such attribute."""
    return _read(node, attribute, read) if node.get(attribute) else 0


def optional_device(node: Node, attribute: str) -> str:
    """The same, "" where there is no such attribute."""
    return device(node, attribute) if node.get(attribute) else ""


def _read(node: Node, attribute: str, read: Callable[[str], T]) -> T:
    try:
        return read(node.get(attribute))
    except parse.TextError as error:
        raise parse.TextError(f"{_name(node)} {attribute}: {error}") from error


def _name(node: Node) -> str:
    space, _, tag = node.tag.rpartition(" ")
    return f"metadata: <guestnet:{tag}>" if space else f"<{tag}>"

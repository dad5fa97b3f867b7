"""libvirt's XML as a small tree, with the parser alone: no DTD, no entities, bounded, 2 ms.

ElementTree costs the hook another 4 ms and cannot refuse a DTD. Limits: decision 44.

Tenants write much of it, so time is linear in its length, and what is refused is known before it is parsed: more than
`MAX_BYTES`, or than `MAX_MARKS` of "<" and "=", of which each element has one or two and each attribute one. libvirt's
users reach neither: its API passes no string of more than 4 MiB (REMOTE_STRING_MAX), in which a network with as many
reservations as fit, 53,000 or 70,000 without names, has 210,000. The worst that is taken needs 90 MiB of memory
(scripts/bench/hostile-xml).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pyexpat import ExpatError, ParserCreate

from libvirt_guestnet.errors import GuestnetError

MAX_BYTES = 8 << 20
MAX_MARKS = 240_000
_MAX_DEPTH = 200
# Characters of an element's own text that are kept: names, UUIDs and the like are all that anybody here reads.
_MAX_TEXT = 1 << 12


class Node:
    """An element. `tag` is "name", or "namespace name" with a blank for a namespaced element."""

    __slots__ = ("attributes", "children", "tag", "text")

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: Sequence[Node] = ()  # many have none, and a list is as large as the rest
        self.text = ""

    def get(self, attribute: str) -> str:
        """The attribute, or "" where there is none."""
        return self.attributes.get(attribute, "")

    def all(self, path: str, separator: str = "/") -> Iterator[Node]:
        """Every element at a path of tags, in document order."""
        first, _, rest = path.partition(separator)
        for child in self.children:
            if child.tag == first:
                if rest:
                    yield from child.all(rest, separator)
                else:
                    yield child

    def one(self, path: str, separator: str = "/") -> Node | None:
        """The first element at a path of tags."""
        return next(self.all(path, separator), None)

    def text_of(self, path: str) -> str:
        """The text of the first element at a path, or ""."""
        found = self.one(path)
        return found.text.strip() if found else ""


def parse(data: bytes) -> Node:
    """Raises GuestnetError on anything but one well-formed document without a DTD, within the bounds above and of up to
    200 levels. Of an element's own text the first 4,096 characters are kept."""
    check_size(data)
    reading = _Reading()
    parser = ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.CharacterDataHandler = reading.start, reading.text
    parser.EndElementHandler, parser.StartDoctypeDeclHandler = reading.end, reading.doctype
    try:
        parser.Parse(data, True)
    except ExpatError as error:
        raise GuestnetError(f"XML cannot be read: {error}") from error
    return reading.roots[0]


def check_size(data: bytes) -> None:
    """Raises GuestnetError on XML beyond the bounds above."""
    if len(data) > MAX_BYTES:
        raise GuestnetError(f"XML of more than {MAX_BYTES >> 20} MiB refused")
    if data.count(b"<") + data.count(b"=") > MAX_MARKS:
        raise GuestnetError(f"XML of more than {MAX_MARKS} tags and attributes refused")


class _Reading:
    """The tree as it grows: the elements that are open, each with its children and pieces of its text."""

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self.open: list[tuple[Node, list[Node], list[str]]] = [(Node("", {}), self.roots, [])]
        self.named = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.open) > _MAX_DEPTH:
            raise GuestnetError(f"XML nested more than {_MAX_DEPTH} deep refused")
        # A namespace is written once, and is in each name.
        self.named += len(tag) + sum(map(len, attributes))
        if self.named > MAX_BYTES:
            raise GuestnetError("XML with too long a namespace refused")
        node = Node(tag, attributes)
        self.open[-1][1].append(node)
        self.open.append((node, [], []))

    def text(self, data: str) -> None:
        kept = self.open[-1][2]
        if len(kept) < _MAX_TEXT:
            kept.append(data[:_MAX_TEXT])

    def end(self, _tag: str) -> None:
        node, children, kept = self.open.pop()
        if children:
            node.children = children
        if kept:
            node.text = "".join(kept)[:_MAX_TEXT]

    def doctype(self, *_: object) -> None:
        raise GuestnetError("XML with a DOCTYPE refused")

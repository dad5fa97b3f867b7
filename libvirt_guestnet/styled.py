"""What is shown to people, as values: lines in parts, each with what it means for the reader. How that looks is
`terminal`'s; as text it is what programs and files get. Pure."""

from __future__ import annotations

from typing import NamedTuple

# What a part means; "": nothing in particular.
GOOD, NOTE, BAD, QUIET = "good", "note", "bad", "quiet"
ADDS, CHANGES, REMOVES, INTERRUPTS = "adds", "changes", "removes", "interrupts"


class Line(NamedTuple):
    """A line in parts: texts, each with its meaning. Its text has no control characters."""

    parts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.parts)


def line(*parts: str | tuple[str, str]) -> Line:
    """A line of texts without a meaning, and of those with one; empty ones are left out."""
    pairs = ((each, "") if isinstance(each, str) else each for each in parts)
    return Line(tuple((visible(text), meaning) for text, meaning in pairs if text))


def visible(text: str) -> str:
    """A text without what a terminal would obey: lines, colours and the like are written as Python has them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""Output for people at a terminal: tables and lines in colour, and progress, by Rich.

Everywhere else (a pipe, a file, with NO_COLOR, TERM=dumb or without Rich) the same things are plain text, and Rich is
not even loaded, which takes a tenth of a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from libvirt_guestnet.styled import Line
from libvirt_guestnet.table import Block, as_text

if TYPE_CHECKING:
    from libvirt_guestnet.terminal.drawn import Bar, Terminal


def is_one(stream: TextIO) -> bool:
    """Whether people look at it who want colours: a terminal that has them and takes UTF-8, and no NO_COLOR
    (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
    return not plain and stream.isatty() and stream.encoding.lower().startswith("utf")


def of(stream: TextIO) -> Terminal | None:
    """None where text is to be plain."""
    if not is_one(stream):
        return None
    try:
        from libvirt_guestnet.terminal.drawn import Terminal
    except ImportError:  # a checkout whose set-up has not run since Rich is needed
        return None
    return Terminal(stream)


def show(blocks: Sequence[Block], between: str = "\n") -> None:
    """Writes tables and lines to standard output."""
    found = of(sys.stdout)
    if found is None:
        sys.stdout.write(as_text(blocks, between))
    else:
        found.print(blocks, between)


class Progress:
    """The last line of a terminal while long work is done: what, and a bar. Nothing elsewhere, and nothing is drawn
    before it is first called. It goes when the work is over."""

    def __init__(self, *streams: TextIO) -> None:
        """On the first of the streams that is a terminal."""
        self._stream = next(filter(is_one, streams), None)
        self._bar: Bar | None = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def __call__(self, doing: str, done: int = 0, total: int = 0) -> None:
        """Says what is done now, and how many of how many steps are over (0: nobody knows)."""
        if self._bar is None and self._stream is not None and (found := of(self._stream)):
            self._bar = self._open.enter_context(found.bar())
        if self._bar is not None:
            self._bar.draw(doing, done, total)

    def say(self, line: Line) -> None:
        """A line on standard output, above the bar if that is there."""
        if self._bar is not None and self._stream is sys.stdout:
            self._bar.terminal.print([line])
        else:
            show([line])
            sys.stdout.flush()

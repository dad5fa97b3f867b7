"""What a terminal shows, by Rich.

Names are other people's: they reach Rich as `Text`, in which no markup counts, and without control characters. No
thread draws: it would not live on in the processes that hooks' code forks. And the cursor is never hidden, as nobody
would show it again when the process is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment, Segments
from rich.table import Table as Grid
from rich.text import Text

from libvirt_guestnet.styled import ADDS, BAD, CHANGES, GOOD, INTERRUPTS, NOTE, QUIET, REMOVES, Line, visible
from libvirt_guestnet.table import Block, Table

_STYLES = {
    "": "",
    GOOD: "green",
    NOTE: "yellow",
    BAD: "bold red",
    QUIET: "dim",
    ADDS: "green",
    CHANGES: "yellow",
    REMOVES: "red",
    INTERRUPTS: "bold white on red",
}
_GAP, _WIDEST, _BAR_WIDTH, _REDRAW_SECONDS = 2, 100_000, 30, 0.1


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        return False


class Terminal:
    """A stream at which somebody looks."""

    def __init__(self, stream: TextIO) -> None:
        # Of NO_COLOR it is decided in `is_one`: Rich obeys it also where it is empty.
        self.console = _Console(
            file=stream, force_terminal=True, no_color=False, markup=False, emoji=False, highlight=False
        )

    def print(self, blocks: Sequence[Block], between: str = "") -> None:
        """What is too long the terminal wraps, as it does with other text: so it can be copied as it is."""
        for number, block in enumerate(blocks):
            segments = [segment for row in self.rows(block) for segment in (*row, Segment.line())]
            head = [Segment(between)] if number and between else []
            self.console.print(Segments([*head, *segments]), soft_wrap=True, end="")

    def rows(self, block: Block) -> list[list[Segment]]:
        """A line as it is; a table with cells folded where that makes it fit, but at blanks only: an address in pieces
        is of no use."""
        if isinstance(block, Line):
            return self._rendered(_text(block), _WIDEST)
        table = _visible(block)
        widths = _widths(table, self.console.width)
        return self._rendered(_grid(table, widths), sum(widths.values()) + _GAP * len(widths))

    def _rendered(self, what: RenderableType, width: int) -> list[list[Segment]]:
        return self.console.render_lines(what, self.console.options.update(width=width), pad=False)

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with live:
            yield Bar(self, live)

    @contextmanager
    def screen(self) -> Iterator[Screen]:
        live = Live(console=self.console, auto_refresh=False, screen=True, redirect_stdout=False, redirect_stderr=False)
        with live:
            yield Screen(self, live)


class Bar:
    """A terminal's last line; what is printed on `terminal` meanwhile is above it."""

    def __init__(self, terminal: Terminal, live: Live) -> None:
        self.terminal = terminal
        self._live = live
        self._drawn_at = 0.0

    def draw(self, doing: str, done: int, total: int) -> None:
        """Not at every step where there are thousands."""
        now = time.monotonic()
        is_due = not total or now - self._drawn_at > _REDRAW_SECONDS
        self._drawn_at = now if is_due else self._drawn_at
        self._live.update(_progress(doing, done, total), refresh=is_due)


class Screen:
    """The whole terminal, drawn again and again. What was there before comes back in the end."""

    def __init__(self, terminal: Terminal, live: Live) -> None:
        self._terminal, self._live = terminal, live

    def draw(self, blocks: Sequence[Block], too_long: Callable[[int], Line]) -> None:
        """As much as there is room for, with empty lines between; `too_long` says how many lines there was none for."""
        height = self._terminal.console.height
        rows = [row for block in blocks for row in (*self._wrapped(block), [])][:-1]
        if len(rows) > height:
            rows = [*rows[: height - 1], *self._wrapped(too_long(len(rows) - height + 1))[:1]]
        segments = [segment for row in rows for segment in (*row, Segment.line())]
        self._live.update(Segments(segments[:-1]), refresh=True)

    def _wrapped(self, block: Block) -> list[list[Segment]]:
        width = max(self._terminal.console.width, 1)  # COLUMNS may be 0
        found = []
        for row in self._terminal.rows(block):
            cuts = range(width, max(Segment.get_line_length(row), 1) + width, width)
            found += [part for part in Segment.divide(row, cuts) if part or not row]
        return found


def _text(line: Line) -> Text:
    found = Text()
    for text, meaning in line.parts:
        found.append(visible(text), _STYLES[meaning])
    return found


def _visible(table: Table) -> Table:
    """As it is shown: what is measured has to be that."""
    lines = [[visible(cell) for cell in cells] for cells in table.lines]
    return table._replace(heads=[visible(head) for head in table.heads], lines=lines)


def _widths(table: Table, room: int) -> dict[int, int]:
    """Of the columns in which anything stands, by their number: a terminal is narrow. The widest are folded first."""
    columns = [i for i in range(len(table.heads)) if any(cells[i] != "-" for cells in table.lines)]
    lines = (table.heads, *table.lines)
    whole = {i: max(cell_len(line[i]) for line in lines) for i in columns}
    longest_word = {i: max(cell_len(word) for line in lines for word in line[i].split() or [""]) for i in columns}
    if sum(longest_word.values()) + _GAP * len(columns) > room:
        return whole
    widths = dict(whole)
    for i in sorted(columns, key=whole.__getitem__, reverse=True):
        excess = sum(widths.values()) + _GAP * len(columns) - room
        widths[i] = max(longest_word[i], widths[i] - max(excess, 0))
    return widths


def _grid(table: Table, widths: Mapping[int, int]) -> Grid:
    grid = Grid(box=None, padding=(0, _GAP, 0, 0), header_style="bold")
    for i, width in widths.items():
        grid.add_column(Text(table.heads[i]), overflow="fold", width=width)
    for cells in table.lines:
        grid.add_row(*(_text(Line(((cells[i], table.meaning(table.heads[i], cells[i])),))) for i in widths))
    return grid


def _progress(doing: str, done: int, total: int) -> RenderableType:
    grid = Grid.grid(padding=(0, 1))
    cells: list[RenderableType] = [Text(f"{visible(doing)} …", "dim", no_wrap=True, overflow="ellipsis")]
    if total:
        cells = [ProgressBar(total, done, _BAR_WIDTH), Text(f"{done} of {total}", no_wrap=True), *cells]
    grid.add_row(*cells)
    return grid

"""`guestnet status --watch`: looks again and again until a signal ends it."""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from libvirt_guestnet import terminal
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.status import changed, text
from libvirt_guestnet.status.filters import Only
from libvirt_guestnet.status.gather import status_rows
from libvirt_guestnet.styled import BAD, QUIET, Line, line
from libvirt_guestnet.table import Block

if TYPE_CHECKING:
    from libvirt_guestnet.terminal import drawn

Rows = Sequence[changed.Row]
# Seconds between two looks; more on a big host, where a look takes its time: three times that.
_PAUSE, _TIMES = 1.0, 3
# Columns for which a terminal that is watched is too narrow.
_SKIPPED = ("topology", "autostart", "offload")


def watch(args: Namespace) -> int:
    """0 when SIGINT or SIGTERM ends it: nothing else does. Raises GuestnetError if the first look fails; later it says
    so, and goes on, such as while libvirt's daemon is restarted."""
    only = Only(args.guest, args.network, args.of_topology)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        rows: Rows = status_rows(args.connect, only)
        with _output(args) as output:
            _follow(rows, output, lambda: status_rows(args.connect, only, known=False))
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _follow(rows: Rows, output: Screen | Lines, look: Callable[[], Rows]) -> None:
    failure, took = "", 0.0
    while True:
        output.show(rows, failure)
        time.sleep(max(_PAUSE, took * _TIMES))
        began = time.monotonic()
        try:
            rows, failure = look(), ""
        except GuestnetError as error:
            failure = str(error)
        took = time.monotonic() - began


class Screen:
    """All of it, drawn again after each look."""

    def __init__(self, screen: drawn.Screen, *, drops: bool) -> None:
        self._screen, self._drops = screen, drops

    def show(self, rows: Rows, failure: str) -> None:
        head: list[Block] = [line((f"{_now()}  Ctrl-C ends this", QUIET))]
        head += [line((f"guestnet: {each}", BAD)) for each in failure.splitlines()]
        self._screen.draw([*head, *(text.drops_blocks(rows) if self._drops else _by_weight(rows))], _too_long)


def _by_weight(rows: Rows) -> list[Block]:
    """First what is wrong: there may be no room for the rest."""
    lines = text.aloud(rows)
    bad = [each for each in lines if any(meaning == BAD for _, meaning in each.parts)]
    return [*bad, *text.tables(rows, _SKIPPED), *(each for each in lines if each not in bad)]


def _too_long(lines: int) -> Line:
    return line((f"… {lines} more lines: --guest, --network and --topology show some of it", QUIET))


class Lines:
    """A line for each row at first, and then for whatever changes."""

    def __init__(self, *, drops: bool, as_json: bool) -> None:
        self._drops, self._json = drops, as_json
        self._before: Rows | None = None
        self._failure = ""

    def show(self, rows: Rows, failure: str) -> None:
        if failure != self._failure:
            sys.stderr.write("".join(f"guestnet: {each}\n" for each in failure.splitlines()))
            self._failure = failure
        now = text.drops_rows(rows) if self._drops else rows
        at = _now()
        for event in changed.events(self._before, now):
            sys.stdout.write((json.dumps(event.json(at)) if self._json else event.text(at)) + "\n")
        sys.stdout.flush()
        self._before = now


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@contextmanager
def _output(args: Namespace) -> Iterator[Screen | Lines]:
    found = None if args.json else terminal.of(sys.stdout)
    if found is None:
        yield Lines(drops=args.drops, as_json=args.json)
        return
    with found.screen() as screen:
        yield Screen(screen, drops=args.drops)

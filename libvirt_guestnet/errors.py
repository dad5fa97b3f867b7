"""The errors users see: what failed, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from libvirt_guestnet.light_typing import NamedTuple


class Where(NamedTuple):
    """A place in a topology file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class GuestnetError(Exception):
    """Something failed; the message says what and what to do. Exit status 1."""

    exit_status = 1


class Problem(NamedTuple):
    """One thing wrong with a topology file."""

    where: Where
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class TopologyError(GuestnetError):
    """A topology file is wrong; `problems` lists everything found, in file order. Exit status 2."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class NotRoutedError(GuestnetError):
    """The host cannot route to a guest: something on it that is not ours to change prevents that."""


class NotAdmittedError(GuestnetError):
    """A domain is refused for what it is, be it ours or not: it would harm a guest of ours, or this host wants none
    such."""

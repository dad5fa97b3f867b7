"""The time that a hook call, or a repair, may take: libvirt holds the domain's lock while a hook runs and has no limit
of its own."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what `signal` adds takes a millisecond
from types import FrameType

from libvirt_guestnet.errors import GuestnetError

SECONDS = 20  # also in hook/concern.py, which imports nothing


class DeadlineError(GuestnetError):
    """The hook took too long."""


class Deadline:
    """Ends what is inside of a `with` by a DeadlineError after SECONDS; `expired` must handle SIGALRM."""

    def __enter__(self) -> None:
        signal.alarm(SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)


def expired(_signal: int, _frame: FrameType | None) -> None:
    """The handler of SIGALRM: raises DeadlineError."""
    raise DeadlineError(f"not done within {SECONDS} s; is the host overloaded? Start again")

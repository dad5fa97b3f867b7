"""Which of a pair of routers serves. Pure: what was seen of the two goes in, what has to be done comes out.

Nothing in a router decides that it serves. The host sees both, and it can take the links from a router that is frozen,
broken into or cut off, which no message can. Only of the one that serves are the links up; before they are at the other
one, they are down at this one. So two never serve, whatever they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

LOST_SECONDS = 1.0
"""For so long a router that serves may answer no ping before the other one takes over."""
SILENT_SECONDS = 10.0
"""For so long a router may answer pings, and not say what it does."""
GONE_SECONDS = 120.0
"""After so long a router that waits and answers nothing is started again: an emulated one starts slowly."""


class Role(StrEnum):
    """What a router does: what it was told to, or after a start of its own, what it says."""

    SERVES = "serves"
    WAITS = "waits"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Seen:
    """What the host sees of one of the two: for how many seconds it has answered no ping (`silent`), whether its taps
    are up and in their bridges (`linked`), for how many seconds it has been asked in vain what it does, and whether it
    runs at all."""

    role: Role
    silent: float
    linked: bool
    unsaid: float = 0.0
    runs: bool = True

    @property
    def answers(self) -> bool:
        return self.runs and self.silent < LOST_SECONDS

    @property
    def is_ready(self) -> bool:
        """Whether it could take over."""
        return self.role is Role.WAITS and self.answers


@dataclass(frozen=True)
class Step:
    """What is to be done, in this order: take the links of `fence`, let `activate` serve, start `restart` again."""

    fence: str = ""
    activate: str = ""
    restart: str = ""
    why: str = ""


NOTHING = Step()


def decide(first: str, second: str, seen: dict[str, Seen]) -> Step:
    """What to do now, for a pair of that order: of two that could serve, the first one does."""
    serving = [name for name in (first, second) if seen[name].role is Role.SERVES]
    if len(serving) == 2:
        return Step(fence=second, restart=second, why=f"{first} serves, too")
    if not serving:
        return _begin(first, second, seen)
    active, other = serving[0], second if serving == [first] else first
    if seen[other].linked:
        return Step(fence=other, why=f"{active} serves")
    if not (seen[active].answers and seen[active].linked) and seen[other].is_ready:
        return Step(fence=active, activate=other, restart=active, why=_why(active, seen[active]))
    return _restart([other], seen)


def _begin(first: str, second: str, seen: dict[str, Seen]) -> Step:
    """One that might serve is waited for, in vain for a while only."""
    ready = [name for name in (first, second) if seen[name].is_ready]
    if not ready:
        return _restart([first, second], seen)
    other = second if ready[0] == first else first
    if seen[other].role is Role.UNKNOWN and seen[other].answers and seen[other].unsaid < SILENT_SECONDS:
        return NOTHING
    return Step(fence=other, activate=ready[0], why="none served")


def _restart(names: list[str], seen: dict[str, Seen]) -> Step:
    """One that serves never is, unless the other one has taken over; nor one that somebody has ended."""
    names = [name for name in names if seen[name].runs]
    lost = [name for name in names if seen[name].silent >= GONE_SECONDS or seen[name].unsaid >= SILENT_SECONDS]
    return Step(fence=lost[0], restart=lost[0], why=_why(lost[0], seen[lost[0]])) if lost else NOTHING


def _why(name: str, seen: Seen) -> str:
    if seen.unsaid >= SILENT_SECONDS:
        return f"{name} does not say what it does"
    if not seen.answers:
        return f"{name} has not answered for {seen.silent:.1f} s"
    return f"{name} was cut off from its networks"


def after(step: Step, seen: dict[str, Seen]) -> dict[str, Seen]:
    """What is known once a step is done, before anything is seen anew."""
    known = dict(seen)
    if step.fence and known[step.fence].role is Role.SERVES:
        known[step.fence] = replace(known[step.fence], role=Role.UNKNOWN)
    if step.restart:
        known[step.restart] = replace(known[step.restart], role=Role.UNKNOWN, silent=0.0, unsaid=0.0)
    if step.activate:
        known[step.activate] = replace(known[step.activate], role=Role.SERVES)
    return known

"""Which of a pair of routers serves: by rule, by chance, and with the arbiter's own notes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from libvirt_guestnet.router.arbitration import NOTHING, Role, Seen, Step, decide

WELL, READY = Seen(Role.SERVES, 0.1, linked=True), Seen(Role.WAITS, 0.1, linked=False)
UNKNOWN = Seen(Role.UNKNOWN, 0.1, linked=True)


@pytest.mark.parametrize(
    ("first", "second", "fence", "activate", "restart"),
    [
        (WELL, READY, "", "", ""),
        (READY, WELL, "", "", ""),
        (READY, READY, "b", "a", ""),
        (Seen(Role.UNKNOWN, 3.0, linked=False), READY, "a", "b", ""),
        (UNKNOWN, READY, "", "", ""),
        (Seen(Role.UNKNOWN, 0.1, linked=True, unsaid=11.0), READY, "a", "b", ""),
        (WELL, Seen(Role.WAITS, 0.1, linked=True), "b", "", ""),
        (WELL, WELL, "b", "", "b"),
        (Seen(Role.SERVES, 1.2, linked=True), READY, "a", "b", "a"),
        (READY, Seen(Role.SERVES, 1.2, linked=True), "b", "a", "b"),
        (Seen(Role.SERVES, 0.1, linked=False), READY, "a", "b", "a"),
        (Seen(Role.SERVES, 5.0, linked=True), Seen(Role.WAITS, 5.0, linked=False), "", "", ""),
        (Seen(Role.SERVES, 5.0, linked=True), Seen(Role.UNKNOWN, 200.0, linked=False), "b", "", "b"),
        (WELL, Seen(Role.WAITS, 30.0, linked=False), "", "", ""),
        (WELL, Seen(Role.UNKNOWN, 300.0, linked=False, runs=False), "", "", ""),
        (Seen(Role.UNKNOWN, 0.1, linked=False, runs=False), READY, "a", "b", ""),
    ],
)
def test_what_is_done(first: Seen, second: Seen, fence: str, activate: str, restart: str) -> None:
    step = decide("a", "b", {"a": first, "b": second})
    assert (step.fence, step.activate, step.restart) == (fence, activate, restart)


def test_why_is_said() -> None:
    seen = {"a": Seen(Role.SERVES, 1.25, linked=True), "b": READY}
    assert decide("a", "b", seen).why == "a has not answered for 1.2 s"
    assert decide("a", "b", {**seen, "a": Seen(Role.SERVES, 0, linked=False)}).why == "a was cut off from its networks"


@dataclass
class World:
    """Two routers that live and die by chance, and lie; what the host's links pass is all that counts."""

    chance: random.Random
    linked: dict[str, bool] = field(default_factory=lambda: {"a": True, "b": True})
    silent: dict[str, float] = field(default_factory=lambda: {"a": 0.0, "b": 0.0})
    known: dict[str, Role] = field(default_factory=lambda: dict.fromkeys("ab", Role.UNKNOWN))
    told: set[str] = field(default_factory=set)

    def turn(self) -> None:
        for name in "ab":
            if self.chance.random() < 0.1:
                self.silent[name] = self.chance.choice([0.0, 2.0, 200.0])
            if self.chance.random() < 0.05:
                self.told.discard(name)
            if self.chance.random() < 0.2 and not self.silent[name]:
                self.known[name] = self.chance.choice([Role.WAITS, Role.SERVES if name in self.told else Role.WAITS])

    def look(self) -> Step:
        seen = {
            name: Seen(self.known[name], self.silent[name], self.linked[name], self.chance.choice([0, 11]))
            for name in "ab"
        }
        step = decide("a", "b", seen)
        if step.fence:
            self.linked[step.fence] = False
            if self.known[step.fence] is Role.SERVES:
                self.known[step.fence] = Role.UNKNOWN
        if step.activate:
            self.linked[step.activate], self.known[step.activate] = True, Role.SERVES
            self.told.add(step.activate)
        if step.restart:
            self.told.discard(step.restart)
            self.known[step.restart], self.silent[step.restart] = Role.UNKNOWN, 0.0
            self.linked[step.restart] = True  # libvirt has made new taps
        return step


@pytest.mark.parametrize("seed", range(20))
def test_two_never_serve(seed: int) -> None:
    world = World(random.Random(seed))
    activated = 0
    for _ in range(500):
        world.turn()
        step = world.look()
        activated += bool(step.activate)
        assert [world.linked[name] for name in world.told].count(True) < 2, step
    assert activated > 5


def test_nothing_is_done_where_nobody_could_serve() -> None:
    gone = Seen(Role.UNKNOWN, 5.0, linked=False)
    assert decide("a", "b", {"a": gone, "b": gone}) == NOTHING

"""Seeing to it that one of a pair of routers serves: looks at both four times a second, and does what `arbitration`
says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.router.arbitration import LOST_SECONDS, NOTHING, Role, Seen, Step, after, decide
from libvirt_guestnet.router.pings import Pings

LOOK_SECONDS = 0.25
ROLE_SECONDS = 5.0
"""So often a router is asked what it does: one that resets itself waits from then on, and nobody told us."""


class PairHost(Protocol):
    """What the host can do with the routers of a pair. All but `run`, `role` and `linked` raise GuestnetError."""

    def run(self, router: str) -> str:
        """What tells one run of it from the next one; "" while it does not run."""

    def role(self, router: str) -> Role:
        """What it says of itself, UNKNOWN when it does not answer at once; its channel may be in use."""

    def linked(self, router: str) -> bool:
        """Whether its taps, but for the control NIC's, are up and in their bridges."""

    def fence(self, router: str) -> None:
        """Takes its links down. Returns when it is certain that no frame of it passes any more."""

    def activate(self, router: str, previous: str) -> None:
        """Brings its links up, and has it serve, with the leases of the previous one."""

    def restart(self, router: str, run: str) -> None:
        """Ends that run of it, whatever it does, and starts it again; returns at once. Once that run is over, nothing
        is done: somebody else has begun another one, and waits for it."""


@dataclass(frozen=True)
class PairMember:
    """One of the two, and its address on the control network."""

    router: str
    address: IPv4Address


class Arbiter:
    """Looks after one pair, from `look` to `look`."""

    def __init__(
        self, first: PairMember, second: PairMember, host: PairHost, pings: Pings, log: Callable[[str], None]
    ) -> None:
        self._first, self._second, self._host, self._pings, self._log = first, second, host, pings, log
        self._known = {each.router: Seen(Role.UNKNOWN, 0.0, linked=False) for each in (first, second)}
        self._asked = dict.fromkeys(self._known, 0.0)
        self._said = dict.fromkeys(self._known, time.monotonic())
        self._runs = {name: host.run(name) for name in self._known}
        self._refused = ""

    @property
    def serving(self) -> str:
        """The router that serves, "" where none does."""
        return next((name for name, seen in self._known.items() if seen.role is Role.SERVES), "")

    @property
    def has_second(self) -> bool:
        """Whether one serves, and the other one could."""
        return bool(self.serving) and any(seen.is_ready for seen in self._known.values())

    def look(self) -> Step:
        """Looks once, and does what has to be done; what fails is told, and tried again at the next look."""
        self._pings.listen()
        self._pings.ask()
        for each in (self._first, self._second):
            self._known[each.router] = self._seen(each)
        step = decide(self._first.router, self._second.router, self._known)
        if step == NOTHING:
            return step
        try:
            self._do(step)
            self._refused = ""
        except GuestnetError as error:
            if str(error) != self._refused:
                self._log(f"{step.why}: {error}")
            self._refused = str(error)
            return NOTHING
        return step

    def _seen(self, member: PairMember) -> Seen:
        name, now = member.router, time.monotonic()
        role, silent = self._role(name), self._pings.silent(member.address)
        if silent >= LOST_SECONDS or role is not Role.UNKNOWN:
            self._said[name] = now
        if silent < LOST_SECONDS and (role is Role.UNKNOWN or now - self._asked[name] > ROLE_SECONDS):
            self._asked[name] = now
            said = self._host.role(name)
            role = role if said is Role.UNKNOWN else said
        return Seen(role, silent, self._host.linked(name), now - self._said[name], runs=bool(self._runs[name]))

    def _role(self, name: str) -> Role:
        """What is known of this run: a router that was started again waits, whatever it did before."""
        run = self._host.run(name)
        if run == self._runs[name]:
            return self._known[name].role
        self._runs[name] = run
        return Role.UNKNOWN

    def _do(self, step: Step) -> None:
        if step.fence:
            self._host.fence(step.fence)
            if self._known[step.fence].role is Role.SERVES:
                self._log(f"{step.fence} was fenced: {step.why}")
        self._known = after(Step(fence=step.fence), self._known)
        if step.activate:
            self._host.activate(step.activate, self._other(step.activate))
            self._log(f"{step.activate} serves now: {step.why}")
        if step.restart:
            self._host.restart(step.restart, self._runs[step.restart])
            self._pings.expect(self._address(step.restart))
            self._log(f"{step.restart} is started again: {step.why}")
        self._known = after(step, self._known)

    def _other(self, router: str) -> str:
        return self._second.router if router == self._first.router else self._first.router

    def _address(self, router: str) -> IPv4Address:
        return next(each.address for each in (self._first, self._second) if each.router == router)

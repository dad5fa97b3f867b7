"""A change is a value that can describe and execute itself: what `plan` prints is what `apply` runs.

`run` does the change step by step and registers the undo of each step right after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from libvirt_guestnet.styled import ADDS, CHANGES, INTERRUPTS, REMOVES, Line, line

if TYPE_CHECKING:
    from libvirt_guestnet.libvirtd.connection import Connection


class Effects(Protocol):
    """What applying does to the kernel besides calling libvirt. All are idempotent and raise GuestnetError."""

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        """Make the tap a port of the bridge (again), isolated from other isolated ports or not."""

    def guard(self, domain_xml: bytes, settle: bool = True) -> None:
        """Put port security on every tap of a running domain, as its live XML says. Without `settle` bridges that are
        to be closed to ports without a guard stay open, as others are guarded next."""

    def release(self, uuid: str, tap: str) -> None:
        """Remove the port security of a tap of that domain, once the tap is gone."""

    def adopt_network(self, network_xml: bytes) -> None:
        """Have the hooks know what our metadata says in an active network's XML; forget an external one without any."""

    def kept_open(self, bridge: str) -> AbstractContextManager[None]:
        """Keeps established connections over the bridge open while libvirt replaces its rules; never fails."""


# What a verb does, for the reader.
MEANINGS = {
    **dict.fromkeys(("define", "start", "attach", "adopt", "take over", "make"), ADDS),
    **dict.fromkeys(("redefine", "set", "update", "restart", "put back", "configure", "write"), CHANGES),
    **dict.fromkeys(("remove", "detach", "release"), REMOVES),
}


@dataclass(frozen=True)
class Run:
    """What a change works with: libvirt, the kernel, and where to register undos, report steps, and tell the user what
    could not be done and holds nothing up. `stuck` are the guests whose changes are left out, as one could not be
    made: what they say of themselves still stands, and fails for nobody else."""

    libvirt: Connection
    effects: Effects
    undo: Callable[[str, Callable[[], object]], None]
    step: Callable[[str], None]
    note: Callable[[str], None] = lambda _text: None
    stuck: set[str] = field(default_factory=set)

    def done(self, what: str, undo_name: str, undo: Callable[[], object]) -> None:
        """Notes a step that was done: first its undo, then the report (which may itself fail)."""
        self.undo(undo_name, undo)
        self.step(what)

    def guard(self, domain: str, settle: bool = True) -> None:
        """Port security for all NICs of a domain; nothing when it is not running (any more)."""
        xml = self.libvirt.live_xml(domain)
        if xml is not None:
            self.effects.guard(xml.encode(), settle)


@dataclass(frozen=True)
class Replacement:
    """XML before and after; None where there is nothing."""

    old: str | None
    new: str | None

    def reverse(self) -> Replacement:
        return Replacement(self.new, self.old)


@dataclass(frozen=True)
class Change(ABC):
    """One change. `interrupts` names the running guests that lose traffic, or are stopped, while it is made."""

    name: str
    detail: str = ""
    interrupts: tuple[str, ...] = ()

    VERB: ClassVar[str]
    KIND: ClassVar[str]

    @abstractmethod
    def run(self, run: Run) -> None:
        """Make the change. Raises GuestnetError."""

    @property
    def verb(self) -> str:
        """What is done, in one word."""
        return self.VERB

    def text(self) -> str:
        """One line for people."""
        return str(self.line())

    def line(self) -> Line:
        """The same, in parts."""
        cost = ("(interrupts " + ", ".join(self.interrupts) + ")", INTERRUPTS)
        interrupts = (" ", cost) if self.interrupts else ()
        detail = f": {self.detail}" if self.detail else ""
        return line((f"{self.verb} {self.KIND} {self.name}", MEANINGS[self.verb]), *interrupts, detail)

    def json(self) -> dict[str, object]:
        """The same for programs: flat, stable keys."""
        return {
            "verb": self.verb,
            "kind": self.KIND,
            "name": self.name,
            "detail": self.detail,
            "interrupts": list(self.interrupts),
        }

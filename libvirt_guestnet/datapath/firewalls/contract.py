"""What this product asks of any other firewall of the host; each is a file beside this one and a line in `registry`.

A firewall that refuses what is forwarded has to let pass what guests exchange with others. So each is asked for four
things: to arrange that what is wanted passes, what of that is missing by now, what its chains refuse (its survey), and
what a person does so that it lets something pass (its advice). The first two are on the hook path; the others are for
`guestnet doctor`, which only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from libvirt_guestnet.datapath.firewalls.accepts import Wanted
from libvirt_guestnet.datapath.run.program import LockDescriptor

if TYPE_CHECKING:  # each costs a hook half a millisecond
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

Name = Callable[[Wanted], str]
"""Whose something is that has to pass, for messages."""


class Change(NamedTuple):
    """What has to pass, exactly; the sources that no longer do; and whose something is, for messages. The `lock`
    lasts until each change is in the kernel."""

    wanted: Sequence[Wanted]
    gone: Sequence[str] = ()
    lock: LockDescriptor | None = None
    name: Name = str


class Firewall:
    """What each does for us; the plain one has nothing to arrange, and refuses nothing.

    `tool` is its name. `managed`: it is a program of its own, of which doctor says that it is active. What stands in
    iptables is told by `marks`, rules of `iptables -S` that it has made, and `refusals`, its targets that let nothing
    pass; what stands in nftables by its `tables`. `refuses_others`: those may refuse what is not its own;
    `by_name_translated`: what its rules let in by a device's name has to be translated all the same.
    """

    tool = ""
    managed = True
    marks: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    refuses_others = True
    by_name_translated = False

    def check(self, wanted: Sequence[Wanted]) -> None:
        """Raises GuestnetError if this could not be written, whatever there is."""

    def arrange(self, change: Change) -> list[str]:
        """Has what is wanted pass, and no more of ours. Goes on past failures and returns them, each with its place."""
        return []

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        """The places from which somebody took what was arranged. Raises GuestnetError where that cannot be told."""
        return []

    def sources(self, wanted: Sequence[Wanted]) -> list[str]:
        """The addresses of what is wanted that it has to be told, and to be told when they are gone. Pure."""
        return []

    def survey(self) -> Iterable[RefusingChain]:
        """Its chains that refuse something. Needs root. Raises GuestnetError when a program does not answer."""
        return ()

    def knows(self, wanted: Sequence[Wanted]) -> bool:
        """Whether what is wanted passes its chains, as far as these do not say so."""
        return False

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        """What a person does so that a chain of its forwards for guests, or takes what they send to the host."""
        return ""

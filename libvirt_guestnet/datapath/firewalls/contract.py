"""What we need to know of each other firewall of the host; each is a file beside this one and a line in `registry`.

A firewall that refuses forwarded packets has to let those of guests pass. So there are four functions for each: make it
accept what is wanted (`arrange`), find out which of that is missing by now (`missing`), list the chains that refuse
something (`survey`), and say what a person does so that such a chain lets something pass (`advice`). The first two are
on the hook path; the others are for `guestnet doctor`, which only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from libvirt_guestnet.datapath.firewalls.accepts import Wanted
from libvirt_guestnet.datapath.run.program import LockDescriptor
from libvirt_guestnet.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # each costs a hook half a millisecond
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

Name = Callable[[Wanted], str]
"""Names the guest of what has to pass, for messages."""


class Change(NamedTuple):
    """What has to pass, and nothing else of ours; the sources that no longer have to; and the names of guests, for
    messages. The `lock` lasts until each change is in the kernel."""

    wanted: Sequence[Wanted]
    gone: Sequence[str] = ()
    lock: LockDescriptor | None = None
    name: Name = str


class Firewall:
    """One firewall. This base class refuses nothing and has nothing to arrange; a subclass says what is different.

    `tool` is its name. `managed`: it is a program of its own, which doctor mentions when it is active. Its rules in
    iptables are recognised by `marks`, rules of `iptables -S` that it makes, and by `refusals`, its targets that let
    nothing pass; those in nftables by its `tables`. `refuses_others`: its tables may refuse packets of devices that are
    not its own. `by_name_translated`: what a rule lets in by a device's name has to be translated nevertheless.
    """

    tool = ""
    managed = True
    marks: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    refuses_others = True
    by_name_translated = False

    def check(self, wanted: Sequence[Wanted]) -> None:
        """Raises GuestnetError if this could never be written as rules, whatever rules are there."""

    def arrange(self, change: Change) -> list[str]:
        """Makes it accept exactly what is wanted. Goes on past failures and returns them, each with its place."""
        return []

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        """The places in which what was arranged is missing. Raises GuestnetError if that cannot be found out."""
        return []

    def sources(self, wanted: Sequence[Wanted]) -> list[str]:
        """The addresses that it must be given for what is wanted; those that are not wanted any more are taken back."""
        return []

    def survey(self) -> Iterable[RefusingChain]:
        """Its chains that refuse something. Needs root. Raises GuestnetError when a program does not answer."""
        return ()

    def knows(self, wanted: Sequence[Wanted]) -> bool:
        """Whether what is wanted passes its chains by something that does not show in them."""
        return False

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        """What a person does so that one of its chains lets guests' forwarded packets, or packets to the host, pass."""
        return ""

"""Forward chains of somebody else's in which an accept of ours counts (see `accepts`), and putting it there.

A change is planned by a pure function from what the chain says now; only `arrange` makes it. On the hook path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from libvirt_guestnet.datapath.firewalls.accepts import Wanted
from libvirt_guestnet.datapath.firewalls.contract import Change
from libvirt_guestnet.datapath.run import culprits
from libvirt_guestnet.datapath.run.program import LockDescriptor
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple


class ForwardChain(NamedTuple):
    """One for IPv4 or IPv6.

    `read` gives its rules, None where there is no such chain or it can refuse nothing; `is_in_place` says whether they
    jump to our chains, as far as these need them, before they refuse anything; `plan` gives the change that is needed,
    "" for none; `write` makes it in one transaction. `read` and `write` raise GuestnetError.
    """

    name: str
    version: int
    read: Callable[[], list[str] | None]
    is_in_place: Callable[[list[Wanted], list[str]], bool]
    plan: Callable[[list[Wanted], list[str]], str]
    write: Callable[[str, LockDescriptor | None], None]


def arrange(chains: Iterable[ForwardChain], change: Change) -> list[str]:
    """Makes each chain accept exactly what is wanted, as far as possible. Returns failures, each with its chain."""
    return [failure for chain in chains for failure in _arrange(chain, change)]


def missing(chains: Iterable[ForwardChain], wanted: Sequence[Wanted]) -> list[str]:
    """The chains from which somebody removed ours. Raises GuestnetError if that cannot be found out."""
    concerned = ((chain, _of(chain, wanted)) for chain in chains)
    read = ((chain, its, chain.read()) for chain, its in concerned if its)
    return [chain.name for chain, its, rules in read if rules is not None and not chain.is_in_place(its, rules)]


def _of(chain: ForwardChain, wanted: Iterable[Wanted]) -> list[Wanted]:
    return [each for each in wanted if each.guest.version == chain.version]


def _arrange(chain: ForwardChain, change: Change) -> list[str]:
    its = _of(chain, change.wanted)
    try:
        chain.read()
    except GuestnetError as error:
        return [f"{chain.name}: {error}"] if its else []  # what cannot be read has nothing of ours

    def write(some: list[Wanted]) -> None:
        rules = chain.read()
        if rules is not None:
            chain.write(chain.plan(some, rules), change.lock)

    try:
        refused = culprits.left_out(its, write)
    except GuestnetError as error:
        return [f"{chain.name}: {error}"]
    return [f"{chain.name}: {failure}" for failure in culprits.named(refused, change.name)]

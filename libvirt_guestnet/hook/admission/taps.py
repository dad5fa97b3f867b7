"""Whose tap it is: the domain's of that UUID, for as long as the device of that index is there. A name says nothing.

Any domain may name any tap as its <target dev>. Where the NIC's type makes no tap, that means nothing. Where it does, a
name is free again once its device is gone, and whoever's device bears it now has it. A device that is there belongs to
the domain that has a receipt for it: another one has only attached itself to it (as queues of several guests can be
attached to one tap that has more than one), and gets nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State


class OthersTapError(NotAdmittedError):
    """A domain names a tap that belongs to another one."""


def check(domains: Iterable[Domain], state: State) -> None:
    """Raises OthersTapError when one of these domains names a tap that belongs to another domain."""
    _, refused = own(domains, state)
    if refused:
        raise OthersTapError(refused[0])


def own(domains: Iterable[Domain], state: State) -> tuple[list[Domain], list[str]]:
    """The domains without the NICs whose taps belong to others, and what is to be said of each such NIC."""
    found, refused = [], []
    first: dict[str, Domain] = {}  # of these domains the one that names a tap first
    for domain in domains:
        strange = {}
        for tap in sorted(domain.taps):
            owner = owner_but(domain.uuid, tap, state) or _name(first.setdefault(tap, domain), domain)
            if owner:
                strange[tap] = owner
        refused += [_refusal(domain, tap, owner) for tap, owner in strange.items()]
        found.append(
            domain.without([nic for nic in domain.nics if nic.has_tap and nic.tap in strange]) if strange else domain
        )
    return found, refused


def owner_but(uuid: str, tap: str, state: State) -> str:
    """The name of the domain that a tap belongs to, "" where it is this one or nobody."""
    index = links.index_of(tap)
    found = state.owners(tap) if index else []
    return next((each.domain or each.uuid for each in found if each.ifindex == index and each.uuid != uuid), "")


def _name(owner: Domain, domain: Domain) -> str:
    return "" if owner is domain else owner.name


def _refusal(domain: Domain, tap: str, owner: str) -> str:
    return (
        f"domain {domain.name!r}: tap {tap} belongs to domain {owner!r}, which runs: give the interface a "
        f"<target dev> of its own, or none; if {owner!r} does not run any more, `guestnet hooks sync` frees the tap"
    )

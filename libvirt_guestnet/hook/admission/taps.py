"""To which domain a tap belongs: to the one, by UUID, with a receipt for the device of that index, as long as the
device exists. Its name proves nothing; whether a tap can have such a name at all is `parse.device`'s question.

Any domain may name any tap as its <target dev>. If the type of its NIC makes no tap, that has no effect. Otherwise the
name is free once the earlier device is gone, and belongs to the domain whose device has it now. A device that still
exists belongs to the domain that has a receipt for it. Another domain that names it can only have attached a queue to
it (a tap with several queues allows that), and gets no guard, route or forward for it.
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
    """The domains without the NICs whose taps belong to other domains, and a message for each such NIC."""
    found, refused = [], []
    first: dict[str, Domain] = {}  # by tap, the first of these domains that names it
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
    """The name of the domain to which a tap belongs; "" if that is this one, or if it belongs to none."""
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

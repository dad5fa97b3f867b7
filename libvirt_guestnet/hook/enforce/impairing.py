"""What the hosts' taps do to packets on their way to guests, for labs (`impairment:`).

That is no port security: if it cannot be done, nothing else of a guest's start fails for it. The receipt says why, and
`guestnet status`, `plan` and `doctor` show it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.netem import NOQUEUE, Netem, Root
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import impaired_taps
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.model.impairment import Impairment
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import ImpairedTap


def impair(domain: Domain, locked: LockedState, whole: bool = True) -> list[str]:
    """Has every tap of a domain (some, if it is not `whole`) do to packets what its XML says now. Returns a message
    about each that cannot.

    Receipts are written first, so that nothing is unknown if the call is killed.
    """
    wanted = [each._replace(ifindex=links.index_of(each.tap)) for each in impaired_taps.impaired_taps(domain)]
    before = {each.tap: each for each in locked.impaired_taps()}
    present, named = domain.taps, {each.tap for each in wanted}
    gone = {each.tap for each in before.values() if not links.exists(each.tap, each.ifindex)}
    own = {tap for tap, each in before.items() if each.uuid == domain.uuid and (whole or tap in present)}
    with Netem() as kernel:
        roots = kernel.roots() if wanted else {}
        found = [_impair(each, before.get(each.tap), roots, kernel, locked) for each in wanted]
    _restore([each for tap, each in before.items() if tap in (own | gone) - named], locked)
    return [f"domain {domain.name!r}: {each}" for each in (*found, *impaired_taps.without_tap(domain)) if each]


def _impair(
    wanted: ImpairedTap, old: ImpairedTap | None, roots: dict[int, Root], kernel: Netem, locked: LockedState
) -> str:
    """Why it cannot be done, or ""."""
    root = roots.get(wanted.ifindex, Root())
    known = old is not None and old.ifindex == wanted.ifindex and root.is_ours
    wanted = wanted._replace(before=old.before if old is not None and known else _default(root))
    locked.put_impaired_tap(wanted)
    try:
        kernel.ensure(wanted.ifindex, _of(wanted), root)
    except GuestnetError as error:
        locked.put_impaired_tap(wanted._replace(refused=str(error)))
        return f"tap {wanted.tap} is not impaired: {error}"
    return ""


def _default(root: Root) -> str:
    return NOQUEUE if root.kind == NOQUEUE else ""


def release(uuid: str, locked: LockedState) -> None:
    """Takes away what a domain had. Raises GuestnetError."""
    _restore([each for each in locked.impaired_taps() if each.uuid == uuid], locked)


def release_tap(uuid: str, tap: str, locked: LockedState) -> None:
    """The same of one tap of a domain."""
    _restore([each for each in locked.impaired_taps() if (each.uuid, each.tap) == (uuid, tap)], locked)


def release_all(locked: LockedState) -> None:
    """The same of all."""
    _restore(locked.impaired_taps(), locked)


def sweep(locked: LockedState) -> None:
    """The same of taps that no longer exist."""
    _restore([each for each in locked.impaired_taps() if not links.exists(each.tap, each.ifindex)], locked)


def _restore(receipts: Iterable[ImpairedTap], locked: LockedState) -> None:
    """What is in the kernel goes before its receipt."""
    for each in receipts:
        if links.exists(each.tap, each.ifindex):
            with Netem() as kernel:
                kernel.delete(each.ifindex, each.before)
        locked.drop_impaired_tap(each.tap)


def lost(state: State) -> dict[str, str]:
    """The taps that do something else to packets than they should, and could, each with its domain. Raises
    GuestnetError."""
    there = [each for each in state.impaired_taps() if not each.refused and links.exists(each.tap, each.ifindex)]
    if not there:
        return {}
    with Netem() as kernel:
        roots = kernel.roots()
    return {each.tap: each.domain for each in there if not roots.get(each.ifindex, Root()).does(_of(each))}


def _of(receipt: ImpairedTap) -> Impairment:
    return Impairment(*(getattr(receipt, key) for key in Impairment._fields))

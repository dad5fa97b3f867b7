"""The routes and published neighbours that lead to domains' taps, with their receipts.

All of these want the state's lock held. A receipt is written before what it tells of and removed after it.
"""

from __future__ import annotations

from libvirt_guestnet.datapath import links, routes
from libvirt_guestnet.datapath.routes import Reach
from libvirt_guestnet.state import State


def lead(uuid: str, wanted: list[Reach], state: State) -> None:
    """Has the host lead to exactly these taps of a domain, in exactly these ways.

    Raises GuestnetError when a prefix is routed elsewhere already; what was done has a receipt then.
    """
    taps = {reach.tap: reach for reach in wanted}
    before = [reach for reach in receipts(state) if reach.uuid == uuid or reach.tap in taps]
    for reach in wanted:
        state.put_reach(_with(reach, [old for old in before if old.tap == reach.tap])._asdict())
    others = [reach for reach in receipts(state) if reach.uuid != uuid]
    routes.withdraw(before, [*others, *wanted])
    for old in before:
        if old.tap not in taps:
            state.drop_reach(old.tap)
    for reach in wanted:
        routes.put(reach)
        state.put_reach(reach._asdict())


def _with(reach: Reach, olds: list[Reach]) -> Reach:
    for old in olds:
        more = (route for route in old.routes if route not in reach.routes)
        also = (each for each in old.published if each not in reach.published)
        reach = reach._replace(routes=(*reach.routes, *more), published=(*reach.published, *also))
    return reach


def forget(uuid: str, state: State) -> None:
    """Withdraws all that leads to a domain that is gone."""
    _withdraw([reach for reach in receipts(state) if reach.uuid == uuid], state)


def forget_tap(uuid: str, tap: str, state: State) -> None:
    """Withdraws what leads to one tap of a domain."""
    _withdraw([reach for reach in receipts(state) if (reach.uuid, reach.tap) == (uuid, tap)], state)


def sweep(state: State) -> None:
    """Withdraws what leads to taps that no longer exist: what killed hooks left."""
    _withdraw([reach for reach in receipts(state) if not links.index_of(reach.tap)], state)


def tidy(state: State) -> None:
    """Withdraws besides what is in the kernel as ours and in no receipt."""
    sweep(state)
    routes.withdraw(routes.strangers(receipts(state)))


def forget_all(state: State) -> None:
    """Withdraws everything."""
    _withdraw(receipts(state), state)
    tidy(state)


def receipts(state: State) -> list[Reach]:
    """Every receipt."""
    return [routes.from_fields(fields) for fields in state.reaches()]


def _withdraw(gone: list[Reach], state: State) -> None:
    if not gone:
        return
    taps = {reach.tap for reach in gone}
    routes.withdraw(gone, [reach for reach in receipts(state) if reach.tap not in taps])
    for tap in taps:
        state.drop_reach(tap)

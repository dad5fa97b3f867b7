"""The routes and published neighbours that lead to domains' taps, with their receipts.

All of these want the state's lock held; `hold` is its descriptor. A receipt is written before what it tells of, and
removed after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath import links, routed, routes
from libvirt_guestnet.datapath.nft import nft
from libvirt_guestnet.datapath.routed import RoutedTap
from libvirt_guestnet.datapath.routes import Reach
from libvirt_guestnet.state import State


def expect(uuid: str, domain: str, taps: Iterable[RoutedTap], state: State) -> None:
    """Records taps of which the host is about to become the gateway. What leads to them already stays."""
    there = {reach.tap: reach for reach in receipts(state) if reach.uuid == uuid}
    for each in taps:
        known = there.get(each.tap, Reach(each.tap, uuid, domain))
        gateway = next((str(gateway) for gateway in each.gateways if gateway.version == 4), "")
        state.put_reach(known._replace(gateway=gateway, vrf=each.vrf)._asdict())


def lead(uuid: str, wanted: list[Reach], state: State, whole: bool = True) -> None:
    """Has the host lead to exactly these taps of a domain (if not `whole`: to these besides), in exactly these ways.

    Raises GuestnetError when a prefix is routed elsewhere already; what was done has a receipt then.
    """
    taps: dict[str, Reach] = {}
    for reach in wanted:
        taps[reach.tap] = _with(reach, [taps[reach.tap]] if reach.tap in taps else [])
    wanted = list(taps.values())
    before = [reach for reach in receipts(state) if (whole and reach.uuid == uuid) or reach.tap in taps]
    for reach in wanted:
        state.put_reach(_with(reach, [old for old in before if old.tap == reach.tap])._asdict())
    mine = {*taps, *(old.tap for old in before)}
    others = [reach for reach in receipts(state) if reach.tap not in mine]
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


def forget(uuid: str, state: State, hold: int) -> None:
    """Withdraws all that leads to a domain that is gone."""
    _withdraw([reach for reach in receipts(state) if reach.uuid == uuid], state, hold)


def forget_tap(uuid: str, tap: str, state: State, hold: int) -> None:
    """Withdraws what leads to one tap of a domain."""
    _withdraw([reach for reach in receipts(state) if (reach.uuid, reach.tap) == (uuid, tap)], state, hold)


def sweep(state: State, hold: int) -> None:
    """Withdraws what leads to taps that no longer exist: what killed hooks left."""
    _withdraw([reach for reach in receipts(state) if not links.index_of(reach.tap)], state, hold)


def tidy(state: State, hold: int) -> None:
    """Withdraws besides what is in the kernel as ours and in no receipt."""
    sweep(state, hold)
    routes.withdraw(routes.strangers(receipts(state)))


def forget_all(state: State, hold: int) -> None:
    """Withdraws everything."""
    _withdraw(receipts(state), state, hold)
    tidy(state, hold)


def receipts(state: State) -> list[Reach]:
    """Every receipt."""
    return [routes.from_fields(fields) for fields in state.reaches()]


def _withdraw(gone: list[Reach], state: State, hold: int) -> None:
    if not gone:
        return
    taps = {reach.tap for reach in gone}
    staying = [reach for reach in receipts(state) if reach.tap not in taps]
    routes.withdraw(gone, staying)
    gated = [reach.tap for reach in gone if reach.gateway]
    if gated:
        nft(routed.ungate(gated, last=not any(reach.gateway for reach in staying)), hold)
    for tap in taps:
        state.drop_reach(tap)

"""The routes and published neighbours that lead to domains' taps, with their receipts.

A receipt is written before what it tells of, and removed after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.datapath.routing import gateway, routes
from libvirt_guestnet.datapath.routing.gateway import RoutedTap
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.errors import NotLedError
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route


def expect(uuid: str, domain: str, taps: Iterable[RoutedTap], locked: LockedState) -> None:
    """Records taps of which the host is about to become the gateway. What leads to them already stays."""
    there = {reach.tap: reach for reach in locked.host_routes() if reach.uuid == uuid}
    for each in taps:
        known = there.get(each.tap, HostRoutes(each.tap, uuid, domain))
        gateway = next((str(gateway) for gateway in each.gateways if gateway.version == 4), "")
        index = links.index_of(each.tap)
        locked.put_host_routes(known._replace(gateway=gateway, vrf=each.vrf, ifindex=index))


def lead(uuid: str, wanted: list[HostRoutes], locked: LockedState, *, only: str = "") -> None:
    """Has the host lead to exactly these taps of a domain (of a single NIC `only` by its tap), in exactly these ways.

    Raises NotLedError, after doing what can be done, where something on the host is in the way; that has a receipt too.
    """
    taps: dict[str, HostRoutes] = {}
    for reach in wanted:
        measured = reach._replace(ifindex=links.index_of(reach.tap))
        taps[reach.tap] = _with(measured, [taps[reach.tap]] if reach.tap in taps else [])
    wanted = list(taps.values())
    before = [r for r in locked.host_routes() if (r.tap == only if only else r.uuid == uuid) or r.tap in taps]
    for reach in wanted:
        locked.put_host_routes(_with(reach, [old for old in before if old.tap == reach.tap]))
    mine = {*taps, *(old.tap for old in before)}
    others = [reach for reach in locked.host_routes() if reach.tap not in mine]
    routes.withdraw(before, [*others, *wanted])
    for old in before:
        if old.tap not in taps:
            locked.drop_host_routes(old.tap)
    failures = [failure for reach in wanted if (failure := _put(reach, locked))]
    if failures:
        raise NotLedError("; ".join(failures))


def _put(reach: HostRoutes, locked: LockedState) -> str:
    try:
        routes.put(reach)
    except NotLedError as error:
        return str(error)
    finally:
        locked.put_host_routes(reach)
    return ""


def _with(reach: HostRoutes, olds: list[HostRoutes]) -> HostRoutes:
    for old in olds:
        more = (route for route in old.routes if route not in reach.routes)
        also = (each for each in old.published if each not in reach.published)
        reach = reach._replace(routes=(*reach.routes, *more), published=(*reach.published, *also))
    return reach


def forget(uuid: str, locked: LockedState) -> None:
    """Withdraws all that leads to a domain that is gone."""
    _withdraw([reach for reach in locked.host_routes() if reach.uuid == uuid], locked)


def forget_tap(uuid: str, tap: str, locked: LockedState) -> None:
    """Withdraws what leads to one tap of a domain."""
    _withdraw([reach for reach in locked.host_routes() if (reach.uuid, reach.tap) == (uuid, tap)], locked)


def leave(tap: str, bridge: str, locked: LockedState) -> None:
    """Withdraws what leads to a tap by way of a bridge in which it is no more."""
    known = locked.host_routes()
    if gone := [r for r in known if r.tap == tap and any(route.device == bridge for route in r.routes)]:
        routes.withdraw(gone, [reach for reach in known if reach.tap != tap])
        locked.drop_host_routes(tap)


def sweep(locked: LockedState) -> None:
    """Withdraws what leads to taps that no longer exist: what killed hooks left."""
    _withdraw([reach for reach in locked.host_routes() if not links.is_there(reach.tap, reach.ifindex)], locked)


def tidy(locked: LockedState) -> None:
    """Withdraws besides what is in the kernel as ours and in no receipt."""
    sweep(locked)
    routes.withdraw(routes.strangers(locked.host_routes()))


def forget_all(locked: LockedState) -> None:
    """Withdraws everything."""
    _withdraw(locked.host_routes(), locked)
    tidy(locked)


def ungated(state: State) -> dict[str, str]:
    """The taps of which the host is the gateway and that the kernel does not take for such, each with its domain.
    Raises GuestnetError, as the next two do."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, missing, name_key

    gated = [reach for reach in state.host_routes() if reach.gateway]
    wanted: list[ChainKey | ElementKey] = [ChainKey(gateway.ARP_TABLE, "input")] if gated else []
    wanted += [ElementKey(gateway.ARP_TABLE, "taps", name_key(reach.tap)) for reach in gated]
    wanted += [ElementKey(gateway.ARP_TABLE, "gateways", parse.address(reach.gateway).packed) for reach in gated]
    return {reach.tap: reach.domain for reach in gated} if gated and missing(wanted) else {}


def gateways(uuid: str, state: State) -> list[RoutedTap]:
    """The taps of a domain of which the host is the gateway for IPv4, as they were."""
    mine = (reach for reach in state.host_routes() if reach.uuid == uuid and reach.gateway)
    return [RoutedTap(reach.tap, (parse.address(reach.gateway),), reach.vrf) for reach in mine]


def left(state: State) -> dict[str, str]:
    """The taps of which the host is the gateway that lack its address, or are not in their VRF."""
    gated = [reach for reach in _living(state) if reach.gateway]
    with Rtnl() as netlink:
        there = {(e.ifindex, str(e.address)) for e in netlink.addresses(all_scopes=True)} if gated else set()
    lacking = (r for r in gated if (links.index_of(r.tap), r.gateway) not in there or links.master_of(r.tap) != r.vrf)
    return {reach.tap: reach.domain for reach in lacking}


def unled(state: State) -> dict[str, str]:
    """The taps to which something does not lead any more that did, while the device by which it would is up."""
    living = _living(state)
    there = routes.there() if any(reach.routes or reach.published for reach in living) else frozenset()
    return {reach.tap: reach.domain for reach in living if any(_is_lost(each, there) for each in _ways(reach))}


def _is_lost(each: Route | ProxyEntry, there: frozenset[Route | ProxyEntry]) -> bool:
    return each not in there and links.is_up(each.device)


def _ways(reach: HostRoutes) -> list[Route | ProxyEntry]:
    return [*reach.routes, *reach.published]


def _living(state: State) -> list[HostRoutes]:
    return [reach for reach in state.host_routes() if links.is_there(reach.tap, reach.ifindex)]


def _withdraw(gone: list[HostRoutes], locked: LockedState) -> None:
    if not gone:
        return
    taps = {reach.tap for reach in gone}
    staying = [reach for reach in locked.host_routes() if reach.tap not in taps]
    routes.withdraw(gone, staying)
    gated = [reach.tap for reach in gone if reach.gateway]
    if gated:
        nft(gateway.ungate(gated, last=not any(reach.gateway for reach in staying)), locked.descriptor)
    for tap in taps:
        locked.drop_host_routes(tap)

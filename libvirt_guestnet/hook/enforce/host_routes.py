"""The host routes and published addresses of domains' taps, with their receipts.

A receipt is written before the routes that it lists are made, and removed after they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.datapath.routing import gateway, routes
from libvirt_guestnet.datapath.routing.gateway import RoutedTap
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.errors import NotRoutedError
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route


def expect(uuid: str, domain: str, taps: Iterable[RoutedTap], locked: LockedState) -> None:
    """Records taps of which the host is about to become the gateway. The routes to them that exist already stay."""
    before = {receipt.tap: receipt for receipt in locked.host_routes() if receipt.uuid == uuid}
    for each in taps:
        receipt = before.get(each.tap, HostRoutes(each.tap, uuid, domain))
        gateway = next((str(gateway) for gateway in each.gateways if gateway.version == 4), "")
        index = links.index_of(each.tap)
        locked.put_host_routes(receipt._replace(gateway=gateway, vrf=each.vrf, ifindex=index))


def ensure(uuid: str, wanted: list[HostRoutes], locked: LockedState, *, only: str = "") -> None:
    """Makes a domain's routes and published addresses exactly these; with `only`, those of the NIC with that tap.

    If something on the host prevents one, raises NotRoutedError after making all others; it has a receipt nevertheless.
    """
    taps: dict[str, HostRoutes] = {}
    for receipt in wanted:
        measured = receipt._replace(ifindex=links.index_of(receipt.tap))
        taps[receipt.tap] = _with(measured, [taps[receipt.tap]] if receipt.tap in taps else [])
    wanted = list(taps.values())
    before = [r for r in locked.host_routes() if (r.tap == only if only else r.uuid == uuid) or r.tap in taps]
    for receipt in wanted:
        locked.put_host_routes(_with(receipt, [old for old in before if old.tap == receipt.tap]))
    own = {*taps, *(old.tap for old in before)}
    others = [receipt for receipt in locked.host_routes() if receipt.tap not in own]
    routes.withdraw(before, [*others, *wanted])
    _forget_flows(before, [*others, *wanted])
    for old in before:
        if old.tap not in taps:
            locked.drop_host_routes(old.tap)
    failures = [failure for receipt in wanted if (failure := _put(receipt, locked))]
    if failures:
        raise NotRoutedError("; ".join(failures))


def _put(receipt: HostRoutes, locked: LockedState) -> str:
    try:
        routes.put(receipt)
    except NotRoutedError as error:
        return str(error)
    finally:
        locked.put_host_routes(receipt)
    return ""


def _with(receipt: HostRoutes, olds: list[HostRoutes]) -> HostRoutes:
    for old in olds:
        more = (route for route in old.routes if route not in receipt.routes)
        also = (each for each in old.published if each not in receipt.published)
        beyond = (prefix for prefix in old.behind if prefix not in receipt.behind)
        receipt = receipt._replace(
            routes=(*receipt.routes, *more),
            published=(*receipt.published, *also),
            behind=(*receipt.behind, *beyond),
        )
    return receipt


def delete(uuid: str, locked: LockedState) -> None:
    """Deletes all routes and published addresses of a domain that is gone."""
    _withdraw([receipt for receipt in locked.host_routes() if receipt.uuid == uuid], locked)


def delete_tap(uuid: str, tap: str, locked: LockedState) -> None:
    """Deletes those of one tap of a domain."""
    _withdraw([receipt for receipt in locked.host_routes() if (receipt.uuid, receipt.tap) == (uuid, tap)], locked)


def delete_on_bridge(tap: str, bridge: str, locked: LockedState) -> None:
    """Deletes the routes to a tap through a bridge in which the tap is no more."""
    receipts = locked.host_routes()
    if gone := [r for r in receipts if r.tap == tap and any(route.device == bridge for route in r.routes)]:
        staying = [receipt for receipt in receipts if receipt.tap != tap]
        routes.withdraw(gone, staying)
        _forget_flows(gone, staying)
        locked.drop_host_routes(tap)


def sweep(locked: LockedState) -> None:
    """Deletes the routes of taps that no longer exist, which hooks that were killed have left."""
    _withdraw([receipt for receipt in locked.host_routes() if not links.exists(receipt.tap, receipt.ifindex)], locked)


def tidy(locked: LockedState) -> None:
    """The same, and deletes those of our routes in the kernel that are in no receipt."""
    sweep(locked)
    routes.withdraw(routes.strangers(locked.host_routes()))


def delete_all(locked: LockedState) -> None:
    """Deletes the routes and published addresses of all domains."""
    _withdraw(locked.host_routes(), locked)
    tidy(locked)


def ungated(state: State) -> dict[str, str]:
    """The taps of which the host is the gateway that lack its ARP rules, each with its domain. Raises GuestnetError."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, missing, name_key

    gated = [receipt for receipt in state.host_routes() if receipt.gateway]
    wanted: list[ChainKey | ElementKey] = [ChainKey(gateway.ARP_TABLE, "input")] if gated else []
    wanted += [ElementKey(gateway.ARP_TABLE, "taps", name_key(receipt.tap)) for receipt in gated]
    wanted += [ElementKey(gateway.ARP_TABLE, "gateways", parse.address(receipt.gateway).packed) for receipt in gated]
    return {receipt.tap: receipt.domain for receipt in gated} if gated and missing(wanted) else {}


def gateways(uuid: str, state: State) -> list[RoutedTap]:
    """The taps of a domain for which the host is the IPv4 gateway, by its receipts."""
    receipts = (receipt for receipt in state.host_routes() if receipt.uuid == uuid and receipt.gateway)
    return [RoutedTap(receipt.tap, (parse.address(receipt.gateway),), receipt.vrf) for receipt in receipts]


def without_address(state: State) -> dict[str, str]:
    """The taps that lack the gateway's address or are not in their VRF, each with its domain."""
    gated = [receipt for receipt in _living(state) if receipt.gateway]
    with Rtnl() as netlink:
        local = {(e.ifindex, str(e.address)) for e in netlink.addresses(all_scopes=True)} if gated else set()
    lacking = (r for r in gated if (links.index_of(r.tap), r.gateway) not in local or links.master_of(r.tap) != r.vrf)
    return {receipt.tap: receipt.domain for receipt in lacking}


def lost(state: State) -> dict[str, str]:
    """The taps with a missing route or published address whose device is up, each with its domain."""
    living = _living(state)
    present = routes.present() if any(receipt.routes or receipt.published for receipt in living) else frozenset()
    lacking = (receipt for receipt in living if any(_is_lost(each, present) for each in _entries(receipt)))
    return {receipt.tap: receipt.domain for receipt in lacking}


def _is_lost(each: Route | ProxyEntry, present: frozenset[Route | ProxyEntry]) -> bool:
    return each not in present and links.is_up(each.device)


def _entries(receipt: HostRoutes) -> list[Route | ProxyEntry]:
    return [*receipt.routes, *receipt.published]


def _living(state: State) -> list[HostRoutes]:
    return [receipt for receipt in state.host_routes() if links.exists(receipt.tap, receipt.ifindex)]


def _withdraw(gone: list[HostRoutes], locked: LockedState) -> None:
    if not gone:
        return
    taps = {receipt.tap for receipt in gone}
    staying = [receipt for receipt in locked.host_routes() if receipt.tap not in taps]
    routes.withdraw(gone, staying)
    _forget_flows(gone, staying)
    gated = [receipt.tap for receipt in gone if receipt.gateway]
    if gated:
        nft(gateway.ungate(gated, last=not any(receipt.gateway for receipt in staying)), locked.descriptor)
    for tap in taps:
        locked.drop_host_routes(tap)


def _forget_flows(gone: Iterable[HostRoutes], staying: Iterable[HostRoutes]) -> None:
    """Ends the flows of what was behind a guest, and is behind none any more: as established ones they would be let
    pass to wherever the host routes them then."""
    lost = {text for each in gone for text in each.behind} - {text for each in staying for text in each.behind}
    if lost:
        from libvirt_guestnet.datapath.forwards import conntrack

        conntrack.forget_behind(tuple(map(parse.prefix, sorted(lost))))

"""Host routes to guests, and proxy ARP and proxy NDP for their addresses on an uplink.

A published address (`ip neigh add proxy`) makes the host answer ARP and ND on a LAN for an address that it routes
elsewhere. `put` and `withdraw` change the kernel over one netlink socket, which takes 1 ms for both (decision 32).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import KernelRoute, RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError, NotRoutedError
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route

# The kernel's errors when a device is down, has IPv6 switched off, or has lost its addresses.
_NOT_OURS = (errno.EACCES, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV)


def put(receipt: HostRoutes) -> None:
    """Makes a tap's routes and then its published addresses; what exists already stays untouched.

    Raises NotRoutedError, after making what can be made, when a device is missing, down or without IPv6, or a prefix is
    routed elsewhere already: a route of another guest or of the administrator is never replaced.
    """
    with Rtnl() as netlink:
        present = set(_ours(netlink, {_version(route.prefix) for route in receipt.routes}))
        failures: dict[str, str] = {}
        for each in _entries([receipt]):
            address, via = _ends(each)
            # If the route to the next hop failed, so would this one: the first failure is reported alone.
            if via not in failures and (why := _failure(netlink, each, present)):
                failures[address] = why
    if failures:
        raise NotRoutedError(f"domain {receipt.domain!r}: {'; '.join(dict.fromkeys(failures.values()))}")


def _ends(each: Route | ProxyEntry) -> tuple[str, str]:
    """The entry's address (the first one of a prefix), and the next hop by which it is reached."""
    if isinstance(each, ProxyEntry):
        return each.address, each.address
    address = each.prefix.partition("/")[0]
    return address, each.via or address


def _failure(netlink: Rtnl, each: Route | ProxyEntry, present: set[KernelRoute]) -> str:
    """Makes a route or a published address; returns the reason if that fails, or ""."""
    try:
        if isinstance(each, ProxyEntry):
            netlink.publish(parse.address(each.address), _index(each.device))
        elif (wanted := _kernel_route(each)) not in present:
            _add(netlink, each, wanted)
    except NotRoutedError as error:
        return str(error)
    return ""


def check(receipts: Iterable[HostRoutes]) -> None:
    """Raises GuestnetError when somebody else has a host route to one of the addresses: `put` would refuse."""
    with Rtnl() as netlink:
        for receipt in receipts:
            for route in receipt.routes:
                prefix, vrf = parse.prefix(route.prefix), links.index_of(receipt.vrf) if receipt.vrf else 0
                if prefix.num_addresses == 1 and netlink.is_taken(prefix.network_address, _index(route.device), vrf):
                    raise NotRoutedError(f"domain {receipt.domain!r}: {_elsewhere(route)}")


def withdraw(gone: Iterable[HostRoutes], staying: Iterable[HostRoutes] = ()) -> None:
    """Deletes the routes and published addresses of these receipts, except those that are also in a receipt that stays.
    What is gone already does not matter.

    Goes on past failures, and raises the first of them as GuestnetError.
    """
    kept = set(_entries(staying))
    with Rtnl() as netlink:
        entries = [each for each in reversed(list(_entries(gone))) if each not in kept]
        failures = [e for each in entries if (e := _removed(netlink, each))]
    if failures:
        raise failures[0]


def _entries(receipts: Iterable[HostRoutes]) -> Iterator[Route | ProxyEntry]:
    for receipt in receipts:
        yield from receipt.routes
        yield from receipt.published


def _add(netlink: Rtnl, route: Route, wanted: KernelRoute) -> None:
    try:
        netlink.add_route(wanted)
    except RefusedError as error:
        if error.code == errno.EEXIST:
            raise _elsewhere(route) from error
        if error.code not in _NOT_OURS:
            raise
        raise NotRoutedError(f"there is no route to {route.prefix}: {_why(route)}") from error


def _why(route: Route) -> str:
    """Why the kernel makes no route through this device, and what to do about it."""
    device = route.device
    if not links.is_up(device):
        return f"{device} is down; start its network again, or `ip link set {device} up`"
    if _version(route.prefix) == 6 and links.is_without_ipv6(device):
        return f"IPv6 is switched off on {device}; give its network an IPv6 subnet, or leave out what needs one"
    return f"the kernel does not reach {route.via or route.prefix} on {device}; see `ip address show {device}`"


def _elsewhere(route: Route) -> NotRoutedError:
    return NotRoutedError(
        f"{route.prefix} is routed elsewhere on this host already, and not for this guest: see "
        f"`ip route show table all {route.prefix}`"
    )


def _removed(netlink: Rtnl, each: Route | ProxyEntry) -> GuestnetError | None:
    index = links.index_of(each.device)
    if not index:
        return None  # it is gone with its device
    try:
        if isinstance(each, Route):
            netlink.delete_route(_kernel_route(each))
        else:
            netlink.unpublish(parse.address(each.address), index)
    except GuestnetError as error:
        forgiven = isinstance(error, RefusedError) and error.code in (errno.ESRCH, errno.ENOENT, errno.ENODEV)
        return None if forgiven else error
    return None


def strangers(receipts: Iterable[HostRoutes]) -> list[HostRoutes]:
    """The routes of ours in the kernel that are in none of these receipts, as receipts without a domain."""
    ours = {route for receipt in receipts for route in receipt.routes}
    with Rtnl() as netlink:
        found = [route for route in map(_route, _ours(netlink, {4, 6})) if route and route not in ours]
    return [HostRoutes(route.device, "", "", (route,)) for route in found]


def present() -> frozenset[Route | ProxyEntry]:
    """What the kernel has: our routes, and all published neighbours, ours or not."""
    with Rtnl() as netlink:
        routes = filter(None, map(_route, _ours(netlink, (4, 6))))
        published = (each for version in (4, 6) for each in netlink.published(version))
        return frozenset((*routes, *(ProxyEntry(str(address), links.name_of(index)) for address, index in published)))


def _ours(netlink: Rtnl, versions: Iterable[int]) -> Iterator[KernelRoute]:
    for version in versions:
        yield from netlink.routes(version)


def _kernel_route(route: Route) -> KernelRoute:
    via = parse.address(route.via) if route.via else None
    return KernelRoute(parse.prefix(route.prefix), _index(route.device), via, route.table)


def _route(found: KernelRoute) -> Route | None:
    device = links.name_of(found.ifindex)
    return Route(str(found.prefix), device, str(found.via or ""), found.table) if device else None


def _version(prefix: str) -> int:
    return 6 if ":" in prefix else 4


def _index(device: str) -> int:
    index = links.index_of(device)
    if not index:
        raise NotRoutedError(
            f"device {device} does not exist on this host, so nothing can be routed through it; start its network"
        )
    return index

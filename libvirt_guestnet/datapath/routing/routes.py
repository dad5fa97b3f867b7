"""How packets find a guest that the host routes to: host routes to its tap, published neighbours on an uplink.

A published neighbour (`ip neigh add proxy`) makes the host answer ARP and ND on a LAN for an address that it routes
elsewhere. The values are pure; `put` and `withdraw` make them true over one netlink socket, 1 ms for both
(decision 32).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import KernelRoute, RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError, NotLedError
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route

# What the kernel says where a device is down, IPv6 is off there, or its addresses are gone.
_NOT_OURS = (errno.EACCES, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV)


def put(reach: HostRoutes) -> None:
    """Makes the routes and then the published neighbours of a tap true; what is there already stays untouched.

    Raises NotLedError, after doing what can be done, when a device is missing, down or without IPv6, or a prefix is
    routed elsewhere already: what is somebody else's, be it another guest's or the administrator's, is never replaced.
    """
    with Rtnl() as netlink:
        there = set(_ours(netlink, {_version(route.prefix) for route in reach.routes}))
        failures: dict[str, str] = {}
        for each in _ways([reach]):
            address, via = _ends(each)
            # By way of what nothing leads to nothing goes, and nobody is told of it.
            if via not in failures and (why := _failure(netlink, each, there)):
                failures[address] = why
    if failures:
        raise NotLedError(f"domain {reach.domain!r}: {'; '.join(dict.fromkeys(failures.values()))}")


def _ends(each: Route | ProxyEntry) -> tuple[str, str]:
    """The address that something leads to (of a prefix, its first one), and by way of which it does."""
    if isinstance(each, ProxyEntry):
        return each.address, each.address
    address = each.prefix.partition("/")[0]
    return address, each.via or address


def _failure(netlink: Rtnl, each: Route | ProxyEntry, there: set[KernelRoute]) -> str:
    """Makes it true, or says why that cannot be."""
    try:
        if isinstance(each, ProxyEntry):
            netlink.publish(parse.address(each.address), _index(each.device))
        elif (wanted := _kernel_route(each)) not in there:
            _add(netlink, each, wanted)
    except NotLedError as error:
        return str(error)
    return ""


def check(reaches: Iterable[HostRoutes]) -> None:
    """Raises GuestnetError when somebody else has a host route to one of the addresses: `put` would refuse."""
    with Rtnl() as netlink:
        for reach in reaches:
            for route in reach.routes:
                prefix, vrf = parse.prefix(route.prefix), links.index_of(reach.vrf) if reach.vrf else 0
                if prefix.num_addresses == 1 and netlink.is_taken(prefix.network_address, _index(route.device), vrf):
                    raise NotLedError(f"domain {reach.domain!r}: {_elsewhere(route)}")


def withdraw(gone: Iterable[HostRoutes], staying: Iterable[HostRoutes] = ()) -> None:
    """Takes away what leads to taps, but nothing that others lead by too. What is gone already does not matter.

    Goes on past failures, and raises the first of them as GuestnetError.
    """
    kept = set(_ways(staying))
    with Rtnl() as netlink:
        ways = [each for each in reversed(list(_ways(gone))) if each not in kept]
        failures = [e for each in ways if (e := _removed(netlink, each))]
    if failures:
        raise failures[0]


def _ways(reaches: Iterable[HostRoutes]) -> Iterator[Route | ProxyEntry]:
    for reach in reaches:
        yield from reach.routes
        yield from reach.published


def _add(netlink: Rtnl, route: Route, wanted: KernelRoute) -> None:
    try:
        netlink.add_route(wanted)
    except RefusedError as error:
        if error.code == errno.EEXIST:
            raise _elsewhere(route) from error
        if error.code not in _NOT_OURS:
            raise
        raise NotLedError(f"nothing leads to {route.prefix}: {_why(route)}") from error


def _why(route: Route) -> str:
    """What is wrong with a device that the kernel routes nothing to."""
    device = route.device
    if not links.is_up(device):
        return f"{device} is down; start its network again, or `ip link set {device} up`"
    if _version(route.prefix) == 6 and links.is_without_ipv6(device):
        return f"IPv6 is switched off on {device}; give its network an IPv6 subnet, or leave out what needs one"
    return f"the kernel does not reach {route.via or route.prefix} on {device}; see `ip address show {device}`"


def _elsewhere(route: Route) -> NotLedError:
    return NotLedError(
        f"{route.prefix} is routed elsewhere on this host already, and not for this guest: see "
        f"`ip route show table all {route.prefix}`"
    )


def _removed(netlink: Rtnl, each: Route | ProxyEntry) -> GuestnetError | None:
    index = links.index_of(each.device)
    if not index:
        return None  # went with its device
    try:
        if isinstance(each, Route):
            netlink.delete_route(_kernel_route(each))
        else:
            netlink.unpublish(parse.address(each.address), index)
    except GuestnetError as error:
        forgiven = isinstance(error, RefusedError) and error.code in (errno.ESRCH, errno.ENOENT, errno.ENODEV)
        return None if forgiven else error
    return None


def strangers(known: Iterable[HostRoutes]) -> list[HostRoutes]:
    """What is in the kernel as ours and in no receipt, as receipts of nobody."""
    ours = {route for reach in known for route in reach.routes}
    with Rtnl() as netlink:
        found = [route for route in map(_route, _ours(netlink, {4, 6})) if route and route not in ours]
    return [HostRoutes(route.device, "", "", (route,)) for route in found]


def there() -> frozenset[Route | ProxyEntry]:
    """What the kernel has: routes of ours, and published neighbours, whosever they are."""
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
        raise NotLedError(
            f"device {device} does not exist on this host, so nothing can be routed through it; start its network"
        )
    return index

"""How packets find a guest that the host routes to: host routes to its tap, published neighbours on an uplink.

A published neighbour (`ip neigh add proxy`) makes the host answer ARP and ND on a LAN for an address that it routes
elsewhere. The values are pure; `put` and `withdraw` make them true over one netlink socket, 1 ms for both.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from libvirt_guestnet.datapath import links
from libvirt_guestnet.datapath.rtnl import MAIN_TABLE, KernelRoute, RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError


class Route(NamedTuple):
    """A route to `prefix` (text as in `ipaddress`) through a device, by way of the address `via` ("": on the link)."""

    prefix: str
    device: str
    via: str = ""
    table: int = MAIN_TABLE


class Published(NamedTuple):
    """An address that the host answers ARP or ND for on a device."""

    address: str
    device: str


class Reach(NamedTuple):
    """The receipt of everything that leads to one tap of a domain. `gateway` is the host's IPv4 address on a tap that
    is in no bridge, else ""; `vrf` is the VRF that such a tap is in, if any."""

    tap: str
    uuid: str
    domain: str
    routes: tuple[Route, ...] = ()
    published: tuple[Published, ...] = ()
    gateway: str = ""
    vrf: str = ""


def from_fields(fields: dict[str, Any]) -> Reach:
    """A receipt as `State.reaches` reads it."""
    return Reach(
        tap=fields["tap"],
        uuid=fields["uuid"],
        domain=fields["domain"],
        routes=tuple(Route(*route) for route in fields["routes"]),
        published=tuple(Published(*each) for each in fields["published"]),
        gateway=fields["gateway"],
        vrf=fields.get("vrf", ""),
    )


def put(reach: Reach) -> None:
    """Makes the routes and then the published neighbours of a tap true; what is there already stays untouched.

    Raises GuestnetError when a device is missing, or a prefix is routed elsewhere already: what is somebody else's, be
    it another guest's or the administrator's, is never replaced. What was added before that stays; it has a receipt.
    """
    with Rtnl() as netlink:
        there = set(_ours(netlink, {_version(route.prefix) for route in reach.routes}))
        for route in reach.routes:
            wanted = _kernel_route(route)
            if wanted not in there:
                _add(netlink, route, wanted, reach.domain)
        for address, device in reach.published:
            netlink.publish(ip_address(address), _index(device))


def check(reaches: Iterable[Reach]) -> None:
    """Raises GuestnetError when somebody else has a host route to one of the addresses: `put` would refuse."""
    with Rtnl() as netlink:
        for reach in reaches:
            for route in reach.routes:
                prefix, vrf = ip_network(route.prefix), links.index_of(reach.vrf) if reach.vrf else 0
                if prefix.num_addresses == 1 and netlink.is_taken(prefix.network_address, _index(route.device), vrf):
                    raise _elsewhere(route, reach.domain)


def withdraw(gone: Iterable[Reach], staying: Iterable[Reach] = ()) -> None:
    """Takes away what leads to taps, but nothing that others lead by too. What is gone already does not matter.

    Goes on past failures, and raises the first of them as GuestnetError.
    """
    kept = set(_ways(staying))
    with Rtnl() as netlink:
        failures = [e for each in _ways(gone) if each not in kept and (e := _removed(netlink, each))]
    if failures:
        raise failures[0]


def _ways(reaches: Iterable[Reach]) -> Iterator[Route | Published]:
    for reach in reaches:
        yield from reach.published
        yield from reach.routes


def _add(netlink: Rtnl, route: Route, wanted: KernelRoute, domain: str) -> None:
    try:
        netlink.add_route(wanted)
    except RefusedError as error:
        if error.code != errno.EEXIST:
            raise
        raise _elsewhere(route, domain) from error


def _elsewhere(route: Route, domain: str) -> GuestnetError:
    return GuestnetError(
        f"domain {domain!r}: {route.prefix} is routed elsewhere on this host already, and not for this guest: see "
        f"`ip route show table all {route.prefix}`"
    )


def _removed(netlink: Rtnl, each: Route | Published) -> GuestnetError | None:
    index = links.index_of(each.device)
    if not index:
        return None  # went with its device
    try:
        if isinstance(each, Route):
            netlink.delete_route(_kernel_route(each))
        else:
            netlink.unpublish(ip_address(each.address), index)
    except GuestnetError as error:
        forgiven = isinstance(error, RefusedError) and error.code in (errno.ESRCH, errno.ENOENT, errno.ENODEV)
        return None if forgiven else error
    return None


def strangers(known: Iterable[Reach]) -> list[Reach]:
    """What is in the kernel as ours and in no receipt, as receipts of nobody."""
    receipts = {route for reach in known for route in reach.routes}
    with Rtnl() as netlink:
        found = [route for route in map(_route, _ours(netlink, {4, 6})) if route and route not in receipts]
    return [Reach(route.device, "", "", (route,)) for route in found]


def there() -> frozenset[Route | Published]:
    """What the kernel has: routes of ours, and published neighbours, whosever they are."""
    with Rtnl() as netlink:
        routes = filter(None, map(_route, _ours(netlink, (4, 6))))
        published = (each for version in (4, 6) for each in netlink.published(version))
        return frozenset((*routes, *(Published(str(address), links.name_of(index)) for address, index in published)))


def _ours(netlink: Rtnl, versions: Iterable[int]) -> Iterator[KernelRoute]:
    for version in versions:
        yield from netlink.routes(version)


def _kernel_route(route: Route) -> KernelRoute:
    via = ip_address(route.via) if route.via else None
    return KernelRoute(ip_network(route.prefix), _index(route.device), via, route.table)


def _route(found: KernelRoute) -> Route | None:
    device = links.name_of(found.ifindex)
    return Route(str(found.prefix), device, str(found.via or ""), found.table) if device else None


def _version(prefix: str) -> int:
    return 6 if ":" in prefix else 4


def _index(device: str) -> int:
    index = links.index_of(device)
    if not index:
        raise GuestnetError(f"device {device} does not exist on this host, so nothing can be routed through it")
    return index

"""The traffic of routed networks and host-routed guests that other firewalls must accept, from the receipts.

libvirt accepts a routed network's own subnets, and only between its bridge and the device of its <forward>. It rejects
prefixes behind a guest, and traffic to another routed network of the same device (9.0 and 11.3, both backends). The
accepts here let both pass between those networks and the device. On a nat network they are for guests' own addresses
outside, and for what is behind a guest: that is translated, as libvirt translates the network's own subnets only. On a
nat or isolated network they let what is behind a guest and its neighbours reach each other. libvirt has no rules for a
network of mode open or a host-routed guest's tap: their traffic passes unless libvirt, or another firewall, rejects it
by name. Between host-routed guests and routed networks of the LAN on which these are published, libvirt rejects: that
passes, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.firewalls.accepts import Masqueraded, Passage, RoutedLink
from libvirt_guestnet.parse import Prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import ISOLATED, HostRoutes, NetworkReceipt

_Found = dict[str, list[Prefix]]  # by bridge
Through = Passage | Masqueraded | RoutedLink


def passages(state: State) -> list[Through]:
    """What has to pass now, for active networks and for running guests that are next hops or host-routed."""
    networks, receipts = sorted(state.networks()), state.host_routes()
    routed, behind = [network for network in networks if network.outside], _behind(receipts)
    hidden = [n for n in networks if n.translates or n.nat_outside or n.mode == ISOLATED]
    beyond = [each for network in hidden for each in _from_hidden(network, behind, _next_hops(receipts))]
    bridges = {network.bridge for network in (*routed, *hidden)}
    return [*_passages(routed, behind), *_to_taps(routed, behind, receipts), *beyond, *_links(receipts, bridges)]


def _from_hidden(network: NetworkReceipt, behind: _Found, hops: _Found) -> Iterator[Through]:
    """Of a network that nobody outside reaches: guests' own addresses outside, and what is behind its next hops."""
    bridge, outside, beyond = network.bridge, network.nat_outside, hops.get(network.bridge, ())
    if outside:
        yield from (Passage(bridge, prefix, outside) for prefix in behind.get(bridge, ()) if prefix not in beyond)
    for prefix in beyond:
        yield Passage(bridge, prefix, bridge)
        if prefix.version in network.translates:
            yield Masqueraded(bridge, prefix, outside)


def _links(receipts: list[HostRoutes], bridges: set[str]) -> Iterator[RoutedLink]:
    for receipt in receipts:
        for route in receipt.routes:
            if route.device == receipt.tap or (route.via and route.device not in bridges):
                yield RoutedLink(route.device, parse.prefix(route.prefix), receipt.vrf)


def _behind(receipts: list[HostRoutes]) -> _Found:
    found: _Found = {}
    for receipt in receipts:
        for route in receipt.routes:
            if route.via:
                found.setdefault(route.device, []).append(parse.prefix(route.prefix))
    return found


def _next_hops(receipts: list[HostRoutes]) -> _Found:
    """The same without guests' own addresses."""
    return _behind([r._replace(routes=tuple(e for e in r.routes if e.prefix in r.behind)) for r in receipts])


def _to_taps(routed: list[NetworkReceipt], behind: _Found, receipts: list[HostRoutes]) -> Iterator[Passage]:
    """Between routed networks and host-routed guests on the LAN that these networks lead to: libvirt would let such a
    guest's packets pass if they came from there."""
    prefixes = _prefixes(routed, behind)
    for receipt in receipts:
        lans = () if receipt.vrf else {each.device for each in receipt.published}
        own = [parse.prefix(route.prefix) for route in receipt.routes if route.device == receipt.tap]
        for bridge in (network.bridge for network in routed if network.outside in lans):
            pairs = ((near, far) for near in prefixes[bridge] for far in own if near.version == far.version)
            yield from (Passage(bridge, near, receipt.tap, far) for near, far in pairs)


def _prefixes(routed: list[NetworkReceipt], behind: _Found) -> _Found:
    return {n.bridge: [*map(parse.prefix, n.subnets), *sorted(behind.get(n.bridge, ()), key=str)] for n in routed}


def _passages(routed: list[NetworkReceipt], behind: _Found) -> Iterator[Passage]:
    prefixes = _prefixes(routed, behind)
    for network in routed:
        for prefix in prefixes[network.bridge]:
            yield Passage(network.bridge, prefix, network.outside)
    for one, other in combinations(routed, 2):
        if one.outside == other.outside:
            for near in prefixes[one.bridge]:
                for far in prefixes[other.bridge]:
                    if near.version == far.version:
                        yield Passage(one.bridge, near, other.bridge, far)

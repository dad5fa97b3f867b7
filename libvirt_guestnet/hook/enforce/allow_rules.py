"""The traffic of routed networks and host-routed guests that other firewalls must accept, from the receipts.

libvirt accepts a routed network's own subnets, and only between its bridge and the device of its <forward>. It rejects
prefixes behind a guest, and traffic to another routed network of the same device (9.0 and 11.3, both backends). The
accepts here let both pass between those networks and the device. On a nat network they are only for what is behind a
guest, as libvirt translates the network's own subnets. libvirt has no rules for a network of mode open or a host-routed
guest's tap: their traffic passes unless libvirt, or another firewall, rejects it by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.firewalls.accepts import Passage, RoutedLink
from libvirt_guestnet.parse import Prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import HostRoutes, NetworkReceipt


def passages(state: State) -> list[Passage | RoutedLink]:
    """What has to pass now, for active networks and for running guests that are next hops or host-routed."""
    networks, receipts = sorted(state.networks()), state.host_routes()
    routed, behind = [network for network in networks if network.outside], _behind(receipts)
    natted = [network for network in networks if network.nat_outside]
    beyond = [Passage(n.bridge, prefix, n.nat_outside) for n in natted for prefix in behind.get(n.bridge, ())]
    bridges = {network.bridge for network in (*routed, *natted)}
    return [*_passages(routed, behind), *beyond, *_links(receipts, bridges)]


def _links(receipts: list[HostRoutes], bridges: set[str]) -> Iterator[RoutedLink]:
    for receipt in receipts:
        for route in receipt.routes:
            if route.device == receipt.tap or (route.via and route.device not in bridges):
                yield RoutedLink(route.device, parse.prefix(route.prefix), receipt.vrf)


def _behind(receipts: list[HostRoutes]) -> dict[str, list[Prefix]]:
    found: dict[str, list[Prefix]] = {}
    for receipt in receipts:
        for route in receipt.routes:
            if route.via:
                found.setdefault(route.device, []).append(parse.prefix(route.prefix))
    return found


def _passages(routed: list[NetworkReceipt], behind: dict[str, list[Prefix]]) -> Iterator[Passage]:
    prefixes = {n.bridge: [*map(parse.prefix, n.subnets), *sorted(behind.get(n.bridge, ()), key=str)] for n in routed}
    for network in routed:
        for prefix in prefixes[network.bridge]:
            yield Passage(network.bridge, prefix, network.outside)
    for one, other in combinations(routed, 2):
        if one.outside == other.outside:
            for near in prefixes[one.bridge]:
                for far in prefixes[other.bridge]:
                    if near.version == far.version:
                        yield Passage(one.bridge, near, other.bridge, far)

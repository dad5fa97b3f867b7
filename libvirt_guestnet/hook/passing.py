"""What routed networks exchange with the outside and with each other, from the receipts.

libvirt passes a routed network's own subnets, between its bridge and the device of its <forward> alone: what is behind
a guest is rejected, and so is what goes to another routed network of the same device (9.0 and 11.3, both backends).
Here both pass as if the device led to them. A network without such a device has nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

from libvirt_guestnet.datapath.accepts import Passage
from libvirt_guestnet.hook import reaching
from libvirt_guestnet.state import NetworkReceipt, State

_Prefix = IPv4Network | IPv6Network


def passages(state: State) -> list[Passage]:
    """What has to pass now: the guests that are next hops run, and the networks are active."""
    routed = sorted(network for network in state.networks() if network.outside)
    return list(_passages(routed, _behind(state))) if routed else []


def _behind(state: State) -> dict[str, list[_Prefix]]:
    found: dict[str, list[_Prefix]] = {}
    for reach in reaching.receipts(state):
        for route in reach.routes:
            if route.via:
                found.setdefault(route.device, []).append(ip_network(route.prefix))
    return found


def _passages(routed: list[NetworkReceipt], behind: dict[str, list[_Prefix]]) -> Iterator[Passage]:
    prefixes = {n.bridge: [*map(ip_network, n.subnets), *sorted(behind.get(n.bridge, ()), key=str)] for n in routed}
    for network in routed:
        for prefix in prefixes[network.bridge]:
            yield Passage(network.bridge, prefix, network.outside)
    for one, other in combinations(routed, 2):
        if one.outside == other.outside:
            for near in prefixes[one.bridge]:
                for far in prefixes[other.bridge]:
                    if near.version == far.version:
                        yield Passage(one.bridge, near, other.bridge, far)

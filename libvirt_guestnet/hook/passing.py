"""What routed networks and host-routed guests exchange with the outside and with each other, from the receipts.

libvirt passes a routed network's own subnets, between its bridge and the device of its <forward> alone: what is behind
a guest is rejected, and so is what goes to another routed network of the same device (9.0 and 11.3, both backends).
Here both pass as if the device led to them. A network without such a device has nothing of ours. Of host-routed guests
libvirt knows nothing: they pass whatever it, or another firewall, does not reject by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

from libvirt_guestnet.datapath.accepts import Link, Passage
from libvirt_guestnet.datapath.routes import Reach
from libvirt_guestnet.hook import reaching
from libvirt_guestnet.state import NetworkReceipt, State

_Prefix = IPv4Network | IPv6Network


def passages(state: State) -> list[Passage | Link]:
    """What has to pass now: the guests that are next hops, or host-routed, run, and the networks are active."""
    routed, reaches = sorted(network for network in state.networks() if network.outside), reaching.receipts(state)
    return [*_passages(routed, _behind(reaches)), *_links(reaches)]


def _links(reaches: list[Reach]) -> Iterator[Link]:
    for reach in reaches:
        yield from (Link(reach.tap, ip_network(route.prefix)) for route in reach.routes if route.device == reach.tap)


def _behind(reaches: list[Reach]) -> dict[str, list[_Prefix]]:
    found: dict[str, list[_Prefix]] = {}
    for reach in reaches:
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

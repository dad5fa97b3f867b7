"""Rows of logical routers, and of what leads to physical networks. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Network
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn import names
from libvirt_guestnet.ovn.hosted import mtu
from libvirt_guestnet.ovn.places import Layout, Place, port_key
from libvirt_guestnet.ovn.rows import (
    GATEWAY,
    ROUTE,
    ROUTER_PORT,
    SWITCH,
    SWITCH_PORT,
    Pairs,
    Ref,
    Row,
    pairs,
    row,
)
from libvirt_guestnet.ovn.translation import balancers

_HIGHEST = 100


def rows(layout: Layout) -> Iterator[Row]:
    """Every router, and a switch for each physical network that one leads to."""
    for label in dict.fromkeys(place.label for place in layout.on if place.label):
        switch = Ref(SWITCH, f"outside/{label}")
        yield row(switch, name=f"{layout.topology.name}/outside/{label}")
        yield localnet(layout.topology, label, switch)
    for place in layout.on:
        ported = tuple(sorted(each.ref for each in balancers(layout, place)))
        yield row(place.ref, name=layout.router(place), load_balancer=ported)
        yield from _uplink(layout, place) if place.label else ()
        yield from _routes(layout, place)


def localnet(topology: Topology, label: str, switch: Ref, network: Network | None = None) -> Row:
    """What joins a switch to a physical network, on the chassis that have a bridge for it; in a network's VLAN."""
    vlan = network.vlan if network else None
    outer = "802.1ad" if network is not None and network.service_vlan else None
    return row(
        Ref(SWITCH_PORT, f"{switch.key}/to/localnet"),
        switch,
        name=f"{topology.name}/{switch.key}/to/localnet",
        type="localnet",
        addresses=("unknown",),
        options=pairs({"network_name": label, "ethtype": outer}),
        tag=(str(vlan),) if vlan else (),
    )


def attached(layout: Layout, network: Network, place: Place) -> Iterator[Row]:
    """The router's port on a network, and the network's towards it: it has the MAC address and the addresses that the
    host would have."""
    topology, name = layout.topology, layout.port(place, network.name)
    yield _towards(topology, Ref(SWITCH, network.name), name, {})
    yield row(
        Ref(ROUTER_PORT, port_key(place, network.name)),
        place.ref,
        name=name,
        mac=network.mac or names.mac(topology.name, place.name, network.name),
        networks=tuple(sorted(f"{s.host}/{s.prefix.prefixlen}" for s in network.subnets if s.host)),
        ipv6_ra_configs=_announced(topology, network),
    )


def _uplink(layout: Layout, place: Place) -> Iterator[Row]:
    topology, name = layout.topology, layout.port(place)
    port = Ref(ROUTER_PORT, port_key(place))
    switch = Ref(SWITCH, f"outside/{place.label}")
    yield _towards(topology, switch, name, {"nat-addresses": "router"}, place.zone)
    yield row(
        port,
        place.ref,
        name=name,
        mac=names.mac(topology.name, place.name),
        networks=tuple(sorted(f"{ip}/{prefix.prefixlen}" for ip, prefix in layout.own[place].values())),
        options=pairs({"gateway_mtu": _smallest(layout, place)}),
    )
    for number, each in enumerate(layout.chassis(place.label)):
        key = f"{port_key(place)}/{each}"
        priority = max(_HIGHEST - number, 1)
        yield row(Ref(GATEWAY, key), port, name=f"{name}/{each}", chassis_name=each, priority=priority)


def _towards(topology: Topology, switch: Ref, router_port: str, options: dict[str, str], zone: str = "") -> Row:
    key = f"{switch.key}/to/router/{zone}".rstrip("/")
    return row(
        Ref(SWITCH_PORT, key),
        switch,
        name=f"{topology.name}/{key}",
        type="router",
        addresses=("router",),
        options=pairs({"router-port": router_port, **options}),
    )


def _routes(layout: Layout, place: Place) -> Iterator[Row]:
    for gateway in layout.ways_out(place):
        default = "0.0.0.0/0" if gateway.version == 4 else "::/0"
        yield _route(place, default, gateway, layout.port(place))
    for network in layout.on[place]:
        port = layout.port(place, network.name)
        for prefix, hop in _through_guests(layout.topology, network):
            yield _route(place, str(prefix), hop, port)


def _through_guests(topology: Topology, network: Network) -> Iterator[tuple[IPNetwork, IPAddress]]:
    for static in network.routes:
        yield static.prefix, static.gateway
    for _guest, port in topology.ports_on(network.name):
        for prefix in port.behind:
            if (hop := port.address(prefix.version)) is not None:
                yield prefix, hop


def _route(place: Place, prefix: str, hop: IPAddress, port: str) -> Row:
    key = f"{place.name}/{prefix}/{hop}"
    return row(Ref(ROUTE, key), place.ref, ip_prefix=prefix, nexthop=str(hop), output_port=(port,))


def _announced(topology: Topology, network: Network) -> Pairs:
    """Router advertisements, on networks with IPv6."""
    six = [subnet for subnet in network.subnets if subnet.host and subnet.prefix.version == 6]
    if not six:
        return ()
    mode = "dhcpv6_stateful" if any(subnet.dhcp6 for subnet in six) else "slaac"
    return pairs({"address_mode": mode, "send_periodic": "true", "mtu": mtu(topology, network)})


def _smallest(layout: Layout, place: Place) -> int | None:
    """What is larger than a guest's network has comes no further than the router, which says so to its sender."""
    sizes = (mtu(layout.topology, network) for network in layout.on[place])
    return min((size for size in sizes if size), default=None)

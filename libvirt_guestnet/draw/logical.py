"""The logical view: LANs, networks and guests; what is NATed, isolated and bridged; who routes what."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from libvirt_guestnet.model.network import HostRouted, Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Allow, Guest, Port, Topology

from . import crowds, forwards, ports, virtual_routers
from .outside import ELSEWHERE, outside, uplink
from .picture import BADGES, MODE_TONES, Cluster, Edge, Picture, PictureNode, PictureRow, Shape, Tone

# More things than this side by side are wider than a page: the picture then runs from left to right.
_WIDEST = 4
# More guests than this that are on the same networks share a box.
_MOST_BOXES = 2
_WIDEST_NOTE = 44


def picture(topology: Topology) -> Picture:
    """The logical view of a topology."""
    lans = tuple(_lan(f"lan{i}", lan) for i, lan in enumerate(outside(topology)))
    networks = tuple(_network(f"net{i}", network) for i, network in enumerate(topology.networks))
    guests = tuple(_guest_nodes(topology))
    widest = max(len(lans), len(networks), sum(node.columns for node in guests))
    edges = (*_uplinks(topology), *_attachments(topology))
    title = f"{topology.name}: logical view"
    clusters = tuple(_zones(topology))
    return Picture(title, (*lans, *networks, *guests), edges, clusters, sideways=widest > _WIDEST)


def _zones(topology: Topology) -> Iterator[Cluster]:
    """A frame around the networks and guests of each zone; who is also where zones meet stands between them."""
    zones = {network.name: network.zone for network in topology.networks}
    boxes = [(f"guest{i}", {zones[p.network] for each in crowd for p in each.ports}) for i, crowd in _boxes(topology)]
    for number, zone in enumerate(topology.zones):
        nodes = [f"net{i}" for i, network in enumerate(topology.networks) if network.zone == zone]
        nodes += [node for node, within in boxes if within == {zone}]
        yield Cluster(f"zone{number}", f"zone {zone}", tuple(nodes))


def _lan(node: str, lan: PhysicalNetwork) -> PictureNode:
    badge = "" if lan is ELSEWHERE else "LAN"
    return PictureNode(node, Shape.CLOUD, Tone.LAN, lan.label, badge, tuple(map(str, lan.subnets)))


def _network(node: str, network: Network) -> PictureNode:
    lines = (*(str(subnet.prefix) for subnet in network.subnets), *_properties(network))
    return PictureNode(node, Shape.BAR, MODE_TONES[network.mode], network.name, BADGES[network.mode], lines)


def _properties(network: Network) -> Iterator[str]:
    if network.gateway:
        whose = "router" if network.router else "guest"
        yield "gateway: host" if network.gateway == "host" else f"gateway: {whose} {network.gateway}"
    for dhcp in (subnet.dhcp for subnet in network.subnets if subnet.dhcp):
        yield f"DHCP {dhcp.start} – {dhcp.end}"
    for route in network.routes:
        yield f"route to {route.prefix} via {route.gateway}"
    if network.vlan:
        yield f"VLAN {network.vlan}"
    if network.isolated_ports:
        yield "ports isolated from each other"
    if network.routed:
        yield from _routed(network, network.routed)


def _routed(network: Network, routed: HostRouted) -> Iterator[str]:
    where = f" on {network.physical_network}" if network.physical_network else ""
    yield f"addresses published{where}" if routed.publish else "addresses not published"
    if routed.table is not None:
        yield f"routing table {routed.table}"
    if routed.vrf is not None:
        yield f"VRF {routed.vrf}"


def _uplinks(topology: Topology) -> Iterator[Edge]:
    """How each network reaches the outside, if at all."""
    for i, network in enumerate(topology.networks):
        lan = uplink(topology, network)
        if lan is not None:
            dashed = network.mode != Mode.BRIDGE
            label = _uplink_label(network)
            yield Edge(f"lan{lan}", f"net{i}", MODE_TONES[network.mode], label, dashed=dashed, uplink=True)


def _uplink_label(network: Network) -> str:
    if network.mode == Mode.BRIDGE:
        return "same layer 2"
    return "NAT by the host" if network.mode == Mode.NAT else "routed by the host"


def _boxes(topology: Topology) -> Iterator[tuple[int, tuple[Guest, ...]]]:
    return crowds.boxes(topology, _MOST_BOXES)


def _guest_nodes(topology: Topology) -> Iterator[PictureNode]:
    for i, crowd in _boxes(topology):
        yield _guest(topology, f"guest{i}", crowd[0]) if len(crowd) == 1 else _crowd(topology, f"guest{i}", crowd)


def _guest(topology: Topology, node: str, guest: Guest) -> PictureNode:
    rows = tuple(
        row for j, port in enumerate(guest.ports) for row in _port(topology, f"p{j}", port.name, (guest, port))
    )
    tone, badge = (Tone.ROUTER, "router") if guest.routes else (Tone.GUEST, "guest")
    badge = "virtual router" if guest.virtual_router else badge
    notes = (*_policy(guest), *virtual_routers.policy(guest))
    return PictureNode(node, Shape.BOX, tone, guest.name, badge, rows=rows, notes=notes)


def _crowd(topology: Topology, node: str, crowd: tuple[Guest, ...]) -> PictureNode:
    places = [(guest, port) for guest in crowd for port in guest.ports]
    rows = tuple(
        row
        for j, (guest, port) in enumerate(places)
        for row in _port(topology, f"p{j}", crowds.label(guest, port.name), (guest, port))
    )
    title, badge = crowds.title(crowd), f"{len(crowd)} guests"
    return PictureNode(node, Shape.BOX, Tone.GUEST, title, badge, rows=rows, columns=crowds.columns(len(rows)))


def _port(topology: Topology, row: str, label: str, place: tuple[Guest, Port]) -> Iterator[PictureRow]:
    _, port = place
    yield PictureRow(row, label, ports.addresses(topology, *place), ports.tone(topology, *place))
    yield from ports.drops(topology, *place, row)
    yield from forwards.rows(row, port, topology.network(port.network))


def _policy(guest: Guest) -> Iterator[str]:
    if guest.router:
        for allow in guest.router.allow:
            yield from _allow(allow)
        if not guest.router.allow:
            yield "routes nothing"
        if guest.router.masquerade:
            yield f"masquerades towards {guest.router.masquerade}"


def _allow(allow: Allow) -> Iterator[str]:
    """One line of policy, its services on lines of their own where all would be wide."""
    networks, services = f"{allow.source} → {allow.destination}", ", ".join(map(str, allow.services)) or "nothing"
    if len(networks) + len(services) <= _WIDEST_NOTE:
        yield f"{networks}: {services}"
    else:
        yield f"{networks}:"
        yield from wrap(services, _WIDEST_NOTE, initial_indent="  ", subsequent_indent="  ")


def _attachments(topology: Topology) -> Iterator[Edge]:
    """One line for each port, of guests that share a box for each network; below a router are the networks that it is
    the gateway of."""
    numbers = {network.name: i for i, network in enumerate(topology.networks)}
    for i, (guest, *others) in _boxes(topology):
        if others:
            for name in dict.fromkeys(port.network for port in guest.ports):
                yield Edge(f"net{numbers[name]}", f"guest{i}", MODE_TONES[topology.network(name).mode])
        else:
            yield from (
                _attachment(topology, guest, port, (f"net{numbers[port.network]}", f"guest{i}", f"p{j}"))
                for j, port in enumerate(guest.ports)
            )


def _attachment(topology: Topology, guest: Guest, port: Port, ids: tuple[str, str, str]) -> Edge:
    network, (net, node, row) = topology.network(port.network), ids
    tone = MODE_TONES[network.mode]
    hidden = guest.router.masquerade if guest.router else None
    if guest.routes and network.gateway == guest.name and port.network != hidden:
        return Edge(node, net, tone, "gateway", source_row=row)
    return Edge(net, node, tone, "next hop" if port.behind else "", target_row=row)

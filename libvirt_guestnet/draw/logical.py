"""The logical view: LANs, networks and guests; what is NATed, isolated and bridged; who routes what."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from libvirt_guestnet.model.network import HostRouted, Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Allow, Guest, Port, Topology

from . import forwards
from .outside import ELSEWHERE, outside, uplink
from .picture import BADGES, MODE_TONES, Edge, Picture, PictureNode, PictureRow, Shape, Tone

# More things than this side by side are wider than a page: the picture then runs from left to right.
_WIDEST = 4
# More guests than this that are on one and the same network, and no other, share a box.
_MOST_BOXES = 2
_WIDEST_NOTE = 44


def picture(topology: Topology) -> Picture:
    """The logical view of a topology."""
    lans = tuple(_lan(f"lan{i}", lan) for i, lan in enumerate(outside(topology)))
    networks = tuple(_network(f"net{i}", network) for i, network in enumerate(topology.networks))
    guests = tuple(_guest_nodes(topology))
    widest = max(map(len, (lans, networks, guests)))
    edges = (*_uplinks(topology), *_attachments(topology))
    title = f"{topology.name}: logical view"
    return Picture(title, (*lans, *networks, *guests), edges, sideways=widest > _WIDEST)


def _lan(node: str, lan: PhysicalNetwork) -> PictureNode:
    badge = "" if lan is ELSEWHERE else "LAN"
    return PictureNode(node, Shape.CLOUD, Tone.LAN, lan.label, badge, tuple(map(str, lan.subnets)))


def _network(node: str, network: Network) -> PictureNode:
    lines = (*(str(subnet.prefix) for subnet in network.subnets), *_properties(network))
    return PictureNode(node, Shape.BAR, MODE_TONES[network.mode], network.name, BADGES[network.mode], lines)


def _properties(network: Network) -> Iterator[str]:
    if network.gateway:
        yield "gateway: host" if network.gateway == "host" else f"gateway: guest {network.gateway}"
    for dhcp in (subnet.dhcp for subnet in network.subnets if subnet.dhcp):
        yield f"DHCP {dhcp.start} – {dhcp.end}"
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


def _guest_nodes(topology: Topology) -> Iterator[PictureNode]:
    """A box for each guest, except that many plain guests on one network share one, where the first would be."""
    for i, guest in enumerate(topology.guests):
        crowd = _crowd(topology, guest)
        if len(crowd) <= _MOST_BOXES:
            yield _guest(topology, f"guest{i}", guest)
        elif crowd[0] is guest:
            yield _crowd_node(topology, f"guest{i}", crowd)


def _crowd(topology: Topology, guest: Guest) -> tuple[Guest, ...]:
    """All the guests like this one: with one port, to the same network, and not routing."""
    if guest.router or len(guest.ports) != 1:
        return ()
    on = topology.ports_on(guest.ports[0].network)
    return tuple(other for other, _ in on if other.router is None and len(other.ports) == 1)


def _guest(topology: Topology, node: str, guest: Guest) -> PictureNode:
    rows = tuple(row for j, port in enumerate(guest.ports) for row in _port(topology, f"p{j}", port.name, port))
    tone, badge = (Tone.ROUTER, "router") if guest.router else (Tone.GUEST, "guest")
    return PictureNode(node, Shape.BOX, tone, guest.name, badge, rows=rows, notes=tuple(_policy(guest)))


def _crowd_node(topology: Topology, node: str, crowd: tuple[Guest, ...]) -> PictureNode:
    ports = ((guest.name, guest.ports[0]) for guest in crowd)
    rows = tuple(row for j, (name, port) in enumerate(ports) for row in _port(topology, f"p{j}", name, port))
    return PictureNode(
        node, Shape.BOX, Tone.GUEST, f"on {crowd[0].ports[0].network}", f"{len(crowd)} guests", rows=rows
    )


def _port(topology: Topology, row: str, label: str, port: Port) -> Iterator[PictureRow]:
    network = topology.network(port.network)
    yield PictureRow(row, label, _addresses(port), MODE_TONES[network.mode])
    yield from forwards.rows(row, port, network)


def _addresses(port: Port) -> tuple[str, ...]:
    addresses = tuple(str(address.ip) for address in port.addresses)
    return addresses if port.link_up else (*addresses, "link down")


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
    """One line for each port; below a router are the networks that it is the gateway of."""
    drawn = set()
    for i, guest in enumerate(topology.guests):
        crowd = _crowd(topology, guest)
        if len(crowd) > _MOST_BOXES and crowd[0] is not guest:
            continue
        together = len(crowd) > _MOST_BOXES
        for j, port in enumerate(guest.ports):
            network = topology.network(port.network)
            net, tone = f"net{topology.networks.index(network)}", MODE_TONES[network.mode]
            if guest.router and network.gateway == guest.name and port.network != guest.router.masquerade:
                drawn.add(net)
                yield Edge(f"guest{i}", net, tone, "gateway", source_row=f"p{j}")
            else:
                label = "next hop" if port.behind and not together else ""
                yield Edge(net, f"guest{i}", tone, label, target_row="" if together else f"p{j}")

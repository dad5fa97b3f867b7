"""The physical view: the host, its NICs by label, bridges and taps, and the guests' NICs, in the order of the wire."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Guest, Port, PortKind, Topology

from . import forwards
from .outside import ELSEWHERE, outside, uplink
from .picture import BADGES, MODE_TONES, Cluster, Edge, Picture, PictureNode, PictureRow, Shape, Tone


def picture(topology: Topology) -> Picture:
    """The physical view of a topology."""
    labels = outside(topology)
    lans = tuple(PictureNode(f"lan{i}", Shape.CLOUD, Tone.LAN, lan.label) for i, lan in enumerate(labels))
    inside = (
        *(_nic(topology, f"nic{i}", lan) for i, lan in enumerate(labels)),
        *_bridges(topology),
        *(_tap(topology, f"tap{i}x{j}", port) for i, guest in enumerate(topology.guests) for j, port in _ports(guest)),
        *(_guest(topology, f"guest{i}", guest) for i, guest in enumerate(topology.guests)),
    )
    wires = tuple(Edge(f"lan{i}", f"nic{i}", Tone.LAN, uplink=True) for i in range(len(labels)))
    edges = (*wires, *_uplinks(topology), *_taps(topology))
    host = Cluster("host", "host", tuple(node.id for node in inside))
    return Picture(f"{topology.name}: physical view", (*lans, *inside), edges, (host,), sideways=True)


def _nic(topology: Topology, node: str, lan: PhysicalNetwork) -> PictureNode:
    title = "any NIC" if lan is ELSEWHERE else f"NIC on {lan.label}"
    lines, rows = tuple(map(str, lan.host)), forwards.nic_rows(topology, lan)
    return PictureNode(node, Shape.SMALL, Tone.LAN, title, lines=lines, rows=rows)


def _bridges(topology: Topology) -> Iterator[PictureNode]:
    """Bridges by name, which two networks may share; in the place of one, that the host routes."""
    for device, networks in _by_bridge(topology).items():
        first = networks[0]
        node, title = _bridge_id(topology, first), "host routes" if first.routed else device
        ports = [] if first.routed else [(port, n) for n in networks for _, port in topology.ports_on(n.name)]
        lines, rows = tuple(_bridge_lines(networks)), forwards.route_rows(ports)
        yield PictureNode(node, Shape.BAR, MODE_TONES[first.mode], title, BADGES[first.mode], lines, rows)


def _bridge_lines(networks: list[Network]) -> Iterator[str]:
    yield f"network {', '.join(network.name for network in networks)}"
    yield from (str(subnet.host) for network in networks for subnet in network.subnets if subnet.host)
    routed = networks[0].routed
    if routed:
        yield from dict.fromkeys(str(subnet.gateway) for subnet in networks[0].subnets if subnet.gateway)
        yield from () if routed.table is None else (f"routing table {routed.table}",)
        yield from () if routed.vrf is None else (f"VRF {routed.vrf}",)


def _by_bridge(topology: Topology) -> dict[str, list[Network]]:
    found: dict[str, list[Network]] = {}
    for network in topology.networks:
        found.setdefault(network.bridge or f"routes to {network.name}", []).append(network)
    return found


def _bridge_id(topology: Topology, network: Network) -> str:
    return f"bridge{[network in networks for networks in _by_bridge(topology).values()].index(True)}"


def _ports(guest: Guest) -> Iterator[tuple[int, Port]]:
    return iter(enumerate(guest.ports))


def _tap(topology: Topology, node: str, port: Port) -> PictureNode:
    words = ["observed" if port.observed else "guarded" if port.guarded else "not guarded"]
    if port.isolated:
        words.append("isolated")
    if port.kind == PortKind.ETHERNET:
        words.append("ethernet")
    if not port.link_up:
        words.append("link down")
    network = topology.network(port.network)
    lines, rows = (", ".join(words),), forwards.route_rows([(port, network)] if network.routed else [])
    tone = MODE_TONES[network.mode]
    return PictureNode(
        node, Shape.SMALL, tone, port.tap, lines=lines, rows=rows, dashed=not port.guarded or port.observed
    )


def _guest(topology: Topology, node: str, guest: Guest) -> PictureNode:
    rows = tuple(
        PictureRow(f"p{j}", port.name, (port.mac,), MODE_TONES[topology.network(port.network).mode])
        for j, port in _ports(guest)
    )
    tone, badge = (Tone.ROUTER, "router") if guest.router else (Tone.GUEST, "guest")
    return PictureNode(node, Shape.BOX, tone, guest.name, badge, rows=rows)


def _uplinks(topology: Topology) -> Iterator[Edge]:
    """A solid line for a NIC that is a port of the bridge, a dashed one where the host forwards."""
    seen = set()
    for network in topology.networks:
        lan, bridge = uplink(topology, network), _bridge_id(topology, network)
        if lan is not None and (lan, bridge) not in seen:
            seen.add((lan, bridge))
            label = {Mode.BRIDGE: "", Mode.NAT: "NAT"}.get(network.mode, "routing")
            yield Edge(
                f"nic{lan}", bridge, MODE_TONES[network.mode], label, dashed=network.mode != Mode.BRIDGE, uplink=True
            )


def _taps(topology: Topology) -> Iterator[Edge]:
    for i, guest in enumerate(topology.guests):
        for j, port in _ports(guest):
            network = topology.network(port.network)
            tone = MODE_TONES[network.mode]
            yield Edge(_bridge_id(topology, network), f"tap{i}x{j}", tone)
            yield Edge(f"tap{i}x{j}", f"guest{i}", tone, target_row=f"p{j}")

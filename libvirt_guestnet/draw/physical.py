"""The physical view: the host, its NICs by label, bridges and taps, and the guests' NICs, in the order of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from libvirt_guestnet.model.network import Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Guest, Port, Topology

from . import crowds, forwards, ports
from .outside import ELSEWHERE, outside, uplink
from .picture import BADGES, MODE_TONES, Cluster, Edge, Picture, PictureNode, PictureRow, Shape, Tone

# More ports than this: their taps are no boxes of their own, but lines in the guests' boxes, of which those that are
# alike share one.
_MOST_TAPS, _MOST_BOXES = 20, 2


def picture(topology: Topology) -> Picture:
    """The physical view of a topology."""
    labels = outside(topology)
    lans = tuple(_lan(topology, f"lan{i}", lan) for i, lan in enumerate(labels))
    many = sum(len(guest.ports) for guest in topology.guests) > _MOST_TAPS
    guests, wires = (_boxed, _to_boxes) if many else (_wired, _to_taps)
    inside = (
        *(_nic(topology, f"nic{i}", lan) for i, lan in enumerate(labels)),
        *_bridges(topology),
        *guests(topology),
    )
    out = tuple(Edge(f"lan{i}", f"nic{i}", Tone.LAN, uplink=True) for i in range(len(labels)))
    edges = (*out, *_uplinks(topology), *wires(topology))
    host = Cluster("host", "host", tuple(node.id for node in inside))
    return Picture(f"{topology.name}: physical view", (*lans, *inside), edges, (host,), sideways=True)


def _lan(topology: Topology, node: str, lan: PhysicalNetwork) -> PictureNode:
    title = f"LAN at {lan.label}" if isinstance(topology, ports.Running) and lan is not ELSEWHERE else lan.label
    return PictureNode(node, Shape.CLOUD, Tone.LAN, title)


def _nic(topology: Topology, node: str, lan: PhysicalNetwork) -> PictureNode:
    """A device of what runs has its name, one of a file its label."""
    named = lan.label if isinstance(topology, ports.Running) else f"NIC on {lan.label}"
    title = "any NIC" if lan is ELSEWHERE else named
    lines, rows = (*map(str, lan.host), *_mtu(lan.mtu)), forwards.nic_rows(topology, lan)
    return PictureNode(node, Shape.SMALL, Tone.LAN, title, lines=lines, rows=rows)


def _mtu(size: int | None) -> tuple[str, ...]:
    return (f"MTU {size}",) if size else ()


def _bridges(topology: Topology) -> Iterator[PictureNode]:
    """Bridges by name, which two networks may share; in the place of one, that the host routes."""
    for networks in _by_bridge(topology):
        first = networks[0]
        title = "host routes" if first.routed else first.bridge or first.name
        on = [] if first.routed else [(port, n) for n in networks for _, port in topology.ports_on(n.name)]
        lines, rows = tuple(_bridge_lines(networks)), forwards.route_rows(on)
        yield PictureNode(
            bridge_id(topology, first), Shape.BAR, MODE_TONES[first.mode], title, BADGES[first.mode], lines, rows
        )


def _bridge_lines(networks: list[Network]) -> Iterator[str]:
    first = networks[0]
    if names := [network.name for network in networks if network.name != (first.bridge or first.name)]:
        yield f"network {', '.join(names)}"
    elif first.routed:
        yield f"network {first.name}"
    yield from (str(subnet.host) for network in networks for subnet in network.subnets if subnet.host)
    yield from dict.fromkeys(line for network in networks for line in _carried(network))
    yield from _mtu(max(network.mtu or 0 for network in networks))
    if first.routed:
        yield from dict.fromkeys(str(subnet.gateway) for subnet in first.subnets if subnet.gateway)
        yield from () if first.routed.table is None else (f"routing table {first.routed.table}",)
        yield from () if first.routed.vrf is None else (f"VRF {first.routed.vrf}",)


def _carried(network: Network) -> Iterator[str]:
    """What tags its frames, or carries them to other hosts; and who may be on them."""
    if network.vlan:
        yield f"VLAN {network.vlan}{' (802.1ad)' if network.service_vlan else ''}"
    if network.zone:
        yield f"zone {network.zone}"
    if network.vxlan:
        yield f"VXLAN {network.vxlan.vni} over {network.vxlan.underlay}"


def _by_bridge(topology: Topology) -> list[list[Network]]:
    found: dict[tuple[str, str], list[Network]] = {}
    for network in topology.networks:
        found.setdefault((network.bridge, "" if network.bridge else network.name), []).append(network)
    return list(found.values())


def bridge_id(topology: Topology, network: Network) -> str:
    """The id of the node of a network's bridge."""
    return f"bridge{[network in networks for networks in _by_bridge(topology)].index(True)}"


def _wired(topology: Topology) -> Iterator[PictureNode]:
    """Taps, and then guests."""
    for i, guest in enumerate(topology.guests):
        yield from (_tap(topology, f"tap{i}x{j}", guest, port) for j, port in enumerate(guest.ports))
    yield from (_guest(topology, f"guest{i}", guest) for i, guest in enumerate(topology.guests))


def _tap(topology: Topology, node: str, guest: Guest, port: Port) -> PictureNode:
    rows = (*ports.drops(topology, guest, port, "t"), *_routes(topology, port))
    dashed = not ports.is_sure(topology, guest, port)
    tone, lines = ports.tone(topology, guest, port), (", ".join(ports.words(topology, guest, port)),)
    return PictureNode(node, Shape.SMALL, tone, port.tap or "no tap", lines=lines, rows=rows, dashed=dashed)


def _routes(topology: Topology, port: Port) -> tuple[PictureRow, ...]:
    network = topology.network(port.network)
    return forwards.route_rows([(port, network)] if network.routed else [])


def _guest(topology: Topology, node: str, guest: Guest) -> PictureNode:
    rows = tuple(
        PictureRow(f"p{j}", port.name, (port.mac,), MODE_TONES[topology.network(port.network).mode])
        for j, port in enumerate(guest.ports)
    )
    tone, badge = (Tone.ROUTER, "router") if guest.routes else (Tone.GUEST, "guest")
    return PictureNode(node, Shape.BOX, tone, guest.name, badge, rows=rows)


def _boxed(topology: Topology) -> Iterator[PictureNode]:
    """Guests with their taps in them, those that are alike in one box."""
    for i, crowd in crowds.boxes(topology, _MOST_BOXES):
        first, alone = crowd[0], len(crowd) == 1
        places = [(guest, port) for guest in crowd for port in guest.ports]
        rows = tuple(row for j, place in enumerate(places) for row in _tap_rows(topology, f"p{j}", *place, alone=alone))
        tone, badge = (Tone.ROUTER, "router") if first.routes else (Tone.GUEST, "guest")
        title, badge = (first.name, badge) if alone else (crowds.title(crowd), f"{len(crowd)} guests")
        columns = 1 if alone else crowds.columns(len(rows))
        yield PictureNode(f"guest{i}", Shape.BOX, tone, title, badge, rows=rows, columns=columns)


def _tap_rows(topology: Topology, row: str, guest: Guest, port: Port, *, alone: bool) -> Iterator[PictureRow]:
    label = port.name if alone else crowds.label(guest, port.name)
    wire = " · ".join(filter(None, (port.tap, port.mac)))
    said = ", ".join(ports.words(topology, guest, port))
    yield PictureRow(row, label, (wire, said), ports.tone(topology, guest, port))
    yield from ports.drops(topology, guest, port, row)
    yield from (replace(each, id=f"{row}{each.id}", below=True) for each in _routes(topology, port))


def _uplinks(topology: Topology) -> Iterator[Edge]:
    """A solid line for a NIC that is a port of the bridge, a dashed one where the host forwards."""
    seen = set()
    for network in topology.networks:
        lan, bridge = uplink(topology, network), bridge_id(topology, network)
        if lan is not None and (lan, bridge) not in seen:
            seen.add((lan, bridge))
            label = {Mode.BRIDGE: "", Mode.NAT: "NAT"}.get(network.mode, "routing")
            yield Edge(
                f"nic{lan}", bridge, MODE_TONES[network.mode], label, dashed=network.mode != Mode.BRIDGE, uplink=True
            )


def _to_taps(topology: Topology) -> Iterator[Edge]:
    for i, guest in enumerate(topology.guests):
        for j, port in enumerate(guest.ports):
            network = topology.network(port.network)
            tone = MODE_TONES[network.mode]
            yield Edge(bridge_id(topology, network), f"tap{i}x{j}", tone)
            yield Edge(f"tap{i}x{j}", f"guest{i}", tone, target_row=f"p{j}")


def _to_boxes(topology: Topology) -> Iterator[Edge]:
    """A line for each port, to boxes that several guests share for each network."""
    for i, (guest, *others) in crowds.boxes(topology, _MOST_BOXES):
        ends = dict.fromkeys((port.network, "" if others else f"p{j}") for j, port in enumerate(guest.ports))
        for name, row in ends:
            network = topology.network(name)
            yield Edge(bridge_id(topology, network), f"guest{i}", MODE_TONES[network.mode], target_row=row)

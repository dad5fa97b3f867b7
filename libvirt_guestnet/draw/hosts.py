"""The physical view of a topology with several hosts: each as it is drawn alone, on the same LANs, and the tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from libvirt_guestnet.model import labelled
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.placing import in_file
from libvirt_guestnet.model.topology import Topology

from . import physical
from .picture import Cluster, Edge, Picture, PictureNode, Tone


def picture(topology: Topology) -> Picture:
    """Guests of which the file names no host are on none."""
    placed = replace(topology, guests=tuple(guest for guest in topology.guests if guest.host))
    parts = [(host, _there(placed, host)) for host in topology.hosts]
    pictures = [_of_host(number, host, part) for number, (host, part) in enumerate(parts)]
    lans = {node.id: node for each in pictures for node in each.nodes if _is_lan(node.id)}
    own = tuple(node for each in pictures for node in each.nodes if not _is_lan(node.id))
    edges = (*(edge for each in pictures for edge in each.edges), *_tunnels(parts))
    clusters = tuple(cluster for each in pictures for cluster in each.clusters)
    return Picture(f"{topology.name}: physical view", (*lans.values(), *own), edges, clusters, sideways=True)


def _there(topology: Topology, host: Host) -> Topology:
    """With every label, so that a LAN has the same number on all hosts."""
    return replace(in_file(topology, host), physical_networks=topology.physical_networks)


def _of_host(number: int, host: Host, part: Topology) -> Picture:
    """Its nodes with ids of their own, but for LANs, and without NICs on those that it is not on."""
    drawn = physical.picture(part)
    absent = {f"nic{i}" for i, lan in enumerate(part.physical_networks) if not host.maps(lan.label)}
    nodes = tuple(_node(number, host, part, node) for node in drawn.nodes if node.id not in absent)
    edges = tuple(
        replace(edge, source=_id(number, edge.source), target=_id(number, edge.target))
        for edge in drawn.edges
        if not absent & {edge.source, edge.target}
    )
    title = f"host {host.name}" + (f" ({host.underlay})" if host.underlay else "")
    inside = tuple(node.id for node in nodes if not _is_lan(node.id))
    return Picture(drawn.title, nodes, edges, (Cluster(_id(number, "host"), title, inside),), sideways=True)


def _node(number: int, host: Host, part: Topology, node: PictureNode) -> PictureNode:
    """A NIC with the name of its device there, and no addresses, which are a lab's one host's."""
    devices = dict(host.labels)
    labels = {f"nic{i}": lan.label for i, lan in enumerate(part.physical_networks)}
    if (label := labels.get(node.id)) is not None:
        node = replace(node, title=labelled.bare(devices[label]), lines=(f"NIC on {label}",))
    return replace(node, id=_id(number, node.id))


def _is_lan(node: str) -> bool:
    return node.startswith("lan")


def _id(number: int, node: str) -> str:
    return node if _is_lan(node) else f"h{number}{node}"


def _tunnels(parts: list[tuple[Host, Topology]]) -> Iterator[Edge]:
    """Between each two hosts, one for each VXLAN that both have."""
    for (one, (_, first)), (other, (_, second)) in combinations(enumerate(parts), 2):
        there = {network.name: network for network in second.networks}
        for network in (each for each in first.networks if each.vxlan and each.name in there):
            ends = physical.bridge_id(first, network), physical.bridge_id(second, there[network.name])
            label = f"VXLAN {network.vxlan.vni}" if network.vxlan else ""
            yield Edge(_id(one, ends[0]), _id(other, ends[1]), Tone.BRIDGE, label, dashed=True)

"""Whether every network has a host that it can be on, and every guest's host the networks of its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libvirt_guestnet.model.host import FabricKind
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.placing import has
from libvirt_guestnet.model.topology import Topology

from .report import Report
from .scope import Placed, Segment


def check(topology: Topology, segments: Mapping[str, Segment], placed: Iterable[Placed], report: Report) -> None:
    """Nothing where the file is for one host, or OVN carries the networks."""
    if not topology.hosts or topology.fabric.kind is FabricKind.OVN:
        return
    _check_networks(topology, segments, report)
    hosts = {host.name: host for host in topology.hosts}
    of = {guest.name: hosts.get(guest.host or "") for guest in topology.guests}
    for each in placed:
        host, seg = of.get(each.guest), segments.get(each.port.network)
        if host and seg and not has(host, seg.network):
            labels = " and ".join(f"'{label}'" for label in seg.network.labels if not host.maps(label))
            message = f"host '{host.name}' has no network '{seg.network.name}': its labels say no device for {labels}"
            report.add(each.decl.network.where, message)
        elif host and seg and (away := of.get(seg.network.gateway or "")) and away != host and not _spans(seg):
            message = (
                f"the gateway of network '{seg.network.name}', '{seg.network.gateway}', is on host '{away.name}': mode "
                f"{seg.network.mode} does not reach from '{host.name}' to it; have both on one host"
            )
            report.add(each.decl.network.where, message)


def _spans(seg: Segment) -> bool:
    """Whether a network is the same one on all hosts."""
    return seg.network.mode in (Mode.BRIDGE, Mode.HOST_ROUTED, Mode.EXTERNAL)


def _check_networks(topology: Topology, segments: Mapping[str, Segment], report: Report) -> None:
    for seg in segments.values():
        if not any(has(host, seg.network) for host in topology.hosts):
            labels = " and ".join(f"'{label}'" for label in seg.network.labels)
            report.add(
                seg.at.where, f"no host has network '{seg.network.name}': none says under labels what {labels} is"
            )

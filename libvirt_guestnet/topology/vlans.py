"""VLANs of networks and ports: what goes together."""

from __future__ import annotations

from libvirt_guestnet.model.topology import Port, PortKind

from .guest_keys import PortDecl
from .network_keys import NetworkDecl
from .report import Report
from .scope import Segment
from .spec import value, values


def of_network(decl: NetworkDecl, report: Report) -> int | None:
    """The access VLAN of a network, be it a customer's or a service tag."""
    given = decl.service_vlan or decl.vlan
    if decl.vlan and decl.service_vlan:
        report.add(decl.service_vlan.where, "a network has either a vlan or a service-vlan")
    if given and decl.vxlan:
        report.add(given.where, "a network with a vxlan has no VLAN: its VNI keeps it apart")
    return value(given)


def trunk(decl: PortDecl) -> tuple[tuple[int, int], ...]:
    """The port's tagged VLANs as ranges, sorted, none touching another."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(values(decl.trunk)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def check_port(decl: PortDecl, port: Port, seg: Segment | None, report: Report) -> None:
    """Report what a port cannot be: access and trunk at once, tagged without the network's hook, unguardable."""
    if decl.vlan and decl.trunk:
        report.add(decl.vlan.where, "a port has either a vlan or a trunk; the VLAN of untagged frames is native-vlan")
    if decl.native_vlan and not decl.trunk and "trunk" not in decl.bad:
        report.add(decl.native_vlan.where, "native-vlan is for a port with a trunk; the VLAN of others is vlan")
    own = decl.vlan or decl.native_vlan or next(iter(decl.trunk or ()), None)
    if own and seg and seg.network.vxlan:
        report.add(own.where, f"network '{seg.network.name}' has a vxlan, and so no VLANs")
    if port.kind is not PortKind.NETWORK and (own or (seg and seg.network.vlan)):
        where = own.where if own else decl.network.where
        report.add(
            where, f"a port in a VLAN is of kind network: only then does its hook know the VLAN, not {port.kind}"
        )

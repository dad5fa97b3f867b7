"""Overlays: the `vxlan` of a network, and the MTU that it leaves."""

from __future__ import annotations

from libvirt_guestnet.model.host import FabricKind
from libvirt_guestnet.model.network import IPAddress, Mode, Vxlan

from .host_keys import HostDecl
from .network_keys import NetworkDecl, VxlanDecl
from .report import Report
from .scope import Scope
from .spec import At, value, values

_ETHERNET = 1500


def vxlan(scope: Scope, decl: NetworkDecl, report: Report) -> Vxlan | None:
    """The overlay of a network, checked; None when there is none."""
    given = decl.vxlan
    if given is None:
        return None
    if decl.mode.value is not Mode.BRIDGE:
        report.add(given.at, f"vxlan joins bridges of several hosts; mode {decl.mode.value} has none: use mode bridge")
    elif decl.physical_network:
        report.add(
            decl.physical_network.where,
            "a network has either a vxlan or a physical-network; the underlay is named in vxlan: underlay:",
        )
    if given.underlay.value not in scope.physicals and "underlay" not in given.bad and given.underlay.value:
        report.unknown(given.underlay.where, "physical network", given.underlay.value, scope.physicals)
    if (remotes := _remotes(scope, given, report)) is None:
        return None
    return Vxlan(given.vni.value, given.underlay.value, value(given.group), remotes, given.port.value)


def _remotes(scope: Scope, given: VxlanDecl, report: Report) -> tuple[IPAddress, ...] | None:
    """The unicast ends, of which each host leaves out its own; None where it is not clear where the frames go."""
    if scope.fabric is FabricKind.VXLAN and not (given.group or given.remotes or given.bad & {"group", "remotes"}):
        return _hosts_ends(scope, given, report)
    return tuple(dict.fromkeys(values(given.remotes))) if _check_ends(scope, given, report) else None


def _hosts_ends(scope: Scope, given: VxlanDecl, report: Report) -> tuple[IPAddress, ...] | None:
    """The underlays of all hosts that carry it."""
    hosts = [each for each in (scope.hosts or {}).values() if each and _carries(each, given.underlay.value)]
    ends = tuple(dict.fromkeys(each.underlay.value for each in hosts if each.underlay))
    if len(hosts) < 2 and given.underlay.value in scope.physicals:
        message = f"vxlan needs two hosts or more whose labels have '{given.underlay.value}': {len(hosts)} of them has"
        report.add(given.underlay.where, message)
    return ends or None


def _carries(host: HostDecl, label: str) -> bool:
    return any(label == known.value for known, _ in host.labels or ()) or "labels" in host.bad


def _check_ends(scope: Scope, given: VxlanDecl, report: Report) -> bool:
    """Whether it is clear where the frames go; what is not goes to the report."""
    if given.bad & {"group", "remotes"}:
        return False
    if bool(given.group) == bool(given.remotes):
        follow = "; those of hosts: follow by fabric: { kind: vxlan }" if scope.hosts and not given.group else ""
        message = "vxlan needs either a group (a multicast address) or remotes (the other hosts' addresses)"
        report.add(given.at, f"{message}{follow}")
        return False
    if given.group and not given.group.value.is_multicast:
        report.add(given.group.where, f"group {given.group.value} is not a multicast address such as 239.1.1.1")
    for at in given.remotes or ():
        if why := _no_remote(at, (given.remotes or (at,))[0].value):
            report.add(at.where, f"remote {at.value} {why}")
    return True


def _no_remote(at: At[IPAddress], first: IPAddress) -> str | None:
    if at.value.is_multicast:
        return "is a multicast address; write it as group:"
    if at.value.is_unspecified or at.value.is_loopback:
        return "is no address of another host"
    if at.value.version != first.version:
        return f"is not of the same family as {first}; VXLAN runs over one of the two"
    return None


def mtu(scope: Scope, vxlan: Vxlan, decl: NetworkDecl, report: Report) -> int:
    """The network's MTU: given and small enough for the underlay, or the largest that is.

    An underlay whose MTU the file does not give is taken for Ethernet, 1500; the real one is checked when the network
    starts on a host.
    """
    physical = scope.physicals.get(vxlan.underlay)
    underlay = physical.mtu if physical else None
    fits = (underlay.value if underlay else _ETHERNET) - vxlan.overhead
    given = decl.mtu
    if given and underlay and given.value > fits:
        report.add(
            given.where,
            f"MTU {given.value} does not fit: '{vxlan.underlay}' carries {underlay.value}, and VXLAN takes "
            f"{vxlan.overhead} of it; at most {fits}",
        )
    return given.value if given else fits

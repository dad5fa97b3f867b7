"""Devices that are missing or not ours: `plan` reports what a network's hook would refuse at its start. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lxml import etree

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.datapath.devices.host_devices import Device, Outlet, too_wide
from libvirt_guestnet.hostmap import MAPPED_BY
from libvirt_guestnet.libvirtd.snapshot import NETWORK_MARK, Element, NetworkState, Snapshot, Wanted, source_network
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import vxlan_overhead
from libvirt_guestnet.parse import address

_UPLINK, _VXLAN = (f"{NETWORK_MARK}/{{{NAMESPACE}}}{tag}" for tag in ("uplink", "vxlan"))
_ALIAS = "libvirt-guestnet"  # datapath.netlink.kernel.ALIAS


class _Nic(NamedTuple):
    """The NIC, or the VLAN of one, in a bridge that our hook makes."""

    device: str
    vlan: str = ""

    def __str__(self) -> str:
        return f"VLAN {self.vlan} of NIC {self.device}" if self.vlan else f"NIC {self.device}"


def nic_of(network: Element) -> _Nic | None:
    """The NIC of a network's bridge; None if it has none."""
    uplink = network.find(_UPLINK)
    return None if uplink is None else _Nic(uplink.get("device", ""), uplink.get("vlan") or "")


def device_problems(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A line for each problem."""
    others = {nic: n for n in snapshot.networks if n.topology != wanted.topology and (nic := nic_of(n.current))}
    own = {each.bridge for each in snapshot.networks if each.topology == wanted.topology and _is_made(each.current)}
    widest = _widest(wanted)
    for network in wanted.networks:
        element = network.element
        problem = _quarrel(element, others) or _missing(element, snapshot) or _unfit(element, own, snapshot)
        size = max(widest.get(name, 0) for name in (network.name, f"bridge {bridge_of(element)}"))
        if problem := problem or _narrow(element, size, snapshot):
            yield f"network {network.name!r}: {problem}"


def bridge_of(network: Element) -> str:
    """The name of a network's bridge, "" where it has none."""
    bridge = network.find("bridge")
    return "" if bridge is None else bridge.get("name", "")


def _is_made(network: Element) -> bool:
    """Whether a network's bridge is removed when the network is stopped."""
    made = any(tag in registry.MADE_BRIDGES for tag, _ in _carried(network))
    return not _is_mapped_bridge(network) or made


def shares_nic(network: Element, other: Element) -> bool:
    """Whether the bridges of two networks have the same NIC, or VLAN of it, in them."""
    nic = nic_of(network)
    return nic is not None and nic == nic_of(other)


def _quarrel(network: Element, others: dict[_Nic, NetworkState]) -> str:
    """The message if another network has the NIC: it can be in one bridge only, which goes with that network's
    topology."""
    nic = nic_of(network)
    other = others.get(nic) if nic else None
    if nic is None or other is None:
        return ""
    whose = f"libvirt network {other.name!r}" + (f" of topology {other.topology!r}" if other.topology else "")
    kind = " vlan_filtering 1" if nic.vlan else ""
    return (
        f"{nic} is that of {whose}, and can be in one bridge only: put both networks into one topology, or make a "
        f"bridge of your own (ip link add br0 type bridge{kind}; ip link set {nic.device} master br0) and map the "
        f"label to that for both {MAPPED_BY}"
    )


def _missing(network: Element, snapshot: Snapshot) -> str:
    for device in _needed(network) if snapshot.links else ():
        if device and device not in snapshot.links:
            return f"this host has no device {device}: map the label to one that it has {MAPPED_BY}"
    return ""


def _needed(network: Element) -> Iterator[str]:
    """The devices that must exist before the network, or its guests, can start."""
    needed = [device for tag, ours in _carried(network) for device in registry.devices(tag, ours)]
    if not needed and _is_mapped_bridge(network):
        needed.append(bridge_of(network))
    yield from needed


def _carried(network: Element) -> Iterator[tuple[str, dict[str, str]]]:
    """The carriers' elements in a network's metadata, with their attributes."""
    for element in network.iterfind(f"{NETWORK_MARK}/*"):
        tag = etree.QName(element).localname if isinstance(element.tag, str) else ""
        if tag in registry.TAGS:
            yield tag, {str(name): str(value) for name, value in element.items()}


def _is_mapped_bridge(network: Element) -> bool:
    forward = network.find("forward")
    return forward is not None and forward.get("mode") == "bridge" and network.find("virtualport") is None


def _unfit(network: Element, own: set[str | None], snapshot: Snapshot) -> str:
    nic, bridge = nic_of(network), bridge_of(network)
    if nic is None and network.find(_VXLAN) is None:
        return ""
    made = snapshot.links.get(bridge)
    if made is not None and bridge not in own and made.alias != _ALIAS:
        return f"device {bridge} exists and is not ours: choose another `bridge:`, or remove it if nobody needs it"
    found = snapshot.links.get(nic.device) if nic is not None and not nic.vlan else None
    return "" if nic is None or found is None or found.master == bridge else _in_use(nic, found, own, snapshot)


def _widest(wanted: Wanted) -> dict[str, int]:
    """By network, or bridge (`bridge br0`), the largest MTU of its ports."""
    found: dict[str, int] = {}
    for guest in wanted.guests:
        for nic in guest.interfaces:
            source, mtu = nic.find("source"), nic.find("mtu")
            bridge = "" if source is None else source.get("bridge", "")
            name = source_network(nic) or f"bridge {bridge}"
            if mtu is not None:
                found[name] = max(found.get(name, 0), int(mtu.get("size", "0")))
    return found


def _narrow(network: Element, widest: int, snapshot: Snapshot) -> str:
    """The message if a network's ports could send frames that are too large for its NIC; for a tunnel, also if it would
    not start."""
    bridge = bridge_of(network)
    if network.find(_VXLAN) is not None:
        return narrow_underlay(network, snapshot)
    for device in _carriers(network, snapshot) if widest else ():
        carried = snapshot.links[device].mtu
        if 0 < carried < widest:
            return too_wide(widest, Outlet(device, carried), bridge)
    return ""


def narrow_underlay(network: Element, snapshot: Snapshot) -> str:
    """The message if the device under a tunnel cannot carry it, else ""."""
    vxlan = network.find(_VXLAN)
    if vxlan is None:
        return ""
    device, mtu = vxlan.get("device", ""), int(vxlan.get("mtu", "0"))
    ends = [each.get(key, "") for each in vxlan.iter() for key in ("group", "ip") if each.get(key)]
    overhead = max((vxlan_overhead(address(end)) for end in ends), default=0)
    carried = snapshot.links[device].mtu if device in snapshot.links else 0
    if 0 < carried < mtu + overhead:
        return (
            f"its MTU {mtu} does not fit: the underlay {device} has MTU {carried}, and VXLAN takes {overhead} of it; "
            f"raise the MTU of {device} or set mtu: {carried - overhead}"
        )
    return ""


def _carriers(network: Element, snapshot: Snapshot) -> Iterator[str]:
    """The devices that connect a network's bridge to other hosts, or will."""
    bridge = bridge_of(network)
    named = {device for tag, ours in _carried(network) for device in registry.outlets(tag, ours)}
    for name, device in snapshot.links.items():
        if name in named or (device.master == bridge and device.is_outside and _is_outside(network)):
            yield name


def _is_outside(network: Element) -> bool:
    """Whether a network's bridge is connected to other hosts at all."""
    return nic_of(network) is not None or _is_mapped_bridge(network)


def _in_use(nic: _Nic, found: Device, own: set[str | None], snapshot: Snapshot) -> str:
    if found.master and found.master not in own:
        master = snapshot.links.get(found.master)
        what = "bridge" if master is not None and master.is_bridge else "device"
        do = f"map the label to {found.master} {MAPPED_BY}, or take it out there"
        return f"{nic} is in {what} {found.master} already: {do}"
    if found.addresses:
        return (
            f"{nic} carries {', '.join(found.addresses)}, which the host would lose: make a bridge with those "
            f"addresses yourself and map the label to it {MAPPED_BY}"
        )
    return ""

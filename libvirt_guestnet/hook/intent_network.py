"""What a network's XML on a hook's stdin says of its ports and wants of the host: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.overlay import Overlay
from libvirt_guestnet.datapath.subinterface import Subinterface
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.values import address, attribute, number, prefix
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.state import NetworkReceipt


class AwareBridge(NamedTuple):
    """A bridge that must tell VLANs apart; `existing` is false for libvirt's own, which our hook turns on.

    `tag` is the network's access VLAN (0: none), `uplink` the port that leads outside ("": none known).
    """

    bridge: str
    existing: bool
    tag: int
    service: bool
    uplink: str


class Uplink(NamedTuple):
    """Mode bridge: the bridge our hook makes and the NIC it puts behind it."""

    bridge: str
    device: str


def network_receipt(network: Node) -> NetworkReceipt | None:
    """What a <network> element says, or None when it carries nothing of ours. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network", "|")
    if ours is None:
        return None
    bridge = network.one("bridge")
    return NetworkReceipt(
        name=network.text_of("name"),
        topology=ours.get("topology"),
        guarded=ours.get("guarded") != "no",
        bridge=bridge.get("name") if bridge else "",
        subnets=tuple(str(prefix(s.get("prefix"))) for s in ours.all(f"{NAMESPACE} subnet", "|")),
        hosts=tuple(ip.get("address") for ip in network.all("ip")),
        reservations=tuple(_reservations(network)),
        dynamic=tuple((r.get("start"), r.get("end")) for r in network.all("ip/dhcp/range")),
        mac=attribute(network, "mac", "address").lower(),
        lease=_longest_lease(network, 4),
        lease6=_longest_lease(network, 6),
        privacy=ours.get("privacy") == "yes",
        log=ours.get("log") == "yes",
        outside=_outside(network, "route"),
        nat_outside=_outside(network, "nat"),
    )


def _outside(network: Node, mode: str) -> str:
    forward = network.one("forward")
    dev = forward.get("dev") if forward and (forward.get("mode") or "nat") == mode else ""
    return check_device(dev) if dev else ""


_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
_DNSMASQ_LEASE = {4: 3600, 6: 86400}
_FOREVER = 10 * 365 * 86400  # <lease expiry='0'/>


def _longest_lease(network: Node, version: int) -> int:
    """Seconds; 0 without a range of that IP version."""
    listed = network.all("ip/dhcp/range")
    return max((_lease(r, version) for r in listed if (":" in r.get("start")) == (version == 6)), default=0)


def _lease(dhcp_range: Node, version: int) -> int:
    """Seconds; libvirt's <lease expiry= unit=> counts minutes unless told otherwise."""
    lease = dhcp_range.one("lease")
    if lease is None or not lease.get("expiry").isdigit():
        return _DNSMASQ_LEASE[version]
    return int(lease.get("expiry")) * _UNITS.get(lease.get("unit") or "minutes", 60) or _FOREVER


def _reservations(network: Node) -> Iterator[tuple[str, str]]:
    """MAC and address of each; "" for one that is only known by a name or a DUID, which anybody can claim."""
    for host in network.all("ip/dhcp/host"):
        if host.get("ip"):
            mac = host.get("mac").lower() or _mac_of(host.get("id"))
            yield mac, str(prefix(host.get("ip")).network_address)


def _mac_of(duid: str) -> str:
    """The MAC in a DUID that is made of an Ethernet address, alone or with a time (RFC 8415, 11.2 and 11.4)."""
    octets = [pair.zfill(2) for pair in duid.lower().split(":")]
    made_of_mac = {10: ["00", "03", "00", "01"], 14: ["00", "01", "00", "01"]}.get(len(octets))
    return ":".join(octets[-6:]) if octets[:4] == made_of_mac else ""


def uplink(network: Node) -> Uplink | None:
    """The bridge to make for a network of mode bridge whose label is mapped to a NIC, else None."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} uplink", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None or ours.get("vlan"):
        return None
    return Uplink(bridge.get("name"), ours.get("device"))


def subinterface(network: Node) -> Subinterface | None:
    """The bridge and the VLAN of a NIC to make for a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} uplink", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None or not ours.get("vlan"):
        return None
    nic, service = check_device(ours.get("device")), ours.get("service") == "yes"
    return Subinterface(check_device(bridge.get("name")), nic, number(ours, "vlan", 4094), service)


def is_libvirts_bridge(network: Node) -> bool:
    """Whether libvirt makes the network's bridge, and removes it: in every mode but those that use what is there."""
    forward = network.one("forward")
    return network.one("bridge") is not None and (forward is None or forward.get("mode") in _LIBVIRTS_BRIDGE)


_LIBVIRTS_BRIDGE = ("", "nat", "route", "open")


def aware_bridge(network: Node) -> AwareBridge | None:
    """The VLAN-aware bridge of a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} vlan", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None:
        return None
    return AwareBridge(
        bridge=check_device(bridge.get("name")),
        existing=bool(ours.get("label")),
        tag=number(ours, "tag", 4094) if ours.get("tag") else 0,
        service=ours.get("service") == "yes",
        uplink=check_device(ours.get("uplink")) if ours.get("uplink") else "",
    )


def overlay(network: Node) -> Overlay | None:
    """The bridge and the VXLAN device to make for a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} vxlan", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None:
        return None
    group = (ours.get("group"),) if ours.get("group") else ()
    ends = (*group, *(remote.get("ip") for remote in ours.all(f"{NAMESPACE} remote", "|")))
    if not ends:
        raise GuestnetError("metadata: <guestnet:vxlan> has neither a group nor remotes")
    return Overlay(
        bridge=check_device(bridge.get("name")),
        underlay=check_device(ours.get("device")),
        vni=number(ours, "vni", (1 << 24) - 1),
        port=number(ours, "port", 65535),
        mtu=number(ours, "mtu", 65535),
        ends=tuple(address(end) for end in ends),
    )

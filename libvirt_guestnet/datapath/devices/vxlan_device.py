"""VXLAN devices, each in a bridge of its own: netlink only. Linux's own VXLAN driver does the rest.

No import but the standard library's until there is work: the hook imports this for its terms.
"""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.datapath.netlink.kernel import ALIAS, delete_ours, ensure_bridge, link, netlink, no_ipv6, our_link
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_FLOOD = "00:00:00:00:00:00"  # the forwarding entry for frames whose host is not known yet
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6


class Overlay(NamedTuple):
    """A bridge with a VXLAN device in it. `ends` is one multicast group, or the other hosts; `mtu` the guests'."""

    bridge: str
    underlay: str
    vni: int
    port: int
    mtu: int
    ends: tuple[IPv4Address | IPv6Address, ...]

    @property
    def device(self) -> str:
        return f"vx{self.vni}"

    @property
    def version(self) -> int:
        return self.ends[0].version

    @property
    def overhead(self) -> int:
        """IP, UDP, VXLAN and the guest's Ethernet header."""
        return 70 if self.version == 6 else 50


def ensure_overlay(overlay: Overlay, network: str) -> None:
    """The bridge and its VXLAN device, both ours and up; a device of an earlier time is replaced.

    Raises GuestnetError, with nothing left behind, if anything in the way is not ours, or the underlay is missing,
    has no address of the family or too small an MTU.
    """
    with netlink() as ipr, ExitStack() as undo:
        underlay = _underlay(ipr, overlay, network)
        bridge, existing = our_link(ipr, overlay.bridge, network), our_link(ipr, overlay.device, network)
        _check_unused(ipr, overlay, bridge, existing, network)
        delete_ours(ipr, overlay.device)
        ipr.link("add", **_request(overlay, underlay))
        device = link(ipr, overlay.device)
        undo.callback(ipr.link, "del", index=device["index"])
        ipr.link("set", index=device["index"], ifalias=ALIAS)
        for other in overlay.ends[1:]:
            # IPv6 as text needs the family said; both go into the flood list beside the device's own remote.
            ipr.fdb("append", ifindex=device["index"], lladdr=_FLOOD, dst=str(other))
        no_ipv6(overlay.device)
        master = ensure_bridge(ipr, overlay.bridge, network, undo)
        ipr.link("set", index=device["index"], master=master, state="up")
        undo.pop_all()


def remove_overlay(bridge: str, device: str) -> None:
    """Removes what `ensure_overlay` made; what is gone, or not ours, is left as it is."""
    with netlink() as ipr:
        delete_ours(ipr, device)
        delete_ours(ipr, bridge)


def _request(overlay: Overlay, underlay: Any) -> dict[str, Any]:
    group = "vxlan_group" if overlay.version == 4 else "vxlan_group6"
    return {
        "ifname": overlay.device,
        "kind": "vxlan",
        "mtu": overlay.mtu,
        "vxlan_id": overlay.vni,
        "vxlan_link": underlay["index"],
        "vxlan_port": overlay.port,
        group: str(overlay.ends[0]),
    }


def _underlay(ipr: IPRoute, overlay: Overlay, network: str) -> Any:
    found, name = link(ipr, overlay.underlay), overlay.underlay
    if found is None:
        raise GuestnetError(f"network {network!r}: device {name} does not exist on this host; map another underlay")
    mtu = found.get_attr("IFLA_MTU") or 0
    if mtu - overlay.overhead < overlay.mtu:
        raise GuestnetError(
            f"network {network!r}: its MTU {overlay.mtu} does not fit: the underlay {name} has MTU {mtu}, and VXLAN "
            f"takes {overlay.overhead} of it; raise the MTU of {name} or set mtu: {mtu - overlay.overhead}"
        )
    if not list(ipr.get_addr(index=found["index"], family=_FAMILY[overlay.version])):
        raise GuestnetError(
            f"network {network!r}: the underlay {name} has no IPv{overlay.version} address to send from"
        )
    return found


def _check_unused(ipr: IPRoute, overlay: Overlay, bridge: Any, existing: Any, network: str) -> None:
    """Neither our device in the bridge of another network, nor somebody's device of the same VNI and port."""
    if existing is not None and existing.get_attr("IFLA_MASTER") not in (None, bridge and bridge["index"]):
        raise GuestnetError(
            f"network {network!r}: {overlay.device} serves another network of this host; change the vni"
        )
    for other in ipr.get_links():
        name, data = other.get_attr("IFLA_IFNAME"), other.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        if other.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "vxlan" or name == overlay.device:
            continue
        if (data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_PORT")) == (overlay.vni, overlay.port):
            raise GuestnetError(
                f"network {network!r}: VNI {overlay.vni} on UDP port {overlay.port} is already used by device "
                f"{name}, which is not ours; use another vni"
            )

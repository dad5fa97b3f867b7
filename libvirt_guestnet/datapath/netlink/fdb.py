"""Static entries for guests' MAC addresses in a Linux bridge's forwarding database.

By itself a bridge learns from any frame's source address, and floods frames to an address that it does not know to
every port. For a guarded port both are switched off: it has a static entry for its own address instead, as libvirt's
`macTableManager='libvirt'` makes them. The entry is sticky as well (kernel 4.20): otherwise a frame from another port,
such as the uplink or an unguarded guest's, would move it there.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.errors import GuestnetError


def ensure_static(tap: str, mac: str, vlans: Iterable[int], exclusive: bool = True) -> None:
    """Makes a static entry for an address at a bridge port, in each of the VLANs (none: the bridge has no filtering).
    An `exclusive` port has no other address: learning and flooding are switched off for it.

    Entries that exist already are left alone. Raises GuestnetError if another port has the address.
    """
    index = links.index_of(tap)
    with Rtnl() as netlink:
        for vlan in list(vlans) or [0]:
            holder = netlink.ensure_static(mac, index, vlan)
            if holder != index:
                raise GuestnetError(_taken(tap, mac, links.name_of(holder)))
        netlink.set_port(index, learning=not exclusive, flood=not exclusive)


def is_static(tap: str, mac: str, vlans: Iterable[int], exclusive: bool = True) -> bool:
    """Whether all that `ensure_static` makes is there."""
    index = links.index_of(tap)
    with Rtnl() as netlink:
        held = all(netlink.holder(mac, index, vlan) == index for vlan in list(vlans) or [0])
    return held and links.port_setting(tap, "learning") == links.port_setting(tap, "unicast_flood") == (not exclusive)


def silence(tap: str) -> None:
    """Switches learning off at a bridge port whose guest still runs on another host."""
    with Rtnl() as netlink:
        netlink.set_port(links.index_of(tap), learning=False, flood=True)


def release(tap: str, macs: Iterable[str]) -> None:
    """Removes what `ensure_static` made: the port learns and is flooded again."""
    index = links.index_of(tap)
    with Rtnl() as netlink:
        held = [netlink.release_mac(mac, index) for mac in macs]
        if any(held):
            netlink.set_port(index, learning=True, flood=True)


def _taken(tap: str, mac: str, other: str) -> str:
    return (
        f"{tap}: MAC address {mac} is that of port {other} of the same bridge, and two ports cannot have one: give one "
        f"of the two guests another"
    )

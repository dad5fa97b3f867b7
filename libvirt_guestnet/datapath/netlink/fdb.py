"""A Linux bridge's forwarding database: behind which port a guest's MAC address is, said instead of learnt.

A bridge believes any frame's source address, and sends a frame for an address that it does not know out of every
port. A guarded port neither teaches it nor gets such frames: it has a static entry for its own address, as libvirt's
`macTableManager='libvirt'` makes them. The entry is sticky (kernel 4.20) as well: else a frame from another port, such
as the uplink or an unguarded guest's, would move it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.errors import GuestnetError


def ensure_static(tap: str, mac: str, vlans: Iterable[int], exclusive: bool = True) -> None:
    """Makes an address a static entry of a bridge port, in each of its VLANs (none: the bridge tells none apart). An
    `exclusive` port has no other address, and is neither learnt from nor flooded.

    Entries that exist already are left alone. Raises GuestnetError where another port has the address.
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
    """Has a bridge port teach the bridge nothing yet: its guest still runs on another host."""
    with Rtnl() as netlink:
        netlink.set_port(links.index_of(tap), learning=False, flood=True)


def release(tap: str, macs: Iterable[str]) -> None:
    """Makes a port like others again, if `ensure_static` had changed it."""
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

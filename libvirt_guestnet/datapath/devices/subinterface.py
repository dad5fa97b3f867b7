"""One VLAN of a NIC as a device, NIC.VID, in a bridge of its own: netlink only."""

from __future__ import annotations

import errno
from contextlib import ExitStack

from libvirt_guestnet.datapath.netlink.kernel import ALIAS, delete_ours, ensure_bridge, link, netlink, no_ipv6, our_link
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_PROTOCOL = {False: 0x8100, True: 0x88A8}


class VlanDevice(NamedTuple):
    """A bridge over VLAN `vlan` of `nic`, with an 802.1ad tag if it is a service VLAN."""

    bridge: str
    nic: str
    vlan: int
    service: bool = False

    @property
    def device(self) -> str:
        """NIC.VID, or where that is longer than a name may be, the VLAN and a hash of the NIC."""
        plain = f"{self.nic}.{self.vlan}"
        if len(plain) <= 15:
            return plain
        from hashlib import sha256  # loads OpenSSL: 3 ms of every hook

        return f"v{self.vlan}-{sha256(self.nic.encode()).hexdigest()[:8]}"


def ensure_subinterface(wanted: VlanDevice, network: str) -> None:
    """The bridge and the subinterface in it, both ours and up; networks of one VLAN share them.

    Raises GuestnetError, with nothing left behind, if anything in the way is not ours or the NIC is missing.
    """
    with netlink() as ipr, ExitStack() as undo:
        nic = link(ipr, wanted.nic)
        if nic is None:
            raise GuestnetError(
                f"network {network!r}: device {wanted.nic} does not exist on this host; map the label to another"
            )
        bridge, existing = our_link(ipr, wanted.bridge, network), our_link(ipr, wanted.device, network)
        if existing is not None and existing.get_attr("IFLA_MASTER") not in (None, bridge and bridge["index"]):
            raise GuestnetError(
                f"network {network!r}: {wanted.device} is in another bridge of this host; free it first"
            )
        _check_unused(ipr, wanted, nic, network)
        if existing is None:
            _add(ipr, wanted, nic, undo)
            existing = link(ipr, wanted.device)
        no_ipv6(wanted.device)
        master = ensure_bridge(ipr, wanted.bridge, network, undo)
        ipr.link("set", index=nic["index"], state="up")
        ipr.link("set", index=existing["index"], master=master, state="up")
        undo.pop_all()


def _add(ipr: IPRoute, wanted: VlanDevice, nic: Any, undo: ExitStack) -> None:
    from pyroute2 import NetlinkError

    request = {"vlan_id": wanted.vlan, "vlan_protocol": _PROTOCOL[wanted.service]}
    try:
        ipr.link("add", ifname=wanted.device, kind="vlan", link=nic["index"], **request)
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        raise GuestnetError(
            f"this kernel has no VLAN devices (module 8021q, CONFIG_VLAN_8021Q), and {wanted.device} is one; "
            f"load it, or map the label to a VLAN-aware bridge"
        ) from error
    undo.callback(delete_ours, ipr, wanted.device)
    ipr.link("set", index=link(ipr, wanted.device)["index"], ifalias=ALIAS)


def _check_unused(ipr: IPRoute, wanted: VlanDevice, nic: Any, network: str) -> None:
    """No device of somebody else's stands for the same VLAN of the NIC: of one tag there can be one."""
    for other in ipr.get_links():
        name, data = other.get_attr("IFLA_IFNAME"), other.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        if other.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != "vlan" or name == wanted.device:
            continue
        same_tag = data.get_attr("IFLA_VLAN_PROTOCOL") == _PROTOCOL[wanted.service]
        if same_tag and data.get_attr("IFLA_VLAN_ID") == wanted.vlan and other.get_attr("IFLA_LINK") == nic["index"]:
            raise GuestnetError(
                f"network {network!r}: VLAN {wanted.vlan} of {wanted.nic} is already used by device {name}, which is "
                f"not ours; use another vlan, or map the label to a bridge over {name}"
            )

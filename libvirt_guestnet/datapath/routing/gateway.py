"""The host as the router of taps that are in no bridge: the settings of the kernel that this needs besides routes.

Forwarding is switched on for the whole host, as libvirt does for its own networks. It is never switched off again, as
others may rely on it by then. For IPv6 it cannot be switched on for single devices before kernel 6.17.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Address, HostAddress, Rtnl
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.errors import GuestnetError, NotRoutedError
from libvirt_guestnet.light_typing import NamedTuple

_SYS = "/proc/sys/net"
GATEWAY6 = IPv6Address("fe80::1")
ARP_TABLE = "arp guestnet"

# Settings of a tap, whatever the host's defaults are. Strict reverse path filtering fits, since the host routes each of
# the guest's addresses to its tap. The host answers ARP on it only for the gateway's address (`arp_ignore`), and asks
# only from that (`arp_announce`). It sends no redirects, as the guest has no other router.
_TAP4 = {
    "forwarding": "1",
    "rp_filter": "1",
    "arp_ignore": "1",
    "arp_announce": "2",
    "proxy_arp": "0",
    "accept_redirects": "0",
    "send_redirects": "0",
    "accept_source_route": "0",
}
_TAP6 = {"disable_ipv6": "0", "forwarding": "1", "accept_ra": "0", "accept_redirects": "0", "proxy_ndp": "0"}


class RoutedTap(NamedTuple):
    """A tap whose guest has the host as its gateway: the gateway's addresses on it, and its VRF, if any."""

    tap: str
    gateways: tuple[Address, ...]
    vrf: str = ""


def prepare(taps: Iterable[RoutedTap]) -> None:
    """Makes the host the gateway of these taps. Raises GuestnetError if the host lacks an IP version or a VRF."""
    taps = list(taps)
    for version in sorted({gateway.version for each in taps for gateway in each.gateways}):
        forward(version)
    with Rtnl() as netlink:
        for each in taps:
            _move(netlink, each)
            for gateway in each.gateways:
                _configure(each.tap, gateway.version)
                length = 32 if gateway.version == 4 else 64
                netlink.add_address(gateway, length, links.index_of(each.tap))


def _move(netlink: Rtnl, each: RoutedTap) -> None:
    """Puts a tap into its VRF, or into none. To be done before it gets addresses, as it loses those of IPv6 then."""
    if each.vrf:
        _table(netlink, each.vrf)
    if links.master_of(each.tap) != each.vrf:
        netlink.set_master(links.index_of(each.tap), links.index_of(each.vrf) if each.vrf else 0)


def table_of(vrf: str) -> int:
    """The routing table of a VRF. Raises GuestnetError where the host has none of that name."""
    with Rtnl() as netlink:
        return _table(netlink, vrf)


def _table(netlink: Rtnl, vrf: str) -> int:
    index = links.index_of(vrf)
    if table := netlink.vrf_table(index) if index else 0:
        return table
    found = f"device {vrf} of this host is no VRF" if index else f"this host has no VRF {vrf}"
    raise GuestnetError(
        f"{found}: make it (`ip link add {vrf} type vrf table NUMBER`, and `ip link set UPLINK master {vrf}`), or "
        f"leave out vrf: {vrf}"
    )


def _configure(tap: str, version: int) -> None:
    for setting, value in (_TAP4 if version == 4 else _TAP6).items():
        _write(f"ipv{version}/conf/{check_device(tap)}/{setting}", value)


def forward(version: int) -> None:
    """Switches forwarding on. The host goes on learning by router advertisements: with forwarding, the kernel does that
    only with accept_ra 2, and drops the default route of every device without."""
    switch = "ipv4/ip_forward" if version == 4 else "ipv6/conf/all/forwarding"
    if _read(switch) == "1":
        return
    if version == 6:
        keep_learning()
    _write(switch, "1")


def keep_learning() -> None:
    """Sets accept_ra 2 where the host learns routes by router advertisements, so that it goes on when it forwards IPv6
    (by RFC 4861, routers do not). Without that, libvirt refuses to start an IPv6 network that forwards."""
    for device in _devices6():
        if (_read(f"ipv6/conf/{device}/accept_ra"), _read(f"ipv6/conf/{device}/forwarding")) == ("1", "0"):
            _write(f"ipv6/conf/{device}/accept_ra", "2")


def answer_on(device: str, version: int) -> None:
    """Makes the kernel answer for published addresses on a device, and at once: by default it waits up to 0.8 s."""
    name = check_device(device)
    if version == 6:
        _write(f"ipv6/conf/{name}/proxy_ndp", "1")
    if _read(f"ipv{version}/conf/{name}/forwarding") == "0":  # somebody switched it off for this device
        if version == 6 and _read(f"ipv6/conf/{name}/accept_ra") == "1":
            _write(f"ipv6/conf/{name}/accept_ra", "2")
        _write(f"ipv{version}/conf/{name}/forwarding", "1")
    _write(f"ipv{version}/neigh/{name}/proxy_delay", "0")


def uplink_of(address: str, named: str, host: Iterable[HostAddress], vrf: str = "") -> str:
    """The device on whose LAN an address is: the one in whose subnet it is, else the one that the XML names (XML from
    another host may name a device that is something else here). `host` are the host's addresses in `vrf`, where the
    device has to be. Raises NotRoutedError when there is none."""
    wanted = parse.address(address)
    near = lans_of(wanted, host)
    if named in near:
        return named
    for device in (*near, named):
        if device and links.index_of(device) and vrf in ("", links.master_of(device)):
            return device
    where = f"in VRF {vrf} " if vrf else ""
    raise NotRoutedError(
        f"no device {where}of this host is on the LAN of {address}: give the host an address there, map the physical "
        f"network to its device, or say publish: false if the provider routes the address to this host"
    )


def lans_of(address: Address, host: Iterable[HostAddress]) -> list[str]:
    """The devices in whose subnets an address lies."""
    return [links.name_of(each.ifindex) for each in host if address in each.subnet]


def host_addresses(vrf: str | None = None, *, every: bool = False) -> list[HostAddress]:
    """The host's own addresses of scope global (or `every` one), with their subnets: all of them, or those on devices
    in a VRF ("": in none)."""
    with Rtnl() as netlink:
        found = netlink.addresses(all_scopes=every)
        return [each for each in found if vrf in (None, vrf_of(netlink, links.name_of(each.ifindex)))]


def on_link(bridge: str, *, routers: bool) -> tuple[list[Address], list[Address]]:
    """The host's own addresses on a bridge and on its VLANs, and those of `routers` there that it uses, if asked."""
    indexes = {links.index_of(name) for name in (bridge, *links.over(bridge))} - {0}
    if not indexes:
        return [], []
    with Rtnl() as netlink:
        own = [each for each in netlink.addresses(all_scopes=True) if each.ifindex in indexes]
        hops = netlink.next_hops({each.subnet for each in own}) if own and routers else ()
        return [each.address for each in own], [hop.address for hop in hops if hop.ifindex in indexes]


def vrf_of(netlink: Rtnl, device: str) -> str:
    """The VRF that a device is in, or is; "" for none."""
    for name in (links.master_of(device), device):
        if name and netlink.vrf_table(links.index_of(name)):
            return name
    return ""


def gate(taps: Iterable[RoutedTap]) -> str:
    """The nft batch that makes the host answer ARP for the gateway's address on these guests' taps only.

    By itself the kernel answers for any local address on any device. IPv6 needs no rule, as a link-local address is on
    one device only.
    """
    pairs = [(each.tap, gateway) for each in taps for gateway in each.gateways if isinstance(gateway, IPv4Address)]
    if not pairs:
        return ""
    tapnames = ", ".join(f'"{check_device(tap)}"' for tap, _ in pairs)
    gateways = ", ".join(str(gateway) for gateway in dict.fromkeys(gateway for _, gateway in pairs))
    rule = "iifname != @taps arp operation request arp daddr ip @gateways drop"
    return "\n".join([
        *_DECLARED,
        f"add chain {ARP_TABLE} input {{ type filter hook input priority filter; policy accept; }}",
        f"flush chain {ARP_TABLE} input",
        f"add rule {ARP_TABLE} input {rule}",
        f"add element {ARP_TABLE} taps {{ {tapnames} }}",
        f"add element {ARP_TABLE} gateways {{ {gateways} }}\n",
    ])  # fmt: skip


def ungate(taps: Iterable[str], *, last: bool) -> str:
    """The nft batch that removes taps from that table; with the `last` of them, the table itself."""
    if last:
        return f"add table {ARP_TABLE}\ndelete table {ARP_TABLE}\n"
    names = ", ".join(f'"{check_device(tap)}"' for tap in taps)
    elements = [f"{action} element {ARP_TABLE} taps {{ {names} }}" for action in ("add", "delete")] if names else []
    return "\n".join([*_DECLARED, *elements]) + "\n"


_DECLARED = (
    f"add table {ARP_TABLE}",
    f"add set {ARP_TABLE} taps {{ type ifname; }}",
    f"add set {ARP_TABLE} gateways {{ type ipv4_addr; }}",
)


def _devices6() -> list[str]:
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(f"{_SYS}/ipv6/conf") if name not in ("all", "default")]
    return []


def _read(path: str) -> str:
    with suppress(FileNotFoundError), open(f"{_SYS}/{path}") as file:
        return file.read(64).strip()
    return ""


def _write(path: str, value: str) -> None:
    """Writes a setting if it has another value: some settings reset others each time they are written."""
    if _read(path) == value:
        return
    try:
        with open(f"{_SYS}/{path}", "w") as file:
            file.write(value)
    except OSError as error:
        raise GuestnetError(f"{_SYS}/{path} cannot be set to {value}: {error.strerror}") from error

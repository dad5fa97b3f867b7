"""The host's network devices as plans and checks need them, from sysfs and one netlink dump."""

from __future__ import annotations

import os
from collections.abc import Collection

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.light_typing import NamedTuple

_SYSFS = "/sys/class/net"
# Kinds of devices that reach other hosts, besides hardware. A veth, a dummy or a tap ends on this host.
_OUTSIDE = ("vlan", "bond", "vxlan", "wlan", "geneve")


class Device(NamedTuple):
    """A device: its MTU (0: unknown), its bridge or other master, its alias, whether it is a Linux bridge, whether it
    reaches other hosts, and the host's addresses of scope global on it."""

    mtu: int = 0
    master: str = ""
    alias: str = ""
    is_bridge: bool = False
    is_outside: bool = False
    addresses: tuple[str, ...] = ()


def read() -> dict[str, Device]:
    """Every device by name. Raises GuestnetError when the kernel does not answer."""
    with Rtnl() as netlink:
        found = netlink.addresses()
    addresses: dict[str, list[str]] = {}
    for each in found:
        addresses.setdefault(links.name_of(each.ifindex), []).append(str(each.address))
    return {name: _device(name, tuple(addresses.get(name, ()))) for name in sorted(links.names())}


def _device(name: str, addresses: tuple[str, ...]) -> Device:
    alias, is_bridge = _text(name, "ifalias"), links.is_bridge(name)
    return Device(mtu(name), links.master_of(name), alias, is_bridge, is_outside(name), addresses)


class Outlet(NamedTuple):
    """Of a bridge's ports that reach other hosts, the one with the smallest MTU."""

    device: str
    mtu: int


def outlet(bridge: str, known: Collection[str] = ()) -> Outlet | None:
    """None for a bridge without a port that reaches other hosts. `known` are ports that do, whatever their kind."""
    ports = [port for port in links.ports_of(bridge) if port in known or is_outside(port)]
    found = sorted((mtu(port), port) for port in ports)
    return Outlet(found[0][1], found[0][0]) if found else None


def too_wide(size: int, narrow: Outlet, bridge: str) -> str:
    """The message that an MTU does not fit through that port, and what to do."""
    return (
        f"its MTU is {size}, and {narrow.device}, by which bridge {bridge} leads outside, carries {narrow.mtu}: larger "
        f"packets would vanish there; raise the MTU of {narrow.device} (and of what is behind it), or say mtu: "
        f"{narrow.mtu}"
    )


def bridged() -> frozenset[int]:
    """The IP versions whose frames pass iptables also where they only pass a bridge (br_netfilter)."""
    tools = {4: "iptables", 6: "ip6tables"}
    return frozenset(version for version, tool in tools.items() if _switch(f"bridge/bridge-nf-call-{tool}") == "1")


def _switch(path: str) -> str:
    try:
        with open(f"/proc/sys/net/{path}") as file:
            return file.read(2).strip()
    except OSError:
        return ""


def mtu(name: str) -> int:
    """The MTU of a device; 0 where there is none."""
    text = _text(name, "mtu")
    return int(text) if text.isdigit() else 0


def is_outside(name: str) -> bool:
    """Whether a device is hardware, or a VLAN, a bond or a tunnel over it."""
    kind = next((line for line in _text(name, "uevent").splitlines() if line.startswith("DEVTYPE=")), "")
    return kind.partition("=")[2] in _OUTSIDE or os.path.exists(f"{_SYSFS}/{name}/device")


def _text(name: str, file: str) -> str:
    try:
        with open(f"{_SYSFS}/{name}/{file}", errors="replace") as opened:
            return opened.read(4096).strip()
    except OSError:
        return ""

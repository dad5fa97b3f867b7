"""VLANs on a VLAN-aware Linux bridge: which port is a member of which.

iproute2's `bridge` makes the changes (decision 19). It takes 3 ms a call, while importing pyroute2 takes 100, and
libvirt holds the domain's lock meanwhile. Only differences are changed, so that repairing a running port disturbs
nothing that is right. The program that changes VLANs inherits the state's `lock`: should we be killed, nobody else
begins before it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from libvirt_guestnet import light_json
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run import grammar, program
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.datapath.run.program import LockDescriptor
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Any
from libvirt_guestnet.state.receipts import TapVlans

_SYSFS = "/sys/class/net"
_PVID, _UNTAGGED = "PVID", "Egress Untagged"
Members = Mapping[int, frozenset[str]]  # VLAN -> its flags at a port


def members(port: TapVlans) -> dict[int, frozenset[str]]:
    """The tap's memberships as the bridge should have them. A native VLAN that is in the trunk too is untagged."""
    wanted = {vlan: frozenset[str]() for first, last in port.tagged for vlan in range(first, last + 1)}
    if port.pvid:
        wanted[port.pvid] = frozenset({_PVID, _UNTAGGED})
    return wanted


def batch(device: str, current: Members, wanted: Members) -> str:
    """What `bridge -batch` must do so that the device is a member of exactly the wanted VLANs; "" when it is.

    Other memberships are removed first: by VID 1 or another default PVID, the port would be in a VLAN that nobody gave
    it.
    """
    name = check_device(device)
    gone = [f"vlan del vid {vid} dev {name}" for vid in sorted(set(current) - set(wanted))]
    new = [
        f"vlan add vid {vid} dev {name}" + (" pvid untagged" if flags else "")
        for vid, flags in sorted(wanted.items())
        if current.get(vid) != flags
    ]
    return "".join(f"{line}\n" for line in [*gone, *new])


def tag(port: TapVlans, lock: LockDescriptor) -> None:
    """Gives the tap its VLANs and nothing else. Raises GuestnetError when its bridge would ignore them."""
    check_filtering(port.bridge, f"tap {port.tap}")
    _run_batch(batch(port.tap, current(port.tap), members(port)), lock)


def untag(tap: str, bridge: str, lock: LockDescriptor) -> None:
    """Makes a tap a member of what every new port of its bridge is a member of."""
    pvid = int(_read(bridge, "default_pvid") or 0)
    _run_batch(batch(tap, current(tap), {pvid: frozenset({_PVID, _UNTAGGED})} if pvid else {}), lock)


def join(uplink: str, vlans: Iterable[int], lock: LockDescriptor) -> set[int]:
    """Makes the uplink a tagged member of VLANs; returns those that it was not yet a member of."""
    missing = set(vlans) - set(current(uplink))
    _run_batch("".join(f"vlan add vid {vid} dev {check_device(uplink)}\n" for vid in sorted(missing)), lock)
    return missing


def leave(uplink: str, vlans: Iterable[int], lock: LockDescriptor) -> None:
    """Takes the uplink out of VLANs; an uplink that is gone, or not a member, does not matter."""
    with suppress(GuestnetError):
        joined = set(vlans) & set(current(uplink))
        _run_batch("".join(f"vlan del vid {vid} dev {check_device(uplink)}\n" for vid in sorted(joined)), lock)


def check_filtering(bridge: str, wanted_by: str, service: bool = False) -> None:
    """Raises GuestnetError unless the bridge keeps VLANs apart: without VLAN filtering, tags have no effect."""
    if not links.is_vlan_aware(bridge):
        raise GuestnetError(
            f"{wanted_by}: bridge {bridge} does not tell VLANs apart, so that all of them would be one: "
            f"`ip link set {bridge} type bridge vlan_filtering 1` (the kernel needs CONFIG_BRIDGE_VLAN_FILTERING)"
        )
    if service and _read(bridge, "vlan_protocol") != "0x88a8":
        raise GuestnetError(
            f"{wanted_by}: bridge {bridge} does not use 802.1ad service tags: "
            f"`ip link set {bridge} type bridge vlan_protocol 802.1ad`"
        )


def turn_on(bridge: str, pvid: int, service: bool) -> None:
    """Switches VLAN filtering on, at a bridge that libvirt has just made. Ports without VLANs of their own, and the
    host, are in `pvid` (0: they stay in VLAN 1). Raises GuestnetError when the kernel cannot."""
    if service:
        _write(bridge, "vlan_protocol", "0x88a8")
    if pvid:
        _write(bridge, "default_pvid", str(pvid))
    _write(bridge, "vlan_filtering", "1")


def current(device: str) -> dict[int, frozenset[str]]:
    """The device's memberships. Raises GuestnetError when it is no port of a bridge."""
    ports = light_json.loads(_run(["bridge", "-j", "vlan", "show", "dev", check_device(device)], "") or "[]")
    return _vlans(entry for port in ports for entry in port.get("vlans", ()))


def all_current() -> dict[str, dict[int, frozenset[str]]]:
    """The memberships of every port of every bridge."""
    ports = light_json.loads(_run(["bridge", "-j", "vlan", "show"], "") or "[]")
    return {port["ifname"]: _vlans(port.get("vlans", ())) for port in ports if "ifname" in port}


def _vlans(entries: Iterable[Mapping[str, Any]]) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    for entry in entries:
        for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1):
            found[vid] = frozenset(entry.get("flags", ()))
    return found


def _run_batch(lines: str, lock: LockDescriptor) -> None:
    if lines:
        grammar.check_bridge(lines)
        _run(["bridge", "-batch", "-"], lines, lock)


def _run(argv: list[str], stdin: str, lock: LockDescriptor | None = None) -> str:
    output = program.run(argv, stdin, "iproute2", lock)
    if output.status != 0:
        raise GuestnetError(f"the kernel refused VLANs: {' '.join(output.stderr[:500].split())}")
    return output.stdout


def _read(bridge: str, setting: str) -> str:
    with suppress(FileNotFoundError), open(f"{_SYSFS}/{check_device(bridge)}/bridge/{setting}") as file:
        return file.read(64).strip()
    return ""


def _write(bridge: str, setting: str, value: str) -> None:
    if _read(bridge, setting) == value:
        return  # while a bridge filters VLANs, its default PVID cannot even be set to what it is
    try:
        with open(f"{_SYSFS}/{check_device(bridge)}/bridge/{setting}", "w") as file:
            file.write(value)
    except OSError as error:
        raise GuestnetError(
            f"bridge {bridge} cannot be made to tell VLANs apart: {error.strerror}; "
            f"the kernel needs CONFIG_BRIDGE_VLAN_FILTERING"
        ) from error

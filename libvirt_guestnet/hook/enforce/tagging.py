"""The VLANs of a domain's taps on VLAN-aware bridges, and of these bridges' uplinks (decisions 18, 19)."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.read import vlan_membership
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import TapVlans


def tag(domain: Domain, locked: LockedState, whole: bool = True) -> None:
    """Gives every tap of a domain (some, if it is not `whole`) its VLANs, and uplinks those in use now.

    Receipts are written first, so that nothing is unknown if the call is killed. Raises GuestnetError when a VLAN would
    have no effect.
    """
    wanted = [port._replace(ifindex=links.index_of(port.tap)) for port in vlan_membership.tap_vlans(domain)]
    present = domain.taps
    before, uuid = _all(locked), domain.uuid
    gone = [port for port in before if not links.exists(port.tap, port.ifindex)]
    of_domain = [p for p in before if p not in gone and p.uuid == uuid and (whole or p.tap in present)]
    for port in wanted:
        locked.put_tap_vlans(port)
    for port in wanted:
        vlan_bridge.tag(port, locked.descriptor)
    stale, left = ([port for port in ports if port.tap not in {p.tap for p in wanted}] for ports in (of_domain, gone))
    for port in stale:
        if links.master_of(port.tap) == port.bridge:
            vlan_bridge.untag(port.tap, port.bridge, locked.descriptor)
    _forget([*stale, *left], locked, {port.uplink for port in (*wanted, *of_domain, *gone)})


def untag(uuid: str, locked: LockedState) -> None:
    """Removes the receipts of a domain that is gone, and takes uplinks out of VLANs that no port uses any more."""
    _forget(_of(uuid, locked), locked, set())


def sweep(locked: LockedState) -> None:
    """The same for taps that no longer exist."""
    _forget([port for port in _all(locked) if not links.exists(port.tap, port.ifindex)], locked, set())


def lost(state: State) -> dict[str, str]:
    """The taps that are not in their VLANs, or whose uplink is not, each with its domain. Raises GuestnetError."""
    ports = [port for port in _all(state) if links.exists(port.tap, port.ifindex)]
    ports = [port for port in ports if links.master_of(port.tap) == port.bridge]
    members = vlan_bridge.all_current() if ports else {}
    return {port.tap: port.domain for port in ports if not _is_tagged(port, members)}


def _is_tagged(port: TapVlans, members: Mapping[str, vlan_bridge.Members]) -> bool:
    wanted = vlan_bridge.members(port)
    leaves = not links.master_of(port.uplink) or wanted.keys() <= members.get(port.uplink, {}).keys()
    return wanted == members.get(port.tap) and leaves


def _forget(ports: list[TapVlans], locked: LockedState, uplinks: set[str]) -> None:
    for port in ports:
        locked.drop_tap_vlans(port.tap)
    for uplink in sorted((uplinks | {port.uplink for port in ports}) - {""}):
        _settle(uplink, locked)


def _settle(uplink: str, locked: LockedState) -> None:
    """Makes the uplink a member of the VLANs in use; it stays in those that others put it into."""
    needed = {vid for port in _all(locked) if port.uplink == uplink for vid in vlan_bridge.members(port)}
    ours = locked.joined(uplink)
    missing = needed - set(vlan_bridge.current(uplink)) if needed else set()
    locked.put_joined(uplink, ours | missing)
    vlan_bridge.join(uplink, missing, locked.descriptor)
    vlan_bridge.leave(uplink, ours - needed, locked.descriptor)
    locked.put_joined(uplink, (ours | missing) & needed)


def _of(uuid: str, state: State) -> list[TapVlans]:
    return [port for port in _all(state) if port.uuid == uuid]


def _all(state: State) -> list[TapVlans]:
    return state.tap_vlans()

"""The VLANs of a domain's taps on VLAN-aware bridges, and of the uplinks they leave through."""

from __future__ import annotations

from libvirt_guestnet.datapath import links, vlan
from libvirt_guestnet.datapath.vlan import TapVlans
from libvirt_guestnet.hook import intent_vlan, xmlread
from libvirt_guestnet.state import State

# All of these want the state's lock held: hooks of different domains share an uplink.


def tag(domain: xmlread.Node, state: State, whole: bool = True) -> None:
    """Gives every tap of a domain (or, if that is not the `whole` of it, some) its VLANs, and uplinks those in use now.

    Receipts come first, so that a kill leaves nothing unknown. Raises GuestnetError when a VLAN would have no effect.
    """
    wanted = intent_vlan.tap_vlans(domain, state.network)
    present = {target.get("dev") for target in domain.all("devices/interface/target")}
    known = [port for port in _of(domain.text_of("uuid"), state) if whole or port.tap in present]
    for port in wanted:
        state.put_tap_vlans(port._asdict())
    for port in wanted:
        vlan.tag(port)
    stale = [port for port in known if port.tap not in {p.tap for p in wanted}]
    for port in stale:
        if links.master_of(port.tap) == port.bridge:
            vlan.untag(port.tap, port.bridge)
    _forget(stale, state, {port.uplink for port in (*wanted, *known)})


def untag(uuid: str, state: State) -> None:
    """Forgets the VLANs of a domain that is gone, and takes uplinks out of those that nobody uses any more."""
    _forget(_of(uuid, state), state, set())


def sweep(state: State) -> None:
    """Forgets the VLANs of taps that no longer exist."""
    _forget([port for port in _all(state) if not links.index_of(port.tap)], state, set())


def _forget(ports: list[TapVlans], state: State, uplinks: set[str]) -> None:
    for port in ports:
        state.drop_tap_vlans(port.tap)
    for uplink in sorted((uplinks | {port.uplink for port in ports}) - {""}):
        _settle(uplink, state)


def _settle(uplink: str, state: State) -> None:
    """The uplink is a member of the VLANs in use, and of those that others put it into."""
    needed = {vid for port in _all(state) if port.uplink == uplink for vid in vlan.members(port)}
    ours = state.joined(uplink)
    missing = needed - set(vlan.current(uplink)) if needed else set()
    state.put_joined(uplink, ours | missing)
    vlan.join(uplink, missing)
    vlan.leave(uplink, ours - needed)
    state.put_joined(uplink, (ours | missing) & needed)


def _of(uuid: str, state: State) -> list[TapVlans]:
    return [port for port in _all(state) if port.uuid == uuid]


def _all(state: State) -> list[TapVlans]:
    return [TapVlans(**{**f, "tagged": tuple(map(tuple, f["tagged"]))}) for f in state.tap_vlans()]

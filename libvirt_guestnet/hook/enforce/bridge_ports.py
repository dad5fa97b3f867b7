"""What a bridge sends to a guarded port: frames to its own MAC addresses, which no other port gets.

Only on bridges that libvirt or our hook made: on others, ports that are not ours may need the bridge to learn. On every
Linux bridge, what it forwards of a port with a role such as `lldp`, and would keep to its link by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import fdb, links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.datapath.port.port_facts import ROLES, forwarded_groups
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt


def expect(domain: xmlread.Node, state: UnlockedState) -> None:
    """A domain is about to migrate to here: until it runs here, its MAC addresses are behind the uplink."""
    with state.lock() as locked:
        locked.put_incoming(domain.text_of("name"), domain.text_of("uuid"))


def settle(name: str, receipts: Iterable[PortReceipt], locked: LockedState) -> None:
    """Gives a domain's guarded ports their static entries. Raises GuestnetError where another port has the MAC
    address."""
    managed, awaited = _managed(locked), locked.incoming(name)
    for receipt in receipts:
        bridge = links.master_of(receipt.tap)
        if not receipt.trusted:
            _forward_groups(receipt.tap, _groups(receipt))
        if bridge not in managed:
            continue
        if receipt.trusted:
            fdb.release(receipt.tap, [receipt.mac])
        elif awaited:
            fdb.silence(receipt.tap)
        else:
            _ensure_static(receipt, bridge)


def settle_incoming(name: str, uuid: str, locked: LockedState) -> None:
    """The same for a guest that has come from another host. Raises GuestnetError."""
    locked.drop_incoming(name)
    settle(name, (r for tap in locked.taps(uuid) if (r := locked.sound_port(tap))), locked)


def release(taps: Iterable[str], locked: LockedState) -> None:
    """Makes ports that still exist but are no longer guarded like others."""
    for receipt in filter(None, map(locked.sound_port, taps)):
        if receipt.ifindex and links.index_of(receipt.tap) == receipt.ifindex:
            fdb.release(receipt.tap, [receipt.mac])
            _forward_groups(receipt.tap, 0)


def lost(state: State) -> dict[str, str]:
    """The taps whose static entries or bridge settings are gone, each with its domain. Raises GuestnetError."""
    managed = _managed(state)
    guarded = [r for r in state.ports() if links.exists(r.tap, r.ifindex) and not r.trusted]
    ports = [r for r in guarded if links.master_of(r.tap) in managed and not state.incoming(r.domain)]
    vlans = _all_vlans() if any(map(links.is_vlan_aware, managed)) else {}
    unknown = [r for r in ports if not fdb.is_static(r.tap, r.mac, vlans.get(r.tap, ()), not _is_lent(r))]
    unknown += [r for r in guarded if _groups(r) and links.groups_forwarded(r.tap) & _groups(r) != _groups(r)]
    return {receipt.tap: receipt.domain for receipt in unknown}


def _groups(receipt: PortReceipt) -> int:
    return forwarded_groups(receipt.roles) if links.is_bridge(links.master_of(receipt.tap)) else 0


def _forward_groups(tap: str, groups: int) -> None:
    """Of the groups that are no role's, it keeps what somebody else has set."""
    before = links.groups_forwarded(tap)
    wanted = before & ~forwarded_groups(ROLES) | groups
    if before != wanted:
        with Rtnl() as netlink:
            netlink.forward_groups(links.index_of(tap), wanted)


def _ensure_static(receipt: PortReceipt, bridge: str) -> None:
    vlans = _vlans(receipt.tap) if links.is_vlan_aware(bridge) else ()
    fdb.ensure_static(receipt.tap, receipt.mac, vlans, exclusive=not _is_lent(receipt))


def _vlans(tap: str) -> Iterable[int]:
    from libvirt_guestnet.datapath.devices import vlan_bridge  # which most hosts do not need

    return vlan_bridge.current(tap)


def _all_vlans() -> Mapping[str, Iterable[int]]:
    from libvirt_guestnet.datapath.devices import vlan_bridge

    return vlan_bridge.all_current()


def _is_lent(receipt: PortReceipt) -> bool:
    """MAC addresses that a pair lends may move from port to port, as VRRP's do: for such a port the bridge goes on
    learning and flooding. Its guard sees to it that it teaches the bridge no others; an observed port may have any."""
    lent = (*receipt.lent, *(mac for mac, _ in receipt.pairs))
    return receipt.observed or any(mac not in ("", receipt.mac) for mac in lent)


def _managed(state: State) -> set[str]:
    """Linux bridges of guarded networks that libvirt or we made, except those where libvirt does all this itself."""
    bridges = state.bridges()
    receipts = {bridge: state.sound_network(name) for bridge, name in bridges.networks.items()} if bridges else {}
    return {bridge for bridge, network in receipts.items() if network and not network.libvirt_fdb}

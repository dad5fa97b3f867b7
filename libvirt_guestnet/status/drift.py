"""Where the kernel differs from libvirt's XML and the hooks' receipts. Changes nothing.

For `status`, `plan` and `doctor`, which would otherwise show only what was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.devices import host_devices
from libvirt_guestnet.datapath.devices.host_devices import too_wide
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.hook.admission import mtu
from libvirt_guestnet.hook.services import missing_state
from libvirt_guestnet.libvirtd.nics import mac, source_network, tap
from libvirt_guestnet.libvirtd.snapshot import NETWORK_MARK, DomainState, Element, NetworkState, Snapshot
from libvirt_guestnet.model.drift import GUEST, HOST, NETWORK, SYNC, Drift
from libvirt_guestnet.plan.devices import narrow_underlay
from libvirt_guestnet.router import pairing
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState

HOST_DOWN = "host down"
"""The link of a tap that the host has down."""


def wrongs(
    snapshot: Snapshot, state: UnlockedState | None = None, lacks: Mapping[str, list[str]] | None = None
) -> tuple[Drift, ...]:
    """All differences in what is ours. Only root can see what the hooks made. `lacks` is `lacking`'s, for who has asked
    already. Raises GuestnetError."""
    readable = state if state is not None else UnlockedState() if os.geteuid() == 0 else None
    lacking_here = lacks if lacks is not None else lacking(readable) if readable else {}
    ours = {network.name for network in snapshot.networks if network.mark is not None}
    found = [each for domain in snapshot.domains for each in _of_domain(domain, ours, lacking_here, readable)]
    for network in snapshot.networks:
        if network.mark is not None and network.live is not None:
            found += [*_of_network(network), *_of_tunnel(network, network.live, snapshot)]
    return (*found, *(_of_host(readable) if readable else ()))


def lacking(state: UnlockedState) -> Mapping[str, list[str]]:
    """What taps lack, by tap; not what a hook is just about to make. Raises GuestnetError."""
    if not missing_state.by_port(state):
        return {}
    with state.lock() as locked:
        return missing_state.by_port(locked)


def _of_domain(
    domain: DomainState, ours: set[str], lacks: Mapping[str, list[str]], state: State | None
) -> Iterator[Drift]:
    refused = {each.tap: each.refused for each in state.impaired_taps() if each.refused} if state else {}
    waits = _may_wait(domain) if state else frozenset()
    for nic in domain.live.iterfind("devices/interface") if domain.live is not None else ():
        device = tap(nic) or ""
        if links.index_of(device) and (domain.mark is not None or source_network(nic) in ours):
            found = _of_tap(domain.name, nic, device, state)
            yield from (each for each in found if not (mac(nic) in waits and each.link == HOST_DOWN))
            if _is_exposed(nic, device):
                yield Drift(GUEST, domain.name, device, "is not isolated from its neighbours")
            if device in lacks:
                yield Drift(GUEST, domain.name, device, f"lacks {', '.join(lacks[device])}")
            if device in refused:
                yield Drift(GUEST, domain.name, device, f"is not impaired: {refused[device]}", f"then {SYNC}")


def _may_wait(domain: DomainState) -> frozenset[str]:
    """The MAC addresses of a router's NICs that are down while the other one of its pair serves (decision 105)."""
    pair = pairing.pair_of(domain.name) if domain.is_router else None
    return next((each.macs for each in pair or () if each.router == domain.name), frozenset())


def _is_exposed(nic: Element, device: str) -> bool:
    """Whether a NIC is in its bridge, but not isolated there as it or its network said when it was made."""
    port = nic.find("port")
    said = port is not None and port.get("isolated") == "yes"
    return said and links.master_of(device) == _bridge(nic) != "" and not links.is_isolated(device)


def _mtu(nic: Element) -> int:
    mtu = nic.find("mtu")
    text = "" if mtu is None else mtu.get("size", "")
    return int(text) if text.isdigit() else 0


def _outlets(bridge: str, state: State | None) -> set[str]:
    return mtu.outlets(bridge, state) if state else set()


def _of_tap(guest: str, nic: Element, device: str, state: State | None) -> Iterator[Drift]:
    link, bridge = nic.find("link"), _bridge(nic)
    if bridge:
        yield from _of_place(guest, device, bridge, source_network(nic) or "")
    size, narrow = _mtu(nic), host_devices.outlet(bridge, _outlets(bridge, state)) if bridge else None
    if narrow and size > narrow.mtu:
        yield Drift(GUEST, guest, device, too_wide(size, narrow, bridge), f"ip link set {narrow.device} mtu {size}")
    if not links.is_up(device) and (link is None or link.get("state") != "down"):
        yield Drift(GUEST, guest, device, "is down", f"ip link set {device} up", link=HOST_DOWN)


def _bridge(nic: Element) -> str:
    """The Linux bridge in which a NIC should be; "" for one that is in none, or in Open vSwitch."""
    source = nic.find("source")
    bridge = "" if source is None or nic.find("virtualport") is not None else source.get("bridge", "")
    with suppress(parse.TextError):  # such a name no bridge can have
        return parse.device(bridge) if bridge else ""
    return ""


def _of_place(guest: str, device: str, bridge: str, network: str) -> Iterator[Drift]:
    master = links.master_of(device)
    if master == bridge or (master and not links.is_bridge(bridge) and links.index_of(bridge)):
        return  # the second: a bridge of Open vSwitch
    if master:
        do = f"ip link set {device} master {bridge}, then {SYNC}"
        yield Drift(GUEST, guest, device, f"is in {master} and not in {bridge}", do, link=f"in {master}")
    elif links.index_of(bridge):
        yield Drift(GUEST, guest, device, f"is in no bridge and not in {bridge}", link="no bridge")
    else:
        do = f"virsh net-start {network}" if network else f"make bridge {bridge}, then {SYNC}"
        yield Drift(GUEST, guest, device, f"is in no bridge: {bridge} is gone", do, link="no bridge")


_UNHELD = (
    "is of Open vSwitch's user-space datapath, which reads what a guest sends before any guard on its tap drops it: "
    "its guests are held by what Open vSwitch and OVN check, and by nothing else"
)
_USE_KERNEL = "ovs-vsctl set bridge {} datapath_type=system (OVN: remove external_ids:ovn-bridge-datapath-type, too)"


def _of_network(network: NetworkState) -> Iterator[Drift]:
    bridge, name = network.bridge or "", network.name
    if network.live is None or not bridge:
        return
    if not links.index_of(bridge):
        yield Drift(NETWORK, name, bridge, "is gone", f"virsh net-destroy {name}; virsh net-start {name}")
        return
    # A bridge of Open vSwitch carries frames whatever state the host's own port of it is in.
    if not links.is_up(bridge) and network.live.find("virtualport") is None:
        yield Drift(NETWORK, name, bridge, "is down", f"ip link set {bridge} up")
    if network.live.find(NETWORK_MARK) is not None and links.is_user_space(bridge):
        yield Drift(NETWORK, name, bridge, _UNHELD, _USE_KERNEL.format(bridge))
    addresses = _addresses(bridge)
    for ip in network.live.iterfind("ip"):
        if ip.get("address") and ip.get("address", "") not in addresses:
            yield Drift(NETWORK, name, bridge, f"lacks {ip.get('address')}", _restart(name))


def _of_tunnel(network: NetworkState, live: Element, snapshot: Snapshot) -> Iterator[Drift]:
    if narrow := narrow_underlay(live, snapshot):
        found, _, do = narrow.partition("; ")
        yield Drift(NETWORK, network.name, network.bridge or "", found, do)


def _restart(network: str) -> str:
    return f"find out who takes it (a network manager?), then virsh net-destroy {network}; virsh net-start {network}"


def _addresses(device: str) -> set[str]:
    index = links.index_of(device)
    with Rtnl() as netlink:
        return {str(each.address) for each in netlink.addresses(all_scopes=True) if each.ifindex == index}


def _of_host(state: UnlockedState) -> Iterator[Drift]:
    for receipt in state.networks():
        if receipt.uplink and receipt.bridge and links.index_of(receipt.bridge):
            yield from _of_uplink(receipt.name, receipt.uplink, receipt.bridge)
    # The tools to look with may be missing on a host where the hooks have done nothing.
    if (state.bridges() or state.forwards_in_kernel()) and missing_state.lost(state).others:
        with state.lock() as locked:
            yield from (
                Drift(HOST, "", "", f"what we have in {each} is missing") for each in missing_state.lost(locked).others
            )


def _of_uplink(network: str, uplink: str, bridge: str) -> Iterator[Drift]:
    if not links.index_of(uplink):
        yield Drift(
            NETWORK,
            network,
            uplink,
            f"is gone; it is to be in {bridge}",
            "put the device back, and restart the network",
        )
    elif links.master_of(uplink) != bridge:
        yield Drift(NETWORK, network, uplink, f"is not in {bridge}", f"ip link set {uplink} master {bridge}")
    elif not links.is_up(uplink):
        yield Drift(NETWORK, network, uplink, "is down", f"ip link set {uplink} up")

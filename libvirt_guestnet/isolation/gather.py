"""Which links this host has, by libvirt's XML, the receipts and the kernel. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from libvirt_guestnet import light_json, parse, xmlread
from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.netlink import links as devices
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.isolation.link import DOT1AD, DOT1Q, GUARDED, OBSERVED, TRUSTED, UNTAGGED, Link, Tag, Tags
from libvirt_guestnet.libvirtd.snapshot import Snapshot, to_text
from libvirt_guestnet.metadata.policy import Vlans
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt

_OVS = "openvswitch"
_VLANS = Path("/proc/net/vlan/config")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Net:
    """An active network: its receipt, and what of its XML the receipt does not have. `parent` is the NIC of which it
    has one VLAN, `tag` that VLAN's."""

    receipt: NetworkReceipt
    open_vswitch: bool = False
    vlan: int = 0
    parent: str = ""
    tag: Tag | None = None
    vni: int | None = None


@dataclass(frozen=True)
class Kernel:
    """What the kernel and Open vSwitch say of ports: the ports of each bridge, `lower` devices, each with the tag with
    which frames get there, and the VLANs that a port of a bridge is a member of, each with whether untagged."""

    ports: Mapping[str, frozenset[str]]
    lower: Mapping[str, Mapping[str, Tags]]
    members: Mapping[str, Mapping[int, bool]]


def gather(snapshot: Snapshot, state: State) -> tuple[Link, ...]:
    """Every link of guests that guestnet knows. Raises GuestnetError."""
    nets = [net for each in snapshot.networks if each.told is not None and (net := _net(each.name, to_text(each.told), state))]  # fmt: skip  # noqa: E501
    running = [xmlread.parse(to_text(each.live).encode()) for each in snapshot.domains if each.live is not None]
    domains = [bridge_guard.joined(xml, state) for xml in running]
    return tuple(links(nets, domains, _kernel(nets)))


def _net(name: str, xml: str, state: State) -> Net | None:
    receipt, node = state.network(name), xmlread.parse(xml.encode())
    if receipt is None or receipt.undeclared or not receipt.bridge:
        return None
    virtualport, over, vxlan = node.one("virtualport"), network_receipts.subinterface(node), network_receipts.overlay(node)  # fmt: skip  # noqa: E501
    is_ovs = virtualport is not None and virtualport.get("type") == _OVS
    tag = node.one("vlan/tag") if is_ovs else None
    found = Net(
        receipt, is_ovs, parse.number(tag.get("id"), 0, 4094) if tag else receipt.vlan, vni=vxlan.vni if vxlan else None
    )
    if over is None:
        return found
    return replace(found, parent=over.nic, tag=Tag(DOT1AD if over.service else DOT1Q, over.vlan))


# ---- pure


@dataclass(frozen=True)
class _Host:
    """What the parts of it are looked up in: the first network of each bridge, all by name, all guests' taps, and the
    kernel."""

    on_bridge: Mapping[str, Net]
    named: Mapping[str, Net]
    taps: frozenset[str]
    kernel: Kernel

    def access(self, nic: Nic) -> int:
        """The VLAN of a port's untagged frames: its own, or its network's; several may have one bridge."""
        own = self.named.get(nic.network or "")
        if own is None or own.receipt.bridge != nic.bridge_of_network:
            own = self.on_bridge[nic.bridge_of_network]
        return _vlans(nic).untagged or own.vlan


def links(nets: Collection[Net], domains: Collection[Domain], kernel: Kernel) -> Iterator[Link]:
    """The links of networks, of VLANs that single ports have there, and of host-routed guests."""
    nics = [nic for domain in domains for nic in domain.nics if nic.has_tap and nic.tap]
    on_bridge = {net.receipt.bridge: net for net in reversed(list(nets))}
    named = {net.receipt.name: net for net in nets}
    host = _Host(on_bridge, named, frozenset(nic.tap for nic in nics), kernel)
    for (bridge, vlan), names in _names(nets, nics, host).items():
        net = next((net for net in nets if net.receipt.name == names[0]), on_bridge[bridge])
        yield _link(host, vlan, names, [nic for nic in nics if nic.bridge_of_network == bridge], net)
    for nic in nics:
        if nic.policy is not None and nic.policy.routed is not None:
            yield Link(nic.tap, 0, (nic.policy.network,), ways=(_way(nic),), alone=True)


def _names(nets: Collection[Net], nics: Collection[Nic], host: _Host) -> dict[tuple[str, int], list[str]]:
    """The networks on each bridge and VLAN."""
    found: dict[tuple[str, int], list[str]] = {}
    for net in nets:
        found.setdefault((net.receipt.bridge, net.vlan), []).append(net.receipt.name)
    for nic in (nic for nic in nics if nic.bridge_of_network in host.on_bridge and not _vlans(nic).tagged):
        bridge = nic.bridge_of_network
        names = found.setdefault((bridge, host.access(nic)), [])
        name = nic.network or host.on_bridge[bridge].receipt.name
        names += [] if name in names else [name]
    return found


def _link(host: _Host, vlan: int, names: list[str], nics: list[Nic], net: Net) -> Link:
    receipt = net.receipt
    bare = Link(
        receipt.bridge,
        vlan,
        tuple(names),
        receipt.topology,
        vni=net.vni,
        isolated=receipt.isolated,
        open_vswitch=net.open_vswitch,
        service=receipt.service,
    )
    ports = {nic.tap: stacks for nic in nics if (stacks := _stacks_of(nic, bare, host))}
    here = [nic for nic in nics if not _vlans(nic).tagged and host.access(nic) == vlan]
    ways = tuple(dict.fromkeys(map(_way, here))) or (_default_way(receipt),)
    return replace(bare, ports=ports, ways=ways, exits=_exits(net, bare, host))


def _vlans(nic: Nic) -> Vlans:
    return nic.vlans or Vlans()


def _stacks_of(nic: Nic, link: Link, host: _Host) -> frozenset[Tags]:
    """With which tags a guest's port gets frames of a link; none if it does not."""
    vlans, found = _vlans(nic), set[Tags]()
    access = (vlans.untagged or -1) if vlans.tagged else host.access(nic)
    if access == link.vlan:
        found.add(())
    if any(first <= link.vlan <= last for first, last in vlans.tagged) and not (found and link.vlan):
        found.add(link.tag)
    return frozenset(found)


def _way(nic: Nic) -> str:
    return (OBSERVED if nic.is_observed else GUARDED) if nic.is_guarded else TRUSTED


def _default_way(receipt: NetworkReceipt) -> str:
    if receipt.observed and not receipt.required:
        return OBSERVED
    return GUARDED if receipt.guarded or receipt.required else TRUSTED


def _exits(net: Net, link: Link, host: _Host) -> dict[str, frozenset[Tags]]:
    """By what a link leaves the host. Of a bridge of ours, or one whose uplink the host's file names, that is known; of
    another, whatever is on it and is no guest's port belongs to the link."""
    receipt, kernel = net.receipt, host.kernel
    if net.tag:
        return _with_lower({receipt.overlay: UNTAGGED, net.parent: frozenset({(net.tag,)})}, {net.parent}, kernel)
    if receipt.vlan_uplink:
        return _with_lower({receipt.vlan_uplink: frozenset({link.tag})}, {receipt.vlan_uplink}, kernel)
    if receipt.managed or receipt.overlay or receipt.uplink:
        known = {name for name in (receipt.overlay, receipt.uplink, f"{receipt.bridge}-nic") if name}
        return _with_lower(dict.fromkeys(known, UNTAGGED), known, kernel)
    others = kernel.ports.get(receipt.bridge, frozenset()) - host.taps
    found = {port: frozenset({stack}) for port in others if (stack := _stack(port, link, kernel)) is not None}
    return _with_lower(found, set(found), kernel)


def _stack(port: str, link: Link, kernel: Kernel) -> Tags | None:
    if not link.vlan:
        return ()
    untagged = kernel.members.get(port, {}).get(link.vlan)
    return None if untagged is None else () if untagged else link.tag


def _with_lower(exits: dict[str, frozenset[Tags]], roots: set[str], kernel: Kernel) -> dict[str, frozenset[Tags]]:
    """With the devices below: a bond's NICs, and the NIC of a VLAN's device, where its frames have one tag more."""
    found, left = dict(exits), sorted(roots)
    while left:
        upper = left.pop()
        for lower, more in kernel.lower.get(upper, {}).items():
            if lower not in found:
                found[lower] = frozenset((*more, *stack) for stack in found[upper])
                left.append(lower)
    return found


# ---- reading


def _kernel(nets: Collection[Net]) -> Kernel:
    bridges = {net.receipt.bridge for net in nets if not net.open_vswitch}
    ports = {bridge: frozenset(devices.ports_of(bridge)) for bridge in bridges}
    members = _bridge_members(bridges)
    for bridge in {net.receipt.bridge for net in nets if net.open_vswitch}:
        tags = _ovs_tags(bridge)
        ports[bridge] = frozenset(tags)
        members |= {port: _ovs_members(tag, trunks) for port, (tag, trunks) in tags.items()}
    return Kernel(ports, _lower(), members)


def _bridge_members(bridges: Collection[str]) -> dict[str, Mapping[int, bool]]:
    if not any(map(devices.is_vlan_aware, bridges)):
        return {}
    found = vlan_bridge.all_current()
    return {port: {vid: "Egress Untagged" in flags for vid, flags in vlans.items()} for port, vlans in found.items()}


def _ovs_tags(bridge: str) -> dict[str, tuple[int, frozenset[int]]]:
    """Each port of a bridge of Open vSwitch, with its access VLAN (0: none) and its trunk's."""
    names = program.said(["ovs-vsctl", "list-ports", bridge], "openvswitch-switch").split()
    listed = light_json.loads(
        program.said(["ovs-vsctl", "--format=json", "--columns=name,tag,trunks", "list", "Port"], "openvswitch-switch")
    )
    rows = ((name, tag if isinstance(tag, int) else 0, _numbers(trunks)) for name, tag, trunks in listed["data"])
    return {name: (tag, trunks) for name, tag, trunks in rows if name in names}


def _numbers(column: object) -> frozenset[int]:
    """OVSDB has one element bare, and several as ["set", [...]]."""
    if isinstance(column, int):
        return frozenset({column})
    listed = column[1] if isinstance(column, list) and len(column) == 2 else []
    return frozenset(each for each in listed if isinstance(each, int))


def _ovs_members(tag: int, trunks: frozenset[int]) -> Mapping[int, bool]:
    """A port without a tag is a trunk; one that does not say of what is one of all VLANs."""
    return {tag: True} if tag and not trunks else dict.fromkeys(trunks or range(1, 4095), False)


def _lower() -> dict[str, dict[str, Tags]]:
    vlans = _vlan_devices()
    found: dict[str, dict[str, Tags]] = {}
    for name in devices.names():
        with suppress(OSError):
            entries = Path("/sys/class/net", name).iterdir()
            below = [entry.name.removeprefix("lower_") for entry in entries if entry.name.startswith("lower_")]
            if below and not devices.is_bridge(name):
                found[name] = {lower: vlans.get(name, ()) for lower in below}
    return found


def _vlan_devices() -> dict[str, Tags]:
    """The tag of each VLAN's device."""
    try:
        with _VLANS.open() as file:
            lines = [line.split("|") for line in file.read(_LARGEST).splitlines()]
    except OSError:
        return {}
    return {line[0].strip(): (Tag(DOT1Q, int(line[1])),) for line in lines if len(line) == 3 and line[1].strip().isdigit()}  # fmt: skip  # noqa: E501


def check_active(wanted: Collection[str], found: Collection[Link]) -> list[str]:
    """The networks of a topology that are on no link of this host."""
    present = {name for link in found for name in link.networks}
    return sorted(set(wanted) - present)

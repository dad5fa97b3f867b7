"""`guestnet doctor`: what on this host keeps guests from being guarded or reached. Changes nothing.

Here facts are gathered; `judge` judges them.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_guestnet.datapath.devices.subinterface import VlanDevice
from libvirt_guestnet.datapath.firewalls import iptables, registry
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.doctor import claimed, host_ways, judge, path
from libvirt_guestnet.doctor.host_facts import Asleep, HostFacts, NetworkFacts
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import address_owners
from libvirt_guestnet.hook.enforce import checksum_guard, forwards
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.hook.read.hostwide import HostWide
from libvirt_guestnet.hostmap import HOST_FILE, HostMap, load_hostwide
from libvirt_guestnet.importing import survey
from libvirt_guestnet.install import apparmor, hook_files, network_managers
from libvirt_guestnet.libvirtd.nics import networks_of
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState, Snapshot
from libvirt_guestnet.metadata.policy import Uplink, Vxlan
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.router import folder
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging, PortForwards
from libvirt_guestnet.status.drift import wrongs
from libvirt_guestnet.status.unguarded import unguarded_rows

_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_BRIDGED = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}


def gather(uri: str | None, topology: Topology | None, hostmap: HostMap, *, packets: bool = False) -> HostFacts:
    """The facts of this host; with `packets`, paths to other hosts are measured. Raises GuestnetError when a program
    does not answer."""
    snapshot, unreachable = _snapshot(uri)
    is_root = os.geteuid() == 0
    ways = host_ways.gather(snapshot, UnlockedState() if is_root else None)
    facts = HostFacts(
        libvirt=hook_files.libvirt_version(),
        unreachable=unreachable,
        hooks=tuple(hook_files.status()),
        loose=_complaint(),
        kernel=kernel_features(_kernel_config(), _has_module),
        networks=tuple(_networks(snapshot)),
        unguardable=tuple(unguarded_rows(snapshot.domains, *(_unguarded_facts(UnlockedState()) if is_root else ({},)))),
        forwarding={version: _sysctl(path) == "1" for version, path in _SYSCTLS.items()},
        bridged={version: _sysctl(path) == "1" for version, path in _BRIDGED.items()},
        chains=None,
        offload=None,
        devices=frozenset(links.names()),
        wrong=wrongs(snapshot),
        asleep=tuple(asleep(snapshot)),
        left_out=survey.left_out(snapshot),
        claimed=tuple(claimed.claimed(snapshot)),
        ways=replace(ways, measured=tuple(path.measured(snapshot)) if packets else ()),
        **_needs(snapshot, {} if topology is None else wanted_by(topology, hostmap)),
    )
    left = {} if unreachable or not is_root else _left_routers(snapshot)
    return replace(_seen_by_root(facts, UnlockedState()), left_routers=left) if is_root else facts


def _left_routers(snapshot: Snapshot) -> dict[str, str]:
    with suppress(GuestnetError):  # whoever made it unreadable hears of it when a router is made
        return {name: topology for name, topology in folder.found().items() if name not in snapshot.domain}
    return {}


def _seen_by_root(facts: HostFacts, state: State) -> HostFacts:
    from libvirt_guestnet.datapath.netlink.kernel import guarded_taps

    active = [each for each in state.forwards() if each.active]
    reached, untranslated = ({each.bridge for each in found} for found in (active, filter(_untranslated, active)))
    isolated = isolated_forwards(active)
    routed = tuple(
        NetworkFacts(tap, tap, "host-routed", frozenset({4, 6}), vrf=vrf) for tap, vrf in _routed_taps(state)
    )
    guarded = guarded_taps()
    admitted = guarded | {port.tap for port in state.ports() if port.trusted}
    chains = tuple(registry.survey(forwards.wanted_accepts(state)))
    return replace(
        facts,
        networks=(*(_reached(net, reached, untranslated, isolated) for net in facts.networks), *routed),
        chains=chains,
        legacy=iptables.legacy(),
        firewalls=registry.managed(chains),
        hostwide=_read_hostwide()[1],
        offload=_offload(state),
        stale=tuple(sorted(state.tapnames() - facts.devices)),
        unguarded=tuple(_unguarded(state, admitted)),
        observed=tuple(sorted(f"{port.domain} {port.mac}" for port in state.ports() if port.observed)),
        taken=tuple(address_owners.refused_now(state)),
        confined=tuple(apparmor.denied()),
        claims=tuple(network_managers.claims(_ours(state) & facts.devices)),
        unmanaged=network_managers.unmanaged_file(),
    )


def _ours(state: State) -> set[str]:
    """The guests' devices, and those made for them."""
    made = ((net.overlay, net.bridge if net.managed else "") for net in state.networks())
    return {name for names in made for name in names if name} | state.tapnames()


def _offload(state: State) -> str:
    """The reason why this host cannot have the checksum guard, as the hooks found or as shows without them; or ""."""
    from libvirt_guestnet.datapath.port import bpfload

    try:
        return checksum_guard.program_state(state).cannot or bpfload.lacking()
    except GuestnetError as error:
        return str(error)


def _untranslated(port: PortForwards) -> bool:
    return any(floating.via for floating in port.floating)


def isolated_forwards(active: Sequence[PortForwards]) -> dict[str, frozenset[int]]:
    """By bridge, the IP versions of translated forwards to a port that the kernel isolates from another port of it."""
    found: dict[str, frozenset[int]] = {}
    for forwarding in active:
        alone = [port for port in links.ports_of(forwarding.bridge) if links.port_setting(port, "isolated")]
        if forwarding.tap in alone and len(alone) > 1:
            to = [*(f.to for f in forwarding.forwards), *(f.to for f in forwarding.floating if not f.via)]
            versions = frozenset(6 if ":" in address else 4 for address in to)
            found[forwarding.bridge] = found.get(forwarding.bridge, frozenset()) | versions
    return found


def _reached(
    net: NetworkFacts, reached: set[str], untranslated: set[str], isolated: Mapping[str, frozenset[int]]
) -> NetworkFacts:
    return replace(
        net,
        reached=net.device in reached,
        untranslated=net.device in untranslated,
        isolated=isolated.get(net.device, frozenset()),
    )


def _routed_taps(state: State) -> list[tuple[str, str]]:
    """The taps of host-routed guests, each with its VRF, if any: they are on no bridge."""
    found = ((receipt.tap, receipt.vrf) for receipt in state.host_routes())
    present = ((tap, vrf) for tap, vrf in found if links.index_of(tap) and not links.is_bridge(tap))
    return [(tap, vrf) for tap, vrf in present if links.master_of(tap) == vrf]


def _unguarded(state: State, admitted: set[str]) -> Iterator[tuple[str, str]]:
    for network in state.networks():
        if network.managed:
            expected = {*admitted, network.uplink, network.overlay, network.vlan_uplink, f"{network.bridge}-nic"}
            yield from ((port, network.bridge) for port in sorted(links.ports_of(network.bridge) - expected))


def _complaint() -> str:
    try:
        hook_files.check_owner()
    except GuestnetError as error:
        return str(error)
    return ""


def _unguarded_facts(state: State) -> tuple[Mapping[str, NetworkReceipt], HostWide, list[Plugging]]:
    return {network.name: network for network in state.networks()}, _read_hostwide()[0], state.pluggings()


def _read_hostwide() -> tuple[HostWide, str]:
    """What the hooks read of host.yaml; and a message if host.yaml says something else."""
    wanted = load_hostwide()
    try:
        found = hostwide.read()
    except GuestnetError as error:
        return wanted, str(error).partition(": run")[0]
    return found, "" if found == wanted else f"is not what {HOST_FILE} says"


def _snapshot(uri: str | None) -> tuple[Snapshot, str]:
    """What libvirt has; and the error if it does not answer."""
    from libvirt_guestnet.libvirtd.connection import connect, host_snapshot

    try:
        with connect(uri) as connection:
            return host_snapshot(connection), ""
    except GuestnetError as error:
        return Snapshot(), str(error)


def _networks(snapshot: Snapshot) -> Iterator[NetworkFacts]:
    """The active networks of ours."""
    for each in snapshot.networks:
        if each.topology is not None and each.live is not None:
            yield _network(each, each.live)


def asleep(snapshot: Snapshot) -> Iterator[Asleep]:
    """The networks that guests would miss, at boot or now. Pure."""
    for each in snapshot.networks:
        needing = [domain for domain in snapshot.domains if each.name in networks_of(domain.config)]
        at_boot = tuple(domain.name for domain in needing if domain.autostart and not each.autostart)
        ours = tuple(domain.name for domain in needing if domain.topology is not None and domain.live is None)
        now = ours if each.live is None and each.topology is None else ()
        if at_boot or now:
            yield Asleep(each.name, at_boot, now)


def _network(state: NetworkState, live: Element) -> NetworkFacts:
    forward = live.find("forward")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    versions = frozenset(6 if ip.get("family") == "ipv6" else 4 for ip in live.iterfind("ip"))
    return NetworkFacts(state.name, state.bridge or "", mode, versions or frozenset({4, 6}))


def wanted_by(topology: Topology, hostmap: HostMap) -> dict[str, Any]:
    """What a topology needs of a host: `labels` and `needed` of the facts. Pure."""
    labels = {net.physical_network for net in topology.networks} - {None}
    ports = [port for guest in topology.guests for port in guest.ports]
    needed = {
        "vxlan": any(net.vxlan for net in topology.networks),
        "vlan": any(net.vlan and net.mode == "bridge" for net in topology.networks),
        "vlan filtering": any(port.vlan or port.trunk for port in ports),
        "netem": any(port.impairment for port in ports),
    }
    return {
        "labels": {label: hostmap.device(label) if label in hostmap.devices else "" for label in sorted(labels)},  # type: ignore[type-var,arg-type]
        "needed": frozenset(name for name, is_needed in needed.items() if is_needed),
    }


def _needs(snapshot: Snapshot, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what networks that libvirt has need, active or not."""
    lacking = wanting(snapshot)
    return {**asked, "needed": frozenset(asked.get("needed", ())) | lacking.keys(), "wanting": lacking}


def wanting(snapshot: Snapshot) -> dict[str, str]:
    """By feature of the kernel, a device that a network of ours needs and this host does not have. Pure, but for
    reading the networks."""
    found: dict[str, str] = {}
    for network in snapshot.networks:
        said = host_ways.policy_of(network) if network.topology is not None and network.live is None else None
        carrier = said.carrier if said else None
        if isinstance(carrier, Uplink) and carrier.vlan:
            found["vlan"] = VlanDevice(network.bridge or "", carrier.device, carrier.vlan).device
        elif isinstance(carrier, Vxlan):
            found["vxlan"] = f"of VXLAN {carrier.vni}"
    return found


def kernel_features(config: str | None, loadable: Any) -> Mapping[str, bool | None]:
    """By feature, whether a kernel of this configuration (None: unknown) has it. `loadable` returns for a module
    whether it is loaded or can be."""
    lines = None if config is None else set(config.splitlines())
    return {name: _has(each, lines, loadable) for name, each in judge.FEATURES.items()}


def _has(feature: judge.Feature, lines: set[str] | None, loadable: Any) -> bool | None:
    option = f"CONFIG_{feature.option}"
    if lines is None:
        return True if feature.module and loadable(feature.module) else None
    # A configured module may be in a package that is not installed.
    return f"{option}=y" in lines or (f"{option}=m" in lines and bool(loadable(feature.module)))


def _kernel_config() -> str | None:
    release = os.uname().release
    for file in (Path("/proc/config.gz"), Path(f"/boot/config-{release}"), Path(f"/lib/modules/{release}/config")):
        try:
            data = file.read_bytes()
        except OSError:
            continue
        return (gzip.decompress(data) if file.suffix == ".gz" else data).decode(errors="replace")
    return None


def _has_module(name: str) -> bool:
    if Path("/sys/module", name).is_dir():
        return True
    try:
        return program.run(["modprobe", "-n", "-q", name], "", "kmod").status == 0
    except GuestnetError:
        return False  # without kmod nothing can be loaded


def _sysctl(path: str) -> str:
    try:
        return Path("/proc/sys", path).read_text().strip()
    except OSError:
        return ""

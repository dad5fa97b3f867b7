"""`guestnet doctor`: what on this host keeps guests from being guarded or reached. Changes nothing.

Here facts are gathered; `doctor_rows` judges them.
"""

from __future__ import annotations

import gzip
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_guestnet import doctor_rows, install
from libvirt_guestnet.datapath import firewalls, links, program
from libvirt_guestnet.datapath.ways import Ways
from libvirt_guestnet.doctor_rows import FINE, MUST, Facts, Network, Row
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import ways
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model import Topology
from libvirt_guestnet.snapshot import Element, NetworkState
from libvirt_guestnet.state import State

_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_BRIDGED = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}


def doctor(args: Namespace) -> int:
    """The verb: 1 when something must be done."""
    from libvirt_guestnet import commands
    from libvirt_guestnet.hostmap import load_hostmap

    found = None if args.topology is None else commands.load(args)
    rows = doctor_rows.judge(gather(args.connect, found, load_hostmap(pairs=args.map)))
    print(json.dumps([row.json() for row in rows], indent=2) if args.json else text(rows))
    return 1 if any(row.level == MUST for row in rows) else 0


def text(rows: Sequence[Row]) -> str:
    """What there is to say, a paragraph each; what is fine is only counted."""
    said = [row for row in rows if row.level != FINE]
    lines = [f"{row.level.upper()}: {' '.join(filter(None, (row.check, row.about)))}: {row.found}" for row in said]
    with_advice = [f"{line}\n      {row.do}" if row.do else line for line, row in zip(lines, said, strict=True)]
    return "\n".join([*with_advice, f"{len(rows) - len(said)} of {len(rows)} things are fine"])


def gather(uri: str | None, topology: Topology | None, hostmap: HostMap) -> Facts:
    """What is so on this host. Raises GuestnetError when a program it asks does not answer."""
    networks, unreachable = _networks(uri)
    facts = Facts(
        libvirt=install.libvirt_version(),
        unreachable=unreachable,
        hooks=tuple(install.status()),
        loose=_complaint(),
        kernel=kernel_features(_kernel_config(), _has_module),
        networks=tuple(networks),
        forwarding={version: _sysctl(path) == "1" for version, path in _SYSCTLS.items()},
        bridged={version: _sysctl(path) == "1" for version, path in _BRIDGED.items()},
        chains=None,
        devices=frozenset(links.names()),
        **({} if topology is None else wanted_by(topology, hostmap)),
    )
    return _seen_by_root(facts, State()) if os.geteuid() == 0 else facts


def _seen_by_root(facts: Facts, state: State) -> Facts:
    from libvirt_guestnet.datapath.kernel import guarded_taps

    active = [way for way in ways.receipts(state) if way.active]
    reached, untranslated = ({each.bridge for each in found} for found in (active, filter(_untranslated, active)))
    routed = tuple(Network(tap, tap, "host-routed", frozenset({4, 6}), vrf=vrf) for tap, vrf in _routed_taps(state))
    guarded = guarded_taps()
    admitted = guarded | {port.tap for port in state.ports() if port.trusted}
    chains = tuple(_with_sources(state))
    return replace(
        facts,
        networks=(*(_reached(net, reached, untranslated) for net in facts.networks), *routed),
        chains=chains,
        legacy=firewalls.legacy(),
        firewalls=tuple(sorted({chain.tool for chain in chains} - {"nft", "iptables"})),
        stale=tuple(sorted(state.tapnames() - facts.devices)),
        unguarded=tuple(_unguarded(state, admitted)),
    )


def _untranslated(way: Ways) -> bool:
    return any(floating.via for floating in way.floating)


def _reached(net: Network, reached: set[str], untranslated: set[str]) -> Network:
    return replace(net, reached=net.device in reached, untranslated=net.device in untranslated)


def _with_sources(state: State) -> Iterator[firewalls.Chain]:
    """Ours counts in firewalld's chains if it knows our sources."""
    for chain in firewalls.chains():
        yield chain._replace(ours=_knows_us(state)) if chain.tool == "firewalld" else chain


def _knows_us(state: State) -> bool:
    try:
        return not ways.unknown(state)
    except GuestnetError:
        return False  # such as without the zone: then it refuses them


def _routed_taps(state: State) -> list[tuple[str, str]]:
    """Of host-routed guests, each with its VRF, if any: no bridge is under them."""
    found = ((str(fields["tap"]), str(fields.get("vrf", ""))) for fields in state.reaches())
    there = ((tap, vrf) for tap, vrf in found if links.index_of(tap) and not links.is_bridge(tap))
    return [(tap, vrf) for tap, vrf in there if links.master_of(tap) == vrf]


def _unguarded(state: State, admitted: set[str]) -> Iterator[tuple[str, str]]:
    for network in state.networks():
        if network.managed:
            known = {*admitted, network.uplink, network.overlay, network.vlan_uplink, f"{network.bridge}-nic"}
            yield from ((port, network.bridge) for port in sorted(links.ports_of(network.bridge) - known))


def _complaint() -> str:
    try:
        install.check_owner()
    except GuestnetError as error:
        return str(error)
    return ""


def _networks(uri: str | None) -> tuple[list[Network], str]:
    """The active networks of ours; and why libvirt does not tell, if so."""
    from libvirt_guestnet.apply import host_snapshot
    from libvirt_guestnet.virt import connect

    try:
        with connect(uri) as connection:
            found = host_snapshot(connection).networks
    except GuestnetError as error:
        return [], str(error)
    return [_network(each, each.live) for each in found if each.topology is not None and each.live is not None], ""


def _network(state: NetworkState, live: Element) -> Network:
    forward = live.find("forward")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    versions = frozenset(6 if ip.get("family") == "ipv6" else 4 for ip in live.iterfind("ip"))
    return Network(state.name, state.bridge or "", mode, versions or frozenset({4, 6}))


def wanted_by(topology: Topology, hostmap: HostMap) -> dict[str, Any]:
    """What a topology needs of a host: `labels` and `needed` of the facts. Pure."""
    labels = {net.physical_network for net in topology.networks} - {None}
    ports = [port for guest in topology.guests for port in guest.ports]
    needed = {
        "vxlan": any(net.vxlan for net in topology.networks),
        "vlan": any(net.vlan and net.mode == "bridge" for net in topology.networks),
        "vlan filtering": any(port.vlan or port.trunk for port in ports),
    }
    return {
        "labels": {label: hostmap.device(label) if label in hostmap.devices else "" for label in sorted(labels)},  # type: ignore[type-var,arg-type]
        "needed": frozenset(name for name, is_needed in needed.items() if is_needed),
    }


def kernel_features(config: str | None, loadable: Any) -> Mapping[str, bool | None]:
    """By feature: whether the kernel of this configuration (None: unknown) has it. `loadable` says of a module whether
    it is loaded, or there to be."""
    lines = None if config is None else set(config.splitlines())
    return {name: _has(each, lines, loadable) for name, each in doctor_rows.FEATURES.items()}


def _has(feature: doctor_rows.Feature, lines: set[str] | None, loadable: Any) -> bool | None:
    option = f"CONFIG_{feature.option}"
    if lines is None:
        return True if feature.module and loadable(feature.module) else None
    # A module that is configured may still be in a package of its own.
    return f"{option}=y" in lines or (f"{option}=m" in lines and bool(loadable(feature.module)))


def _kernel_config() -> str | None:
    release = os.uname().release
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{release}"), Path(f"/lib/modules/{release}/config")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
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

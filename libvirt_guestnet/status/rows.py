"""What runs: networks and ports as libvirt has them, what the hooks put on each tap, and forwards and routes to it.
Flat rows for tables and `jq`: each field is a column.

Networks appear if they have our mark, and so do domains that do not run. Of each running domain every NIC appears,
whoever made it, with its state: what nobody guards is what one looks for in a status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TypeVar

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.read.hostwide import NOTHING_REQUIRED, REFUSE, HostWide
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.drift import NETWORK, Drift
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging, PortForwards, PortReceipt
from libvirt_guestnet.status.forwards import ForwardRow, forward_rows
from libvirt_guestnet.status.joining import Joining, with_declared
from libvirt_guestnet.status.ports import (
    CANNOT,
    MISSING,
    NO_CHECKSUM_FACTS,
    ON,
    ChecksumGuards,
    PortFacts,
    PortRow,
    Seen,
    of_taps,
    port_rows,
    said,
)
from libvirt_guestnet.status.routes import NO_ROUTE_FACTS, RouteFacts, RouteRow, route_rows
from libvirt_guestnet.status.unguarded import UnguardedRow, unguarded_rows

_State = TypeVar("_State", DomainState, NetworkState)


@dataclass(frozen=True)
class NetworkRow:
    """One network of ours. `mode` is libvirt's forward mode, "isolated", or "host-routed", of which libvirt knows
    nothing: it is where its guests are, and active while one of them runs.

    `bridge_guard` says whether a port of the bridge that nobody guards passes nothing: one of the words below, or ""
    where there is no active bridge; `silent` are such ports. `wrong` says what the kernel has otherwise than it should.
    An `external` network is somebody else's.
    """

    topology: str
    name: str
    mode: str
    bridge: str
    active: bool
    autostart: bool
    ports: int
    bridge_guard: str = ""
    silent: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    external: bool = False

    def json(self) -> dict[str, object]:
        return {"kind": "network", **asdict(self), "silent": list(self.silent), "wrong": list(self.wrong)}


# `bridge_guard` of a network, beside ON and CANNOT. NOT_OURS: the bridge was there before, with other people's ports.
# MISSING: the hooks were not there when the network started, or somebody flushed the rules.
NOT_OURS, NOT_WANTED, OBSERVED = "not our bridge", "not wanted", "observed"


@dataclass(frozen=True)
class BridgeGuards:
    """What the kernel's bridge guard holds: bridges, and the ports that it lets through; whether the kernel refused;
    and what the hooks know of active networks, and of the bridges that they close, each with its network."""

    bridges: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    refused: bool = False
    networks: Mapping[str, NetworkReceipt] = field(default_factory=dict)
    managed: Mapping[str, str] = field(default_factory=dict)


Row = NetworkRow | PortRow | ForwardRow | RouteRow | UnguardedRow


def status(
    snapshot: Snapshot,
    topology: str | None = None,
    receipt: Callable[[str], PortReceipt | None] | None = None,
    seen: Seen = lambda _tap: None,
    open_forwards: Iterable[PortForwards] = (),
    *,
    guards: BridgeGuards = BridgeGuards(),
    offload: ChecksumGuards = NO_CHECKSUM_FACTS,
    route_facts: RouteFacts = NO_ROUTE_FACTS,
    host: HostWide = NOTHING_REQUIRED,
    plugging: Iterable[Plugging] = (),
    wrong: Sequence[Drift] = (),
    lacks: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[Row]:
    """Every network, port, forward and route to a guest of one topology, or of all, in this order; and every NIC of a
    running domain that nothing can guard. Without a topology, ports are all NICs of all running domains.

    `receipt` says what the hooks applied to a tap (their state under /run unless given), `seen` what the kernel knows
    of it, `open_forwards` which forwards are open, `guards` the state of the bridge guard, `offload` that of the
    checksum guard, `route_facts` the routes to guests, `host` what this host asks of every domain, `plugging` which
    NICs wait for their guard, `wrong` what the kernel has otherwise than it should, `lacks` what of that taps lack.
    Raises GuestnetError when the state under /run is damaged.
    """
    found, networks = _sorted(snapshot.domains), _sorted(snapshot.networks)
    domains = [domain for domain in found if _shown(domain, topology)]
    rows: list[Row] = [_network(n, snapshot, guards, wrong) for n in networks if _shown(n, topology)]
    rows += _routed_networks(domains)
    facts = PortFacts(
        receipt=UnlockedState().sound_port if receipt is None else receipt,
        seen=seen,
        offload=offload,
        joining=Joining(with_declared(guards.networks, snapshot.networks), guards.managed, host.guard),
        refused=host.unguardable == REFUSE,
        wrong=of_taps(wrong),
        lacks=lacks,
    )
    shown = found if topology is None else domains
    for domain in shown:
        rows += port_rows(domain, facts, every=topology is None)
    unguarded = unguarded_rows(shown, facts.joining.networks, host, plugging)
    return [*rows, *forward_rows(domains, open_forwards), *route_rows(domains, route_facts), *unguarded]


def _sorted(states: Iterable[_State]) -> list[_State]:
    """By name: libvirt lists them in any order."""
    return sorted(states, key=lambda each: each.name)


def _shown(state: DomainState | NetworkState, topology: str | None) -> bool:
    """Whether it is ours, of that topology or, for None, of any or of none."""
    return state.mark is not None if topology is None else state.topology == topology


def _network(state: NetworkState, snapshot: Snapshot, guards: BridgeGuards, wrong: Sequence[Drift]) -> NetworkRow:
    guard = _bridge_guard(state, guards)
    forward = state.current.find("forward")
    return NetworkRow(
        topology=state.topology or "",
        name=state.name,
        mode="isolated" if forward is None else forward.get("mode", "nat"),
        bridge=state.bridge or "",
        active=state.live is not None,
        autostart=state.autostart,
        ports=len(snapshot.plugged.get(state.name, ())),
        bridge_guard=guard,
        silent=tuple(sorted(links.ports_of(state.bridge or "") - guards.ports)) if guard == ON else (),
        wrong=tuple(said(each) for each in wrong if (each.kind, each.owner) == (NETWORK, state.name)),
        external=state.is_external,
    )


def _routed_networks(domains: list[DomainState]) -> Iterator[NetworkRow]:
    running: dict[tuple[str, str], int] = {}
    for domain in domains:
        for port in domain.policies:
            if port.routed is not None:
                key = (domain.topology or "", port.network)
                running[key] = running.get(key, 0) + (domain.live is not None)
    for (topology, name), ports in running.items():
        yield NetworkRow(topology, name, "host-routed", "", ports > 0, False, ports)


def _bridge_guard(network: NetworkState, guards: BridgeGuards) -> str:
    if network.live is None:
        return ""
    if network.bridge in guards.bridges:
        return ON
    receipt = guards.networks.get(network.name)
    if receipt is not None and receipt.external:
        return NOT_OURS
    if receipt is not None and not receipt.managed:
        return NOT_OURS if receipt.guarded else NOT_WANTED
    if receipt is not None and receipt.observed:
        return OBSERVED
    return CANNOT if guards.refused and receipt is not None else MISSING

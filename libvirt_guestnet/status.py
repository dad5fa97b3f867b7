"""What runs: networks and ports as libvirt has them, what the hooks put on each tap and what leads to it. Flat rows for
tables and `jq`.

Networks and domains appear when they carry our mark; a NIC of a lab guest appears even if our metadata does not list
it (`port` is then empty), since an unlisted NIC is what one looks for in a status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from libvirt_guestnet.datapath import links
from libvirt_guestnet.datapath.kernel import Guarded
from libvirt_guestnet.datapath.ways import Ways
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.snapshot import (
    DOMAIN_MARK,
    PORT_MARK,
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    interfaces,
    source_network,
    tap,
)
from libvirt_guestnet.state import NetworkReceipt, PortReceipt, State
from libvirt_guestnet.status_routes import NOTHING_LED, Led, RouteRow, route_rows
from libvirt_guestnet.status_ways import WayRow, way_rows

_ADDRESS, _ROUTED = f"{{{NAMESPACE}}}address", f"{{{NAMESPACE}}}routed"


@dataclass(frozen=True)
class NetworkRow:
    """One network of ours. `mode` is libvirt's forward mode, "isolated", or "host-routed", of which libvirt knows
    nothing: it is where its guests are, and active while one of them runs.

    `bridge_guard` says whether a port of the bridge that nobody guards passes nothing: one of the words below, or ""
    where there is no active bridge; `silent` are such ports.
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

    def json(self) -> dict[str, object]:
        return {"kind": "network", **asdict(self), "silent": list(self.silent)}


@dataclass(frozen=True)
class PortRow:
    """One NIC of a domain of ours. `guarded` is what the hooks applied: None while there is no tap.

    `trusted` is what the policy says: no port security at all. `drops` counts the frames that port security dropped,
    None when unknown; `reasons` has them by reason. `learnt` are addresses that the host's DHCP server gave the port.
    """

    topology: str
    guest: str
    port: str
    mac: str
    network: str
    running: bool
    tap: str
    link: str
    addresses: tuple[str, ...]
    guarded: bool | None
    drops: int | None
    learnt: tuple[str, ...] = ()
    trusted: bool = False
    reasons: Mapping[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, object]:
        return {
            "kind": "port",
            **asdict(self),
            "addresses": list(self.addresses),
            "learnt": list(self.learnt),
            "reasons": dict(self.reasons),
        }


# `bridge_guard` of a network. NOT_OURS: the bridge was there before, with other people's ports. MISSING: the hooks were
# not there when the network started, or somebody flushed the rules.
ON, CANNOT, NOT_OURS, NOT_WANTED, MISSING = "on", "kernel cannot", "not our bridge", "not wanted", "missing"


@dataclass(frozen=True)
class BridgeGuards:
    """What the kernel's bridge guard holds: bridges, and the ports that it lets through; whether the kernel refused;
    and what the hooks know of active networks."""

    bridges: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    refused: bool = False
    networks: Mapping[str, NetworkReceipt] = field(default_factory=dict)


Row = NetworkRow | PortRow | WayRow | RouteRow
Seen = Callable[[str], Guarded | None]


def status(
    snapshot: Snapshot,
    topology: str | None = None,
    receipt: Callable[[str], PortReceipt | None] | None = None,
    seen: Seen = lambda _tap: None,
    ways: Iterable[Ways] = (),
    *,
    guards: BridgeGuards = BridgeGuards(),
    led: Led = NOTHING_LED,
) -> list[Row]:
    """Every network, port, way in and route to a guest of one topology, or of all, in this order.

    `receipt` says what the hooks applied to a tap (their state under /run unless given), `seen` what the kernel knows
    of it, `ways` which ways in are open, `guards` the state of the bridge guard, `led` what leads to guests. Raises
    GuestnetError when the state under /run is damaged.
    """
    known = State().port if receipt is None else receipt
    domains = [domain for domain in snapshot.domains if _shown(domain.topology, topology)]
    rows: list[Row] = [_network(n, snapshot, guards) for n in snapshot.networks if _shown(n.topology, topology)]
    rows += _routed_networks(domains)
    for domain in domains:
        rows += _ports(domain, known, seen)
    return [*rows, *way_rows(domains, ways), *route_rows(domains, led)]


def _shown(owner: str | None, topology: str | None) -> bool:
    return owner is not None and topology in (None, owner)


def _network(state: NetworkState, snapshot: Snapshot, guards: BridgeGuards) -> NetworkRow:
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
    )


def _routed_networks(domains: list[DomainState]) -> Iterator[NetworkRow]:
    running: dict[tuple[str, str], int] = {}
    for domain in domains:
        current = domain.config if domain.live is None else domain.live
        for port in current.iterfind(f"{DOMAIN_MARK}/{PORT_MARK}"):
            if port.find(_ROUTED) is not None:
                key = (domain.topology or "", port.get("network", ""))
                running[key] = running.get(key, 0) + (domain.live is not None)
    for (topology, name), ports in running.items():
        yield NetworkRow(topology, name, "host-routed", "", ports > 0, False, ports)


def _bridge_guard(network: NetworkState, guards: BridgeGuards) -> str:
    if network.live is None:
        return ""
    if network.bridge in guards.bridges:
        return ON
    receipt = guards.networks.get(network.name)
    if receipt is not None and not receipt.managed:
        return NOT_OURS if receipt.guarded else NOT_WANTED
    return CANNOT if guards.refused and receipt is not None else MISSING


def _ports(domain: DomainState, receipt: Callable[[str], PortReceipt | None], seen: Seen) -> Iterator[PortRow]:
    current = domain.config if domain.live is None else domain.live
    policies = {port.get("mac", "").lower(): port for port in current.iterfind(f"{DOMAIN_MARK}/{PORT_MARK}")}
    for address, interface in interfaces(current).items():
        policy = policies.get(address)
        if policy is None and not domain.ours:
            continue  # a NIC that its owner manages
        device = tap(interface) or "" if domain.live is not None else ""
        applied = receipt(device) if device else None
        found = seen(device) if device else None
        yield PortRow(
            topology=domain.topology or "",
            guest=domain.name,
            port="" if policy is None else policy.get("name", ""),
            mac=address,
            network=_place(interface, policy),
            running=domain.live is not None,
            tap=device,
            link=_link(interface),
            addresses=() if policy is None else tuple(a.get("ip", "") for a in policy.iterfind(_ADDRESS)),
            guarded=(applied is not None and applied.uuid == domain.uuid and not applied.trusted) if device else None,
            drops=None if found is None else sum(found.drops.values()),
            learnt=() if found is None else tuple(map(str, found.learnt)),
            trusted=policy is not None and policy.get("guarded") == "no",
            reasons={} if found is None else found.drops,
        )


def _place(interface: Element, policy: Element | None) -> str:
    named = "" if policy is None else policy.get("network", "")
    return source_network(interface) or named


def _link(interface: Element) -> str:
    link = interface.find("link")
    return "up" if link is None else link.get("state", "up")

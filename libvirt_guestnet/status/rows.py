"""What runs: networks and ports as libvirt has them, what the hooks put on each tap, and forwards and routes to it.
Flat rows for tables and `jq`: each field is a column.

Networks and domains appear if they have our mark. A NIC of a lab guest appears even if our metadata does not list it
(`port` is then empty), since that is what one looks for in a status. A NIC that cannot be guarded appears for any
domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.port.port_facts import link_local
from libvirt_guestnet.hook.read.hostwide import NOTHING_REQUIRED, HostWide
from libvirt_guestnet.libvirtd.snapshot import (
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    interfaces,
    source_network,
    tap,
)
from libvirt_guestnet.metadata.policy import ANY, PortPolicy
from libvirt_guestnet.model.drift import GUEST, NETWORK, Drift
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging, PortForwards, PortReceipt
from libvirt_guestnet.status.forwards import ForwardRow, forward_rows
from libvirt_guestnet.status.routes import NO_ROUTE_FACTS, RouteFacts, RouteRow, route_rows
from libvirt_guestnet.status.unguarded import UnguardedRow, unguarded_rows


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


@dataclass(frozen=True)
class PortRow:
    """One NIC of a domain of ours. `guarded` is what the hooks applied: None while there is no tap, False for one that
    is only `observed`.

    `trusted` is what the policy says: no port security at all; `any_address`, that it may use what nobody else holds;
    `unknown`, that the hooks know no address that it could use but those that follow from its MAC; `note` is the
    topology's. `drops` counts the frames that port security dropped, or of an observed port would have, None when
    unknown; `reasons` has them by reason. `offload` says whether the guest is kept from having the host write checksums
    where it wants: one of the words below, or "" where nothing is guarded nor observed. `learnt` are addresses that the
    host's DHCP server gave the port. `link` is the kernel's where that is not what was asked for: "host down", "no
    bridge", "in BRIDGE"; `wrong` says this, and what else the tap lacks, in words.
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
    offload: str = ""
    any_address: bool = False
    unknown: bool = False
    note: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    observed: bool = False

    def json(self) -> dict[str, object]:
        return {
            "kind": "port",
            **asdict(self),
            "addresses": list(self.addresses),
            "learnt": list(self.learnt),
            "reasons": dict(self.reasons),
            "wrong": list(self.wrong),
        }


OFFLOAD_REASON = "checksum offload"

# `bridge_guard` of a network. NOT_OURS: the bridge was there before, with other people's ports. MISSING: the hooks were
# not there when the network started, or somebody flushed the rules.
# `offload` of a port is ON, CANNOT or MISSING.
ON, CANNOT, NOT_OURS, NOT_WANTED, MISSING = "on", "kernel cannot", "not our bridge", "not wanted", "missing"
OBSERVED = "observed"


@dataclass(frozen=True)
class BridgeGuards:
    """What the kernel's bridge guard holds: bridges, and the ports that it lets through; whether the kernel refused;
    and what the hooks know of active networks."""

    bridges: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    refused: bool = False
    networks: Mapping[str, NetworkReceipt] = field(default_factory=dict)


@dataclass(frozen=True)
class ChecksumGuards:
    """The checksum guard: taps that lack it, the frames that it dropped by tap, and the reason if this host cannot have
    it."""

    lost: frozenset[str] = frozenset()
    drops: Mapping[str, int] = field(default_factory=dict)
    cannot: str = ""

    def word(self, tap: str) -> str:
        return CANNOT if self.cannot else MISSING if tap in self.lost else ON


Row = NetworkRow | PortRow | ForwardRow | RouteRow | UnguardedRow
Seen = Callable[[str], Guarded | None]


def status(
    snapshot: Snapshot,
    topology: str | None = None,
    receipt: Callable[[str], PortReceipt | None] | None = None,
    seen: Seen = lambda _tap: None,
    open_forwards: Iterable[PortForwards] = (),
    *,
    guards: BridgeGuards = BridgeGuards(),
    offload: ChecksumGuards = ChecksumGuards(),
    route_facts: RouteFacts = NO_ROUTE_FACTS,
    host: HostWide = NOTHING_REQUIRED,
    plugging: Iterable[Plugging] = (),
    wrong: Sequence[Drift] = (),
) -> list[Row]:
    """Every network, port, forward and route to a guest of one topology, or of all, in this order; and every NIC of a
    running domain, also of one that is not ours unless a topology is named, that nothing can guard.

    `receipt` says what the hooks applied to a tap (their state under /run unless given), `seen` what the kernel knows
    of it, `open_forwards` which forwards are open, `guards` the state of the bridge guard, `offload` that of the
    checksum guard, `route_facts` the routes to guests, `host` what this host asks of every domain, `plugging` which
    NICs wait for their guard, `wrong` what the kernel has otherwise than it should. Raises GuestnetError when the state
    under /run is damaged.
    """
    find_receipt = UnlockedState().sound_port if receipt is None else receipt
    domains = [domain for domain in snapshot.domains if _shown(domain.topology, topology)]
    rows: list[Row] = [_network(n, snapshot, guards, wrong) for n in snapshot.networks if _shown(n.topology, topology)]
    rows += _routed_networks(domains)
    for domain in domains:
        rows += _ports(domain, find_receipt, seen, offload, wrong)
    shown = domains if topology is not None else snapshot.domains
    unguarded = unguarded_rows(shown, guards.networks, host, plugging)
    return [*rows, *forward_rows(domains, open_forwards), *route_rows(domains, route_facts), *unguarded]


def _shown(owner: str | None, topology: str | None) -> bool:
    return owner is not None and topology in (None, owner)


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
        wrong=tuple(_said(each) for each in wrong if (each.kind, each.owner) == (NETWORK, state.name)),
        external=state.is_external,
    )


def _said(wrong: Drift) -> str:
    return f"{wrong.text()}: {wrong.do}"


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


def _ports(
    domain: DomainState,
    receipt: Callable[[str], PortReceipt | None],
    seen: Seen,
    offload: ChecksumGuards,
    wrong: Sequence[Drift],
) -> Iterator[PortRow]:
    policies = {port.mac: port for port in domain.policies}
    for address, interface in interfaces(domain.current, domain.marked_networks).items():
        policy = policies.get(address)
        if policy is None and not domain.ours:
            continue  # a NIC that its owner manages
        device = tap(interface) or "" if domain.live is not None else ""
        applied = receipt(device) if device else None
        found = seen(device) if device else None
        judged = applied is not None and applied.uuid == domain.uuid and not applied.trusted
        observed = judged and applied is not None and applied.observed
        drops = _drops(device, found, offload)
        here = [
            each for each in wrong if device and (each.kind, each.owner, each.device) == (GUEST, domain.name, device)
        ]
        yield PortRow(
            topology=domain.topology or "",
            guest=domain.name,
            port="" if policy is None else policy.name,
            mac=address,
            network=_place(interface, policy),
            running=domain.live is not None,
            tap=device,
            link=next((each.link for each in here if each.link), _link(interface)),
            addresses=() if policy is None else tuple(map(str, policy.addresses)),
            guarded=judged and not observed if device else None,
            drops=None if found is None else sum(drops.values()),
            learnt=() if found is None else tuple(map(str, found.learnt)),
            trusted=policy is not None and not policy.guarded,
            any_address=policy is not None and policy.addressing == ANY,
            unknown=applied is not None and _unknown(applied),
            note="" if policy is None else policy.note,
            offload=offload.word(device) if device and judged else "",
            reasons=drops,
            wrong=tuple(map(_said, here)),
            observed=observed,
        )


def _drops(tap: str, found: Guarded | None, offload: ChecksumGuards) -> dict[str, int]:
    by_chains, by_offload = found.drops if found else {}, offload.drops.get(tap, 0)
    return {**by_chains, **({OFFLOAD_REASON: by_offload} if by_offload else {})}


def _unknown(applied: PortReceipt) -> bool:
    addresses = [text for text in applied.owned if not text.split("/")[0].endswith(_of_mac(applied.mac))]
    return not (applied.trusted or applied.bare or addresses or applied.dhcp or applied.pairs)


def _of_mac(mac: str) -> str:
    """The end of an address that follows from a MAC address."""
    return str(link_local(mac)).removeprefix("fe80::")


def _place(interface: Element, policy: PortPolicy | None) -> str:
    return source_network(interface) or ("" if policy is None else policy.network)


def _link(interface: Element) -> str:
    link = interface.find("link")
    return "up" if link is None else link.get("state", "up")

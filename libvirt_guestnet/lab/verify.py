"""Running the checks: from inside the guests, the stand-ins and the host, all at once where they do not disturb."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.lab import checks, endpoints, forge, tables
from libvirt_guestnet.lab.checks import Check, Kind
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import Port, Topology
from libvirt_guestnet.model.traffic import Protocol, Service

_ETH_P_ALL = 3
_FORGE_SECONDS = 0.5
_BUSY, _WAITING, _CALM = 16, 64, 4
# Linux sends one ICMP error a second to one host, and other checks provoke them too: a hop may be silent for a while.
_MORE_TRACES = 4
# How long an answer may take, in seconds: a guest without KVM may hardly run for that long. What failed is tried again,
# longer where little failed: then one guest was late, and not something broken.
_FIRST_TRY, _MORE_TRIES = 1.5, ((1.5, 1000), (1.5, 1000), (1.5, 1000), (5.0, 12), (15.0, 4))
_RUNS_SECONDS = 60.0
_SOME_PORT = 80
_MORE_COUNTS = 2
# Addresses of nobody, for forging where a link has no neighbour to pass for.
_OBSERVED = "not tried: the port is only observed, so that nothing is dropped"
_NOBODY = forge.Identity("52:54:02:00:00:01", IPv4Address("192.0.2.66"), IPv6Address("2001:db8::66"))


@dataclass(frozen=True)
class CheckResult:
    """A check, what was seen, and whether that is as expected."""

    check: Check
    seen: str
    passed: bool


def verify(topology: Topology, agents: Mapping[str, Agent]) -> list[CheckResult]:
    """Every check's result, in file order. Raises GuestnetError when a check cannot be run at all."""
    planned = checks.plan(topology)
    _listen(agents, planned)
    results: dict[int, CheckResult] = {}
    for group in _groups(planned):
        with _without_forwarding(agents, group[0][1].without_forwarding):
            results.update(_run_all(topology, agents, group))
    forgeries = [(i, c) for i, c in enumerate(planned) if c.kind is Kind.FORGE]
    observed = {i: CheckResult(c, _OBSERVED, False) for i, c in forgeries if _port_of(topology, c).observed}
    results.update(observed)
    forgeries = [(i, c) for i, c in forgeries if i not in observed]
    routed = [(i, c) for i, c in forgeries if _is_routed(topology, c)]
    bridged = [each for each in forgeries if each not in routed]
    if bridged:
        results.update(_forge(topology, agents, bridged))
    results.update(_forge_routed(topology, agents, routed))
    return [results[index] for index in sorted(results)]


def _listen(agents: Mapping[str, Agent], planned: Sequence[Check]) -> None:
    wanted = checks.services(tuple(planned))
    ports = {p: sorted({s.first_port for s in wanted if s.protocol is p and s.first_port}) for p in Protocol}
    for name in {endpoint.partition(".")[0] for c in planned for endpoint in (c.destination,)} & set(agents):
        if name != endpoints.HOST:
            agents[name].listen(tcp=ports[Protocol.TCP], udp=ports[Protocol.UDP])


def _groups(planned: Sequence[Check]) -> Iterator[list[tuple[int, Check]]]:
    """Checks that may run side by side: those with everything forwarding, then those with one router off."""
    for router in dict.fromkeys(check.without_forwarding for check in planned):
        group = [(i, c) for i, c in enumerate(planned) if c.without_forwarding == router and c.kind is not Kind.FORGE]
        if group:
            yield group


@contextmanager
def _without_forwarding(agents: Mapping[str, Agent], router: str | None) -> Iterator[None]:
    if router is None:
        yield
        return
    agents[router].set_forwarding(False)
    try:
        yield
    finally:
        agents[router].set_forwarding(True)


def _run_all(
    topology: Topology, agents: Mapping[str, Agent], group: Sequence[tuple[int, Check]]
) -> list[tuple[int, CheckResult]]:
    """Few at once of those that keep guests busy; all at once of those that only wait for nothing to come."""
    with ThreadPoolExecutor(_BUSY) as busy, ThreadPoolExecutor(_WAITING) as waiting:
        futures = {
            index: (busy if check.allowed else waiting).submit(_run, topology, agents, check, _FIRST_TRY)
            for index, check in group
        }
    # Guests without KVM on a busy machine are late at times: what should have worked, or could not be tried in time, is
    # tried again, few at once.
    for seconds, most in _MORE_TRIES:
        late = [(index, check) for index, check in group if _is_late(check, futures[index])]
        if len(late) > most:
            break
        _await_guests(agents, [check for _, check in late])
        with ThreadPoolExecutor(_CALM) as calm:
            futures |= {index: calm.submit(_run, topology, agents, check, seconds) for index, check in late}
    return [(index, future.result()) for index, future in futures.items()]


def _await_guests(agents: Mapping[str, Agent], late: Sequence[Check]) -> None:
    """Waits until both ends run: their agents answer at once then. Whose does not answer at all, its checks tell."""
    names = {end.partition(".")[0] for check in late for end in (check.source, check.destination)}
    for name in sorted(names & set(agents)):
        with suppress(GuestnetError):
            agents[name].call("hello", timeout=_RUNS_SECONDS)


def _is_late(check: Check, future: Future[CheckResult]) -> bool:
    return future.exception() is not None or (check.allowed and not future.result().passed)


def _run(topology: Topology, agents: Mapping[str, Agent], check: Check, seconds: float) -> CheckResult:
    agent = agents[endpoints.parse(check.source, topology).name]
    if check.kind is Kind.ANSWERED_BY and check.mac is None:
        check = replace(check, mac=tables.host_mac(topology, agents[endpoints.HOST], check.address))
    # What must not come is waited for once only, and not long.
    seen, passed = _TRIES[check.kind](agent, check, seconds if check.allowed else _FIRST_TRY)
    return CheckResult(check, seen, passed)


def _try_service(agent: Agent, check: Check, seconds: float) -> tuple[str, bool]:
    answered = _answers(agent, check, seconds)
    return "answers" if answered else "no answer", answered == check.allowed


def _answers(agent: Agent, check: Check, seconds: float) -> bool:
    address, service = str(check.address), check.service
    if service is None or service.protocol is Protocol.ICMP:
        # The first echo may be spent on address resolution along the way.
        return agent.ping(address, count=2, timeout=seconds).received > 0
    probe = agent.tcp if service.protocol is Protocol.TCP else agent.udp
    return probe(address, service.first_port or 0, seconds).open


def _try_layer2(agent: Agent, check: Check, seconds: float) -> tuple[str, bool]:
    mac = agent.neighbour(str(check.address), seconds)
    near = mac is not None and (check.mac is None or mac == check.mac)
    return mac or "no neighbour", near == check.allowed


def _try_via(agent: Agent, check: Check, seconds: float) -> tuple[str, bool]:
    hops, passed = _trace(agent, check, seconds)
    for _ in range(_MORE_TRACES):
        if passed or None not in hops:
            break
        time.sleep(1.1)
        hops, passed = _trace(agent, check, seconds)
    seen = " > ".join(hop or "*" for hop in hops) or "nothing"
    if passed or not _is_path(hops, check.hops[:-1]):
        return seen, passed
    # That far the way is right. A destination may drop pings all the same, and must then be there otherwise.
    answers, service = _is_alive(agent, check, seconds), _service_text(check)
    return f"{seen} > {f'* that answers {service}' if answers else f'* not even {service}'}", answers


def _trace(agent: Agent, check: Check, seconds: float) -> tuple[Sequence[str | None], bool]:
    hops = agent.trace(str(check.address), timeout=seconds).hops
    return hops, _is_path(hops, check.hops)


def _is_path(hops: Sequence[str | None], wanted: Sequence[Sequence[IPAddress]]) -> bool:
    expected = [{str(address) for address in hop} for hop in wanted]
    return len(hops) == len(expected) and all(hop in each for hop, each in zip(hops, expected, strict=True))


def _service_text(check: Check) -> str:
    return str(check.service or Service(Protocol.TCP, _SOME_PORT, _SOME_PORT))


def _is_alive(agent: Agent, check: Check, seconds: float) -> bool:
    """Whether a destination that drops pings answers a service, be it with a refusal."""
    if check.service is not None:
        return _answers(agent, check, seconds)
    return agent.tcp(str(check.address), _SOME_PORT, seconds).outcome in ("open", "refused")


def _try_seen_as(agent: Agent, check: Check, seconds: float) -> tuple[str, bool]:
    udp = check.service is not None and check.service.protocol is Protocol.UDP
    port = (check.service.first_port if check.service else None) or 80
    seen = (agent.udp if udp else agent.tcp)(str(check.address), port, seconds).seen_as
    return str(seen or "no answer"), seen in check.seen


def _try_answered_by(agent: Agent, check: Check, seconds: float) -> tuple[str, bool]:
    mac = agent.neighbour(str(check.address), seconds)
    return mac or "no answer", mac is not None and mac == check.mac


def _try_gateway(agent: Agent, check: Check, _seconds: float) -> tuple[str, bool]:
    found = tables.gateways(agent, check.seen[0].version)
    return " ".join(found) or "no default route", found == [str(gateway) for gateway in check.seen]


def _try_tables(agent: Agent, check: Check, _seconds: float) -> tuple[str, bool]:
    assert check.address is not None
    found = tables.held(agent, check.address)
    return ", ".join(found.values()) or "nothing", set(found) == set(check.tables)


_TRIES: dict[Kind, Callable[[Agent, Check, float], tuple[str, bool]]] = {
    Kind.SERVICE: _try_service,
    Kind.LAYER2: _try_layer2,
    Kind.VIA: _try_via,
    Kind.SEEN_AS: _try_seen_as,
    Kind.ANSWERED_BY: _try_answered_by,
    Kind.GATEWAY: _try_gateway,
    Kind.TABLES: _try_tables,
}


@dataclass(frozen=True)
class _Forgery:
    """A check's forged frames, and the honest one sent after them."""

    index: int
    check: Check
    port: Port
    forged: tuple[bytes, ...]
    honest: bytes


def _forge(
    topology: Topology, agents: Mapping[str, Agent], planned: Sequence[tuple[int, Check]]
) -> Iterator[tuple[int, CheckResult]]:
    """Sends every check's forged frames, each time with an honest one behind them that the listener must see."""
    forgeries = _forgeries(topology, planned)
    with _Ear(topology) as ear:
        for forgery in forgeries:
            name = endpoints.parse(forgery.check.source, topology).name
            agents[name].send_frames(forgery.port.mac, [*forgery.forged, forgery.honest])
        heard = ear.listen(forgeries)
    for forgery in forgeries:
        yield forgery.index, _judge(forgery, heard)


def _is_routed(topology: Topology, check: Check) -> bool:
    return topology.network(_port_of(topology, check).network).routed is not None


def _port_of(topology: Topology, check: Check) -> Port:
    guest = topology.guest(endpoints.parse(check.source, topology).name)
    return next(port for port in guest.ports if port.name == check.port)


def _forge_routed(
    topology: Topology, agents: Mapping[str, Agent], planned: Sequence[tuple[int, Check]]
) -> Iterator[tuple[int, CheckResult]]:
    """Where the host is all that is on the link nobody else could hear a forged frame: each must be counted as dropped,
    and the honest one behind them must not."""
    for forgery in _forgeries(topology, planned):
        agent, wanted = agents[endpoints.parse(forgery.check.source, topology).name], len(forgery.forged)
        dropped = _count_dropped(agent, forgery)
        for _ in range(_MORE_COUNTS):  # whatever else the guest sends may be dropped, too
            if dropped == wanted:
                break
            dropped = _count_dropped(agent, forgery)
        yield forgery.index, CheckResult(forgery.check, f"{dropped} of {wanted} dropped", dropped == wanted)


def _count_dropped(agent: Agent, forgery: _Forgery) -> int:
    before = _dropped(forgery.port.tap)
    if before is None:
        return 0  # nothing guards it
    agent.send_frames(forgery.port.mac, [*forgery.forged, forgery.honest])
    deadline = time.monotonic() + 10 * _FORGE_SECONDS
    while (_dropped(forgery.port.tap) or 0) - before < len(forgery.forged) and time.monotonic() < deadline:
        time.sleep(_FORGE_SECONDS / 10)
    time.sleep(_FORGE_SECONDS / 5)
    return (_dropped(forgery.port.tap) or 0) - before


def _dropped(tap: str) -> int | None:
    from libvirt_guestnet.datapath.netlink.kernel import dropped_frames

    return dropped_frames().get(tap)


def _forgeries(topology: Topology, planned: Sequence[tuple[int, Check]]) -> list[_Forgery]:
    """Each with a number of its own, and none that another run had."""
    first = secrets.randbelow(forge.NONCES)
    return [
        _forgery(topology, index, check, (first + number) % forge.NONCES)
        for number, (index, check) in enumerate(planned)
    ]


def _forgery(topology: Topology, index: int, check: Check, nonce: int) -> _Forgery:
    port = _port_of(topology, check)
    frames = forge.forged(check.forgery or "", identity(port), _neighbour(topology, port), nonce)
    return _Forgery(index, check, port, tuple(frames), forge.honest(port.mac, nonce))


def _judge(forgery: _Forgery, heard: Mapping[bytes, str]) -> CheckResult:
    if forgery.honest not in heard:
        return CheckResult(forgery.check, "not even an honest frame arrived", False)
    nodes = sorted({heard[frame] for frame in forgery.forged if frame in heard})
    return CheckResult(forgery.check, f"arrived at {', '.join(nodes)}" if nodes else "arrived nowhere", not nodes)


def identity(port: Port) -> forge.Identity:
    """Who a port is, for forging: nobody's address where it has none."""
    return forge.Identity(
        port.mac,
        next((a.ip for a in port.addresses if isinstance(a.ip, IPv4Address)), _NOBODY.ip4),
        next((a.ip for a in port.addresses if isinstance(a.ip, IPv6Address)), _NOBODY.ip6),
    )


def _neighbour(topology: Topology, port: Port) -> forge.Identity:
    """Somebody else on the port's network: another guest, else the network's gateway, else the LAN's own host."""
    for _, other in topology.ports_on(port.network):
        if other.mac != port.mac:
            return identity(other)
    network = topology.network(port.network)
    addresses: list[IPAddress] = [s.host for s in network.subnets if s.host is not None]
    mac = network.mac or _NOBODY.mac
    if network.physical_network and not addresses:
        physical = topology.physical_network(network.physical_network)
        addresses, mac = list(physical.stand_in), endpoints.stand_in_mac(topology, physical)
    ip4 = next((a for a in addresses if isinstance(a, IPv4Address)), _NOBODY.ip4)
    return forge.Identity(mac, ip4, next((a for a in addresses if isinstance(a, IPv6Address)), _NOBODY.ip6))


class _Ear:
    """Hears every frame on every device of this host that is past its sender's guard: what comes in at a guest's tap
    is heard before that is judged, so of a tap only what goes out counts."""

    def __init__(self, topology: Topology) -> None:
        self._taps = {port.tap for guest in topology.guests for port in guest.ports}

    def __enter__(self) -> _Ear:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def listen(self, forgeries: Sequence[_Forgery]) -> dict[bytes, str]:
        """By frame, the device on which its packet was first heard, the sender's own tap apart; a while longer than
        it takes to hear every honest one."""
        sent = {frame: (forge.packet(frame), f.port.tap) for f in forgeries for frame in (*f.forged, f.honest)}
        waiting = {forgery.honest for forgery in forgeries}
        heard: dict[bytes, str] = {}
        deadline = time.monotonic() + 10 * _FORGE_SECONDS
        while (left := deadline - time.monotonic()) > 0 and select.select([self.socket], [], [], left)[0]:
            seen, (device, _, kind, *_) = self.socket.recvfrom(65536)
            if device in self._taps and kind != socket.PACKET_OUTGOING:
                continue
            for frame, (packet, tap) in sent.items():
                if device != tap and frame not in heard and seen[6:12] == frame[6:12] and packet in seen:
                    heard[frame] = device
            if waiting and waiting <= heard.keys():
                waiting = set()
                deadline = time.monotonic() + _FORGE_SECONDS
        return heard

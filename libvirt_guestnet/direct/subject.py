"""A domain that something is to be set for: its NICs that can be meant, and what is said of them so far. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from libvirt_guestnet.direct.named import Named
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.hostwide import ALL, DECLARED
from libvirt_guestnet.importing.facts import ImportedPort, Request, Seen
from libvirt_guestnet.importing.places import Known, Places, all_nics, of_nic, places
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.libvirtd.nics import interfaces, mac
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.elements import node_of, port_policies
from libvirt_guestnet.metadata.policy import OBSERVE, NetworkPolicy, PortPolicy
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import shown


@dataclass(frozen=True)
class DirectPort:
    """One NIC that is meant: what import finds of it, what it is on, whose addresses there are (a network's whose
    bridge it is on by that one's name), what it would have without a policy, and the policy that it has."""

    found: ImportedPort
    known: Known
    link: Known
    default: PortPolicy
    policy: PortPolicy


@dataclass(frozen=True)
class Subject:
    """The domain, and those of its NICs that are meant."""

    state: DomainState
    ports: tuple[DirectPort, ...]

    @property
    def policies(self) -> tuple[PortPolicy, ...]:
        """What is said of all of its NICs so far."""
        return tuple(port_policies(self.state.mark))

    def edited(self, edit: Callable[[DirectPort], PortPolicy | None]) -> tuple[PortPolicy, ...]:
        """The same with other policies of the NICs that are meant: None for none."""
        new = {port.policy.mac: edit(port) for port in self.ports}
        before = {policy.mac: policy for policy in self.policies}
        merged = {**before, **new}
        order = [*(address for address in map(mac, all_nics(self.state)) if address in merged), *merged]
        return tuple(policy for address in dict.fromkeys(order) if (policy := merged[address]) is not None)


def one_port(about: Subject) -> DirectPort:
    """The one NIC that is meant. Raises GuestnetError where there are several."""
    if len(about.ports) == 1:
        return about.ports[0]
    name = about.state.name
    names = ", ".join(f"{name}.{port.policy.name}" for port in about.ports)
    raise GuestnetError(f"domain {shown(name)} has {len(about.ports)} NICs: say which is meant, of {names}")


def request(domain: str) -> Request:
    """What an import looks at for the sake of one domain."""
    return Request(DIRECT, observe=False, names=frozenset({domain}))


def subject(name: Named, seen: Seen, by_host: str = DECLARED) -> Subject:
    """The domain with the NICs that are meant: all of them, or the one that was named. `by_host`: this host's default.
    Raises GuestnetError with the reason where one of these is not clear or cannot be guarded: nothing is done by
    halves."""
    state, where = seen.snapshot.domain[name.domain], places(seen.snapshot, DIRECT)
    said = survey(seen, request(name.domain))
    found = [port for guest in said.guests if guest.name == name.domain for port in guest.ports]
    meant = [port for port in found if name.port.lower() in ("", port.mac) or name.port == _name(port)]
    about = f"domain {shown(name.domain)}"
    reasons = {e.what: e.why for e in said.left_out if e.what == about or e.what.startswith(f"{about}, NIC ")}
    if name.port:
        reasons = {what: why for what, why in reasons.items() if not meant}
    if reasons or not meant:
        raise GuestnetError(_none(about, name, reasons, found))
    return Subject(state, tuple(_port(state, port, where, seen.snapshot, by_host) for port in meant))


def _none(about: str, name: Named, reasons: dict[str, str], found: list[ImportedPort]) -> str:
    lines = [f"{what}: {why}" for what, why in reasons.items()]
    if name.port and not any(shown(name.port.lower()) in what for what in reasons):
        lines.insert(0, f"{about} has no port {shown(name.port)} that could be meant")
    elif not lines:
        lines.append(f"{about} has no NIC")
    if found:
        names = ", ".join(f"{name.domain}.{_name(port)} ({port.mac})" for port in found)
        lines.append(f"name a port: {names}")
    return "\n".join(lines)


def _name(port: ImportedPort) -> str:
    return port.name or port.network


def _port(state: DomainState, port: ImportedPort, where: Places, snapshot: Snapshot, by_host: str) -> DirectPort:
    place = of_nic({**interfaces(state.live), **interfaces(state.config)}[port.mac])
    assert place is not None
    by_network = network_policy(snapshot.network[place[1]]).guarded if place[0] == "network" else "no"
    guard = unsaid(by_host) if by_network == "no" else by_network
    bare = PortPolicy(port.mac, _name(port), port.network)
    default = bare._replace(guarded=guard != "no", observed=guard == OBSERVE)
    known = where.known[place]
    return DirectPort(port, known, _link(known, where), default, port.said or default)


def _link(known: Known, where: Places) -> Known:
    same = (each for (kind, _), each in where.known.items() if kind == "network")
    return next((each for each in same if each.network.bridge == known.network.bridge), known)


def unsaid(by_host: str) -> str:
    """How this host's default guards a port of which neither its domain nor its network says anything, in the words of
    metadata."""
    return {DECLARED: "no", ALL: "yes"}.get(by_host, OBSERVE)


def unguarded(policy: PortPolicy) -> PortPolicy:
    """What a port has that nobody said anything of, on a network that guards none."""
    return PortPolicy(policy.mac, policy.name, policy.network, guarded=False)


def network_policy(state: NetworkState) -> NetworkPolicy:
    """What our metadata says of a network without a file. Raises GuestnetError if it cannot be read."""
    if state.topology == DIRECT and state.mark is not None:
        return reader.read_network(node_of(state.mark))
    return NetworkPolicy(DIRECT, state.name, guarded="no", external=True)

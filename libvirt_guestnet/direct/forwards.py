"""`guestnet forward`: ports of the host that are a guest's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from libvirt_guestnet import parse
from libvirt_guestnet.direct.guard import needed
from libvirt_guestnet.direct.report import forward, plain
from libvirt_guestnet.direct.subject import DirectPort
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.metadata.policy import LEASE, Forward, PortPolicy
from libvirt_guestnet.model.claims import ANYWHERE, Claim, clash
from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.model.traffic import Service
from libvirt_guestnet.parse import shown
from libvirt_guestnet.topology import address_kinds, port_kinds
from libvirt_guestnet.topology.forwards import clients, not_whole, served, unfit, unlisted, unreachable


@dataclass(frozen=True)
class Asked:
    """tcp/8080:80: ports of the host's, at one address of it or at all, and the guest's first one (0: not said); and
    which clients may ask (None: not said, everybody). Or gre: all of a protocol without ports, at an address."""

    service: Service
    first: int
    last: int
    to_first: int
    at: IPAddress | None = None
    sources: tuple[IPNetwork, ...] | None = None

    def is_of(self, each: Forward) -> bool:
        """Whether a forward is the one that is asked for."""
        where = (each.protocol, each.first, each.last, each.at)
        mine = (str(self.service.protocol), self.first, self.last, str(self.at or ""))
        return where == mine and self.to_first in (0, each.to_first)


def asked(text: str, at: str | None, sources: Sequence[str] | None = None) -> Asked:
    """Reads it. Raises GuestnetError."""
    ports, colon, to = text.partition(":")
    try:
        service = port_kinds.FORWARDED.read(ports)
        to_first = parse.number(to, 1, 65535) if colon else 0
        address = None if at is None else address_kinds.IP.read(at)
        said = None if sources is None else tuple(map(address_kinds.CLIENT.read, sources))
    except ValueError as error:
        raise GuestnetError(f"{shown(text)}: {error}" if colon else str(error)) from None
    first, last = service.first_port or 0, service.last_port or 0
    if service.is_whole:
        problem = not_whole(service, nowhere=address is None, moved=bool(colon))
        problem = problem.replace("say with at: which", "say with --at which")
    elif not first:
        raise GuestnetError(f"{shown(text)} names no ports: write it like tcp/8080:80, or udp/8000-8010")
    else:
        problem = unfit(first, last, to_first or first)
    problem = problem or (unreachable(address) if address else "")
    problem = problem or ("" if said is None else unlisted(said))
    if problem:
        raise GuestnetError(f"{shown(text)}: {problem}")
    return Asked(service, first, last, to_first, address, said)


def added(port: DirectPort, wanted: Asked) -> PortPolicy:
    """The policy with that, too. Raises GuestnetError where it could have no effect."""
    policy, new = port.policy, tuple(_forwards(port, wanted))
    for each in new:
        other = next((o for o in policy.forwards if o != each and clash(_claim(o), _claim(each))), None)
        if other is not None:
            raise GuestnetError(f"there is {forward(other)} already: remove that before, or ask at another address")
    return policy._replace(forwards=tuple(dict.fromkeys([*policy.forwards, *new])))


def removed(port: DirectPort, wanted: Asked) -> PortPolicy | None:
    """The policy without it, None where nothing is left. Raises GuestnetError where it has no such forward."""
    policy = port.policy
    left = tuple(each for each in policy.forwards if not wanted.is_of(each))
    if left == policy.forwards:
        have = "; ".join(map(forward, left)) or "none"
        raise GuestnetError(f"port {shown(policy.name)} has no such forward: it has {have}")
    return needed(policy._replace(forwards=left), port.default)


def _forwards(port: DirectPort, wanted: Asked) -> Iterator[Forward]:
    network, targets = port.known.network, dict(_targets(port))
    if not any(subnet.host for subnet in network.subnets):
        raise GuestnetError(f"the host has no address on {shown(port.known.name)}, so it cannot forward there")
    version = wanted.at.version if wanted.at else 0
    versions = [each for each in targets if version in (0, each)]
    if not versions:
        raise GuestnetError(
            f"port {shown(port.policy.name)} has no IPv{version or 4} address that is known, nor any by the host's DHCP"
        )
    if problem := served(wanted.service, wanted.at, versions, network):
        raise GuestnetError(f"{wanted.service} cannot be forwarded: {problem}")
    who = {each: found for each in versions if (found := clients(wanted.sources, each)) is not None}
    if not who:
        raise GuestnetError(f"{wanted.service}: --from has no IPv{versions[0]} address, so nobody could ask")
    for each, sources in who.items():
        yield Forward(
            str(wanted.service.protocol),
            wanted.first,
            wanted.last,
            targets[each],
            wanted.to_first or wanted.first,
            str(wanted.at or ""),
            network.gateway is None,
            sources,
        )


def _targets(port: DirectPort) -> Iterator[tuple[int, str]]:
    """By IP version, what is forwarded to: what the port's policy lists, else whatever IPv4 address DHCP gives it."""
    listed = port.policy.addresses
    for version in (4, 6):
        if found := next((ip for ip in listed if ip.version == version), None):
            yield version, str(found)
    if not listed and any(subnet.dhcp and subnet.prefix.version == 4 for subnet in port.known.network.subnets):
        yield 4, LEASE


def _claim(each: Forward) -> Claim:
    at = each.at or ANYWHERE[6 if ":" in each.to else 4]
    return Claim(at, each.protocol, each.first, each.last)


def listed(states: Iterable[DomainState]) -> Iterator[str]:
    """A line for each forward of these domains."""
    for state in states:
        of = f" (topology {plain(state.topology)})" if state.topology not in (None, DIRECT) else ""
        for policy in state.policies:
            for each in policy.forwards:
                yield f"{plain(state.name)}.{plain(policy.name)}: {forward(each)}{of}"

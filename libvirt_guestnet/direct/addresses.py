"""`guestnet address`: what a port may use in the place of what DHCP tells it, or beside that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from libvirt_guestnet.direct.guard import FOUND, needed
from libvirt_guestnet.direct.report import listed, plain
from libvirt_guestnet.direct.subject import DirectPort
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.importing.addresses import OnNetwork, unusable
from libvirt_guestnet.importing.places import all_nics, of_nic, on_bridge
from libvirt_guestnet.libvirtd.nics import mac
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot
from libvirt_guestnet.metadata.policy import ANY, Pair, PortPolicy
from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import Address, Prefix, shown
from libvirt_guestnet.topology import address_kinds

Prefixes = tuple[Prefix, ...]
Others = Mapping[Address, str]


class Asked(NamedTuple):
    """A prefix that is asked for; `alone`: as one address, and not as a part of something."""

    prefix: Prefix
    alone: bool


def asked(words: Sequence[str]) -> tuple[Asked, ...]:
    """Reads addresses, prefixes and ranges. Raises GuestnetError."""
    try:
        found = (Asked(each, not {*"/-"} & {*word}) for word in words for each in address_kinds.PAIR.read(word))
        return tuple(dict.fromkeys(found))
    except ValueError as error:
        raise GuestnetError(str(error)) from None


def of_others(port: DirectPort, snapshot: Snapshot) -> Others:
    """The addresses of their own that other NICs on the same bridge list, each with whose it is."""
    found = [
        (state, {mac(nic): on_bridge(of_nic(nic), snapshot) for nic in all_nics(state)}) for state in snapshot.domains
    ]
    place = next((where[port.policy.mac] for _, where in found if port.policy.mac in where), None)
    return {
        ip: f"an address of {plain(state.name)}.{plain(policy.name)}"
        for state, where in found
        for policy in state.policies
        if policy.mac != port.policy.mac and where.get(policy.mac) == place
        for ip in policy.addresses
    }


def added(port: DirectPort, here: OnNetwork, wanted: Iterable[Asked], others: Others) -> PortPolicy:
    """The policy with these, too; `others` are those of other guests. Raises GuestnetError where one cannot be the
    port's. What was found when the port became guarded is what somebody decided from then on."""
    policy = port.policy
    if policy.addressing == ANY:
        raise GuestnetError(f"port {shown(policy.name)} may use any address that nobody else has, so these, too")
    new = [each for each in wanted if each.prefix not in _all(policy)]
    for each in new:
        _check_free(each.prefix, policy.mac, here, others)
    own = [each.prefix.network_address for each in new if _is_own(policy, here, each)]
    pairs = [Pair(each.prefix) for each in new if not _is_own(policy, here, each)]
    if not new:
        return policy
    return policy._replace(
        addresses=(*policy.addresses, *own), pairs=(*policy.pairs, *pairs), addressing="", note=_decided(policy)
    )


def _check_free(wanted: Prefix, address: str, here: OnNetwork, others: Others) -> None:
    """Raises GuestnetError where one of its addresses is somebody else's, or the only one is none that a guest has."""
    there = ((ip, whose) for ip, whose in others.items() if ip.version == wanted.version and ip in wanted)
    for ip, whose in (*here.held_in(wanted, address), *there):
        of = "" if wanted == single(ip) else f" (of {listed(wanted)})"
        raise GuestnetError(f"{ip}{of} is {whose}")
    if wanted.num_addresses == 1 and (why := unusable(wanted.network_address, here)):
        raise GuestnetError(why)


def _is_own(policy: PortPolicy, here: OnNetwork, wanted: Asked) -> bool:
    """Whether it goes to the port's own addresses, as import decides it: these would end what DHCP tells the guest, and
    a file has none that are outside of the network's subnets."""
    subnets = here.known.network.subnets
    inside = not subnets or any(wanted.prefix.network_address in subnet.prefix for subnet in subnets)
    return wanted.alone and inside and (bool(policy.addresses) or not here.serves)


def _all(policy: PortPolicy) -> Prefixes:
    return (*map(single, policy.addresses), *(pair.prefix for pair in policy.pairs))


def _decided(policy: PortPolicy) -> str:
    return "" if policy.note == FOUND else policy.note


def removed(port: DirectPort, here: OnNetwork, wanted: Iterable[Asked]) -> PortPolicy | None:
    """The policy without these, None where nothing is left. Raises GuestnetError where one is not listed, or needed."""
    policy, gone = port.policy, tuple(each.prefix for each in wanted)
    if missing := [each for each in gone if each not in _all(policy)]:
        have = ", ".join(map(listed, _all(policy))) or "none"
        raise GuestnetError(f"port {shown(policy.name)} does not list {listed(missing[0])}: it lists {have}")
    _check_unused(policy, gone)
    left = policy._replace(
        addresses=tuple(ip for ip in policy.addresses if single(ip) not in gone),
        pairs=tuple(pair for pair in policy.pairs if pair.prefix not in gone),
        note=_decided(policy),
    )
    told = here.serves or here.reserved(policy.mac) or left.addressing or left.sources
    if left.guarded and not left.observed and not (_all(left) or told):
        raise GuestnetError(
            f"port {shown(policy.name)} is guarded, and nobody would know its addresses: `guestnet guard observe` or "
            f"`off` before"
        )
    return needed(left, port.default)


def _check_unused(policy: PortPolicy, gone: Prefixes) -> None:
    """Raises GuestnetError where something is forwarded to one of these."""
    for to in (*(each.to for each in policy.forwards), *(str(each.to or each.via) for each in policy.floating)):
        if any(to == str(each.network_address) for each in gone):
            raise GuestnetError(f"{to} is forwarded to: `guestnet forward remove` before")


def given_to_others(here: OnNetwork, wanted: Iterable[Asked]) -> Iterator[str]:
    """A note for each of these that the network's DHCP server may give to somebody."""
    ranges = [subnet.dhcp for subnet in here.known.network.subnets if subnet.dhcp]
    for each in (one.prefix for one in wanted):
        first, last = int(each.network_address), int(each.broadcast_address)
        if any(r.start.version == each.version and first <= int(r.end) and int(r.start) <= last for r in ranges):
            yield (
                f"{listed(each)} is in the DHCP range of network {shown(here.known.name)}, whose server may give it to "
                f"another guest that asks"
            )


def of_domains(states: Iterable[DomainState]) -> Iterator[str]:
    """A line for each address that is listed for a port of these domains."""
    for state in states:
        of = f" (topology {plain(state.topology)})" if state.topology not in (None, DIRECT) else ""
        for policy in state.policies:
            name = f"{plain(state.name)}.{plain(policy.name)}"
            yield from (f"{name}: {ip}{of}" for ip in policy.addresses)
            for pair in policy.pairs:
                by = f" by MAC address {pair.mac}" if pair.mac else ""
                yield f"{name}: {listed(pair.prefix)}{by}, which others may share{of}"

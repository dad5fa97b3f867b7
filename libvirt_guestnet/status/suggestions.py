"""The facts behind `guestnet suggest`, and its words: from libvirt, the receipts and the kernel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.port import held_sets, notes, port_facts
from libvirt_guestnet.datapath.routing import gateway
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import address_sets, checksum_guard
from libvirt_guestnet.hook.read.port_receipts import guard_of
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import Address, Prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.status.ports import OFFLOAD_REASON
from libvirt_guestnet.status.suggest import Observed, Suggestion, suggest

_LONGEST, _WIDTH = 80, 120


class Policy(NamedTuple):
    """What a domain, running or not, says of one port."""

    topology: str
    domain: str
    said: PortPolicy


Policies = Mapping[tuple[str, str], Policy]  # by UUID and MAC address


def suggestions(uri: str | None, wanted: str = "") -> list[Suggestion]:
    """What to declare of every observed port, or of those of a guest, or of one: GUEST or GUEST.PORT. Raises
    GuestnetError, also where there is none of that name."""
    state = UnlockedState()
    with connect(uri) as connection:
        policies = _policies(host_snapshot(connection))
    found = [suggest(each) for each in observed(state, policies)]
    named = [each for each in found if wanted in ("", each.guest, f"{each.guest}.{each.port}")]
    if wanted and not named:
        raise GuestnetError(f"{parse.shown(wanted)} is no observed port, nor a running guest that has one")
    return sorted(named, key=lambda each: (each.guest, each.port))


def _policies(snapshot: Snapshot) -> Policies:
    return {
        (domain.uuid, policy.mac): Policy(_file_of(domain), domain.name, policy)
        for domain in snapshot.domains
        for policy in domain.policies
    }


def observed(state: State, policies: Policies) -> Iterator[Observed]:
    """Every observed port with all that is known of it. Raises GuestnetError when nft does not answer."""
    receipts = state.ports()
    if not any(receipt.observed for receipt in receipts):
        return
    seen, noted, offload = _with_claims(kernel.guarded_ports(), receipts), notes.read(), checksum_guard.drops(state)
    for receipt in receipts:
        if receipt.observed and receipt.tap in seen:
            others = [each for each in receipts if each.tap != receipt.tap]
            reasons = dict(seen[receipt.tap].drops)
            reasons |= {OFFLOAD_REASON: offload[receipt.tap]} if offload.get(receipt.tap) else {}
            found = _observed(receipt, others, seen, state, policies)
            yield _with(found, reasons, noted.get(receipt.tap, notes.Noted()))


def _with_claims(seen: Mapping[str, Guarded], receipts: Sequence[PortReceipt]) -> dict[str, Guarded]:
    """The same, in which what a port has claimed counts as learnt."""
    numbers = nft.numbers_of_all()
    claimed = {receipt.tap: address_sets.claimed(receipt, numbers) for receipt in receipts}
    return {tap: each._replace(learnt=[*each.learnt, *claimed.get(tap, ())]) for tap, each in seen.items()}


def _with(found: Observed, reasons: Mapping[str, int], noted: notes.Noted) -> Observed:
    from dataclasses import replace

    return replace(
        found,
        reasons=reasons,
        seen=noted.addresses,
        vlans=noted.vlans,
        announces=noted.announces,
        roles=noted.roles,
        full=noted.full,
    )


def _observed(
    receipt: PortReceipt,
    others: Sequence[PortReceipt],
    seen: Mapping[str, Guarded],
    state: State,
    policies: Policies,
) -> Observed:
    network = state.sound_network(receipt.network) if receipt.network else None
    topology, _, policy = policies.get((receipt.uuid, receipt.mac), ("", "", None))
    subnets = tuple(map(parse.prefix, network.subnets)) if network else ()
    own, routers = _hosts(receipt, network, subnets)
    held = [*_by_policy(receipt, policies), *_held(receipt, others, seen)]
    reserved = ((ip, mac) for mac, ip in network.reservations if mac != receipt.mac) if network else ()
    known = {parse.address(ip): f"reserved for {mac or 'somebody'}" for ip, mac in reserved}
    known |= dict.fromkeys(routers, "that of a router of the host's")
    known |= {each.network_address: whose for each, whose in held if each.num_addresses == 1}
    macs = {mac: _plain(each.domain) for (_, mac), each in policies.items() if mac != receipt.mac}
    macs |= {each.mac: _name(each) for each in others} | ({network.mac: "the host"} if network else {})
    return Observed(
        guest=receipt.domain,
        port=policy.name if policy else receipt.mac,
        network=receipt.network,
        tap=receipt.tap,
        topology=topology,
        guard=guard_of(receipt),
        policy=policy,
        has=frozenset(seen[receipt.tap].learnt if receipt.tap in seen else ()),
        subnets=subnets,
        hosts=tuple(own),
        others=known,
        wide={each: whose for each, whose in held if each.num_addresses > 1},
        macs=macs,
        routed=_is_routed(receipt, network),
        elsewhere=dict(_elsewhere(receipt, state)),
    )


def _name(receipt: PortReceipt) -> str:
    return f"{_plain(receipt.domain)} on {_plain(receipt.network or receipt.tap)}"


def _is_routed(receipt: PortReceipt, network: NetworkReceipt | None) -> bool:
    return network is None and not receipt.segment


def _held(
    receipt: PortReceipt, others: Sequence[PortReceipt], seen: Mapping[str, Guarded]
) -> Iterator[tuple[Prefix, str]]:
    """Whose an address or prefix is, by what the other ports of the same link hold."""
    for other in others:
        if _shares_link(receipt, other):
            guard = guard_of(other)
            learnt = seen[other.tap].learnt if other.tap in seen else []
            certain = [*port_facts.certain(guard, 4), *port_facts.certain(guard, 6)]
            yield from ((each, f"that of {_name(other)}") for each in (*certain, *map(_single, learnt)))


def _shares_link(receipt: PortReceipt, other: PortReceipt) -> bool:
    """Whether two ports are of one network, or of two over the same link; ports that the host routes to have none."""
    if receipt.network == other.network or not (receipt.segment or other.segment):
        return True
    looked = held_sets.looked_into(receipt.segment, bool(receipt.trunk))
    links_of = (other.segment, *(link for link, _ in other.beside))
    return not set(looked).isdisjoint(account for link in links_of for account in held_sets.kept_on(link))


def _by_policy(receipt: PortReceipt, policies: Policies) -> Iterator[tuple[Prefix, str]]:
    """The same by what domains say that do not run now, perhaps."""
    for (uuid, mac), (_, domain, said) in policies.items():
        if said.network == receipt.network and (uuid, mac) != (receipt.uuid, receipt.mac):
            own = (*map(_single, said.addresses), *(pair.prefix for pair in said.pairs))
            yield from ((each, f"that of {_plain(domain)}") for each in own)


def _single(address: Address) -> Prefix:
    return parse.prefix(str(address))


def _hosts(
    receipt: PortReceipt, network: NetworkReceipt | None, subnets: Sequence[Prefix]
) -> tuple[set[Address], set[Address]]:
    """The host's own addresses, and those of the routers by which it routes: on that link, and elsewhere where no
    subnet of the link says that they are others' there."""
    own, routers = map(set, gateway.on_link(address_sets.bridge_of(receipt), routers=True))
    own |= set(map(parse.address, network.hosts if network else ()))
    with suppress(parse.TextError):
        own |= {parse.prefix(text).network_address for text in receipt.unclaimed} - routers
    found = {each.address for each in gateway.host_addresses(every=True)}
    return own | {each for each in found if not any(each in subnet for subnet in subnets)}, routers


def _elsewhere(receipt: PortReceipt, state: State) -> Iterator[tuple[Prefix, str]]:
    for network in state.networks():
        if network.name != receipt.network:
            yield from ((parse.prefix(subnet), network.name) for subnet in network.subnets)


def _file_of(domain: DomainState) -> str:
    """The topology whose file says it; "" where its metadata alone does."""
    return "" if domain.topology == DIRECT else domain.topology or ""


def text(found: Sequence[Suggestion]) -> str:
    """The same for people: what to write into the topology file, port by port; ports of which all the same is to be
    said are said together."""
    if not found:
        return "no running guest has a port that is observed\n"
    groups: dict[object, list[Suggestion]] = {}
    for each in found:
        groups.setdefault(_said(each), []).append(each)
    return "\n".join("".join(f"{line}\n" for line in _lines(ports)) for ports in groups.values())


def _said(port: Suggestion) -> object:
    """What is said of a port, but for its name and numbers of frames."""
    rest = tuple(_reason(each) for each in port.rest)
    keys = json.dumps([port.declare, *port.ask])
    return port.topology, bool(port.frames), keys, port.unknown, port.warnings, rest


def _reason(rest: str) -> str:
    return rest.rpartition(" (")[0]


def _lines(ports: Sequence[Suggestion]) -> Iterator[str]:
    """Of one port, or of several of which the same is said."""
    port, reasons = ports[0], Counter[str]()
    for each in ports:
        reasons.update(each.reasons)
    guest, name, topology = map(_plain, (port.guest, port.port, port.topology))
    yield from _names(ports, _counted(port, reasons))
    keys = _keys if port.topology else _in_metadata
    if port.declare:
        where = f"in topology {topology}, guests" if topology else "in its metadata, port"
        there = (f", {guest}, ports, {name}" if topology else f", {name}") if len(ports) == 1 else ", each of these"
        yield f"  {where}{there}:"
        yield from keys(port.declare)
    for question in port.ask:
        yield f"  and only if this guest is {question['if']}:"
        yield from keys({key: value for key, value in question.items() if key != "if"})
    if port.unknown:
        yield "  nobody knows its addresses, and it has used none: list `addresses`, or say `any`, before it is guarded"
    yield from (f"  not to be declared unseen: {warning}" for warning in port.warnings)
    if port.rest:
        left = (f"{reason} ({reasons[reason]} frames)" for reason in map(_reason, port.rest))
        yield f"  no declaration lets pass: {', '.join(left)}"


def _names(ports: Sequence[Suggestion], counted: str) -> Iterator[str]:
    named = [f"{_plain(each.guest)}.{_plain(each.port)} on {_plain(each.network or each.tap)}" for each in ports]
    if len(ports) == 1:
        yield f"{named[0]}: {counted}"
        return
    yield f"{len(ports)} ports: {counted}"
    line = " "
    for name in (f" {each}{'' if each is named[-1] else ','}" for each in named):
        if len(line) + len(name) > _WIDTH and line.strip():
            yield line
            line = " "
        line += name
    yield line


def _plain(name: str) -> str:
    """A name as it is or, if it is long or has what is no character of a line, quoted: a guest's own XML may say it."""
    return name if len(name) <= _LONGEST and name.isprintable() else parse.shown(name)


def _counted(port: Suggestion, reasons: Counter[str]) -> str:
    if port.frames:
        by_reason = ", ".join(f"{reason} {frames}" for reason, frames in sorted(reasons.items()))
        return f"{sum(reasons.values())} frames would have been dropped ({by_reason})"
    nothing = "nothing would have been dropped since its filter was last written"
    open_points = port.declare or port.ask or port.warnings or port.unknown
    return nothing if open_points else f"{nothing}: it can be `guarded: true`"


def _keys(keys: Mapping[str, object]) -> Iterator[str]:
    """As YAML, of which JSON is a part."""
    return (f"    {key}: {json.dumps(value)}" for key, value in keys.items())


def _in_metadata(keys: Mapping[str, object]) -> Iterator[str]:
    """As <guestnet:port> of a domain that is no topology's has it (xml/metadata.rng)."""
    for key, value in keys.items():
        if key == "privacy-addresses":
            yield '    privacy="yes"'
        elif key == "trunk":
            yield f'    <guestnet:vlan trunk="{",".join(map(str, _list(value)))}"/>'
        else:
            yield from (f"    {_element(key, each)}" for each in _list(value))


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _element(key: str, value: object) -> str:
    if isinstance(value, dict):
        mac = f' mac="{value["mac"]}"' if "mac" in value else ""
        return f'<guestnet:pair prefix="{value["address"]}"{mac}/>'
    tag, attribute = {"addresses": ("address", "ip"), "roles": ("role", "name"), "sources": ("source", "prefix")}[key]
    return f'<guestnet:{tag} {attribute}="{value}"/>'

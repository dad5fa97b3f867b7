"""The difference between what a topology wants and what libvirt has, as a list of changes. Pure.

The order: first removals (NICs, networks), then networks, definitions, metadata and NICs. Guests that disappear come
last, since a stopped guest is the one thing that no rollback can bring back.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from libvirt_guestnet.carriers.registry import MADE_BRIDGES
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import RemoveDomain, SetDomainMetadata
from libvirt_guestnet.changes.network import AdoptNetwork
from libvirt_guestnet.libvirtd.snapshot import (
    NETWORK_MARK,
    PORT_MARK,
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    Wanted,
    WantedGuest,
    WantedNetwork,
    interfaces,
    mac,
    parse_xml,
)
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.drift import HOST, NETWORK
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.plan.adoption import left_alone, plan_external, plan_release, set_without_file
from libvirt_guestnet.plan.cards import card_problems
from libvirt_guestnet.plan.devices import device_problems, shares_nic
from libvirt_guestnet.plan.forwards import forward_clashes
from libvirt_guestnet.plan.guest import GuestChanges, fitted, plan_guest, release_guest
from libvirt_guestnet.plan.guest_metadata import stays_on, unknown_notes
from libvirt_guestnet.plan.network import bridge_of, plan_removal
from libvirt_guestnet.plan.problems import PlanError
from libvirt_guestnet.plan.takeover import is_taken_over, plan_own
from libvirt_guestnet.styled import NOTE, Line, line

# The metadata for which the network hook makes a bridge: such a bridge may exist, and be ours.
_CARRIERS = tuple(PORT_MARK.replace("}port", "}" + tag) for tag in sorted(MADE_BRIDGES))


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which `apply` makes them, and notes for the user."""

    topology: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    expected: frozenset[str] = frozenset()
    """Guests whose interruption needs no consent: the topology's own, when it is destroyed."""
    leaving: frozenset[str] = frozenset()
    """Users' own guests that are no longer in the topology: they go without our NICs and metadata."""

    @property
    def interrupts(self) -> tuple[str, ...]:
        """Every running guest that the plan interrupts, except for those expected."""
        return tuple(sorted({guest for change in self.changes for guest in change.interrupts} - self.expected))

    def text(self) -> str:
        """For people, one change a line; empty when there is nothing to do or say."""
        return "\n".join(map(str, self.lines()))

    def lines(self) -> list[Line]:
        """The same, each line in parts."""
        notes = (line(("note", NOTE), f": {note}") for note in self.notes)
        return [*(change.line() for change in self.changes), *notes]

    def json(self) -> list[dict[str, object]]:
        """For programs: a flat list."""
        return [change.json() for change in self.changes]


def plan(wanted: Wanted, snapshot: Snapshot) -> Plan:
    """What `apply` has to do. Raises PlanError if it would change anything that is not this topology's."""
    problems = [*_foreign(wanted, snapshot), *_bridge_clashes(wanted, snapshot)]
    problems += [*_drawn_clashes(wanted, snapshot), *_mac_clashes(wanted, snapshot), *forward_clashes(wanted, snapshot)]
    problems += [*device_problems(wanted, snapshot), *card_problems(wanted, snapshot), *snapshot.taken]
    if problems:
        raise PlanError(problems)
    inherited = {network.name: _inherited(network.element) for network in wanted.networks}
    inherited |= {each.name: _inherited(snapshot.network[each.name].current) for each in wanted.externals}
    guests = [plan_guest(guest, snapshot, inherited) for guest in wanted.guests]
    parting = list(_leaving_domains(wanted, snapshot))
    leaving = [release_guest(state, "no longer in the topology") for state in parting]
    sure = _freed(parting) | {guest.name for guest, made in zip(wanted.guests, guests, strict=True) if _stays(made)}
    changes: list[Change] = [change for guest in guests for change in guest.detach]
    changes += [change for released in leaving for change in released if not _stops(change)]
    changes += _leaving_networks(wanted, snapshot, sure)
    changes += plan_own(wanted, snapshot, sure)
    for external in wanted.externals:
        changes += plan_external(external, snapshot, sure)
    changes += [change for guest in guests for change in guest.others]
    changes += [change for released in leaving for change in released if _stops(change)]
    notes = [*(note for guest in guests for note in guest.notes), *_wrong_notes(wanted, snapshot)]
    notes += [*_inactive_notes(wanted, snapshot), *_not_taken_over(wanted, snapshot)]
    notes += [note for state in parting for note in unknown_notes(state)]
    notes += _left_alone_notes(changes, {*(guest.name for guest in wanted.guests), *_names(parting)}, snapshot)
    return Plan(wanted.topology, tuple(changes), tuple(notes), leaving=_freed(parting))


def _stops(change: Change) -> bool:
    return isinstance(change, RemoveDomain) and bool(change.interrupts)


def _names(domains: Iterable[DomainState]) -> frozenset[str]:
    return frozenset(domain.name for domain in domains)


def _freed(domains: Iterable[DomainState]) -> frozenset[str]:
    """Those whose metadata is taken out before networks change: they go on without, as their users' own."""
    return _names(domain for domain in domains if not domain.ours)


def _stays(guest: GuestChanges) -> bool:
    """Whether what its metadata says while it runs stays: where that cannot be carried out, `apply` is to fail."""
    return not any(isinstance(change, SetDomainMetadata) and change.live for change in guest.others)


def _inactive_notes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    for each in wanted.externals:
        if snapshot.network[each.name].live is None:
            yield f"network {each.name!r} is not active, and not guestnet's to start: virsh net-start {each.name}"


def _left_alone_notes(changes: Iterable[Change], own: Collection[str], snapshot: Snapshot) -> Iterator[str]:
    """Guests that do not follow a network, but for those whose metadata is replaced or taken out (`own`)."""
    found: dict[str, str] = {}
    for change in changes:
        if isinstance(change, AdoptNetwork):
            mark = None if change.mark.new is None else parse_xml(change.mark.new)
            found |= left_alone(snapshot.network[change.name], snapshot, mark, own)
    for guest, why in sorted(found.items()):
        said = why if why.startswith(f"domain {guest!r}: ") else f"domain {guest!r}: {why}"
        yield f"{said}: it stays as it is, guarded or not, until that is right or taken out; the others go on"


def _wrong_notes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """What is wrong in the kernel and no guest's; it may be right once the plan's changes are made."""
    names = {network.name for network in wanted.networks} | {network.name for network in wanted.externals}
    for each in snapshot.wrong:
        if each.kind == HOST or (each.kind == NETWORK and each.owner in names):
            yield f"{each.text()}: {each.do}"


def plan_destroy(topology: str, snapshot: Snapshot, guests: Collection[str] | None = None) -> Plan:
    """Removes everything that has our mark and this topology's name, whatever the file says now. `guests` are those in
    the file, if there is one: other running guests are interrupted."""
    why = f"destroying topology {topology}"
    parting = [domain for domain in snapshot.domains if domain.topology == topology]
    changes = [change for domain in parting for change in release_guest(domain, why)]
    gone = {change.name for change in changes if isinstance(change, RemoveDomain)}
    domains = [state for state in snapshot.domains if state.topology == topology and not state.is_copy]
    released = {state.name: state for state in domains}
    cut_off: set[str] = set()
    for network in snapshot.networks:
        if network.topology == topology and network.is_external:
            changes += plan_release(network, snapshot, why, _freed(parting))
        elif network.topology == topology:
            staying = ((d, nic) for d, nic in snapshot.plugged.get(network.name, ()) if d not in gone)
            users = {d for d, nic in staying if not _lets_go(released.get(d), nic)}
            cut_off |= users
            removal = plan_removal(network, snapshot, users, gone, why, sure=_freed(parting))
            changes.append(replace(removal, after=_having(network.name, domains)))
        elif network.mark is None and snapshot.adopted.get(network.name) == topology:
            taken_out = f"{why}; somebody took its metadata out"
            changes += plan_release(network, snapshot, taken_out, _freed(parting))
    # What was saved of a user's own domain stays and cannot be changed, so that needs consent.
    own = (state for state in domains if state.name in gone or not state.saved)
    expected = frozenset(state.name for state in own if guests is None or state.name in guests) - cut_off
    unknown = (note for state in parting for note in unknown_notes(state))
    notes = (*unknown, *_left_alone_notes(changes, _names(parting), snapshot))
    return Plan(topology, tuple(changes), notes, expected)


def _having(network: str, domains: Iterable[DomainState]) -> frozenset[str]:
    return frozenset(state.name for state in domains if network in state.needed)


def _lets_go(state: DomainState | None, nic: Element) -> bool:
    """Whether a domain's NIC leaves its network when the domain is released."""
    return state is not None and mac(nic) in state.marked_macs and not stays_on(state, nic)


def _inherited(network: Element) -> frozenset[str]:
    """What libvirt copies from a network into its live NICs."""
    found = {tag for tag in ("port", "vlan", "virtualport") if network.find(tag) is not None}
    return frozenset(found | ({"port", "vlan", "bandwidth"} if network.find("portgroup") is not None else set()))


def _leaving_domains(wanted: Wanted, snapshot: Snapshot) -> Iterator[DomainState]:
    staying = {guest.name for guest in wanted.guests} | wanted.left_alone
    ours = (d for d in snapshot.domains if d.topology == wanted.topology and d.name not in staying)
    return (d for d in ours if wanted.leaving is None or ("domain", d.name) in wanted.leaving)


def _leaving_networks(wanted: Wanted, snapshot: Snapshot, sure: Collection[str]) -> Iterator[Change]:
    staying = {network.name for network in wanted.networks}
    # NICs of this topology's guests are moved, detached or removed with them; only other guests are cut off.
    managed = {domain.name: domain for domain in snapshot.domains if _is_managed(domain, wanted.topology)}
    ours = {guest.name: set(map(mac, guest.interfaces)) for guest in wanted.guests}
    gone = {state.name for state in _leaving_domains(wanted, snapshot) if state.ours}

    def lets_go(domain: str, nic: Element) -> bool:
        state = managed.get(domain)
        mine = mac(nic) in ours.get(domain, set())
        return state is not None and (state.ours or mine or _lets_go(state, nic))

    adopted = {each.name for each in wanted.externals}
    for state in snapshot.networks:
        if state.topology == wanted.topology and state.is_external:
            if state.name not in adopted and (wanted.leaving is None or ("network", state.name) in wanted.leaving):
                why = "nothing needs it" if wanted.topology == DIRECT else "no longer in the topology"
                yield from plan_release(state, snapshot, why, sure)
        elif state.topology == wanted.topology and state.name not in staying and wanted.leaving is None:
            users = {domain for domain, nic in snapshot.plugged.get(state.name, ()) if not lets_go(domain, nic)}
            removal = plan_removal(state, snapshot, users, gone, "no longer in the topology", sure=sure)
            yield replace(removal, after=_having(state.name, managed.values()) - users)


def _is_managed(domain: DomainState, topology: str) -> bool:
    return domain.topology == topology and not domain.is_copy


def _foreign(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    for network in wanted.networks:
        state = snapshot.network.get(network.name)
        if state is not None and state.is_external and state.topology == wanted.topology:
            yield f"network {network.name!r} is not guestnet's: say external: true, or give it another name"
        elif is_taken_over(network, state):
            yield from _transient(state)
        elif state is not None and state.topology != wanted.topology:
            yield _not_ours("network", network.name, state.topology)
    for guest in wanted.guests:
        yield from _foreign_domain(wanted.topology, guest, snapshot.domain.get(guest.name))


def _transient(state: NetworkState | None) -> Iterator[str]:
    if state is not None and not state.persistent:
        yield f"network {state.name!r} is transient: define it (virsh net-define) before it is taken over"


def _not_taken_over(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A file takes over what was set without one. Who is not in it keeps that: were it an error, any guest on the
    network could hold the file up by such metadata of its own."""
    networks = [snapshot.network[e.name] for e in wanted.externals]
    taken = [state for state in networks if state.topology == DIRECT != wanted.topology]
    listed = {guest.name for guest in wanted.guests}
    for state in taken:
        for name in sorted(set(set_without_file(state, snapshot)) - listed):
            yield (
                f"domain {name!r} is on network {state.name!r}, and keeps what guestnet guard, forward or address set "
                f"for it: put it into this file, too (guestnet import writes that), or take it back"
            )


def _foreign_domain(topology: str, guest: WantedGuest, state: DomainState | None) -> Iterator[str]:
    if state is None or (state.topology in (None, DIRECT) and guest.definition is None):
        return
    if state.topology != topology:
        yield _not_ours("domain", guest.name, state.topology)
    elif guest.definition is not None and not state.ours:
        yield (
            f"domain {guest.name!r} is your own, and the topology now gives it an image: guestnet never redefines a "
            f"domain it did not define; drop `image:`, rename the guest, or undefine the domain yourself"
        )
    elif guest.definition is not None and _text(fitted(guest.definition, state), "uuid") != state.uuid:
        yield f"guest {guest.name!r}: its domain has UUID {state.uuid}: drop `uuid:`, or undefine the domain"


def _not_ours(kind: str, name: str, owner: str | None) -> str:
    if owner == DIRECT:
        return f"{kind} {name!r}: guestnet guard, forward or address set something for it: give it another name here"
    if owner is None:
        adopt = "say external: true to have its ports guarded, or take-over: true, " if kind == "network" else ""
        return (
            f"{kind} {name!r} exists and was not made by guestnet: {adopt}give it another name in the topology, or "
            f"undefine it with virsh if it is not needed"
        )
    return (
        f"{kind} {name!r} belongs to topology {owner!r}: give it another name in this topology, or run "
        f"`guestnet destroy --name {shlex.quote(owner)}` first"
    )


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip().lower()


def _bridge_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    names = {network.name for network in wanted.networks}
    taken = {n.name for n in wanted.networks if is_taken_over(n, snapshot.network.get(n.name))}
    held = {}
    ours = set()
    for state in snapshot.networks:
        own = state.topology == wanted.topology or state.name in taken
        if own and not state.is_external:
            ours.add(state.bridge)
        if state.bridge is not None and not (own and state.name in names):
            held[state.bridge] = state
    for network in wanted.networks:
        yield from _bridge_clash(wanted.topology, network, held, snapshot.devices - ours)


def _bridge_clash(
    topology: str, network: WantedNetwork, held: dict[str, NetworkState], devices: frozenset[str | None]
) -> Iterator[str]:
    bridge = bridge_of(network.element)
    holder = held.get(bridge or "")
    if bridge is None or _shares_bridge(network.element) or (holder and shares_nic(network.element, holder.current)):
        return  # the last is said better by `device_problems`
    if holder is not None and (holder.topology != topology or holder.is_external):
        owner = "" if holder.topology is None else f" of topology {holder.topology!r}"
        yield (
            f"network {network.name!r}: bridge {bridge!r} is held by libvirt network {holder.name!r}{owner}: "
            f"choose another `bridge:`"
        )
    elif bridge in devices and not _made_by_hook(network.element):
        yield (
            f"network {network.name!r}: this host has a device {bridge!r} already, and no network of this topology "
            f"made it: choose another `bridge:`, or remove it with `ip link delete {bridge}` if it is a leftover"
        )


def _shares_bridge(network: Element) -> bool:
    """Whether the bridge exists without us (mode bridge on a mapped bridge): then several networks may use it."""
    forward = network.find("forward")
    bridged = forward is not None and forward.get("mode") == "bridge"
    return bridged and not _made_by_hook(network)


def _made_by_hook(network: Element) -> bool:
    return any(network.find(f"{NETWORK_MARK}/{carrier}") is not None for carrier in _CARRIERS)


def _drawn_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A VLAN that the file names may be shared with another network; one drawn from a pool may not."""
    held = {}
    for state in snapshot.networks:
        if state.topology != wanted.topology and (tag := _tag(state.current)):
            held[tag] = state
    for network in wanted.networks:
        tag = _tag(network.element) if network.drawn else None
        if tag is not None and (holder := held.get(tag)) is not None:
            owner = "" if holder.topology is None else f" of topology {holder.topology!r}"
            yield (
                f"network {network.name!r}: {tag[0]}, drawn from the pool, is that of libvirt "
                f"network {holder.name!r}{owner}: write another number instead of auto, or give each its own pool"
            )


def _tag(network: Element) -> tuple[str, str | None] | None:
    """What separates a network's frames from others', and the device on which it does (None: on the host); None if
    nothing."""
    uplink, vlan, vxlan = (network.find(f"{NETWORK_MARK}/{{{NAMESPACE}}}{tag}") for tag in ("uplink", "vlan", "vxlan"))
    native = network.find("vlan/tag")  # libvirt's own words, for Open vSwitch
    if vxlan is not None:
        return f"VNI {vxlan.get('vni')}", None
    if uplink is not None and uplink.get("vlan"):
        return f"VLAN {uplink.get('vlan')}", uplink.get("device")
    if vlan is not None and vlan.get("tag"):
        return f"VLAN {vlan.get('tag')}", bridge_of(network)
    return None if native is None else (f"VLAN {native.get('id')}", bridge_of(network))


def _mac_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    holders: dict[str, str] = {}
    for state in snapshot.domains:
        if state.topology != wanted.topology or state.is_copy:
            holders.update(dict.fromkeys([*interfaces(state.config), *interfaces(state.live)], state.name))
    for guest in wanted.guests:
        for address in map(mac, guest.interfaces):
            holder = holders.get(address)
            if holder is not None and holder != guest.name:
                yield f"guest {guest.name!r}: MAC {address} is in use by domain {holder!r}: give the port another one"

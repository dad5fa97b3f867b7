"""What must change so that a guest's domain is as it is wanted. Pure.

`nic_changes` has the changes of one of its NICs, `guest_metadata` those of its metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace

from lxml import etree

from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import DefineDomain, RemoveDomain, RestorePorts, SetDomainAutostart
from libvirt_guestnet.changes.router import RemoveRouter
from libvirt_guestnet.guest.files import GuestFiles
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network
from libvirt_guestnet.libvirtd.snapshot import (
    PORT_MARK,
    DomainState,
    Element,
    RouterSeen,
    Snapshot,
    WantedGuest,
    to_text,
)
from libvirt_guestnet.metadata.policy import OBSERVE
from libvirt_guestnet.model.drift import GUEST
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.plan.compare import Difference, differences, summary
from libvirt_guestnet.plan.files import file_notes, leave_files, plan_files
from libvirt_guestnet.plan.guest_metadata import count, metadata_changes, remembering, unknown_notes, was_before
from libvirt_guestnet.plan.nic import kept, was_there
from libvirt_guestnet.plan.nic_changes import NicChanges, defined_together, let_go
from libvirt_guestnet.plan.router import plan_router, router_notes
from libvirt_guestnet.xmlgen import USERS_TAG


@dataclass
class GuestChanges:
    """The changes in the order in which they must be made: detach, then (networks change), define, metadata, attach and
    update."""

    detach: list[Change] = field(default_factory=list)
    others: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_guest(wanted: WantedGuest, snapshot: Snapshot, inherited: dict[str, frozenset[str]]) -> GuestChanges:
    """All changes for one guest of the topology. `inherited` says, by network, what its live NICs get from it."""
    changes = GuestChanges()
    state = snapshot.domain.get(wanted.name)
    if wanted.definition is None and state is None:
        changes.notes.append(
            f"guest {wanted.name!r} has no domain yet: define it with libvirt, then apply again to plug its NICs in"
        )
    elif wanted.definition is not None:
        found = snapshot.files.get(wanted.name, GuestFiles())
        changes.others += plan_files(wanted, found)
        changes.notes += file_notes(wanted, found, state)
        changes.others += _definition(wanted, wanted.definition, state)
        changes.notes += _restart_note(wanted, wanted.definition, state)
    if state is not None:
        _change_interfaces(wanted, state, snapshot, inherited, changes)
    _put_back(wanted.name, snapshot, changes)
    seen = snapshot.routers.get(wanted.name, RouterSeen())
    changes.others += plan_router(wanted, state, seen)  # it is told of NICs that it has by then
    changes.notes += router_notes(wanted, state, seen)
    return changes


def _put_back(guest: str, snapshot: Snapshot, changes: GuestChanges) -> None:
    """Puts back what the kernel lacks of a running guest."""
    wrong = [each for each in snapshot.wrong if (each.kind, each.owner) == (GUEST, guest)]
    if mended := [each for each in wrong if each.is_mended_by_guard]:
        changes.others.append(RestorePorts(guest, "; ".join(f"{each.device} {each.found}" for each in mended)))
    changes.notes += [f"{each.text()}: {each.do}" for each in wrong if not each.is_mended_by_guard]


def release_guest(state: DomainState, why: str, *, remove_disk: bool = False) -> tuple[Change, ...]:
    """The changes that remove a domain of ours; of a user's domain, our NICs and metadata."""
    if state.ours:
        interrupts = () if state.live is None and not state.saved else (state.name,)
        kind = RemoveRouter if state.is_router else RemoveDomain
        removal = kind(
            state.name,
            why,
            interrupts,
            xml=to_text(state.config),
            running=state.live is not None,
            autostart=state.autostart,
        )
        return (removal, *leave_files(state, "", remove_disk=remove_disk))
    if state.is_copy:  # its NICs are its user's
        return tuple(metadata_changes(state.name, state, None, config=True))
    on = state.marked_networks
    live, config = interfaces(state.live, on), interfaces(state.config, on)
    gone = [address for address in dict.fromkeys([*live, *config]) if address in state.plugged_macs]
    left = [let_go(state, address, live.get(address), config.get(address), why) for address in gone]
    return (
        *(change for each in left for change in each.first),
        *metadata_changes(state.name, state, None, config=True),
        *(change for each in left for change in each.last),
    )


def _definition(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[Change]:
    element = fitted(definition, state)
    if state is None:
        yield DefineDomain(wanted.name, count(len(wanted.interfaces), "NIC"), xml=to_text(element))
    elif (found := _differences(wanted, definition, state)) or not state.persistent:
        yield DefineDomain(wanted.name, summary(found), xml=to_text(element), old=to_text(state.config))
    if wanted.autostart != (state is not None and state.autostart):
        yield SetDomainAutostart(wanted.name, "on" if wanted.autostart else "off", on=wanted.autostart)


def _differences(wanted: WantedGuest, definition: Element, state: DomainState) -> tuple[Difference, ...]:
    """Where a definition is not as it is wanted. XML of the user's is compared as it was written: libvirt has it in
    other words by now."""
    was, now = _of_users(state.config), _of_users(definition)
    if was == now:
        plain = definition if wanted.plain is None else wanted.plain
        return differences(fitted(plain, state), state.config)
    found = differences(fitted(definition, state), state.config)
    return (
        Difference("domain-xml", now, was),
        *(each for each in found if not each.path.startswith("metadata/domain")),
    )


def _of_users(domain: Element) -> str:
    noted = domain.find(f"metadata/{USERS_TAG}")
    return "none" if noted is None else noted.get("sha256", "")[:8]


def _restart_note(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[str]:
    """A note about what a running guest gets at its next start only, when its definition changes."""
    if state is None or state.live is None:
        return
    found = _differences(wanted, definition, state)
    later = [d for d in found if not d.path.startswith(("devices/interface", "metadata"))]
    if later:
        how = f" (guestnet router replace {wanted.name})" if wanted.document is not None else ""
        yield f"guest {wanted.name!r} is running and gets this at its next start{how}: {summary(later)}"


def fitted(definition: Element, state: DomainState | None) -> Element:
    """A definition with the UUID that libvirt gave the existing domain: it must be a redefinition."""
    result = deepcopy(definition)
    if state is not None and result.find("uuid") is None:
        etree.SubElement(result, "uuid").text = state.uuid
    return result


def _change_interfaces(
    wanted: WantedGuest,
    state: DomainState,
    snapshot: Snapshot,
    inherited: dict[str, frozenset[str]],
    changes: GuestChanges,
) -> None:
    defined_here = wanted.definition is None  # else DefineDomain has done the definition
    new = {mac(interface): interface for interface in wanted.interfaces}
    on = {address: source_network(interface) for address, interface in new.items()}
    live, config = interfaces(state.live, on), interfaces(state.config, on) if defined_here else {}
    for address in wanted.kept:
        if (nic := _left_alone(new[address], state, live, config)) is not None:
            new[address] = nic
    ours = state.plugged_macs if defined_here else frozenset(live)
    left = [
        let_go(state, address, live.get(address), config.get(address), "no longer in the topology")
        for address in dict.fromkeys([*live, *config])
        if address in ours and address not in new
    ]
    if defined_here:
        changes.notes += unknown_notes(state, new)
    changes.detach += [change for each in left for change in each.first]
    plugs = [change for each in left for change in each.last]
    moves: list[Change] = []
    for address, interface in new.items():
        from_network = inherited.get(source_network(interface) or "", frozenset())
        was = was_before(state, address) if defined_here else None
        mtu = address in wanted.mtus or (interface.find("mtu") is None and was is not None and _has_mtu(was))
        planner = NicChanges(wanted.name, address, interface, from_network, not defined_here, was, mtu)
        planner.plan(state.live is not None, live.get(address), defined_here, config.get(address))
        changes.notes += _later_note(wanted.name, address, planner)
        changes.detach += planner.detach
        moves += planner.moves
        plugs += planner.plugs
    from_file = wanted.metadata.get("topology") != DIRECT  # else no NIC is changed
    metadata = remembering(wanted.metadata, new, state) if defined_here and from_file else wanted.metadata
    told = metadata_changes(wanted.name, state, metadata, config=defined_here)
    lost = _leased_else(wanted, state, snapshot) if defined_here else ""
    changes.others += [*moves, *(_interrupting(each, lost) for each in told), *defined_together(plugs)]


def _has_mtu(was: Element) -> bool:
    return was.find("mtu") is not None


def _later_note(guest: str, address: str, nic: NicChanges) -> Iterator[str]:
    if nic.later:
        said = summary(nic.later, len(nic.later))
        yield f"guest {guest!r} is running and gets this at its next start: NIC {address}: {said}"


def _leased_else(wanted: WantedGuest, state: DomainState, snapshot: Snapshot) -> str:
    """The address that a guest which is to be adopted runs with, and may not use by what the file lists."""
    for port in wanted.metadata.iterfind(PORT_MARK) if state.live is not None else ():
        address = port.get("mac", "").lower()
        listed = {each.get("ip") for each in port.iterfind(PORT_MARK.replace("}port", "}address"))}
        other = sorted(snapshot.leased.get(address, frozenset()) - listed)
        dropped = port.get("guarded") not in ("no", OBSERVE)
        if dropped and listed and other and address in wanted.kept - state.marked_macs:
            return other[0]
    return ""


def _interrupting(change: Change, lost: str) -> Change:
    if not lost:
        return change
    detail = f"{change.detail}; it has {lost} by DHCP, which is not among its addresses, until it asks again"
    return replace(change, detail=detail, interrupts=(change.name,))


def _left_alone(
    wanted: Element, state: DomainState, live: dict[str, Element], config: dict[str, Element]
) -> Element | None:
    """What is wanted of a NIC that its user has on that network already; None where there is none."""
    address = mac(wanted)
    nics = [nic for nic in (config.get(address), live.get(address)) if nic is not None]
    was = was_before(state, address)
    plugged_by_us = was is not None and not was_there(was)
    if not nics or plugged_by_us or not all(_same_place(wanted, nic) for nic in nics):
        return None
    return kept(wanted, nics[0])


def _same_place(wanted: Element, nic: Element) -> bool:
    if source_network(wanted) is not None:
        return source_network(nic) == source_network(wanted)
    bridges = [source.get("bridge") for each in (wanted, nic) for source in each.iterfind("source")]
    return nic.get("type") == "bridge" and len(bridges) == 2 and bridges[0] == bridges[1]

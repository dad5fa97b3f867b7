"""What must change so that a guest's domain has the NICs and the metadata that are wanted, and which NICs must be
unplugged and plugged in again for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lxml import etree

from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.guest import (
    AttachInterface,
    DefineDomain,
    DetachInterface,
    RemoveDomain,
    RestorePorts,
    SetDomainAutostart,
    SetDomainMetadata,
    UpdateInterface,
    linked,
)
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    PORT_MARK,
    DomainState,
    Element,
    Snapshot,
    WantedGuest,
    interfaces,
    mac,
    parse_xml,
    source_network,
    to_text,
)
from libvirt_guestnet.metadata.elements import port_policies
from libvirt_guestnet.metadata.policy import OBSERVE
from libvirt_guestnet.model.drift import GUEST
from libvirt_guestnet.plan.compare import Difference, differences, summary
from libvirt_guestnet.plan.nic import (
    before,
    check_remembered,
    kept,
    merged,
    moves,
    nic_differences,
    place,
    plugged,
    restored,
    was_there,
)
from libvirt_guestnet.xmlgen.element import api_text

# What virDomainUpdateDeviceFlags can change in a running guest's NIC (libvirt 9.0).
_UPDATABLE = ("link", "bandwidth", "port", "vlan", "source")


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
        changes.others += _definition(wanted, wanted.definition, state)
        changes.notes += _restart_note(wanted, wanted.definition, state)
    if state is not None:
        _change_interfaces(wanted, state, snapshot, inherited, changes)
    _put_back(wanted.name, snapshot, changes)
    return changes


def _put_back(guest: str, snapshot: Snapshot, changes: GuestChanges) -> None:
    """Puts back what the kernel lacks of a running guest."""
    wrong = [each for each in snapshot.wrong if (each.kind, each.owner) == (GUEST, guest)]
    if mended := [each for each in wrong if each.is_mended_by_guard]:
        changes.others.append(RestorePorts(guest, "; ".join(f"{each.device} {each.found}" for each in mended)))
    changes.notes += [f"{each.text()}: {each.do}" for each in wrong if not each.is_mended_by_guard]


def release_guest(state: DomainState, why: str) -> tuple[Change, ...]:
    """The changes that remove a domain of ours; of a user's domain, our NICs and metadata."""
    if state.ours:
        interrupts = () if state.live is None and not state.saved else (state.name,)
        removal = RemoveDomain(
            state.name,
            why,
            interrupts,
            xml=to_text(state.config),
            running=state.live is not None,
            autostart=state.autostart,
        )
        return (removal,)
    if state.is_copy:  # its NICs are its user's
        return tuple(_metadata(state.name, state, None, config=True))
    on = state.marked_networks
    live, config = interfaces(state.live, on), interfaces(state.config, on)
    gone = [address for address in dict.fromkeys([*live, *config]) if address in state.marked_macs]
    left = [_let_go(state, address, live.get(address), config.get(address), why) for address in gone]
    return (
        *(change for each in left for change in each.first),
        *_metadata(state.name, state, None, config=True),
        *(change for each in left for change in each.last),
    )


def _definition(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[Change]:
    element = fitted(definition, state)
    if state is None:
        yield DefineDomain(wanted.name, _count(len(wanted.interfaces), "NIC"), xml=to_text(element))
    elif (found := differences(element, state.config)) or not state.persistent:
        yield DefineDomain(wanted.name, summary(found), xml=to_text(element), old=to_text(state.config))
    if wanted.autostart != (state is not None and state.autostart):
        yield SetDomainAutostart(wanted.name, "on" if wanted.autostart else "off", on=wanted.autostart)


def _restart_note(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[str]:
    """A note about what a running guest gets at its next start only, when its definition changes."""
    if state is None or state.live is None:
        return
    found = differences(fitted(definition, state), state.config)
    later = [d for d in found if not d.path.startswith(("devices/interface", "metadata"))]
    if later:
        yield f"guest {wanted.name!r} is running and gets this at its next start: {summary(later)}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


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
    ours = state.marked_macs if defined_here else frozenset(live)
    left = [
        _let_go(state, address, live.get(address), config.get(address), "no longer in the topology")
        for address in dict.fromkeys([*live, *config])
        if address in ours and address not in new
    ]
    changes.detach += [change for each in left for change in each.first]
    plugs = [change for each in left for change in each.last]
    moves: list[Change] = []
    for address, interface in new.items():
        from_network = inherited.get(source_network(interface) or "", frozenset())
        was = _was(state, address) if defined_here else None
        planner = _Nic(wanted.name, address, interface, from_network, not defined_here, was)
        planner.plan(state.live is not None, live.get(address), defined_here, config.get(address))
        changes.detach += planner.detach
        moves += planner.moves
        plugs += planner.plugs
    metadata = _remembering(wanted.metadata, new, state) if defined_here else wanted.metadata
    told = _metadata(wanted.name, state, metadata, config=defined_here)
    lost = _leased_else(wanted, state, snapshot) if defined_here else ""
    changes.others += [*moves, *(_interrupting(each, lost) for each in told), *plugs]


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
    plugged_by_us = address in state.marked_macs and not was_there(_was(state, address))
    if not nics or plugged_by_us or not all(_same_place(wanted, nic) for nic in nics):
        return None
    return kept(wanted, nics[0])


def _same_place(wanted: Element, nic: Element) -> bool:
    if source_network(wanted) is not None:
        return source_network(nic) == source_network(wanted)
    bridges = [source.get("bridge") for each in (wanted, nic) for source in each.iterfind("source")]
    return nic.get("type") == "bridge" and len(bridges) == 2 and bridges[0] == bridges[1]


def _remembering(metadata: Element, new: dict[str, Element], state: DomainState) -> Element:
    """With what NICs that the user's domain had before were, as far as they are changed, and what of those that were
    plugged in goes when the file declares it no more."""
    on = {address: source_network(interface) for address, interface in new.items()}
    result, nics = deepcopy(metadata), {**interfaces(state.live, on), **interfaces(state.config, on)}
    for port in result.iterfind(PORT_MARK):
        address = port.get("mac", "").lower()
        if address not in new:
            continue
        nic, was = nics.get(address), _was(state, address)
        had = nic is not None and (was_there(was) or (was is None and address not in state.marked_macs))
        remembered = before(new[address], nic, was) if nic is not None and had else plugged(new[address])
        if remembered is not None:
            port.set("was", to_text(remembered))
    return result


def _was(state: DomainState, address: str) -> Element | None:
    """What a NIC was before the topology had to do with it, if something is kept of that."""
    roots = [state.config] if state.live is None else [state.config, state.live]
    for port in (port for root in roots for port in port_policies(root.find(DOMAIN_MARK))):
        if port.mac == address and port.was:
            try:
                was = parse_xml(port.was)
                check_remembered(was)
            except GuestnetError as error:
                raise GuestnetError(f"domain {state.name!r}: metadata: `was` of port {address}: {error}") from error
            return was
    return None


class _Left(NamedTuple):
    """The changes that release a NIC, before the metadata changes and after that."""

    first: tuple[Change, ...]
    last: tuple[Change, ...] = ()


def _let_go(state: DomainState, address: str, live: Element | None, config: Element | None, why: str) -> _Left:
    """A NIC of ours is removed; one that the user had before stays, as it was."""
    was = _was(state, address)
    if was is None or not was_there(was):
        return _Left((_detach(state.name, address, live, config, why),))
    why = f"{address}, as it was ({place(was)}): {why}"
    first: list[Change] = []
    if config is not None and to_text(new := restored(config, was)) != to_text(config):
        first.append(UpdateInterface(state.name, why, mac=address, config=_replace(config, new)))
    if live is None:
        return _Left(tuple(first))
    new = restored(live, _without_target(was))  # no running NIC's tap changes its name
    if moves(new, live):
        first.append(DetachInterface(state.name, why, (state.name,), mac=address, live=to_text(live)))
        back = AttachInterface(state.name, why, mac=address, xml=to_text(restored(live, was)), live=True, config=False)
        return _Left(tuple(first), (back,))
    if differences(new, live):
        first.append(UpdateInterface(state.name, why, mac=address, live=_replace(live, new)))
    return _Left(tuple(first))


def _without_target(was: Element) -> Element:
    result = deepcopy(was)
    for target in result.findall("target"):
        result.remove(target)
    return result


@dataclass
class _Nic:
    """The changes of one NIC that the topology wants. In a user's own domain (not `own`) only what `nic` says is
    changed."""

    domain: str
    address: str
    wanted: Element
    inherited: frozenset[str]
    own: bool
    was: Element | None = None
    detach: list[Change] = field(default_factory=list)
    moves: list[Change] = field(default_factory=list)
    plugs: list[Change] = field(default_factory=list)

    def plan(self, running: bool, live: Element | None, define: bool, config: Element | None) -> None:
        """Plans them. With `define`, the definition is changed here, not elsewhere."""
        replacement = self._replacement(running, live, config)
        if define and config is None and live is None:
            self._attach(self.wanted, live=replacement is not None)
            return
        if define and config is not None:
            self._change_config(config)
        elif define and live is not None:
            self._attach(_defined(self._merged(live)), live=False)
        if replacement is not None:
            self._attach(replacement, live=True, config=False)

    def _replacement(self, running: bool, live: Element | None, config: Element | None) -> Element | None:
        """The NIC to plug into the running guest: the card that its user defined, if there is one."""
        if live is not None:
            return self._change_live(live)
        if not running:
            return None
        return self.wanted if config is None else self._merged(config)

    def _attach(self, xml: Element, *, live: bool, config: bool = True) -> None:
        change = AttachInterface(
            self.domain, self._where(), mac=self.address, xml=to_text(xml), live=live, config=config
        )
        self.plugs.append(change)

    def _change_live(self, live: Element) -> Element | None:
        """Plans what the live NIC needs. If it must be unplugged and plugged in again, returns what to plug in."""
        found = self._differences(live, self.inherited)
        if not found:
            return None
        if not _in_place(found):
            reason = f"{self.address}, to plug it in changed: {_all(found)}"
            self.detach.append(
                DetachInterface(self.domain, reason, (self.domain,), mac=self.address, live=to_text(live))
            )
            return self.wanted if self.own else self._merged(live)
        old, new = live, self._merged(live)
        if any(d.path.startswith("source") for d in found):
            # Another network, other rules: link down until the new metadata is in force.
            down = linked(new, "down")
            self.moves.append(self._update(f"{self._where()}, link down meanwhile", live=_replace(old, down)))
            old = down
        if to_text(old) != to_text(new):
            self.plugs.append(self._update(_all(found), live=_replace(old, new)))
        return None

    def _change_config(self, config: Element) -> None:
        """Plans the change of a defined NIC, which libvirt can always change in place."""
        if found := self._differences(config):
            change = self._update(f"defined: {_all(found)}", config=_replace(config, self._merged(config)))
            self.plugs.append(change)

    def _merged(self, actual: Element) -> Element:
        return merged(self.wanted, actual, own=self.own, was=self.was)

    def _differences(self, actual: Element, inherited: frozenset[str] = frozenset()) -> tuple[Difference, ...]:
        return nic_differences(self.wanted, actual, inherited, own=self.own, was=self.was)

    def _update(
        self, detail: str, live: Replacement | None = None, config: Replacement | None = None
    ) -> UpdateInterface:
        return UpdateInterface(self.domain, f"{self.address}, {detail}", mac=self.address, live=live, config=config)

    def _where(self) -> str:
        source = self.wanted.find("source")
        place = "no network" if source is None else source.get("network") or f"bridge {source.get('bridge')}"
        return f"{self.address} on {place}"


def _all(found: tuple[Difference, ...]) -> str:
    """Names each element of a NIC that changes."""
    return summary(found, len(found))


def _defined(nic: Element) -> Element:
    """A live NIC as a definition can have it: without its PCI slot, which may be another's there."""
    result = deepcopy(nic)
    for child in [child for child in result if child.tag in ("alias", "address", "backend")]:
        result.remove(child)
    return result


def _in_place(found: tuple[Difference, ...]) -> bool:
    return all(d.path.startswith(_UPDATABLE) for d in found)


def _replace(old: Element, new: Element) -> Replacement:
    return Replacement(to_text(old), to_text(new))


def _detach(domain: str, address: str, live: Element | None, config: Element | None, why: str) -> DetachInterface:
    texts = [None if element is None else to_text(element) for element in (live, config)]
    return DetachInterface(domain, f"{address}, {why}", mac=address, live=texts[0], config=texts[1])


def _metadata(name: str, state: DomainState, wanted: Element | None, *, config: bool) -> Iterator[Change]:
    live = None if state.live is None else _metadata_change(state.live.find(DOMAIN_MARK), wanted)
    defined = _metadata_change(state.config.find(DOMAIN_MARK), wanted) if config else None
    if live is not None or defined is not None:
        live = live or _as_it_is(state.live)
        yield SetDomainMetadata(name, _what_of(state, wanted, config=config), live=live, config=defined)


def _as_it_is(live: Element | None) -> Replacement | None:
    """The metadata of a running domain that stays."""
    mark = None if live is None else live.find(DOMAIN_MARK)
    text = None if mark is None else api_text(mark)
    return None if live is None else Replacement(text, text)


def _what_of(state: DomainState, wanted: Element | None, *, config: bool) -> str:
    """What changes in the metadata; if there is none yet, for how many ports it is."""
    if wanted is None:
        return "none"
    roots = (state.live, state.config if config else None)
    marks = [mark for root in roots if root is not None and (mark := root.find(DOMAIN_MARK)) is not None]
    found = next(filter(None, (differences(wanted, mark) for mark in marks)), ())
    return summary(found) if found else _count(len(wanted), "port")


def _metadata_change(actual: Element | None, wanted: Element | None) -> Replacement | None:
    if wanted is None:
        return None if actual is None else Replacement(api_text(actual), None)
    if actual is not None and not differences(wanted, actual):
        return None
    return Replacement(None if actual is None else api_text(actual), api_text(wanted))

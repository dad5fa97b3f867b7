"""What must change so that a guest's domain has the NICs and the metadata that are wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from lxml import etree

from libvirt_guestnet.changes import Change, to_text
from libvirt_guestnet.changes_guest import (
    AttachInterface,
    DefineDomain,
    DetachInterface,
    RemoveDomain,
    Replacement,
    SetDomainAutostart,
    SetDomainMetadata,
    UpdateInterface,
    linked,
)
from libvirt_guestnet.compare import Difference, differences, merged, summary
from libvirt_guestnet.snapshot import (
    DOMAIN_MARK,
    DomainState,
    Element,
    Snapshot,
    WantedGuest,
    interfaces,
    mac,
    source_network,
)
from libvirt_guestnet.xmlgen.element import api_text

# What virDomainUpdateDeviceFlags can change in a running guest's NIC (libvirt 9.0).
_UPDATABLE = ("link", "bandwidth", "port", "vlan", "source")


@dataclass
class GuestChanges:
    """In the order in which they must be made: detach, then (networks change), define, metadata, attach and update."""

    detach: list[Change] = field(default_factory=list)
    others: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_guest(wanted: WantedGuest, snapshot: Snapshot, inherited: dict[str, frozenset[str]]) -> GuestChanges:
    """Everything for one guest of the topology. `inherited` says, by network, what its live NICs get from it."""
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
        _change_interfaces(wanted, state, inherited, changes)
    return changes


def release_guest(state: DomainState, why: str) -> tuple[Change, ...]:
    """What takes a domain of ours away, and our NICs and metadata from a user's domain."""
    if state.ours:
        interrupts = () if state.live is None else (state.name,)
        removal = RemoveDomain(
            state.name,
            why,
            interrupts,
            xml=to_text(state.config),
            running=state.live is not None,
            autostart=state.autostart,
        )
        return (removal,)
    live, config = interfaces(state.live), interfaces(state.config)
    gone = [address for address in dict.fromkeys([*live, *config]) if address in state.marked_macs]
    detached = [_detach(state.name, address, live.get(address), config.get(address), why) for address in gone]
    return (*detached, *_metadata(state.name, state, None, config=True))


def _definition(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[Change]:
    element = fitted(definition, state)
    if state is None:
        yield DefineDomain(wanted.name, f"{len(wanted.interfaces)} NICs", xml=to_text(element))
    elif (found := differences(element, state.config)) or not state.persistent:
        yield DefineDomain(wanted.name, summary(found), xml=to_text(element), old=to_text(state.config))
    if wanted.autostart != (state is not None and state.autostart):
        yield SetDomainAutostart(wanted.name, "on" if wanted.autostart else "off", on=wanted.autostart)


def _restart_note(wanted: WantedGuest, definition: Element, state: DomainState | None) -> Iterator[str]:
    """What cannot reach a running guest: said once, when its definition changes."""
    if state is None or state.live is None:
        return
    found = differences(fitted(definition, state), state.config)
    later = [d for d in found if not d.path.startswith(("devices/interface", "metadata"))]
    if later:
        yield f"guest {wanted.name!r} is running and gets this at its next start: {summary(later)}"


def fitted(definition: Element, state: DomainState | None) -> Element:
    """A definition with the UUID that libvirt gave the existing domain: it must be a redefinition."""
    result = deepcopy(definition)
    if state is not None and result.find("uuid") is None:
        etree.SubElement(result, "uuid").text = state.uuid
    return result


def _change_interfaces(
    wanted: WantedGuest, state: DomainState, inherited: dict[str, frozenset[str]], changes: GuestChanges
) -> None:
    defined_here = wanted.definition is None  # else DefineDomain has done the definition
    live, config = interfaces(state.live), interfaces(state.config) if defined_here else {}
    new = {mac(interface): interface for interface in wanted.interfaces}
    ours = state.marked_macs if defined_here else frozenset(live)
    changes.detach += [
        _detach(wanted.name, address, live.get(address), config.get(address), "no longer in the topology")
        for address in dict.fromkeys([*live, *config])
        if address in ours and address not in new
    ]
    plugs: list[Change] = []
    moves: list[Change] = []
    for address, interface in new.items():
        from_network = inherited.get(source_network(interface) or "", frozenset())
        planner = _Nic(wanted.name, address, interface, from_network, own=not defined_here)
        planner.plan(state.live is not None, live.get(address), defined_here, config.get(address))
        changes.detach += planner.detach
        moves += planner.moves
        plugs += planner.plugs
    changes.others += [*moves, *_metadata(wanted.name, state, wanted.metadata, config=defined_here), *plugs]


@dataclass
class _Nic:
    """The changes of one NIC that the topology wants; in a user's own domain (not `own`) its model is the user's."""

    domain: str
    address: str
    wanted: Element
    inherited: frozenset[str]
    own: bool
    detach: list[Change] = field(default_factory=list)
    moves: list[Change] = field(default_factory=list)
    plugs: list[Change] = field(default_factory=list)

    def plan(self, running: bool, live: Element | None, define: bool, config: Element | None) -> None:
        attach_live = running and live is None
        if live is not None:
            attach_live = self._change_live(live)
        attach_config = define and config is None
        if define and config is not None:
            attach_config = self._change_config(config)
        if attach_live or attach_config:
            self.plugs.append(
                AttachInterface(
                    self.domain,
                    self._where(),
                    mac=self.address,
                    xml=to_text(self.wanted),
                    live=attach_live,
                    config=attach_config,
                )
            )

    def _change_live(self, live: Element) -> bool:
        """Plan what the live NIC needs; True when it must be plugged in anew."""
        found = self._differences(live, self.inherited)
        if not found:
            return False
        if not _in_place(found):
            reason = f"{self.address}, to plug it in changed: {summary(found)}"
            self.detach.append(
                DetachInterface(self.domain, reason, (self.domain,), mac=self.address, live=to_text(live))
            )
            return True
        old, new = live, merged(self.wanted, live)
        if any(d.path.startswith("source") for d in found):
            # Another network, other rules: link down until the new metadata is in force.
            down = linked(new, "down")
            self.moves.append(self._update(f"{self._where()}, link down meanwhile", live=_replace(old, down)))
            old = down
        if to_text(old) != to_text(new):
            self.plugs.append(self._update(summary(found), live=_replace(old, new)))
        return False

    def _change_config(self, config: Element) -> bool:
        """Plan what the defined NIC needs; True when it must be defined anew."""
        found = self._differences(config)
        if not found:
            return False
        new = merged(self.wanted, config)
        if _in_place(found):
            self.plugs.append(self._update(f"defined: {summary(found)}", config=_replace(config, new)))
            return False
        self.detach.append(
            DetachInterface(
                self.domain, f"{self.address}, to define it changed", mac=self.address, config=to_text(config)
            )
        )
        return True

    def _differences(self, actual: Element, inherited: frozenset[str] = frozenset()) -> tuple[Difference, ...]:
        found = differences(self.wanted, actual, inherited)
        return found if self.own else tuple(d for d in found if not d.path.startswith("model/"))

    def _update(
        self, detail: str, live: Replacement | None = None, config: Replacement | None = None
    ) -> UpdateInterface:
        return UpdateInterface(self.domain, f"{self.address}, {detail}", mac=self.address, live=live, config=config)

    def _where(self) -> str:
        source = self.wanted.find("source")
        place = "no network" if source is None else source.get("network") or f"bridge {source.get('bridge')}"
        return f"{self.address} on {place}"


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
        ports = "none" if wanted is None else f"{len(wanted)} ports"
        yield SetDomainMetadata(name, ports, live=live, config=defined)


def _metadata_change(actual: Element | None, wanted: Element | None) -> Replacement | None:
    if wanted is None:
        return None if actual is None else Replacement(api_text(actual), None)
    if actual is not None and not differences(wanted, actual):
        return None
    return Replacement(None if actual is None else api_text(actual), api_text(wanted))

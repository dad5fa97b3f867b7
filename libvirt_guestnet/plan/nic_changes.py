"""The changes of one NIC of a domain: what a topology wants of it, or that it is released. Pure."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.guest import AttachInterface, DetachInterface, UpdateInterface, linked
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, parse_xml, to_text
from libvirt_guestnet.plan.cards import slot_of
from libvirt_guestnet.plan.compare import Difference, differences, summary
from libvirt_guestnet.plan.guest_metadata import is_unknown, was_before
from libvirt_guestnet.plan.nic import CARD, as_new, merged, moves, nic_differences, place, restored, was_there

# What virDomainUpdateDeviceFlags can change in a running guest's NIC (libvirt 9.0).
_UPDATABLE = ("link", "bandwidth", "port", "vlan", "source")


class ReleasedNic(NamedTuple):
    """The changes that release a NIC, before the metadata changes and after that."""

    first: tuple[Change, ...]
    last: tuple[Change, ...] = ()


def let_go(state: DomainState, address: str, live: Element | None, config: Element | None, why: str) -> ReleasedNic:
    """A NIC of ours is removed; one that the user had before stays, as it was; and one of which nobody knows either
    stays as it is."""
    if is_unknown(state, address):
        return ReleasedNic(())
    was = was_before(state, address)
    if was is None or not was_there(was):
        return ReleasedNic((_detach(state.name, address, live, config, why),))
    why = f"{address}, as it was ({place(was)}): {why}"
    first: list[Change] = []
    if config is not None and to_text(new := restored(config, was)) != to_text(config):
        first.append(UpdateInterface(state.name, why, mac=address, config=_replace(config, new)))
    if live is None:
        return ReleasedNic(tuple(first))
    new = restored(live, _while_it_runs(was))
    if moves(new, live):
        first.append(DetachInterface(state.name, why, (state.name,), mac=address, live=to_text(live)))
        back = AttachInterface(state.name, why, mac=address, xml=to_text(restored(live, was)), live=True, config=False)
        return ReleasedNic(tuple(first), (back,))
    if differences(new, live):
        first.append(UpdateInterface(state.name, why, mac=address, live=_replace(live, new)))
    return ReleasedNic(tuple(first))


def _while_it_runs(was: Element) -> Element:
    """What of it a running NIC can be again: its tap's name, and what its guest sees of it, stay until its next
    start."""
    result = deepcopy(was)
    for child in [child for child in result if child.tag in ("target", "mtu", *CARD)]:
        result.remove(child)
    return result


@dataclass
class NicChanges:
    """The changes of one NIC that the topology wants. In a user's own domain (not `own`) only what `nic` says is
    changed. `later` is what a running guest gets at its next start: what it sees of the NIC, and an MTU where the file
    says one of this port alone (`mtu`)."""

    domain: str
    address: str
    wanted: Element
    inherited: frozenset[str]
    own: bool
    was: Element | None = None
    mtu: bool = False
    later: tuple[Difference, ...] = ()
    detach: list[Change] = field(default_factory=list)
    moves: list[Change] = field(default_factory=list)
    plugs: list[Change] = field(default_factory=list)

    def plan(self, running: bool, live: Element | None, define: bool, config: Element | None) -> None:
        """Plans them. With `define`, the definition is changed here, not elsewhere."""
        replacement = self._replacement(running, live, config)
        if define and config is None and live is None:
            self._attach(as_new(self.wanted), live=replacement is not None)
            return
        if define and config is not None:
            self._change_config(config)
        elif define and live is not None:
            self._attach(self._merged(_defined(live)), live=False)
        if replacement is not None:
            self._attach(replacement, live=True, config=False)

    def _replacement(self, running: bool, live: Element | None, config: Element | None) -> Element | None:
        """The NIC to plug into the running guest: the card that its user defined, if there is one."""
        if live is not None:
            return self._change_live(live)
        if not running:
            return None
        return as_new(self.wanted) if config is None else self._merged(config)

    def _attach(self, xml: Element, *, live: bool, config: bool = True) -> None:
        change = AttachInterface(
            self.domain, self._where(), mac=self.address, xml=to_text(xml), live=live, config=config
        )
        self.plugs.append(change)

    def _change_live(self, live: Element) -> Element | None:
        """Plans what the live NIC needs. If it must be unplugged and plugged in again, returns what to plug in."""
        differing = self._differences(live, self.inherited)
        self.later = tuple(each for each in differing if each.path.split("/")[0] in self._at_start)
        found = tuple(each for each in differing if each not in self.later)
        if not found:
            return None
        if not _in_place(found):
            self.later = ()
            reason = f"{self.address}, to plug it in changed: {_all(found)}"
            self.detach.append(
                DetachInterface(self.domain, reason, (self.domain,), mac=self.address, live=to_text(live))
            )
            return self.wanted if self.own else self._merged(live)
        old, new = live, self._as_it_runs(live)
        if any(d.path.startswith("source") for d in found):
            # Another network, other rules: link down until the new metadata is in force.
            down = linked(new, "down")
            self.moves.append(self._update(f"{self._where()}, link down meanwhile", live=_replace(old, down)))
            old = down
        if to_text(old) != to_text(new):
            self.plugs.append(self._update(_all(found), live=_replace(old, new)))
        return None

    @property
    def _at_start(self) -> frozenset[str]:
        return CARD | {"mtu"} if self.mtu else CARD

    def _as_it_runs(self, live: Element) -> Element:
        """The NIC with all that can be changed while it runs."""
        result = self._merged(live)
        for nic, do in ((result, result.remove), (deepcopy(live), result.append)):
            for child in [child for child in nic if child.tag in self._at_start]:
                do(child)
        return result

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


def defined_together(changes: list[Change]) -> list[Change]:
    """The changes, with those definitions as one in which a NIC takes a PCI slot or boot order that another leaves: in
    between, libvirt would refuse what two have."""
    updates = [each for each in changes if isinstance(each, UpdateInterface) and each.config and not each.live]
    taken = [place for each in updates for place in _places(each.config, new=True) - _places(each.config, new=False)]
    if not any(place in _places(each.config, new=False) for each in updates for place in taken):
        return changes
    moving = [each for each in updates if _places(each.config, new=True) != _places(each.config, new=False)]
    first, *rest = moving
    others = tuple(each.config for each in rest if each.config)
    joined = replace(first, detail="; ".join(each.detail for each in moving), others=others)
    return [joined if each is first else each for each in changes if each not in rest]


def _places(config: Replacement | None, *, new: bool) -> set[tuple[object, ...]]:
    """Its PCI slot and its boot order, before or after."""
    text = None if config is None else config.new if new else config.old
    nic = None if text is None else parse_xml(text)
    found = [] if nic is None else [("slot", *slot_of(each)) for each in nic.iterfind("address[@type='pci']")]
    return {*found, *(("boot", each.get("order")) for each in (() if nic is None else nic.iterfind("boot")))}


def _all(found: tuple[Difference, ...]) -> str:
    """Names each element of a NIC that changes."""
    return summary(found, len(found))


def _defined(nic: Element) -> Element:
    """A live NIC as a definition can have it: without its PCI slot, which may be another's there, and the alias that
    libvirt made up; one of its user's begins with ua-."""
    result = deepcopy(nic)
    for child in [child for child in result if child.tag in ("alias", "address", "backend")]:
        if child.tag != "alias" or not child.get("name", "").startswith("ua-"):
            result.remove(child)
    return result


def _in_place(found: tuple[Difference, ...]) -> bool:
    return all(d.path.startswith(_UPDATABLE) for d in found)


def _replace(old: Element, new: Element) -> Replacement:
    return Replacement(to_text(old), to_text(new))


def _detach(domain: str, address: str, live: Element | None, config: Element | None, why: str) -> DetachInterface:
    texts = [None if element is None else to_text(element) for element in (live, config)]
    return DetachInterface(domain, f"{address}, {why}", mac=address, live=texts[0], config=texts[1])

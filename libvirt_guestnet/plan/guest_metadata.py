"""A guest's metadata: what of it changes, and what it remembers of the NICs that its domain had before. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from copy import deepcopy

from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.guest import SetDomainMetadata
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network
from libvirt_guestnet.libvirtd.snapshot import DOMAIN_MARK, PORT_MARK, DomainState, Element, parse_xml, to_text
from libvirt_guestnet.metadata.elements import port_policies
from libvirt_guestnet.plan.compare import differences, summary
from libvirt_guestnet.plan.nic import before, check_remembered, plugged, was_there
from libvirt_guestnet.xmlgen.element import api_text


def remembering(metadata: Element, new: dict[str, Element], state: DomainState) -> Element:
    """With what NICs that the user's domain had before were, as far as they are changed, and what of those that were
    plugged in goes when the file declares it no more."""
    on = {address: source_network(interface) for address, interface in new.items()}
    result, nics = deepcopy(metadata), {**interfaces(state.live, on), **interfaces(state.config, on)}
    for port in result.iterfind(PORT_MARK):
        address = port.get("mac", "").lower()
        if address not in new:
            continue
        nic, was = nics.get(address), was_before(state, address)
        had = was is None or was_there(was)
        port.set("was", to_text(before(new[address], nic, was) if nic is not None and had else plugged(new[address])))
    return result


def is_unknown(state: DomainState, address: str) -> bool:
    """Whether nothing says that a NIC of a user's domain was plugged in for the topology, nor what it was before:
    somebody took that out of our metadata, or changed it. Such a NIC is left as it is."""
    return not state.ours and address in state.plugged_macs and was_before(state, address) is None


def stays_on(state: DomainState, nic: Element) -> bool:
    """Whether a NIC is on the same network when it has been let go of."""
    was = was_before(state, mac(nic))
    if was is None or not was_there(was):
        return is_unknown(state, mac(nic))
    return was.find("source") is None or source_network(was) == source_network(nic)


def unknown_notes(state: DomainState, staying: Collection[str] = ()) -> Iterator[str]:
    """A note for each of these that is let go of, all but those in `staying`."""
    for address in dict.fromkeys([*interfaces(state.live), *interfaces(state.config)]):
        if address not in staying and not state.is_copy and is_unknown(state, address):
            yield (
                f"domain {state.name!r}: NIC {address} stays as it is: nothing says any more that guestnet plugged it "
                f"in, or what it was before"
            )


def was_before(state: DomainState, address: str) -> Element | None:
    """What a NIC was before the topology had to do with it, if something is kept of that which guestnet may have
    written: what somebody changed otherwise counts as nothing, as it must hold up nobody else's guests."""
    roots = [state.config] if state.live is None else [state.config, state.live]
    for port in (port for root in roots for port in port_policies(root.find(DOMAIN_MARK))):
        if port.mac == address and port.was:
            with suppress(GuestnetError):
                was = parse_xml(port.was)
                check_remembered(was)
                return was
    return None


def metadata_changes(name: str, state: DomainState, wanted: Element | None, *, config: bool) -> Iterator[Change]:
    """The change to the wanted metadata (None: to none), of what runs and, with `config`, of the definition."""
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
    return summary(found) if found else count(len(wanted), "port")


def _metadata_change(actual: Element | None, wanted: Element | None) -> Replacement | None:
    if wanted is None:
        return None if actual is None else Replacement(api_text(actual), None)
    if actual is not None and not differences(wanted, actual):
        return None
    return Replacement(None if actual is None else api_text(actual), api_text(wanted))


def count(number: int, name: str) -> str:
    """`1 NIC`, `2 NICs`."""
    return f"{number} {name}{'' if number == 1 else 's'}"

"""Addresses of a topology that are in use already: `plan` reports what a guest's `start` would be refused for.

The guests' XML is read as the hooks read it, and judged by the same facts of this host.
"""

from __future__ import annotations

from contextlib import suppress

from lxml import etree

from libvirt_guestnet import xmlread
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import address_owners
from libvirt_guestnet.hook.enforce import forwards
from libvirt_guestnet.hook.read import addresses, network_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.libvirtd.snapshot import Snapshot, Wanted, WantedGuest, marked
from libvirt_guestnet.model import held_addresses
from libvirt_guestnet.model.held_addresses import HeldAddress, RequestedAddress
from libvirt_guestnet.plan.forwards import claims_of
from libvirt_guestnet.state.folder import State


def taken_addresses(wanted: Wanted, snapshot: Snapshot, state: State) -> tuple[str, ...]:
    """A line for each thing that cannot be had. Of a guest that runs, LANs are asked for what is new to it: half a
    second. Raises GuestnetError when the kernel does not answer."""
    by_guest = requested(wanted, snapshot)
    everything = [each for found in by_guest.values() for each in found]
    facts = address_owners.facts_for(everything)
    held = [*facts.held, *_running(state, set(by_guest))]
    lines = (
        *(str(each) for each in held_addresses.refusals(everything, held, facts.subnets)),
        *_listened(wanted, snapshot),
    )
    return lines or tuple(_answered(by_guest, facts, snapshot, state))


def _listened(wanted: Wanted, snapshot: Snapshot) -> list[str]:
    """The ports on which a program of the host listens, except for what a guest has already."""
    have = {claim._replace(owner="") for domain in snapshot.domains for claim in claims_of(domain.live, "")}
    wanted_claims = [claim for guest in wanted.guests for claim in claims_of(guest.metadata, f"guest {guest.name!r}")]
    try:
        forwards.check_host([claim for claim in wanted_claims if claim._replace(owner="") not in have])
    except GuestnetError as error:
        return [str(error)]
    return []


def requested(wanted: Wanted, snapshot: Snapshot) -> dict[str, list[RequestedAddress]]:
    """By guest, what a topology wants for it."""
    elements = [each.element for each in wanted.networks]
    elements += [marked(snapshot.network[each.name].current, each.mark) for each in wanted.externals]
    receipts = (network_receipts.network_receipt(_node(each)) for each in elements)
    networks = {receipt.name: receipt for receipt in receipts if receipt}
    return {guest.name: addresses.requested(Domain(_domain(guest), networks.get)) for guest in wanted.guests}


def _domain(guest: WantedGuest) -> xmlread.Node:
    domain = etree.Element("domain")
    etree.SubElement(domain, "name").text = guest.name
    found = _node(domain)
    for tag, children in (("metadata", [guest.metadata]), ("devices", guest.interfaces)):
        node = xmlread.Node(tag, {})
        node.children = [_node(child) for child in children]
        found.children = [*found.children, node]
    return found


def _node(element: etree._Element) -> xmlread.Node:
    return xmlread.parse(etree.tostring(element))


def _running(state: State, guests: set[str]) -> list[HeldAddress]:
    with suppress(PermissionError):  # only root sees what guests have
        return address_owners.running(state, guests)
    return []


def _answered(
    by_guest: dict[str, list[RequestedAddress]], facts: address_owners.Facts, snapshot: Snapshot, state: State
) -> list[str]:
    new = [
        each
        for name, found in by_guest.items()
        if (domain := snapshot.domain.get(name)) and domain.live is not None
        for each in found
        if each.published and str(each.prefix) not in _routed_to(state, name)
    ]
    try:
        address_owners.ask(new, facts, state)
    except GuestnetError as error:
        return [str(error)]
    return []


def _routed_to(state: State, name: str) -> set[str]:
    with suppress(PermissionError):
        return {route.prefix for receipt in state.host_routes() if receipt.domain == name for route in receipt.routes}
    return set()

"""Forwards and floating addresses that another topology's guests ask for as well, running or not. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.datapath.forwards.table import version_of
from libvirt_guestnet.libvirtd.snapshot import DOMAIN_MARK, Element, Snapshot, Wanted
from libvirt_guestnet.metadata.elements import port_policies
from libvirt_guestnet.model.claims import ANYWHERE, Claim, clashes
from libvirt_guestnet.model.topology import DIRECT


def forward_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A line for each forward or floating address that a guest of another topology has, or one that the plan is not
    about."""
    taken: list[Claim] = []
    own = {guest.name for guest in wanted.guests}
    for domain in snapshot.domains:
        if domain.topology is None or (domain.name in own and domain.topology in (DIRECT, wanted.topology)):
            continue
        if domain.topology != wanted.topology or wanted.leaving is not None:
            owner = f"domain {domain.name!r} of topology {domain.topology!r}"
            for xml in (domain.config, domain.live):
                taken += claims_of(xml, owner)
    wanted_claims = (claim for guest in wanted.guests for claim in claims_of(guest.metadata, f"guest {guest.name!r}"))
    for claim, other in clashes(wanted_claims, taken) if taken else ():
        yield f"{claim.owner}: {claim} is already forwarded to {other.owner} ({other}): ask for it elsewhere"


def claims_of(xml: Element | None, owner: str) -> Iterator[Claim]:
    """The forwards and floating addresses that a domain, or our metadata in it, asks for."""
    for port in port_policies(xml if xml is None or xml.tag != "domain" else xml.find(DOMAIN_MARK)):
        for each in port.forwards:
            at = each.at or ANYWHERE[version_of(each.to)]
            yield Claim(at, each.protocol, each.first, each.last, owner)
        yield from (Claim(str(each.ip), "", 0, 65535, owner) for each in port.floating)

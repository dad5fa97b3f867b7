"""Ways in that another topology's guests, running or not, already have: they must not start to quarrel later. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.claims import ANYWHERE, Claim, clashes
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.snapshot import DOMAIN_MARK, PORT_MARK, Element, Snapshot, Wanted

_FORWARD, _FLOATING = (f"{{{NAMESPACE}}}{tag}" for tag in ("forward", "floating"))


def way_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A line for each forward or floating address that a guest of another topology has."""
    known: list[Claim] = []
    for domain in snapshot.domains:
        if domain.topology not in (None, wanted.topology):
            owner = f"domain {domain.name!r} of topology {domain.topology!r}"
            for xml in (domain.config, domain.live):
                known += _claims(None if xml is None else xml.find(DOMAIN_MARK), owner)
    asked = (claim for guest in wanted.guests for claim in _claims(guest.metadata, f"guest {guest.name!r}"))
    for claim, other in clashes(asked, known) if known else ():
        yield f"{claim.owner}: {claim} already leads to {other.owner} ({other}): ask for it elsewhere"


def _claims(mark: Element | None, owner: str) -> Iterator[Claim]:
    for port in () if mark is None else mark.iterfind(PORT_MARK):
        for each in port.iterfind(_FORWARD):
            first, _, last = each.get("ports", "").partition("-")
            if first.isdigit() and (last or first).isdigit():  # a user may have edited it: the hooks will complain
                at = each.get("at") or ANYWHERE[6 if ":" in each.get("to", "") else 4]
                yield Claim(at, each.get("protocol", ""), int(first), int(last or first), owner)
        for each in port.iterfind(_FLOATING):
            yield Claim(each.get("ip", ""), "", 0, 65535, owner)

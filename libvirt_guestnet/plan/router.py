"""What must change so that a virtual router does what is wanted, beside its domain and its NICs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator

from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.router import ConfigureRouter, ForgetRouter, StartRouter
from libvirt_guestnet.libvirtd.snapshot import DomainState, RouterSeen, Snapshot, WantedGuest
from libvirt_guestnet.router.document import decoded, digest

SECTIONS = {
    "net": "addresses and routes",
    "nft": "rules",
    "dnsmasq": "DHCP ranges and domains",
    "hosts": "reservations",
    "options": "DHCP options",
    "names": "DNS names",
    "servers": "forwarders",
    "balance": "balancers",
    "sync": "its second router",
}
"""What each file of a document is, for people."""


def plan_router(wanted: WantedGuest, state: DomainState | None, seen: RouterSeen) -> Iterator[Change]:
    """Its document, and its start. A router that runs and does not answer has it put onto its disk alone."""
    if wanted.document is None:
        return
    runs = state is not None and state.live is not None
    answers = runs and not seen.silent
    in_force = not answers or seen.in_force == digest(wanted.document)
    if seen.on_disk != wanted.document or not in_force:
        detail = differing(seen.on_disk, wanted.document)
        topology = wanted.metadata.get("topology", "")
        yield ConfigureRouter(
            wanted.name, detail, document=wanted.document, topology=topology, old=seen.on_disk, live=answers
        )
    if wanted.autostart and not runs:
        yield StartRouter(wanted.name)


def forgotten(topology: str, snapshot: Snapshot, wanted: Container[str] = ()) -> Iterator[Change]:
    """Disks of routers that somebody has undefined, and that are not wanted any more."""
    for name, owner in snapshot.left_routers.items():
        if owner == topology and name not in wanted:
            yield ForgetRouter(name, "its domain is gone")


def router_notes(wanted: WantedGuest, state: DomainState | None, seen: RouterSeen) -> Iterator[str]:
    """What a plan cannot do for a router."""
    if wanted.document is not None and state is not None and state.live is not None and seen.silent:
        yield (
            f"router {wanted.name!r} runs and does not answer ({seen.silent}): what it should do is on its disk, and "
            f"comes into force when it starts again; `guestnet router replace {wanted.name}` does that"
        )


def differing(old: bytes | None, new: bytes) -> str:
    """In which files documents differ, with the numbers of lines that come and go."""
    if old is None:
        return "what it does is new"
    before, after = decoded(old), decoded(new)
    if before is None or after is None:
        return "its disk has no document of this version"
    changed = [_changed(name, *texts) for name, *texts in zip(after._fields, before, after, strict=True)]
    return ", ".join(filter(None, changed)) or "what is in force is not what its disk has"


def _changed(name: str, before: str, after: str) -> str:
    if before == after:
        return ""
    old, new = Counter(before.splitlines()), Counter(after.splitlines())
    counts = [f"{sign}{n}" for sign, n in (("+", (new - old).total()), ("-", (old - new).total())) if n]
    return f"{SECTIONS[name]} ({', '.join(counts) or 'other order'})"

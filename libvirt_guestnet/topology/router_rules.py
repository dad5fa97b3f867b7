"""The rules of a virtual router, resolved to addresses; each with a name that its counter has.

A name is made of what the rule says, so a rule that is moved within the file keeps its counter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.network import IPNetwork
from libvirt_guestnet.model.topology import Guest, Port
from libvirt_guestnet.model.traffic import Rule, Service
from libvirt_guestnet.model.virtual_router import TierAllow

from ..errors import Where
from .report import Report
from .router_keys import EgressDecl, IngressDecl, TierAllowDecl, TierDecl
from .scope import Segment
from .spec import At, values

_SLUG = 40  # with the digest behind it a name is shorter than the 64 characters that a counter's may have
Tiers = Mapping[str, Segment]


def rule_name(words: Iterable[object], *facts: object) -> str:
    """The words as a counter's name can have them, and a digest of all that tells the rule from others."""
    plain = re.sub("[^A-Za-z0-9]+", "-", "-".join(map(str, words)))[:_SLUG].strip("-") or "rule"
    return f"{plain}-{sha256(repr([str(each) for each in facts]).encode()).hexdigest()[:8]}"


def _rule(
    words: tuple[object, ...],
    services: tuple[Service, ...],
    sources: tuple[IPNetwork, ...] = (),
    destinations: tuple[IPNetwork, ...] = (),
    said: object = "",
) -> Rule:
    facts = (*words, sorted(map(str, services)), sorted(map(str, sources)), said or sorted(map(str, destinations)))
    first = services[0] if services else "all"
    return Rule(rule_name((*words, first), *facts), services, sources, destinations)


def exceptions(tier: TierDecl, seg: Segment, report: Report) -> Iterator[Rule]:
    """Those of a tier's egress policy."""
    seen: dict[str, Where] = {}
    for each in tier.exceptions or ():
        made = _exception(each, seg, report)
        if made and _is_new(made, each.at, seen, report):
            yield made


def _exception(decl: EgressDecl, seg: Segment, report: Report) -> Rule | None:
    said = (decl.services, decl.destinations, decl.sources)
    if not any(said):
        if not decl.bad:
            report.add(decl.at, "an exception says what it is about: services, to or from")
        return None
    for at in decl.sources or ():
        if seg.sure and not any(_within(at.value, prefix) for prefix in seg.prefixes):
            report.add(at.where, f"{at.value} is not in network '{seg.network.name}'")
    made = _rule((), values(decl.services), values(decl.sources), values(decl.destinations))
    _check_families(made, decl.at, report)
    return made


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _is_new(made: Rule, at: Where, seen: dict[str, Where], report: Report) -> bool:
    other = seen.setdefault(made.name, at)
    if other != at:
        report.add(at, f"the same is said already (line {other.line})")
    return other == at


def _check_families(made: Rule, at: Where, report: Report) -> None:
    """A rule about an IPv4 address and an IPv6 one is about nothing."""
    both = made.sources and made.destinations
    if both and not {each.version for each in made.sources} & {each.version for each in made.destinations}:
        report.add(at, "nobody can connect from an address of one IP version to one of the other")


def allows(decls: Iterable[TierAllowDecl], tiers: Tiers, router: str, report: Report) -> Iterator[TierAllow]:
    """What passes between tiers."""
    seen: dict[str, Where] = {}
    for each in decls:
        known = [_is_tier(at, tiers, router, report) for at in (each.source, each.destination)]
        if each.source.value == each.destination.value:
            report.add(each.destination.where, "guests of one network reach each other without their router")
        if not each.services and "services" not in each.bad:
            report.add(each.at, "services is empty: list what may pass, or remove the line")
        made = _rule((each.source.value, each.destination.value), values(each.services))
        if all(known) and _is_new(made, each.at, seen, report):
            yield TierAllow(each.source.value, each.destination.value, made)


def _is_tier(at: At[str], tiers: Tiers, router: str, report: Report) -> bool:
    if at.value not in tiers:
        report.unknown(at.where, f"network behind router '{router}'", at.value, tiers)
    return at.value in tiers


def ingress(
    decls: Iterable[IngressDecl], guests: Mapping[str, Guest], tiers: Tiers, router: str, report: Report
) -> Iterator[Rule]:
    """What comes in from the public side."""
    seen: dict[str, Where] = {}
    behind = dict(_behind(guests, tiers))
    for each in decls:
        ports = behind.get(each.destination.value)
        if ports is None:
            report.unknown(each.destination.where, f"guest behind router '{router}'", each.destination.value, behind)
            continue
        if not each.services and "services" not in each.bad:
            report.add(each.at, "services is empty: list what may come in, or remove the line")
        to = tuple(single(address.ip) for port in ports for address in port.addresses)
        if not to:
            report.add(each.destination.where, f"'{each.destination.value}' has no address that the file knows")
            continue
        made = _rule((each.destination.value,), values(each.services), values(each.sources), to, said="its own")
        _check_families(made, each.at, report)
        if _is_new(made, each.at, seen, report):
            yield made


def _behind(guests: Mapping[str, Guest], tiers: Tiers) -> Iterator[tuple[str, tuple[Port, ...]]]:
    """Guests and their ports, by the names that a rule has for them."""
    for guest in guests.values():
        ports = tuple(p for p in guest.ports if p.network in tiers and tiers[p.network].network.gateway != guest.name)
        if ports:
            yield guest.name, ports
            yield from ((f"{guest.name}.{port.name}", (port,)) for port in ports)

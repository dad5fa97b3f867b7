"""What a picture says of a virtual router: what leaves its networks and with which address, and what passes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libvirt_guestnet.model.balancing import Balancer
from libvirt_guestnet.model.network import IPNetwork
from libvirt_guestnet.model.topology import Guest
from libvirt_guestnet.model.traffic import Rule
from libvirt_guestnet.model.virtual_router import Tier

_MOST = 4


def policy(guest: Guest) -> Iterator[str]:
    """Lines of text."""
    router = guest.virtual_router
    for tier in router.tiers if router else ():
        yield from _egress(tier)
    for allow in router.allow if router else ():
        yield f"{allow.source} → {allow.destination}: {_services(allow.rule)}"
    for rule in router.ingress if router else ():
        yield f"lets in {_services(rule)}{_prefixes(' from', rule.sources)}{_prefixes(' to', rule.destinations)}"
    yield from _balanced(router.balancers if router else ())


def _balanced(balancers: Iterable[Balancer]) -> Iterator[str]:
    """One for all services that the same guests serve at the same public addresses in the same way."""
    publics: dict[tuple[str, str], list[str]] = {}
    for each in balancers:
        publics.setdefault((str(each.service), _how(each)), []).append(str(each.public))
    services: dict[tuple[str, str], list[str]] = {}
    for (service, how), at in publics.items():
        services.setdefault((_few(at), how), []).append(service)
    for (where, how), those in services.items():
        yield f"balances {_few(those)} at {where}"
        yield f"  among {how}"


def _how(balancer: Balancer) -> str:
    names = _few([member.name for member in balancer.members])
    port = "" if balancer.port == balancer.service.first_port else f" (port {balancer.port})"
    return f"{names}{port}, {balancer.method}{'' if balancer.check else ', unchecked'}"


def _egress(tier: Tier) -> Iterator[str]:
    yield f"{tier.network} → outside: {tier.egress}"
    for rule in tier.exceptions:
        where = _prefixes(" from", rule.sources) + _prefixes(" to", rule.destinations)
        yield f"  but for {_services(rule)}{where}"
    if tier.source_nat:
        yield f"  as {', '.join(map(str, tier.source_nat))}"


def _services(rule: Rule) -> str:
    return _few([str(each) for each in rule.services]) or "all"


def _prefixes(word: str, found: tuple[IPNetwork, ...]) -> str:
    shown = [str(each.network_address if each.num_addresses == 1 else each) for each in found]
    return f"{word} {_few(shown)}" if shown else ""


def _few(words: list[str]) -> str:
    return ", ".join([*words[:_MOST], *([f"and {len(words) - _MOST} more"] if len(words) > _MOST else [])])

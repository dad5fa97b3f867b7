"""A router's load balancers: what its ruleset has of them, and what the agent is told. Pure.

    balancer NAME METHOD tcp|udp PUBLIC FIRST-PORT LAST-PORT (CHECKED-PORT INTERVAL RISE FALL | -)
    member BALANCER NAME ADDRESS

Each member has a chain of its own, which counts and translates. Each balancer has one that is empty here: the agent
puts the rule there that chooses among the members that are healthy, and changes it by itself (decision 90).
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.balancing import Balancer, BalancerMember
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.model.traffic import Protocol
from libvirt_guestnet.router import parts

_FAMILY = {4: "ip", 6: "ip6"}
_MARK = parts.FORWARDED | parts.BALANCED


def section(config: RouterConfig) -> Iterator[str]:
    """What the agent is told."""
    for each in config.balancers:
        first, last = each.service.first_port, each.service.last_port
        check = each.check
        checked = f"{check.port} {check.interval} {check.rise} {check.fall}" if check else "-"
        yield f"balancer {each.name} {each.method} {each.service.protocol} {each.public} {first} {last} {checked}"
        yield from (f"member {each.name} {member.name} {member.address}" for member in each.members)


def counters(config: RouterConfig) -> Iterator[str]:
    """Connections of each balancer and of each member, and those that found no healthy member."""
    for each in config.balancers:
        yield from (balancer(each), f"unserved-{each.name}")
        yield from (member(each, one) for one in each.members)


def balancer(each: Balancer) -> str:
    """The name of a balancer's chain, and of its counter."""
    return f"balance-{each.name}"


def member(each: Balancer, one: BalancerMember) -> str:
    """The name of a member's chain, and of its counter: no name of ours has a slash."""
    return f"member-{each.name}/{one.name}"


def chains(config: RouterConfig) -> dict[str, list[str]]:
    """Before what leads to them."""
    found = dict[str, list[str]]()
    for each in config.balancers:
        found |= {member(each, one): [_translation(each, one)] for one in each.members}
        found[balancer(each)] = []
    return found


def _translation(each: Balancer, one: BalancerMember) -> str:
    protocol = f"meta l4proto {ip_protocols.number(each.service.protocol)}"
    marked = f'{protocol} counter name "{member(each, one)}" ct mark set ct mark | {_MARK:#x}'
    return f"{marked} dnat {_FAMILY[one.address.version]} to {_target(each, one)}"


def _target(each: Balancer, one: BalancerMember) -> str:
    if each.service.first_port == each.port:
        return str(one.address)
    return f"[{one.address}]:{each.port}" if one.address.version == 6 else f"{one.address}:{each.port}"


def choices(config: RouterConfig) -> Iterator[str]:
    """Rules that lead new connections to a balancer's chain. From one that chooses nobody they go on to the router
    itself, which refuses them."""
    for each in config.balancers:
        yield f'{_which(each)} counter name "{balancer(each)}" goto {balancer(each)}'


def refusals(config: RouterConfig) -> Iterator[str]:
    """What becomes of them: a client hears at once that nobody is there."""
    for each in config.balancers:
        how = "reject with tcp reset" if each.service.protocol == Protocol.TCP else "reject"
        yield f'{_which(each)} counter name "unserved-{each.name}" {how}'


def _which(each: Balancer) -> str:
    first, last = each.service.first_port, each.service.last_port
    ports = str(first) if first == last else f"{first}-{last}"
    return f"{_FAMILY[each.public.version]} daddr {each.public} {each.service.protocol} dport {ports}"

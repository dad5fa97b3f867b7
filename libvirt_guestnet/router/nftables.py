"""A router's packet filter and NAT as one nft transaction. Pure: every line is made of typed values.

Chains are emptied and filled again in one transaction, so that no packet meets half of them, and base chains are never
deleted, so that connection tracking goes on. Counters are objects with names: they outlive the rules that use them. The
agent deletes what a new document does not have any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.router import GuestNic, NicAddress, PortForward, PublicNic, RouterConfig
from libvirt_guestnet.model.traffic import Protocol, Rule, Service, Verdict
from libvirt_guestnet.router import balancing, conntrackd, limits, metadata, parts

TABLE = "inet guestnet"
FAMILY = {4: "ip", 6: "ip6"}
_OPPOSITE = {Verdict.ALLOW: "drop", Verdict.DENY: "accept"}
_POLICY = {Verdict.ALLOW: "accept", Verdict.DENY: "drop"}
_ICMP = {4: "1", 6: "58"}  # numbers: the appliance has no /etc/protocols

_ECHO = "limit rate 50/second burst 50 packets"

_BASE = {
    "marks": "type filter hook prerouting priority mangle ; policy accept ;",
    "ways": "type filter hook prerouting priority filter ; policy accept ;",
    "translate": "type nat hook prerouting priority dstnat ; policy accept ;",
    "input": "type filter hook input priority filter ; policy drop ;",
    "forward": "type filter hook forward priority filter ; policy drop ;",
    "output": "type filter hook output priority filter ; policy accept ;",
    "sources": "type nat hook postrouting priority srcnat ; policy accept ;",
}
_KNOWN_STATES = ("ct state { established, related } accept", "ct state invalid drop")


def lines(config: RouterConfig) -> Iterator[str]:
    yield f"add table {TABLE}"
    yield from (f"add counter {TABLE} {name}" for name in _counters(config))
    yield from (f"add set {TABLE} {each}" for each in limits.sets(config))
    chains = _chains(config)
    for name in chains:
        yield f"add chain {TABLE} {name}" + (f" {{ {_BASE[name]} }}" if name in _BASE else "")
        yield f"flush chain {TABLE} {name}"
    for name, rules in chains.items():
        yield from (f"add rule {TABLE} {name} {rule}" for rule in rules)


def _chains(config: RouterConfig) -> dict[str, list[str]]:
    chains = {
        "marks": _marks(config),
        "ways": _ways(config),
        **balancing.chains(config),
        "translate": _translate(config),
        "ingress": _ingress(config),
        "tiers": _tiers(config),
        "sources": _sources(config),
        "input": _input(config),
        "output": _output(config),
        **{f"egress-{nic.name}": _egress(nic) for nic in config.guests},
        "forward": _forward(config),
    }
    return {name: list(rules) for name, rules in chains.items()}


def counter(kind: str, name: str) -> str:
    """The name of a rule's counter."""
    return f"{kind}-{name}"


def _counters(config: RouterConfig) -> Iterator[str]:
    yield from ("denied", "refused", "spoofed", "limited", "crowded")
    for nic in config.guests:
        yield f"egress-{nic.name}"
        yield from (counter(f"egress-{nic.name}", rule.name) for rule in nic.exceptions)
    yield from (counter("forward", each.name) for each in config.forwards)
    yield from (counter("static", each.name) for each in config.static_nat)
    yield from (counter("ingress", each.name) for each in config.ingress)
    yield from (counter("tier", each.rule.name) for each in config.tier_rules)
    yield from balancing.counters(config)


def _count(name: str) -> str:
    return f'counter name "{name}"'


# ---- which way


def _marks(config: RouterConfig) -> Iterator[str]:
    """By which public NIC a connection goes: that by which it came, or whose address its guest goes out with. Only
    needed where there are several. A mark is set once: later packets of a new connection would lose FORWARDED."""
    if len(config.public) < 2:
        return
    for each in config.static_nat:
        for nic in config.guests:
            if any(each.guest in own.prefix for own in nic.addresses):
                yield from _mark_source(config, nic, each.guest, each.public)
    for nic in config.guests:
        for address in nic.source_nat:
            for prefix in parts.prefixes(nic, address.version):
                yield from _mark_source(config, nic, prefix, address)
    for public in config.public:
        yield f"iifname {public.name} {_mark(public)}"


def _ways(config: RouterConfig) -> Iterator[str]:
    """Has routing go by a connection's mark, once its destination is translated: what leads back to a guest does not
    leave."""
    if len(config.public) < 2:
        return
    for version in (4, 6):
        inside = [prefix for nic in config.guests for prefix in parts.prefixes(nic, version)]
        if inside:
            which = f"iifname {_set(nic.name for nic in config.guests)} {FAMILY[version]} daddr != {_set(inside)}"
            yield f"{which} meta mark set ct mark & {parts.NIC_BITS:#x}"


def _mark_source(
    config: RouterConfig, nic: GuestNic, source: IPNetwork | IPAddress, address: IPAddress
) -> Iterator[str]:
    public = parts.public_nic(config, address)
    if public is not None:
        yield f"iifname {nic.name} {FAMILY[address.version]} saddr {source} {_mark(public)}"


def _mark(nic: PublicNic) -> str:
    return f"ct state new ct mark 0x0 ct mark set {parts.mark(nic):#x}"


# ---- translation


def _translate(config: RouterConfig) -> Iterator[str]:
    for each in config.forwards:
        family = FAMILY[each.public.version]
        sources = f"{family} saddr {_set(each.sources)} " if each.sources else ""
        which = f"{sources}{family} daddr {each.public} {_service(each.service, each.public.version)}"
        count = _count(counter("forward", each.name))
        mark = f"ct mark set ct mark | {parts.FORWARDED:#x}"
        yield f"{which} {count} {mark} dnat {family} to {_target(each)}"
    yield from balancing.choices(config)
    for static in config.static_nat:
        family = FAMILY[static.public.version]
        count = _count(counter("static", static.name))
        yield f"{family} daddr {static.public} {count} dnat {family} to {static.guest}"


def _target(forward: PortForward) -> str:
    """nft does not shift a range of ports, so one that is moved is a map of them."""
    guest = f"[{forward.guest}]" if forward.guest.version == 6 else str(forward.guest)
    first, last = forward.service.first_port, forward.service.last_port
    assert first is not None and last is not None
    if first == forward.guest_port:
        return str(forward.guest)
    if first == last:
        return f"{guest}:{forward.guest_port}"
    shifted = ", ".join(f"{port} : {port - first + forward.guest_port}" for port in range(first, last + 1))
    return f"{forward.guest} : {forward.service.protocol} dport map {{ {shifted} }}"


def _sources(config: RouterConfig) -> Iterator[str]:
    """A guest that reaches another one of its network by a public address sees the router, or the answer would go to
    it directly, and from an address it did not ask."""
    for nic in config.guests:
        for own in nic.addresses:
            family = FAMILY[own.ip.version]
            yield f"oifname {nic.name} {family} saddr {own.prefix} ct status dnat snat {family} to {own.ip}"
    for each in config.static_nat:
        public = parts.public_nic(config, each.public)
        family = FAMILY[each.public.version]
        if public is not None:
            count = _count(counter("static", each.name))
            yield f"oifname {public.name} {family} saddr {each.guest} {count} snat {family} to {each.public}"
    for nic in config.guests:
        for address in nic.source_nat:
            yield from _source_nat(config, nic, address)


def _source_nat(config: RouterConfig, nic: GuestNic, address: IPAddress) -> Iterator[str]:
    public, family = parts.public_nic(config, address), FAMILY[address.version]
    for prefix in parts.prefixes(nic, address.version) if public else ():
        assert public is not None
        yield f"oifname {public.name} {family} saddr {prefix} snat {family} to {address}"


# ---- what passes


def _forward(config: RouterConfig) -> Iterator[str]:
    for own in config.own_nics:
        yield f"iifname {own.name} drop"
        yield f"oifname {own.name} drop"
    yield from _KNOWN_STATES
    for nic in config.guests:
        yield from _spoofed(nic)
    guests, public = _set(nic.name for nic in config.guests), _set(nic.name for nic in config.public)
    yield from limits.tracking(config, guests)
    yield f"ct status dnat ct mark & {parts.FORWARDED:#x} == {parts.FORWARDED:#x} oifname {guests} accept"
    if config.public:
        yield from (f"iifname {nic.name} oifname {public} goto egress-{nic.name}" for nic in config.guests)
        yield f"iifname {public} oifname {guests} goto ingress"
    yield f"iifname {guests} oifname {guests} goto tiers"
    yield f"{_count('denied')} drop"


def _spoofed(nic: GuestNic) -> Iterator[str]:
    for version, family in FAMILY.items():
        known = parts.prefixes(nic, version)
        which = f"{family} saddr != {_set(known)}" if known else f"meta nfproto ipv{version}"
        yield f"iifname {nic.name} {which} {_count('spoofed')} drop"


def _egress(nic: GuestNic) -> Iterator[str]:
    for rule in nic.exceptions:
        name = counter(f"egress-{nic.name}", rule.name)
        yield from (f"{which} {_count(name)} {_OPPOSITE[nic.egress]}" for which in _matches(rule))
    yield f"{_count(f'egress-{nic.name}')} {_POLICY[nic.egress]}"


def _ingress(config: RouterConfig) -> Iterator[str]:
    for rule in config.ingress:
        yield from (f"{which} {_count(counter('ingress', rule.name))} accept" for which in _matches(rule))
    yield f"{_count('denied')} drop"


def _tiers(config: RouterConfig) -> Iterator[str]:
    for each in config.tier_rules:
        way = f"iifname {each.source} oifname {each.destination}"
        for which in _matches(each.rule):
            yield f"{way} {which} {_count(counter('tier', each.rule.name))} accept"
    yield f"{_count('denied')} drop"


def _matches(rule: Rule) -> Iterator[str]:
    for version, family in FAMILY.items():
        sources = [each for each in rule.sources if each.version == version]
        destinations = [each for each in rule.destinations if each.version == version]
        if (rule.sources and not sources) or (rule.destinations and not destinations):
            continue
        words = [f"{family} saddr {_set(sources)}"] if sources else []
        words += [f"{family} daddr {_set(destinations)}"] if destinations else []
        where = " ".join(words or [f"meta nfproto ipv{version}"])
        yield from (f"{where} {_service(service, version)}" for service in rule.services)
        if not rule.services:
            yield where


def _service(service: Service, version: int) -> str:
    if service.protocol == Protocol.ICMP:
        return f"meta l4proto {_ICMP[version]}"
    if service.first_port is None:
        return f"meta l4proto {ip_protocols.number(service.protocol)}"
    span = "" if service.last_port == service.first_port else f"-{service.last_port}"
    return f"{service.protocol} dport {service.first_port}{span}"


# ---- the router itself


def _input(config: RouterConfig) -> Iterator[str]:
    """Each service only at the address of the link that a request came from; on the control NIC nothing but the host's
    echo requests."""
    control = config.control
    echo = f"iifname {control.name} ip saddr {control.host} ip daddr {control.address.ip} icmp type echo-request"
    yield f"{echo} accept"
    yield f"iifname {control.name} ct state established meta l4proto 1 accept"
    yield f"iifname {control.name} drop"
    if sync := config.sync:
        told = f"ip saddr {sync.peer} ip daddr {sync.address.ip} udp dport {conntrackd.PORT}"
        yield f"iifname {sync.name} {told} accept"
        yield f"iifname {sync.name} drop"
    guests = _set(nic.name for nic in config.guests)
    yield from limits.asking(guests)
    yield from _KNOWN_STATES
    yield "iifname lo accept"
    yield f"iifname {guests} udp sport 68 udp dport 67 accept"
    yield f"iifname {guests} ip6 saddr fe80::/10 udp sport 546 udp dport 547 queue num {limits.DHCP6_QUEUE}"
    yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
    yield f"iifname {guests} icmpv6 type nd-router-solicit ip6 hoplimit 255 accept"
    for guest in config.guests:
        for own in guest.addresses:
            family = FAMILY[own.ip.version]
            yield f"iifname {guest.name} {family} daddr {own.ip} meta l4proto {{ tcp, udp }} th dport 53 accept"
            if config.metadata:
                yield _asks_metadata(guest, own)
    for nic in config.guests:
        yield from (f"iifname {nic.name} {_echo(own.ip)} accept" for own in nic.addresses)
    for public in config.public:
        yield from (f"iifname {public.name} {_echo(own.ip)} {_ECHO} accept" for own in public.addresses)
    for address in parts.translated(config):
        yield f"{_echo(address)} {_ECHO} accept"
    yield from balancing.refusals(config)
    yield f"{_count('refused')} drop"


def _asks_metadata(guest: GuestNic, own: NicAddress) -> str:
    """Who asks is known by the address, which is one of its own link."""
    where = _set(each for each in (own.ip, *map(parse.address, metadata.ADDRESSES)) if each.version == own.ip.version)
    family = FAMILY[own.ip.version]
    return f"iifname {guest.name} {family} saddr {own.prefix} {family} daddr {where} tcp dport 80 accept"


def _echo(address: IPAddress) -> str:
    kind = "icmp" if address.version == 4 else "icmpv6"
    return f"{FAMILY[address.version]} daddr {address} {kind} type echo-request"


def _output(config: RouterConfig) -> Iterator[str]:
    """The control NIC reaches the host alone, and the sync NIC the other router of a pair."""
    control = config.control
    yield f"oifname {control.name} ip daddr != {control.host} drop"
    yield f"oifname {control.name} meta nfproto ipv6 drop"
    if sync := config.sync:
        yield f"oifname {sync.name} ip daddr != {sync.peer} drop"
        yield f"oifname {sync.name} meta nfproto ipv6 drop"


def _set(values: Iterable[object]) -> str:
    found = list(map(str, values))
    return found[0] if len(found) == 1 else f"{{ {', '.join(found)} }}"

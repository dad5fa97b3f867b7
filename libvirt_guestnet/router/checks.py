"""What contradicts itself in a router's configuration. Pure.

Whoever makes one of a file refuses the same there, with line and column; here it is refused whoever made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.balancing import MOST_MEMBERS, Balancer
from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.router import GuestNic, PortForward, RouterConfig
from libvirt_guestnet.model.traffic import Protocol, Service
from libvirt_guestnet.router import metadata, parts

PORTS, INTERVALS, TIMES = range(1, 65536), range(1, 3601), range(1, 101)
"""Of a health check: its port, the seconds between two, and how many of them change a member's state."""

MOST_SHIFTED = 1024
"""Ports of one forward that are moved to others: each is an element of a map."""


def conflicts(config: RouterConfig) -> list[str]:
    """Everything that is wrong, each in one sentence without a full stop."""
    return [
        *_nics(config),
        *_pair(config),
        *_names(config),
        *(problem for nic in config.guests for problem in _guest_network(config, nic)),
        *_overlapping(config),
        *_public(config),
        *_inside(config),
        *(problem for each in config.forwards for problem in _ports(each)),
        *(problem for each in config.balancers for problem in _balancer(config, each)),
        *_tier_rules(config),
        *_metadata(config),
        *(
            f"forwarder of {each.domain or 'all names'} has no address"
            for each in config.forwarders
            if not each.address
        ),
    ]


def _twice(what: str, values: Iterable[Hashable]) -> Iterator[str]:
    yield from (f"{what} {value} is used twice" for value, count in Counter(values).items() if count > 1)


def _nics(config: RouterConfig) -> Iterator[str]:
    nics = [*config.traffic_nics, *config.own_nics]
    yield from _twice("NIC", (nic.name for nic in nics))
    yield from _twice("MAC address", (nic.mac for nic in nics))
    control = config.control
    yield from (f"NIC {nic.name} is not called ethN" for nic in nics if not _is_nic_name(nic.name))
    if not control.address.ip.is_link_local or control.host not in control.address.prefix:
        yield f"control address {control.address} and the host's {control.host} are not of one link-local prefix"
    if not config.guests:
        yield "there is no guest network"
    if config.guest_connections < 1:
        yield "guests may have no connections"


def _pair(config: RouterConfig) -> Iterator[str]:
    sync, virtual = config.sync, [nic.virtual_mac for nic in config.traffic_nics]
    own = {nic.mac for nic in config.traffic_nics}
    yield from _twice("virtual MAC address", (each for each in virtual if each))
    yield from (f"virtual MAC address {each} is a NIC's own, too" for each in virtual if each in own)
    if sync is None:
        if any(virtual):
            yield "there is a virtual MAC address, and no NIC for a second router"
        return
    if not all(virtual):
        yield "it is one of a pair, and a NIC has no virtual MAC address"
    if not sync.address.ip.is_link_local or sync.peer not in sync.address.prefix or sync.peer == sync.address.ip:
        yield f"sync address {sync.address} and its peer's {sync.peer} are not two of one link-local prefix"


def _is_nic_name(name: str) -> bool:
    try:
        return name.startswith("eth") and parse.number(name.removeprefix("eth"), 0, 252) >= 0
    except parse.TextError:
        return False


def _names(config: RouterConfig) -> Iterator[str]:
    yield from _twice("port forward", (each.name for each in config.forwards))
    yield from _twice("balancer", (each.name for each in config.balancers))
    yield from _twice("static NAT", (each.name for each in config.static_nat))
    yield from _twice("ingress rule", (each.name for each in config.ingress))
    yield from _twice("tier rule", (each.rule.name for each in config.tier_rules))
    for nic in config.guests:
        yield from _twice(f"exception of {nic.name}'s egress policy", (each.name for each in nic.exceptions))


def _guest_network(config: RouterConfig, nic: GuestNic) -> Iterator[str]:
    if not nic.addresses:
        yield f"guest network {nic.name} has no address"
    prefixes = [own.prefix for own in nic.addresses]
    reserved = [address for each in nic.dhcp.reservations for address in each.addresses]
    yield from _twice(f"MAC address in {nic.name}'s reservations,", (each.mac for each in nic.dhcp.reservations))
    yield from _twice(f"address in {nic.name}'s reservations,", reserved)
    for address in reserved:
        if not any(address in prefix for prefix in prefixes):
            yield f"address {address} is reserved on {nic.name}, whose prefixes do not have it"
        elif address in {own.ip for own in nic.addresses}:
            yield f"address {address} is reserved on {nic.name}, and is the router's"
    for each in nic.dhcp.ranges:
        if each.start.version != each.end.version or int(each.start) > int(each.end):
            yield f"range {each.start} to {each.end} of {nic.name} has no order"
        elif not any(each.start in prefix and each.end in prefix for prefix in prefixes):
            yield f"range {each.start} to {each.end} is not in a prefix of {nic.name}"
    yield from (f"source NAT address {a} of {nic.name} is twice of a family" for a in _second(nic.source_nat))


def _second(addresses: tuple[IPAddress, ...]) -> Iterator[IPAddress]:
    seen = set[int]()
    for address in addresses:
        if address.version in seen:
            yield address
        seen.add(address.version)


def _overlapping(config: RouterConfig) -> Iterator[str]:
    known = [(nic.name, own.prefix) for nic in config.traffic_nics for own in nic.addresses]
    for index, (name, prefix) in enumerate(known):
        for other, another in known[index + 1 :]:
            if name != other and prefix.version == another.version and prefix.overlaps(another):
                yield f"prefixes {prefix} of {name} and {another} of {other} overlap"


def _public(config: RouterConfig) -> Iterator[str]:
    own = {own.ip for nic in config.public for own in nic.addresses}
    for address in parts.translated(config):
        if parts.public_nic(config, address) is None:
            yield f"public address {address} is in no public network of the router"
    static = [each.public for each in config.static_nat]
    yield from _twice("public address", static)
    yield from _twice("guest address of static NAT,", (each.guest for each in config.static_nat))
    shared = {each.public for each in config.ported} | {a for nic in config.guests for a in nic.source_nat} | own
    yield from (
        f"public address {address} of static NAT is used otherwise, too" for address in static if address in shared
    )
    yield from _shared_ports(config)


def _shared_ports(config: RouterConfig) -> Iterator[str]:
    taken: dict[tuple[IPAddress, str], list[PortForward | Balancer]] = {}
    for each in config.ported:
        for other in taken.setdefault((each.public, each.service.protocol), []):
            if not _sources(each) and not _sources(other) and _overlap(each.service, other.service):
                yield f"{_called(other)} and {_called(each)} share ports of {each.public}"
        taken[each.public, each.service.protocol].append(each)


def _sources(each: PortForward | Balancer) -> tuple[IPNetwork, ...]:
    return each.sources if isinstance(each, PortForward) else ()


def _called(each: PortForward | Balancer) -> str:
    return f"{'port forward' if isinstance(each, PortForward) else 'balancer'} {each.name}"


def _overlap(a: Service, b: Service) -> bool:
    if None in (a.first_port, a.last_port, b.first_port, b.last_port):
        return True
    return a.first_port <= b.last_port and b.first_port <= a.last_port  # type: ignore[operator]


def _balancer(config: RouterConfig, each: Balancer) -> Iterator[str]:
    if not each.members:
        yield f"balancer {each.name} has no members"
    elif len(each.members) > MOST_MEMBERS:
        yield f"balancer {each.name} has more than {MOST_MEMBERS} members"
    yield from _twice(f"member of balancer {each.name}", (one.name for one in each.members))
    yield from _twice(f"address in balancer {each.name},", (one.address for one in each.members))
    tiers = [own for nic in config.guests for own in nic.addresses]
    for one in each.members:
        if one.address.version != each.public.version:
            yield f"balancer {each.name} leads from {each.public} to {one.address}, which is of another IP version"
        if not any(one.address in own.prefix for own in tiers):
            yield f"balancer {each.name} leads to {one.address}, which is in no guest network of the router"
        elif any(one.address == own.ip for own in tiers):
            yield f"balancer {each.name} leads to {one.address}, which is the router's"
    yield from _balanced_ports(each)


def _balanced_ports(each: Balancer) -> Iterator[str]:
    first, last = each.service.first_port, each.service.last_port
    if first is None or last is None or each.service.protocol not in (Protocol.TCP, Protocol.UDP):
        yield f"balancer {each.name} has no TCP or UDP ports"
    elif first not in (each.port, last):
        yield f"balancer {each.name} moves a range of ports"
    check = each.check
    if check and not (check.port in PORTS and check.interval in INTERVALS and {check.rise, check.fall} <= set(TIMES)):
        yield f"the health check of balancer {each.name} has a number that is too small or too large"


def _inside(config: RouterConfig) -> Iterator[str]:
    prefixes = [own.prefix for nic in config.guests for own in nic.addresses]
    for each in config.translations:
        if each.public.version != each.guest.version:
            yield f"{each.name} translates {each.public} to {each.guest}, which is of another IP version"
        if not any(each.guest in prefix for prefix in prefixes):
            yield f"{each.name} leads to {each.guest}, which is in no guest network of the router"


def _ports(each: PortForward) -> Iterator[str]:
    first, last = each.service.first_port, each.service.last_port
    if first is None or last is None or each.service.protocol not in ip_protocols.PORTED:
        yield f"port forward {each.name} has no ports"
    elif each.guest_port + last - first > 65535:
        yield f"port forward {each.name} leads beyond port 65535"
    elif first != each.guest_port and last - first >= MOST_SHIFTED:
        yield f"port forward {each.name} moves more than {MOST_SHIFTED} ports"


def _metadata(config: RouterConfig) -> Iterator[str]:
    yield from _twice("address of a guest's metadata,", (ip for each in config.metadata for ip in each.addresses))
    prefixes = [own.prefix for nic in config.guests for own in nic.addresses]
    for address in (ip for each in config.metadata for ip in each.addresses):
        if not any(address in prefix for prefix in prefixes):
            yield f"address {address} of a guest's metadata is in no guest network of the router"
    if (size := metadata.size(config)) > metadata.MOST_BYTES:
        yield f"guests are told {size} bytes by it, more than {metadata.MOST_BYTES}: give some of them a seed"


def _tier_rules(config: RouterConfig) -> Iterator[str]:
    known = {nic.name for nic in config.guests}
    for each in config.tier_rules:
        for name in (each.source, each.destination):
            if name not in known:
                yield f"tier rule {each.rule.name} is about {name}, which is no guest network of the router"

"""What `routers:` stands for: a guest with a port on each of its networks, and the network between it and the host.

They are made as declarations, before anything else is looked at. So addresses, devices, MAC addresses and names of a
router are derived and compared as those of all other guests are. `router_policy` makes the rest of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from libvirt_guestnet import parse
from libvirt_guestnet.metadata.policy import REQUIRED, STRICT
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode
from libvirt_guestnet.model.topology import Role

from ..errors import Where
from . import addressing, public_addresses
from .guest_keys import GuestDecl, PortDecl
from .keys import TopologyDecl
from .network_keys import NetworkDecl
from .report import Report
from .router_keys import TierDecl, VirtualRouterDecl
from .scope import HOST, control_name
from .spec import At, made, values

CONTROL = "control"
"""The name of a router's port on the network between it and the host."""
MOST_ROUTERS = 200
"""With both of each pair: the control network has room for 253."""
MOST_NICS = 24
"""A PCI bus has 32 slots, and disks and channels are in some."""

_DEFAULT_SUBNET = IPv4Network("10.1.1.0/24")
_EVERYWHERE: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
# RFC 3927 keeps the first and the last of 169.254.0.0/16; 169.254.1.0/24 is where host-routed gateways are by habit,
# and 169.254.169.0/24 where metadata services are.
_NO_CONTROL = (0, 1, 169, 255)

_Networks = dict[str, tuple[At[str], NetworkDecl | None]]
_Router = tuple[At[str], VirtualRouterDecl]


def expand(decl: TopologyDecl, report: Report) -> TopologyDecl:
    """The file with all that its routers stand for; what contradicts itself is reported."""
    if not decl.routers:
        return decl
    _check_names(decl, report)
    networks: _Networks = {name.value: (name, each) for name, each in decl.networks or ()}
    owners: dict[str, str] = {}
    routers = tuple((name, each and _sorted_out((name, each), networks, owners, report)) for name, each in decl.routers)
    _check_gateways(decl, owners, report)
    for name, router in routers:
        for tier, _ in router.tiers if router else ():
            at, network = networks[tier.value]
            networks[tier.value] = at, network and _tier(tier, name.value, network, report)
    control, first = control_name(decl.name.value), decl.routers[0][0].where
    networks[control] = At(control, first), _control(decl.name.value, first)
    expanded = replace(decl, networks=tuple(networks.values()), routers=routers)
    guests = [(name, each) for name, each in decl.guests or () if name.value not in {n.value for n, _ in routers}]
    own = _control_addresses(decl)
    made_ = [(name, _guest(expanded, (name, each), own, report) if each else None) for name, each in routers]
    return replace(expanded, guests=(*guests, *made_))


def _sorted_out(router: _Router, networks: _Networks, owners: dict[str, str], report: Report) -> VirtualRouterDecl:
    """The router with those of its networks that are there, and can be what they are to be for it."""
    name, said = router
    if not said.tiers:
        report.add(said.at, f"router '{name.value}' has no network behind it: name one in tiers")
    if not said.public:
        report.add(said.at, f"router '{name.value}' has no public network: name one in public")
    tiers = tuple(each for each in said.tiers if _owns(each[0], name.value, networks, owners, report))
    behind = {tier.value for tier, _ in said.tiers}
    public = []
    for at, link in said.public:
        if at.value not in networks:
            report.unknown(at.where, "network", at.value, networks)
        elif at.value in behind:
            report.add(at.where, f"network '{at.value}' is behind router '{name.value}' already")
        elif _can_be_public(at, networks[at.value][1], report):
            public.append((at, link))
    return replace(said, tiers=tiers, public=tuple(public))


def _check_names(decl: TopologyDecl, report: Report) -> None:
    guests, count = {name.value for name, _ in decl.guests or ()}, 0
    for name, router in decl.routers or ():
        count += 2 if router and router.redundant.value else 1
        if count > MOST_ROUTERS:
            report.add(name.where, f"a topology has at most {MOST_ROUTERS} routers, a redundant one counting as two")
            break
        if name.value in guests:
            report.add(name.where, f"'{name.value}' is also a guest: a router has a name of its own")
    control = control_name(decl.name.value)
    for name, _ in decl.networks or ():
        if name.value == control:
            report.add(name.where, f"'{control}' is the network between the host and the routers: choose another name")
    for guest, each in decl.guests or ():
        for port in each.ports if each else ():
            if port.network.value == control:
                message = f"guest '{guest.value}' cannot be on '{control}', where the host speaks to its routers"
                report.add(port.network.where, message)


def _owns(tier: At[str], router: str, networks: _Networks, owners: dict[str, str], report: Report) -> bool:
    if tier.value not in networks:
        report.unknown(tier.where, "network", tier.value, networks)
        return False
    other = owners.setdefault(tier.value, router)
    if other != router:
        report.add(tier.where, f"network '{tier.value}' has a router already, '{other}': it can have one")
    return other == router


def _tier(tier: At[str], router: str, network: NetworkDecl, report: Report) -> NetworkDecl:
    """The network with its router as its gateway."""
    if network.mode.value is not Mode.ISOLATED or network.external:
        kind = "external" if network.external else f"of mode {network.mode.value}"
        message = f"network '{tier.value}' is {kind}: behind a router is a network of mode isolated"
        report.add(tier.where, message)
    if network.gateway and network.gateway.value != router:
        message = f"the gateway is router '{router}' (line {tier.where.line}), not '{network.gateway.value}'"
        report.add(network.gateway.where, f"{message}: leave it out")
    if network.subnets == ():
        report.add(tier.where, f"network '{tier.value}' has no subnet: leave subnets out for {_DEFAULT_SUBNET}")
    gateway = At(router, tier.where)
    if network.subnets is None and "subnets" not in network.bad:
        return replace(network, gateway=gateway, subnets=(At(_DEFAULT_SUBNET, network.at),))
    return replace(network, gateway=gateway)


def _check_gateways(decl: TopologyDecl, owners: Mapping[str, str], report: Report) -> None:
    routers = {name.value: each for name, each in decl.routers or ()}
    for name, network in decl.networks or ():
        gateway = network.gateway if network else None
        if gateway and routers.get(gateway.value) and name.value not in owners:
            message = f"router '{gateway.value}' does not know network '{name.value}'"
            report.add(gateway.where, f"{message}: say its egress under routers: {gateway.value}: tiers:")


def control_number(topology: str) -> int:
    """N in 169.254.N.0/24, which is the control network of a topology of that name."""
    allowed = [number for number in range(256) if number not in _NO_CONTROL]
    return allowed[int.from_bytes(sha256(f"control\0{topology}".encode()).digest()) % len(allowed)]


def _control(topology: str, at: Where) -> NetworkDecl:
    """The host has the first address, and each router one that is derived from its name."""
    number = control_number(topology)
    said: dict[str, Any] = {
        "mode": Mode.ISOLATED,
        "gateway": HOST,
        "isolated_ports": True,
        "guarded": REQUIRED,
        "privacy_addresses": STRICT,
    }
    subnets = (At(parse.prefix(f"169.254.{number}.0/24"), at),)
    return made(NetworkDecl, at, subnets=subnets, **{name: At(each, at) for name, each in said.items()})


def _control_addresses(decl: TopologyDecl) -> dict[str, IPAddress]:
    """The address of each router on the control network: derived from its name. Of two that come to the same one, the
    file cannot give either another one, so the second by name has the next that is free."""
    prefix = parse.prefix(f"169.254.{control_number(decl.name.value)}.0/24")
    pool = addressing.Pool(prefix, [prefix[1]])
    found: dict[str, IPAddress] = {}
    for name in sorted(name.value for name, _ in decl.routers or ()):
        if address := pool.derive(decl.name.value, name, CONTROL, str(prefix)):
            pool.take(address)
            found[name] = address
    return found


def _guest(decl: TopologyDecl, router: _Router, own: Mapping[str, IPAddress], report: Report) -> GuestDecl:
    """Its ports, in the order of its NICs: the first tier, the control network, the public ones, all other tiers."""
    name, said = router
    networks = {name.value: each for name, each in decl.networks or ()}
    tiers = [_tier_port(at, each, networks.get(at.value), report) for at, each in said.tiers]
    public = _public_ports(decl, router, report)
    address = (At(own[name.value], name.where),) if name.value in own else None
    network = At(control_name(decl.name.value), name.where)
    control = _port(network, name=At(CONTROL, name.where), sources=(), addresses=address)
    ports = (*tiers[:1], control, *public, *tiers[1:])
    if len(ports) > MOST_NICS:
        report.add(name.where, f"a router has at most {MOST_NICS} NICs, and '{name.value}' would have {len(ports)}")
    return made(GuestDecl, name.where, ports=ports, host=said.host)


def _port(network: At[str], **said: Any) -> PortDecl:
    where = network.where
    return made(PortDecl, where, network=network, default_route=At(False, where), **said)


def _tier_port(at: At[str], tier: TierDecl | None, network: NetworkDecl | None, report: Report) -> PortDecl:
    """It routes for its guests from everywhere, and they reach it though they may not reach each other."""
    subnets = values(network.subnets) if network else ()
    given = tier.addresses or () if tier else ()
    _check_addresses(given, subnets, report)
    missing = [subnet for subnet in subnets if not any(each.value in subnet for each in given)]
    first = [At(subnet[1], at.where) for subnet in missing if subnet.num_addresses > 1]
    versions = sorted({subnet.version for subnet in subnets})
    return _port(
        at,
        addresses=(*given, *first),
        sources=tuple(At(_EVERYWHERE[version], at.where) for version in versions),
        roles=tuple(At(role, at.where) for role in (Role.DHCP_SERVER, Role.RA_SENDER)),
        isolated=At(False, at.where),
    )


def _check_addresses(given: Iterable[At[IPAddress]], subnets: Iterable[IPNetwork], report: Report) -> None:
    for subnet in subnets:
        for at in [at for at in given if at.value in subnet][1:]:
            report.add(at.where, f"a router has one address in each subnet, and another one in {subnet} already")


def _public_ports(decl: TopologyDecl, router: _Router, report: Report) -> list[PortDecl]:
    """With every address that the router answers for there, its own first."""
    name, said = router
    networks = {each.value: network for each, network in decl.networks or ()}
    extra = public_addresses.placed(decl, router, report)
    sources = tuple(At(prefix, name.where) for prefix in _untranslated(said, networks))
    return [
        _port(at, addresses=(*public.addresses, *extra.get(at.value, ())), sources=sources)
        for at, public in said.public
        if public
    ]


def _can_be_public(at: At[str], network: NetworkDecl | None, report: Report) -> bool:
    if network and (network.external or network.mode.value is Mode.HOST_ROUTED):
        kind = "external" if network.external else f"of mode {network.mode.value}"
        message = f"network '{at.value}' is {kind}: a router's public networks are of mode bridge, nat, route, open"
        report.add(at.where, f"{message} or isolated")
        return False
    return True


def _untranslated(said: VirtualRouterDecl, networks: Mapping[str, NetworkDecl | None]) -> Iterator[IPNetwork]:
    """The subnets whose guests go out with their own addresses."""
    for at, tier in said.tiers:
        network = networks.get(at.value)
        translated = {each.value.version for each in (tier.source_nat or () if tier else ())}
        yield from (each for each in values(network.subnets if network else ()) if each.version not in translated)

"""`guestnet suggest`: what to declare of an observed port so that nothing honest is dropped once it is guarded. Pure.

A guest says what it likes. So what is somebody else's is never suggested but said in a warning, and what only some
guests are for (serving DHCP, routing) is said as a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from libvirt_guestnet.datapath.port import port_facts
from libvirt_guestnet.datapath.port.port_facts import PortGuard
from libvirt_guestnet.metadata.policy import ANY, NONE, PortPolicy
from libvirt_guestnet.parse import Address, Prefix, enclosing, prefix

_MANY = 3  # addresses of one prefix that stand for the prefix
_MOST_SOURCES = 16
_LONGEST = {4: 24, 6: 64}
_LINK_LOCAL = prefix("fe80::/10")
_SELF_GIVEN = prefix("169.254.0.0/16")
_THIS_NETWORK = prefix("0.0.0.0/8")

# What a role lets pass, by the reason for which it would be dropped, if nothing says which one more narrowly.
_ROLES = {
    "DHCP server": "dhcp-server",
    "DHCPv6 server": "dhcp-server",
    "routing protocol": "router-protocols",
    "multicast router": "router-protocols",
}
# Narrower roles for the same. PIM is a routing protocol, too.
_NARROW = {
    "DHCP server": {"dhcp-server", "dhcp-relay"},
    "DHCPv6 server": {"dhcp-server", "dhcp-relay"},
    "routing protocol": {*port_facts.SPOKEN, port_facts.MULTICAST_ROUTER},
    "multicast router": {port_facts.MULTICAST_ROUTER},
    "EtherType": set(port_facts.LINK_LAYER),
    "DHCP client": {"dhcp-server", "dhcp-relay"},
    "DHCPv6 relay": {"dhcp-server", "dhcp-relay"},
}
# What a guest with a role does; with any other it speaks the protocol of that name.
_DOES = {
    "dhcp-server": "serve DHCP",
    "dhcp-relay": "relay DHCP",
    "ra-sender": "announce itself as IPv6 router",
    "own-sources": "have an address of its sources itself",
    "router-protocols": "speak routing protocols",
    "multicast-router": "route multicast",
}
# Reasons that an address explains.
_EXPLAINED = {"ARP", "IPv4 source", "IPv6 source", "ND", "source MAC", "VLAN", *_ROLES}


@dataclass(frozen=True)
class Observed:
    """One observed port. `guard` is what it may send, `has` what it has learnt and claimed; `subnets` and `hosts` are
    its network's and the host's addresses there. `others` says whose an address is, `wide` whose a prefix is, `macs`
    whose a MAC address is; `elsewhere` are other networks' subnets, each with the name. To a `routed` port the host
    routes, without any network. `reasons` and the rest are what was counted and noted: `roles` those that would have
    let something pass."""

    guest: str
    port: str
    network: str
    tap: str
    topology: str
    guard: PortGuard
    policy: PortPolicy | None = None
    has: frozenset[Address] = frozenset()
    subnets: tuple[Prefix, ...] = ()
    hosts: tuple[Address, ...] = ()
    others: Mapping[Address, str] = field(default_factory=dict)
    wide: Mapping[Prefix, str] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)
    routed: bool = False
    elsewhere: Mapping[Prefix, str] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    seen: tuple[tuple[str, Address], ...] = ()
    vlans: tuple[int, ...] = ()
    announces: bool = False
    roles: tuple[str, ...] = ()
    full: bool = False


@dataclass(frozen=True)
class Suggestion:
    """What to say of one port. `declare` are keys of the topology file, each with its whole new value; `ask` are keys
    that only a guest should have that is meant to do what is said; `warnings` is what should not be declared unseen,
    `rest` what nothing lets pass. `unknown`: nobody knows an address of it, so it cannot be guarded yet."""

    guest: str
    port: str
    network: str
    tap: str
    topology: str
    frames: int
    reasons: Mapping[str, int]
    declare: Mapping[str, object]
    ask: tuple[Mapping[str, object], ...] = ()
    warnings: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    unknown: bool = False

    def json(self) -> dict[str, object]:
        listed = {"ask": list(map(dict, self.ask)), "warnings": list(self.warnings), "rest": list(self.rest)}
        return {**asdict(self), "reasons": dict(self.reasons), "declare": dict(self.declare), **listed}


def suggest(port: Observed) -> Suggestion:
    """What to declare of a port, by what it did while it was observed."""
    found = _Sorted(port)
    for mac, address in port.seen:
        found.add(mac, address)
    return Suggestion(
        guest=port.guest,
        port=port.port,
        network=port.network,
        tap=port.tap,
        topology=port.topology,
        frames=sum(port.reasons.values()),
        reasons=dict(port.reasons),
        declare=found.declared(),
        ask=tuple(found.asked()),
        warnings=(*found.warnings, *_warnings(port)),
        rest=tuple(_rest(port)),
        unknown=not found.declared() and not _has_any(port),
    )


def _has_any(port: Observed) -> bool:
    """Whether anybody has said, or will tell it, which addresses it has; `apply` refuses to guard it otherwise."""
    guard, policy = port.guard, port.policy
    own = [each for each in guard.owned if each[0] not in _LINK_LOCAL]
    return bool(own or guard.routed or guard.pairs or guard.server or (policy is not None and policy.addressing))


def _warnings(port: Observed) -> Iterator[str]:
    if port.full:
        yield "it used more addresses or VLANs than there was room to note: these are not all"


def _rest(port: Observed) -> Iterator[str]:
    """Why frames would be dropped that no declaration lets pass."""
    explained = _EXPLAINED - (set() if port.seen or port.announces else {"ARP", "ND", "source MAC"})
    explained |= {reason for reason, narrow in _NARROW.items() if narrow & set(port.roles)}
    for reason, frames in sorted(port.reasons.items()):
        if reason not in explained:
            yield f"{reason} ({frames} frames)"


class _Sorted:
    """The addresses that a port used, sorted by what would let them pass."""

    def __init__(self, port: Observed) -> None:
        self.port, self.warnings = port, list[str]()
        self._own: list[Address] = []
        self._pairs: list[tuple[str, Address]] = []
        self._sources: list[Address] = []
        self._privacy = self._asks_as_sources = False

    def add(self, mac: str, address: Address) -> None:
        port = self.port
        if _is_nobodys(address) or (mac == port.guard.mac and (address in port.has or _is_own(port.guard, address))):
            return  # as it was before it was declared, perhaps
        whose = self._whose(address)
        if not _is_unicast(mac):
            self.warnings.append(f"{mac} is no port's MAC address: it sent from that, for {address}")
        elif whose or (mac != port.guard.mac and mac in port.macs):
            held = f"{address} is {whose}" if whose else f"{mac} is the MAC address of {port.macs[mac]}"
            self.warnings.append(f"{held}: it spoke for that all the same, and would be kept from it")
        elif mac != port.guard.mac:
            self._pairs.append((mac, address))
        elif address in _SELF_GIVEN:
            self.warnings.append(f"{address}: it gave itself that, as it got none by DHCP")
        else:
            self._add_own(address)

    def _whose(self, address: Address) -> str:
        port = self.port
        if address in port.hosts:
            return "the host's"
        if any(each.num_addresses > 2 and address in (each[0], each[-1]) for each in port.subnets if each.version == 4):
            return "its network's own"
        around = (whose for each, whose in port.wide.items() if each.version == address.version and address in each)
        return port.others.get(address) or next(around, "")

    def _add_own(self, address: Address) -> None:
        guard = self.port.guard
        on_link = not (self.port.subnets or self.port.routed) or address in _LINK_LOCAL
        if _is_in(address, guard.routed):
            self._asks_as_sources |= any(self.port.reasons.get(reason) for reason in ("ARP", "IPv6 source", "ND"))
        elif address.version == 6 and _is_in(address, guard.claims):
            self._privacy |= not guard.by_use
        elif on_link or _is_in(address, self.port.subnets):
            self._own.append(address)
        else:
            self._sources.append(address)

    def declared(self) -> dict[str, object]:
        found: dict[str, object] = {}
        lists = self._may_list()
        if self._own and lists:
            found["addresses"] = [*map(str, self._listed()), *map(str, self._own)]
        pairs = [*self._pairs, *([] if lists else (("", address) for address in self._own))]
        if pairs:
            said = self.port.policy
            old = [_pair(pair.mac, pair.prefix) for pair in (said.pairs if said else ())]
            old += [{"mac": mac} for mac in (said.lent if said else ())]
            found["allowed-pairs"] = [*old, *(_pair(mac, address) for mac, address in pairs)]
        if self._privacy:
            found["privacy-addresses"] = True
        return found

    def _listed(self) -> tuple[Address, ...]:
        """The addresses that its policy lists."""
        return self.port.policy.addresses if self.port.policy is not None else ()

    def _may_list(self) -> bool:
        """Whether a longer list is all that is needed: where there is none, it would end what the port has by the
        host's DHCP or by the word in its place."""
        guard, policy = self.port.guard, self.port.policy
        if policy is not None and policy.addressing in (ANY, NONE):
            return False
        reserved = any(own.version == 4 and own.num_addresses == 1 for own in guard.owned)
        return bool(self._listed()) or (guard.server is None and not reserved)

    def asked(self) -> Iterator[dict[str, object]]:
        if roles := list(self._roles()):
            does = " and ".join(dict.fromkeys(_DOES.get(role, f"speak {role}") for role in roles))
            yield {"if": f"meant to {does}", "roles": [*self.port.guard.roles, *roles]}
        yield from self._asked_sources()
        own = self.port.guard.trunk.vlans if self.port.guard.trunk else []
        if new := [vlan for vlan in self.port.vlans if vlan and not any(low <= vlan <= high for low, high in own)]:
            listed = [low if low == high else f"{low}-{high}" for low, high in own]
            yield {"if": "meant to be in these VLANs", "trunk": [*listed, *new]}

    def _roles(self) -> Iterator[str]:
        port, told = self.port, set(self.port.roles)
        wide = [role for reason, role in _ROLES.items() if port.reasons.get(reason) and not told & _NARROW[reason]]
        seen = {*told, *wide, *(["ra-sender"] if port.announces else [])}
        seen |= {port_facts.OWN_SOURCES} if self._asks_as_sources else set()
        yield from (role for role in port_facts.ROLES if role in seen and role not in port.guard.roles)

    def _asked_sources(self) -> Iterator[dict[str, object]]:
        prefixes = _prefixes(self.port, self._sources)
        if len(prefixes) > _MOST_SOURCES:
            said = f"it sends from {len(prefixes)} prefixes that are not its network's: a router says `router:`"
            self.warnings.append(said)
        elif prefixes:
            before = [str(each) for each in self.port.guard.routed]
            yield {"if": "meant to forward for others", "sources": [*before, *map(str, prefixes)]}


def _pair(mac: str, address: object) -> dict[str, str]:
    text = str(address).removesuffix("/32").removesuffix("/128")
    return {"address": text, "mac": mac} if mac else {"address": text}


def _prefixes(port: Observed, addresses: list[Address]) -> list[Prefix]:
    """Another network's subnet where they are in one, else one for several that are close."""
    found: dict[Prefix, list[Address]] = {}
    for address in addresses:
        around = next((each for each in port.elsewhere if each.version == address.version and address in each), None)
        found.setdefault(around or enclosing(f"{address}/{_LONGEST[address.version]}"), []).append(address)
    return [
        each
        for around, listed in found.items()
        for each in ([around] if _stands(port, around, len(listed)) else map(_single, listed))
    ]


def _stands(port: Observed, around: Prefix, used: int) -> bool:
    """Whether a prefix may stand for addresses of it: not if there are others in it that are known to be somebody's."""
    if around in port.elsewhere:
        return True
    taken = (*port.hosts, *port.others, *(each.network_address for each in (*port.wide, *port.subnets)))
    return used >= _MANY and not any(each.version == around.version and each in around for each in taken)


def _single(address: Address) -> Prefix:
    return prefix(str(address))


def _is_in(address: Address, prefixes: tuple[Prefix, ...]) -> bool:
    return any(each.version == address.version and address in each for each in prefixes)


def _is_own(guard: PortGuard, address: Address) -> bool:
    return any(address in own for own in port_facts.certain(guard, address.version))


def _is_nobodys(address: Address) -> bool:
    """What nobody may send from, or speak for."""
    unusable = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_reserved
    return unusable or (address.version == 4 and address in _THIS_NETWORK)


def _is_unicast(mac: str) -> bool:
    return mac != "00:00:00:00:00:00" and not int(mac[:2], 16) & 1

"""Port forwards and floating addresses as one nft table of ours. Pure.

All forwards are elements of a few maps, by address and port of the host, so a packet takes the same time however many
there are. The table is written from all receipts in one transaction, so nothing of an ended guest stays in it. A
translated packet keeps the client's address, except where the guest would not answer by way of the host: for a client
on the guest's own bridge (hairpin), and for a guest whose default route does not lead to the host (`hide`). A forward
that is limited to some clients is in maps of its own, whose rules ask for the client before.

When a flow is forgotten, since its client is not in the list any more, the guest's next packet would be the first of
another flow for the kernel, and libvirt's masquerade would give it the host's old port: the client would be back. So
what comes from a port that such a forward leads to begins with a SYN or not at all (TCP). UDP and SCTP are not told by
their beginning: there, what comes to the host's port as an answer to such a guest is dropped, unless a client sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from libvirt_guestnet.datapath.firewalls.accepts import Accept, Masqueraded, OriginalDestination, span
from libvirt_guestnet.datapath.port import ranges
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.claims import ANYWHERE, Claim
from libvirt_guestnet.parse import Prefix, prefix
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.receipts import ForwardRule, PortForwards

TABLE = "inet guestnet"
_TOGETHER = "cut"  # the set whose ranges may be several ports'


def version_of(to: str) -> int:
    """The IP version of a forward's target."""
    return serialiser.LEASES.get(to) or (6 if ":" in to else 4)


def with_leases(port: PortForwards, leases: Mapping[int, str]) -> PortForwards:
    """A port's forwards with these leased addresses filled in; those to a family without a lease are left out."""
    found = ((f, leases.get(serialiser.LEASES[f.to], "") if f.to in serialiser.LEASES else f.to) for f in port.forwards)
    return port._replace(forwards=tuple(f._replace(to=to) for f, to in found if to))


def claims(port: PortForwards) -> list[Claim]:
    """The addresses and ports of the host that a port's forwards take."""
    owner = f"guest {port.domain!r}"
    whole = [Claim(each.ip, "", 0, 65535, owner) for each in port.floating]
    ranges = ((f.at or ANYWHERE[version_of(f.to)], f) for f in port.forwards)
    return [*(Claim(at, f.protocol, f.first, f.last, owner) for at, f in ranges), *whole]


def accepts(ports: Iterable[PortForwards]) -> Iterator[Accept]:
    """What other firewalls must let through for the forwards of these ports."""
    for each in ports:
        bridge = check_device(each.bridge)
        for f in each.forwards:
            if ip_protocols.is_whole(f.protocol):
                number, origin = ip_protocols.number(f.protocol), OriginalDestination(prefix(f.at))
                yield Accept(bridge, prefix(f.to), str(number), published=origin)
                continue
            origin = OriginalDestination(prefix(f.at) if f.at else None, (f.first, f.last))
            yield Accept(bridge, prefix(f.to), f.protocol, (f.to_first, f.to_first + f.last - f.first), origin)
        for floating in each.floating:
            published = None if floating.via else OriginalDestination(prefix(floating.ip))
            yield Accept(bridge, prefix(floating.to), published=published)


def batch(ports: Iterable[PortForwards], hidden: Sequence[Masqueraded] = ()) -> str:
    """The nft batch that makes our table hold exactly these ports' forwards, and what masquerades prefixes behind
    guests, or removes it when there are none."""
    listed = list(ports)
    lines = [f"add table {TABLE}", f"delete table {TABLE}"]
    rules = [_Family(version, listed) for version in (4, 6)]
    if listed or hidden:
        maps = (line for family in rules for line in family.maps())
        lines += [f"add table {TABLE}", *maps, *_chains(rules, [_masquerade(each) for each in hidden])]
    return "\n".join([*lines, ""])


def sizes(ports: Iterable[PortForwards], hidden: int = 0) -> dict[str, int]:
    """How many elements each map of the table of `batch` has, and how many rules each chain, with so many prefixes
    that are masqueraded."""
    listed = list(ports)
    families = [_Family(version, listed) for version in (4, 6)]
    maps = {f"{kind}{each.version}": len(elements) for each in families for kind, elements in each.found.items()}
    chains = {
        "wanted": sum(len(family.incoming_rules()) for family in families),
        "postrouting": sum(len(family.outgoing_rules()) for family in families) + hidden,
        **({"begun": begun} if (begun := sum(len(family.begun_rules()) for family in families)) else {}),
    }
    return {**maps, **chains, "prerouting": 1, "output": 1}


def elements(port: PortForwards) -> frozenset[tuple[str, str, str]]:
    """What is in the maps of that table for one port, and for no other together with it: (map, key, value)."""
    families = [_Family(version, [port]) for version in (4, 6)]
    kinds = ((each.version, *kind) for each in families for kind in each.found.items() if kind[0] != _TOGETHER)
    maps = ((f"{kind}{version}", found) for version, kind, found in kinds)
    return frozenset((name, key.replace('"', ""), value) for name, found in maps for key, value in found.items())


def _as_listed(source: str) -> str:
    """A prefix as nft lists it: one of a single address is that."""
    found = prefix(source)
    return str(found) if found.prefixlen < found.max_prefixlen else str(found.network_address)


def _masquerade(each: Masqueraded) -> str:
    """libvirt's own rules masquerade a network's subnets only."""
    bridge, ip = check_device(each.bridge), "ip6" if each.guest.version == 6 else "ip"
    out = f'oifname "{check_device(each.other)}"' if each.other else f'oifname != "{bridge}"'
    return f'iifname "{bridge}" {out} {ip} saddr {each.guest} masquerade'


def _chains(families: list[_Family], masquerades: list[str]) -> Iterator[str]:
    yield from _chain("wanted", "", [rule for family in families for rule in family.incoming_rules()])
    # Before Docker's and libvirt's rules at the same hook: the first translation counts.
    for hook in ("prerouting", "output"):
        yield from _chain(hook, f" {{ type nat hook {hook} priority -101; policy accept; }}", ["jump wanted"])
    rules = [*(rule for family in families for rule in family.outgoing_rules()), *masquerades]
    yield from _chain("postrouting", " { type nat hook postrouting priority 99; policy accept; }", rules)
    if begun := [rule for family in families for rule in family.begun_rules()]:
        yield from _chain("begun", " { type filter hook prerouting priority -150; policy accept; }", begun)


def _chain(name: str, block: str, rules: list[str]) -> Iterator[str]:
    yield f"add chain {TABLE} {name}{block}"
    yield from (f"add rule {TABLE} {name} {rule}" for rule in rules)


class _Family:
    """The maps of one address family, and the rules that use them. Empty maps and their rules are left out."""

    def __init__(self, version: int, ports: list[PortForwards]) -> None:
        self.version, self.ip, self.type = version, ("ip", "ip6")[version == 6], f"ipv{version}_addr"
        self.found: dict[str, dict[str, str]] = {}
        for each in ports:
            bridge = f'"{check_device(each.bridge)}"'
            for forward in each.forwards:
                if (to := prefix(forward.to)).version == version:
                    self._forward(forward, bridge, to)
            for floating in each.floating:
                if (to := prefix(floating.to)).version == version and not floating.via:
                    self._floating(prefix(floating.ip), bridge, to)
        self._cut(ports)

    def _add(self, kind: str, key: str, value: str = "") -> None:
        self.found.setdefault(kind, {}).setdefault(key, value)

    def _forward(self, f: ForwardRule, bridge: str, to: Prefix) -> None:
        if ip_protocols.is_whole(f.protocol):
            self._whole(f, bridge, to)
            return
        guest, place = to.network_address, "at" if f.at else "any"
        where = (f"{prefix(f.at).network_address} . " if f.at else "") + f.protocol
        for source in f.sources:
            self._add(f"clients-{place}", f"{_as_listed(source)} . {where} . {span((f.first, f.last), '-')}")
        kind = f"limited-{place}" if f.sources else place
        if f.sources and f.protocol != "tcp" and f.first == f.to_first:  # else the guest's own flow has another port
            own = f"{guest} . {f.protocol} . {span((f.first, f.last), '-')}"
            self._add(f"own-{place}", f"{prefix(f.at).network_address} . {own}" if f.at else own)
        if f.first == f.to_first and f.first != f.last:
            self._add(f"{kind}-range", f"{where} . {f.first}-{f.last}", f"{guest}")
        else:
            for port in range(f.first, f.last + 1):
                self._add(f"{kind}-port", f"{where} . {port}", f"{guest} . {port - f.first + f.to_first}")
        self._answering(bridge, f"{guest}", f.hide)

    def _whole(self, f: ForwardRule, bridge: str, to: Prefix) -> None:
        """All of a protocol at an address, and from the guest: neither end of a tunnel has to begin."""
        at, guest, protocol = prefix(f.at).network_address, to.network_address, ip_protocols.number(f.protocol)
        for source in f.sources:
            self._add("clients-proto", f"{_as_listed(source)} . {at} . {protocol}")
        self._add("limited-proto" if f.sources else "proto", f"{at} . {protocol}", f"{guest}")
        self._add("source-proto", f"{bridge} . {guest} . {protocol}", f"{at}")
        self._answering(bridge, f"{guest}", f.hide)

    def _floating(self, ip: Prefix, bridge: str, to: Prefix) -> None:
        self._add("floating", f"{ip.network_address}", f"{to.network_address}")
        self._add("source", f"{bridge} . {to.network_address}", f"{ip.network_address}")
        self._answering(bridge, f"{to.network_address}", False)

    def _answering(self, bridge: str, guest: str, hide: bool) -> None:
        self._add("hairpin", f"{bridge} . {bridge} . {guest}")
        if hide:
            self._add("hidden", f"{bridge} . {guest}")

    def _cut(self, ports: list[PortForwards]) -> None:
        """The guests' ports of limited forwards. Several may lead to one, also those of guests that share an address:
        nft refuses ranges that overlap."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for f in (f for port in ports for f in port.forwards):
            if f.sources and f.protocol == "tcp" and prefix(f.to).version == self.version:
                guest = str(prefix(f.to).network_address)
                spans.setdefault(guest, []).append((f.to_first, f.to_first + f.last - f.first))
        for guest, found in spans.items():
            for each in ranges.merge(found):
                self._add("cut", f"{guest} . {span(each, '-')}")

    def maps(self) -> Iterator[str]:
        address, port = self.type, "inet_proto . inet_service"
        forwarded = {
            "at-port": f"{address} . {port} : {address} . inet_service;",
            "at-range": f"{address} . {port} : {address}; flags interval;",
            "any-port": f"{port} : {address} . inet_service;",
            "any-range": f"{port} : {address}; flags interval;",
        }
        types = {
            **forwarded,
            **{f"limited-{kind}": what for kind, what in forwarded.items()},
            "clients-at": f"{address} . {address} . {port}; flags interval;",
            "clients-any": f"{address} . {port}; flags interval;",
            "proto": f"{address} . inet_proto : {address};",
            "limited-proto": f"{address} . inet_proto : {address};",
            "clients-proto": f"{address} . {address} . inet_proto; flags interval;",
            "source-proto": f"ifname . {address} . inet_proto : {address};",
            "floating": f"{address} : {address};",
            "source": f"ifname . {address} : {address};",
            "hairpin": f"ifname . ifname . {address};",
            "hidden": f"ifname . {address};",
            "cut": f"{address} . inet_service; flags interval;",
            "own-at": f"{address} . {address} . {port}; flags interval;",
            "own-any": f"{address} . {port}; flags interval;",
        }
        for kind, elements in self.found.items():
            what = "map" if ":" in types[kind] else "set"
            listed = ", ".join(f"{key} : {value}" if value else key for key, value in elements.items())
            yield f"add {what} {TABLE} {kind}{self.version} {{ type {types[kind]} elements = {{ {listed} }}; }}"

    def incoming_rules(self) -> list[str]:
        # Addresses that are valid on this host or on one link only cannot be translated to a guest's.
        loopback = "127.0.0.0/8" if self.version == 4 else "{ ::1, fe80::/10 }"
        destination, here = "meta l4proto . th dport", f"fib daddr type local {self.ip} daddr != {loopback} "
        floating = f"dnat {self.ip} to {self.ip} daddr map @floating{self.version}"
        return [
            *self._translating("at", f"{self.ip} daddr . {destination}"),
            *self._translating_whole(f"{self.ip} daddr . meta l4proto"),
            *([floating] if "floating" in self.found else []),
            *self._translating("any", destination, here),
        ]

    def _translating(self, place: str, asked: str, here: str = "") -> Iterator[str]:
        """The rules of the forwards at one address, or at any; `asked` is what their maps are looked up by."""
        client = f"{self.ip} saddr . {asked} @clients-{place}{self.version} "
        for limited, before in (("", ""), ("limited-", client)):
            for kind in (f"{limited}{place}-port", f"{limited}{place}-range"):
                if kind in self.found:
                    yield f"{here}{before}dnat {self.ip} to {asked} map @{kind}{self.version}"

    def _translating_whole(self, asked: str) -> Iterator[str]:
        client = f"{self.ip} saddr . {asked} @clients-proto{self.version} "
        for kind, before in (("proto", ""), ("limited-proto", client)):
            if kind in self.found:
                yield f"{before}dnat {self.ip} to {asked} map @{kind}{self.version}"

    def begun_rules(self) -> list[str]:
        new = "ct state new tcp flags & 0x17 != 0x2"  # of FIN, SYN, RST and ACK, not SYN alone
        cut = [f"{self.ip} saddr . tcp sport @cut{self.version} {new} drop"] if "cut" in self.found else []
        return [*cut, *(self._not_answering(place) for place in ("at", "any") if f"own-{place}" in self.found)]

    def _not_answering(self, place: str) -> str:
        at = f"{self.ip} daddr . " if place == "at" else ""
        own = f"{at}ct original {self.ip} saddr . meta l4proto . th dport @own-{place}{self.version}"
        client = f"{self.ip} saddr . {at}meta l4proto . th dport != @clients-{place}{self.version}"
        return f"ct direction reply {own} {client} drop"

    def outgoing_rules(self) -> list[str]:
        guest, client = f"{self.ip} daddr", f"iifname . {self.ip} saddr"
        rules = {
            "source-proto": f"snat {self.ip} to {client} . meta l4proto map @source-proto{self.version}",
            "source": f"snat {self.ip} to {client} map @source{self.version}",
            "hairpin": f"ct status dnat iifname . oifname . {guest} @hairpin{self.version} masquerade",
            "hidden": f"ct status dnat oifname . {guest} @hidden{self.version} masquerade",
        }
        return [rule for kind, rule in rules.items() if kind in self.found]

"""Matches on a field of a frame for the addresses that are a port's own, as nft text. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.datapath.port import learning, port_facts, savi
from libvirt_guestnet.datapath.port.learning import SOURCE
from libvirt_guestnet.datapath.port.port_facts import PortGuard
from libvirt_guestnet.datapath.port.ranges import Ranges, as_raw, as_set, merge, parted, ranges
from libvirt_guestnet.datapath.run.names import check_mac, policy_set, reserved_set, wide_set
from libvirt_guestnet.model.slaac import VIRTUAL_ROUTERS
from libvirt_guestnet.parse import Prefix

ARP_SENDER, ARP_TARGET = "@nh,112,32", "@nh,192,32"
# What nft calls a raw field where it compares addresses; in the sets of learnt or held ones it looks up the raw field.
_NAMES = {SOURCE[4]: "ip saddr", SOURCE[6]: "ip6 saddr", ARP_SENDER: "arp saddr ip", ARP_TARGET: "arp daddr ip"}


def _within(version: int, field: str, spans: Ranges) -> str:
    name = _NAMES.get(field)
    return f"{name} {as_set(version, spans)}" if name else f"{field} {as_raw(spans)}"


def each_within(version: int, field: str, spans: Ranges) -> list[str]:
    """Matches for a field in these ranges; more than one where they are few (`ranges.parted`)."""
    return [_within(version, field, part) for part in parted(spans)]


class OwnAddresses:
    """What is one port's own. `accounts` are the links on which others may hold addresses; `macs` are the MAC addresses
    from which the port sends, `virtual` those of its pairs with the pairs' addresses, and `lent` those of guests inside
    it: one without an address learns it as the port itself does."""

    def __init__(self, port: PortGuard, accounts: tuple[str, ...]) -> None:
        self.port, self.accounts, self.mac = port, accounts, check_mac(port.mac)
        self.virtual: dict[str, list[Prefix]] = {}
        for mac, prefix in port.pairs:
            if mac:
                self.virtual.setdefault(check_mac(mac), []).append(prefix)
        for mac in map(check_mac, port.lent):
            self.virtual.setdefault(mac, [])
        self.macs = list(dict.fromkeys([self.mac, *self.virtual]))
        # A virtual router never asks for an address: its MAC address is several ports'.
        lent = [mac for mac in self.macs[1:] if not mac.startswith(VIRTUAL_ROUTERS)]
        self.lent = tuple((mac, tuple(self.virtual[mac])) for mac in lent)
        self.learner = self._learner(port)
        free = ranges(6, port.claims) if port.segment else []
        self.claimer = savi.Claimer(port, accounts, free) if free else None
        self.opened = {version: self._opened(version) for version in (4, 6)}  # they may be thousands

    def _learner(self, port: PortGuard) -> learning.Learner | None:
        if port.server is None:
            return None
        return learning.learner(
            port.tap,
            self.mac,
            port.server,
            tuple(prefix for version in (4, 6) for prefix in port_facts.certain(port, version)),
            port.excluded,
            accounts=self.accounts,
            reserved=port.reserved,
            lent=self.lent,
            known=frozenset(prefix.version for prefix in port.owned) if port.lent else frozenset(),
        )

    def _opened(self, version: int) -> Ranges:
        return ranges(version, port_facts.open_prefixes(self.port, version), self.port.excluded)

    def certain(self, version: int) -> Ranges:
        """What is its own whatever others hold."""
        return ranges(version, port_facts.certain(self.port, version))

    def routed(self, version: int) -> Ranges:
        """From what else it may send."""
        return ranges(version, self.port.routed, self.port.excluded)

    def matches(self, version: int, field: str) -> list[str]:
        """Any address of the port's own."""
        return [*each_within(version, field, self.certain(version)), *self.unheld(version, field)]

    def unheld(self, version: int, field: str) -> list[str]:
        """The same, but only addresses that are the port's because nobody else holds them."""
        claimed = [self.claimer.has(field)] if self.claimer and version == 6 else []
        return [*self.given(version, field), *claimed]

    def given(self, version: int, field: str) -> list[str]:
        """The same, without those that it claimed."""
        opened, found = self.opened[version], self._learnt(version, field)
        if opened:
            reserved = f" {field} != @{reserved_set(version, self.port.reserved)}" if self.port.reserved else ""
            match, link = _within(version, field, opened), self.port.segment
            match = f"{match}{self._by_policy(version, field)}{reserved}"
            found.append(f"{match} {field} != @{learning.held_set(version, link)}" if link else match)
            # Which address of its range a port uses shows when another asks for it by DAD: then the port must be able
            # to answer.
            found += [f"{match} {field} @{savi.tried_set(link)}"] if link and version == 6 else []
        return found

    def _learnt(self, version: int, field: str) -> list[str]:
        if self.learner is None or not self.learner.spans(version):
            return []
        return [f"{field} @{learning.learnt_set(version, self.port.tap)}{self._by_policy(version, field)}"]

    def _by_policy(self, version: int, field: str) -> str:
        names = (of(version, account) for account in self.accounts for of in (policy_set, wide_set))
        return "".join(f" {field} != @{name}" for name in names)

    def announcers(self, version: int, field: str) -> Iterator[tuple[str, str]]:
        """Each MAC address of the port with matches on a field for what that MAC address may announce: its own MAC
        address announces all of the port's addresses, one of a pair only the pair's, or what the port has learnt."""
        yield from ((self.mac, match) for match in self.matches(version, field))
        for mac, prefixes in self.virtual.items():
            spans = ranges(version, prefixes)
            yield from ((mac, match) for match in each_within(version, field, spans))
            if not prefixes and version == 4:
                yield from ((mac, match) for match in self._learnt(version, field))

    def sources(self) -> list[str]:
        """Matches for the IPv4 addresses from which it may send."""
        sources = merge([*self.certain(4), *self.routed(4)])
        return [*each_within(4, SOURCE[4], sources), *self.unheld(4, SOURCE[4])]

    def sendable(self, field: str, *more: tuple[int, int]) -> list[str]:
        """The same on a raw field, or one of `more`."""
        spans = merge([*more, *self.certain(4), *self.routed(4)])
        return [*each_within(4, field, spans), *self.unheld(4, field)]

    def lent_clients(self, field: str) -> Iterator[tuple[str, str]]:
        """Each MAC address of a guest inside with a match for the client's address in its requests."""
        for mac, prefixes in self.lent:
            spans = merge([(0, 0), *ranges(4, prefixes)])
            yield from ((mac, match) for match in each_within(4, field, spans))
            yield from ((mac, match) for match in (self._learnt(4, field) if not prefixes else ()))

"""Learning a port's addresses from what its network's DHCP server answers it, as nft text. Pure.

A chain at the tap's egress (kernel 5.16) sees the server's answers on their way to the port; the guards of all other
ports keep them from forging one. The server is the host's, or that of a virtual router, which is a guest on the same
bridge: of all guarded ports only the router's own may send from its MAC address. An acknowledged address goes into the
port's own set, and into the set of the whole network: an answer that gives a second port what the first still holds is
dropped. DHCPv6 makes that necessary: its leases belong to identifiers that anybody can copy, and dnsmasq (2.90,
authoritative as libvirt runs it) lets anybody rebind anybody's address.

Each option's code and length is matched at its one place, so nothing that a client chooses, and that the server
repeats, can be taken for an answer.

The same chain counts the addresses that the server gives a port, whether the port learns them or has an address
already: `dhcp_requests` says why, and what happens to a port that was given too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from libvirt_guestnet.datapath.port import dhcp_requests
from libvirt_guestnet.datapath.port.ranges import Ranges, as_raw, as_set, parted, ranges, span, without
from libvirt_guestnet.datapath.run.names import (
    TABLE,
    check_device,
    check_mac,
    check_segment,
    digits,
    policy_set,
    reserved_set,
    wide_set,
)
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.parse import Address, Prefix

# The source address in an IP header, by IP version, and so the type of all sets of addresses.
SOURCE = {4: "@nh,96,32", 6: "@nh,64,128"}

# The sizes of the sets, which cannot change: the kernel refuses to add a set that exists with other properties. A port
# may hold _LEARNT addresses at a time; one that is given more may ask for none (see `dhcp_requests`).
_LEARNT, _HELD = 16, 65535
_MANY = 100  # more ranges than that are in a set of their own

_TOLERANT = ("add", "delete")  # in this order an element is deleted without an error even if it is gone

ANOTHERS = "another's lease"
_OLD_CHAIN = "told"  # the chain's name in 0.2.0: a port has it until it is guarded again, or released

Answer = tuple[str, str]  # a match for an answer, and the field that has the address


class DhcpServer(NamedTuple):
    """The DHCP server on the port's network, the host's or a virtual router's: what it acknowledges to the port becomes
    the port's own address.

    Only addresses in `dynamic` are learnt, for as many `seconds` as this says by IP version. `bridge` names the link,
    as `names.check_segment` has it. `addresses` are the server's, `mac` is its MAC address there ("" if unknown: then
    nothing is learnt by DHCPv6). `leases` are in the server's lease file already: address and seconds left. With
    `is_new`, what an earlier port learnt on this tap is forgotten. `served` is, by IP version, how many addresses an
    answer that gives a lease has. The server may also serve a port that learns nothing: then these are only counted.
    """

    bridge: str
    mac: str
    addresses: tuple[Prefix, ...]
    dynamic: tuple[Prefix, ...]
    seconds: tuple[tuple[int, int], ...] = ((4, 3600), (6, 86400))
    leases: tuple[tuple[Address, int], ...] = ()
    is_new: bool = False
    served: tuple[tuple[int, int], ...] = ()


def learnt_set(version: int, tap: str) -> str:
    """The name of the set of the addresses that a port has learnt."""
    return f"learnt{version}-{check_device(tap)}"


def _free_set(version: int, tap: str) -> str:
    return f"free{version}-{check_device(tap)}"


def held_set(version: int, bridge: str) -> str:
    """The name of the set of the addresses that all ports of a network have learnt or claimed."""
    return f"held{version}-{check_segment(bridge)}"


class Learner(NamedTuple):
    """A port that the host's DHCP server serves. `owned` are its fixed addresses. `free` are, by IP version, the ranges
    of which it may learn; not what ports hold on the links `accounts`, nor what is reserved on the link `reserved`.
    `lent` are MAC addresses of guests inside it, with the addresses listed for them: what else they are given is
    counted, not learnt. One without any learns as the port does, also where the port itself learns none, as its
    addresses of that IP version are `known`.
    """

    tap: str
    mac: str
    server: DhcpServer
    owned: tuple[Prefix, ...]
    free: dict[int, Ranges]
    accounts: tuple[str, ...] = ()
    reserved: str = ""
    lent: tuple[tuple[str, tuple[Prefix, ...]], ...] = ()
    known: frozenset[int] = frozenset()

    def spans(self, version: int) -> Ranges:
        """The addresses of one family that may be learnt."""
        return self.free[version]

    def _own_spans(self, version: int) -> Ranges:
        """Those that the port's own MAC address may be given."""
        return [] if version in self.known else self.free[version]

    def counted(self, version: int) -> int:
        """How many addresses the server's answer with a lease has; 0 if none is expected: then nothing is counted."""
        return dict(self.server.served).get(version, 0) or int(bool(self.spans(version)))

    def lines(self, drop: Callable[[str, str], list[str]], fresh: bool = False) -> list[str]:
        """The lines that make the port learn. `drop` makes the dropping rules for a reason and a match; with `fresh`
        there is nothing of an earlier guard of this tap to remove."""
        hook = f'type filter hook egress device "{self.tap}" priority filter; policy accept;'
        lines = [] if fresh else _without_chain(_OLD_CHAIN, self.tap)
        lines += [f"add chain {TABLE} leases-{self.tap} {{ {hook} }}", f"flush chain {TABLE} leases-{self.tap}"]
        given = [version for version in (4, 6) if self.counted(version) and not self._own_spans(version)]
        lines += dhcp_requests.declared(self.tap, given, self.server.is_new and not fresh)
        # Almost every frame that a guest receives ends at one of these two.
        rules = ["meta l4proto != udp accept", "udp sport != 67 udp sport != 547 accept"]
        for version, answers in ((4, self._answers4), (6, self._answers6)):
            if found := self.spans(version):
                lines += self._sets(version, found)
            elif not fresh:
                lines += _without_set(learnt_set(version, self.tap), version)
            if self.counted(version):
                rules += answers(drop)
        return [*lines, *(f"add rule {TABLE} leases-{self.tap} {rule}" for rule in rules)]

    def _sets(self, version: int, found: Ranges) -> list[str]:
        own_set, everybodys = learnt_set(version, self.tap), held_set(version, self.server.bridge)
        leases = [(int(ip), max(1, left)) for ip, left in self.server.leases if ip.version == version]
        valid = [(ip, left) for ip, left in leases if any(first <= ip <= last for first, last in found)]
        filled = [f"{name} {{ {ip:#x} timeout {left}s }}" for ip, left in valid for name in (own_set, everybodys)]
        return [
            declared(own_set, version, _LEARNT),
            declared(everybodys, version, _HELD),
            *self._free_set(version),
            *([f"flush set {TABLE} {own_set}"] if self.server.is_new else []),
            *(f"add element {TABLE} {element}" for element in filled),
        ]

    def _is_free(self, version: int) -> str:
        """What an address that may be learnt has to match: ranges or, for very many, a set of them."""
        found = self.spans(version)
        return f"@{_free_set(version, self.tap)}" if len(found) > _MANY else as_raw(found)

    def _free_set(self, version: int) -> list[str]:
        if len(self.spans(version)) <= _MANY:
            return []
        name = f"{TABLE} {_free_set(version, self.tap)}"
        kind = f"{{ typeof {SOURCE[version]}; flags interval; }}"
        return [f"add set {name} {kind}", f"flush set {name}", f"add element {name} {as_raw(self.spans(version))}"]

    def _answers4(self, drop: Callable[[str, str], list[str]]) -> Iterator[str]:
        yield from self._taught4(self.mac, self._own_spans(4), drop)
        for mac, prefixes in self.lent:
            if self.spans(4) and not prefixes:
                yield from self._taught4(mac, self.spans(4), drop)
                continue
            answer, address = _acknowledgement(check_mac(mac), self.server)
            own = ranges(4, prefixes)
            new = f"{answer} {address} != {as_raw(own)}" if own else answer
            yield from dhcp_requests.spent4(new, address, self.tap, self._seconds(4))

    def _taught4(self, mac: str, spans: Ranges, drop: Callable[[str, str], list[str]]) -> Iterator[str]:
        """The rules for what is acknowledged to a MAC address that may learn these."""
        answer, address = _acknowledgement(check_mac(mac), self.server)
        yield from self._noted(4, (answer, address), spans, drop)
        new, learnt = f"{answer} {self._new(4, address, spans)}", self._own_set(4, spans)
        yield dhcp_requests.overdrawn4(new, address, self.tap, learnt, self._seconds(4))

    def _answers6(self, drop: Callable[[str, str], list[str]]) -> Iterator[str]:
        yield from _unless_reply(check_mac(self.mac), self.server)
        before, behind = dhcp_requests.counting6(self.tap, self.counted(6), self._seconds(6))
        yield from before
        for found in dhcp_requests.answers6():
            yield from self._noted(6, found, self._own_spans(6), drop, dhcp_requests.NOTED)
        yield from behind

    def _noted(
        self, version: int, found: Answer, spans: Ranges, drop: Callable[[str, str], list[str]], noted: str = ""
    ) -> Iterator[str]:
        """The rules that note the address which an answer gives the port, for the time of a lease."""
        answer, address = found
        own = self._own_set(version, spans)
        everybodys = held_set(version, self.server.bridge) if self.server.bridge else ""
        element = f"{{ {address} timeout {self._seconds(version)}s }}"
        if spans:
            for owned in parted(self._owned_ranges(version)):
                yield f"{answer} {address} {as_raw(owned)} {noted} accept".replace("  ", " ")
            yield from drop(ANOTHERS, f"{answer} {address} @{everybodys} {address} != @{own}")
            for account in self.accounts:
                for held in (policy_set, wide_set):
                    yield from drop(ANOTHERS, f"{answer} {address} @{held(version, account)}")
            update = f"update @{own} {element} update @{everybodys} {element}"
        else:
            update = f"update @{own} {element}"
            for owned in parted(self._owned_ranges(version)) if noted else ():
                yield f"{answer} {address} {as_raw(owned)} {noted}"
        yield f"{answer} {self._new(version, address, spans)} {update} {noted}".rstrip()

    def _new(self, version: int, address: str, spans: Ranges) -> str:
        """A match for addresses that are none of the port's fixed ones, and that it may be given."""
        if spans:
            reserved = f" {address} != @{reserved_set(version, self.reserved)}" if self.reserved else ""
            return f"{address} {self._is_free(version)}{reserved}"
        return " ".join(f"{address} != {as_raw(owned)}" for owned in parted(self._owned_ranges(version)))

    def _owned_ranges(self, version: int) -> Ranges:
        return ranges(version, self.owned)

    def _own_set(self, version: int, spans: Ranges) -> str:
        return (learnt_set if spans else dhcp_requests.given_set)(version, self.tap)

    def _seconds(self, version: int) -> int:
        return max(1, dict(self.server.seconds)[version])


def learner(
    tap: str,
    mac: str,
    server: DhcpServer,
    owned: tuple[Prefix, ...],
    excluded: tuple[Prefix, ...],
    *,
    accounts: tuple[str, ...] = (),
    reserved: str = "",
    lent: tuple[tuple[str, tuple[Prefix, ...]], ...] = (),
    known: frozenset[int] = frozenset(),
) -> Learner:
    """See `Learner`; `excluded` are prefixes of others, which the port never learns."""
    versions = [4, 6] if server.mac else [4]
    # A range whose ends are odd is single addresses there, which `ranges` alone would not take out.
    holes = {version: [span(hole) for hole in excluded if hole.version == version] for version in versions}
    free = {version: without(ranges(version, server.dynamic), holes[version]) for version in versions}
    free = {version: free.get(version, []) for version in (4, 6)}
    return Learner(tap, mac, server, owned, free, accounts, reserved, lent, known)


def _acknowledgement(mac: str, server: DhcpServer) -> Answer:
    """A match for a DHCPACK to the port, and its field with the address."""
    sender = f"ether saddr {check_mac(server.mac)} " if server.mac else ""
    addresses = ranges(4, server.addresses)
    answer = (
        f"{sender}{f'ip saddr {as_set(4, addresses)} ' if addresses else ''}udp sport 67 udp dport 68 "
        # BOOTREPLY over Ethernet; the port's own MAC; the type ACK, which dnsmasq puts after the cookie (RFC 2131).
        f"@th,64,24 0x020106 @th,288,48 0x{digits(mac)} @th,1952,56 0x63825363350105"
    )
    return answer, "@th,192,32"


def _unless_reply(mac: str, server: DhcpServer) -> list[str]:
    """Rules that accept all but a DHCPv6 Reply from the host to the port, so that later ones need not match that."""
    odd = ["meta protocol != ip6", "ip6 nexthdr != udp", "udp sport != 547", "udp dport != 546", "@th,64,8 != 7"]
    odd += ["ip6 saddr != fe80::/10", f"ether daddr != {mac}"]
    odd += [f"ether saddr != {check_mac(server.mac)}"] if server.mac else []
    return [f"{each} accept" for each in odd]


def forget(tap: str) -> list[str]:
    """The lines that remove all by which a port learns and is counted, and what it has learnt."""
    chains = [line for kind in ("leases", _OLD_CHAIN) for line in _without_chain(kind, tap)]
    sets = [line for version in (4, 6) for line in _without_set(learnt_set(version, tap), version)]
    for version, source in SOURCE.items():
        free = f"set {TABLE} {_free_set(version, tap)}"
        sets += [f"add {free} {{ typeof {source}; flags interval; }}", f"delete {free}"]
    return [*chains, *sets, *dhcp_requests.forgotten(tap)]


def _without_chain(kind: str, tap: str) -> list[str]:
    return [f"{verb} chain {TABLE} {kind}-{tap}" for verb in ("add", "flush", "delete")]


def give_back(bridge: str, addresses: Iterable[Address]) -> str:
    """The batch that gives these addresses of a network free, so that other ports may learn them."""
    lines = []
    for address in addresses:
        name = held_set(address.version, bridge)
        element = f"element {TABLE} {name} {{ {int(address):#x} }}"
        lines += [declared(name, address.version, _HELD), f"add {element}", f"delete {element}"]
    return "".join(f"{line}\n" for line in lines)


def is_held_set(name: str) -> bool:
    """Whether this is the name of a set of `held_set`."""
    return name.startswith(("held4-", "held6-"))


def replace_held(name: str, now: dict[int, int], wanted: dict[int, int]) -> list[str]:
    """The lines that change a set of `held_set` from what it has `now` to what is wanted: addresses with seconds."""
    version = int(name[4])
    gone = [f"{verb} element {TABLE} {name} {{ {ip:#x} }}" for ip in now.keys() - wanted.keys() for verb in _TOLERANT]
    new = ((ip, max(1, wanted[ip])) for ip in wanted.keys() - now.keys())
    added = [f"add element {TABLE} {name} {{ {ip:#x} timeout {left}s }}" for ip, left in new]
    return [declared(name, version), *gone, *added] if gone or added else []


def forget_network(bridge: str) -> str:
    """The batch that removes a network's sets once no port learns there any more."""
    lines = (line for version in (4, 6) for line in _without_set(held_set(version, bridge), version, _HELD))
    return f"add table {TABLE}\n" + "".join(f"{line}\n" for line in lines)


def declared(name: str, version: int, size: int = _HELD) -> str:
    """The line that makes a set of addresses with timeouts, if it is not there."""
    return f"add set {TABLE} {name} {{ typeof {SOURCE[version]}; size {size}; flags dynamic,timeout; }}"


def _without_set(name: str, version: int, size: int = _LEARNT) -> list[str]:
    return [declared(name, version, size), f"delete set {TABLE} {name}"]

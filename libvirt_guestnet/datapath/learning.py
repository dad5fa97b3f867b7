"""Learning a port's addresses from what the host's DHCP server answers it, as nft text. Pure.

A chain at the tap's egress (kernel 5.16) sees the server's answers on their way to the port; no other port can send one
past its own guard. What is acknowledged goes into the port's set, and into one of the whole network: an answer that
gives a second port what the first still holds is dropped. DHCPv6 makes that necessary: its leases belong to identifiers
that anybody can copy, and dnsmasq (2.90, authoritative as libvirt runs it) lets anybody rebind anybody's address.

Every option's code and length is matched where it must stand, so nothing that a client chooses, and that the server
repeats, can be taken for an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from libvirt_guestnet.datapath.names import TABLE, check_device, check_mac, digits
from libvirt_guestnet.datapath.ranges import Prefix, Ranges, as_raw, as_set, ranges

Address = IPv4Address | IPv6Address

# An IP header's source; sets of the two kinds are looked up for it, and for addresses elsewhere in a frame.
SOURCE = {4: "@nh,96,32", 6: "@nh,64,128"}

# One declaration each for ever: the kernel refuses to add a set that exists with other properties. The size of a port's
# own is how many addresses it may hold at a time: no guest can take a network's whole range.
_LEARNT, _HELD = 16, 65535

# DUIDs: link-layer address; with time, or systemd's by vendor; UUID (RFC 8415, 11). Others are not learnt from.
_CLIENT_DUIDS = (10, 14, 18)
_SERVER_DUID = 14  # dnsmasq's own, which has the time in it where leases are kept

ANOTHERS = "another's lease"

Answer = tuple[str, str]  # what to match, and where the address is in it


class Server(NamedTuple):
    """The host's DHCP server on the port's network: what it acknowledges to the port becomes the port's own address.

    Only what is in `dynamic` is learnt, for as long as `seconds` says by IP version. `addresses` are the host's, `mac`
    is its MAC on that bridge ("" if unknown: then DHCPv6 is not learnt). `leases` are what the server's own lease file
    says already: address and seconds left. A port that `is_new` forgets what another learnt on its tap.
    """

    bridge: str
    mac: str
    addresses: tuple[Prefix, ...]
    dynamic: tuple[Prefix, ...]
    seconds: tuple[tuple[int, int], ...] = ((4, 3600), (6, 86400))
    leases: tuple[tuple[Address, int], ...] = ()
    is_new: bool = False


def learnt_set(version: int, tap: str) -> str:
    """The name of the set of what a port has learnt."""
    return f"learnt{version}-{check_device(tap)}"


def held_set(version: int, bridge: str) -> str:
    """The name of the set of what anybody on a network has learnt."""
    return f"held{version}-{check_device(bridge)}"


class Learner(NamedTuple):
    """A port that learns: `excluded` is what belongs to others anyway."""

    tap: str
    mac: str
    server: Server
    excluded: tuple[Prefix, ...]

    def spans(self, version: int) -> Ranges:
        """What of one family may be learnt."""
        told = version == 4 or self.server.mac
        return ranges(version, self.server.dynamic, self.excluded) if told else []

    def lines(self, drop: Callable[[str, str], list[str]], fresh: bool = False) -> list[str]:
        """What makes the port learn. `drop` makes rules of a reason and what to match; `fresh`: it never did before."""
        hook = f'type filter hook egress device "{self.tap}" priority filter; policy accept;'
        lines = [f"add chain {TABLE} told-{self.tap} {{ {hook} }}", f"flush chain {TABLE} told-{self.tap}"]
        # Almost all that a guest receives is through after one of these.
        rules = ["meta l4proto != udp accept", "udp sport != 67 udp sport != 547 accept"]
        for version, answers in ((4, _acknowledgement), (6, _replies)):
            if found := self.spans(version):
                lines += self._sets(version, found)
                rules += self._rules(version, found, answers(check_mac(self.mac), self.server), drop)
            elif not fresh:
                lines += _without_set(learnt_set(version, self.tap), version)
        return [*lines, *(f"add rule {TABLE} told-{self.tap} {rule}" for rule in rules)]

    def _sets(self, version: int, found: Ranges) -> list[str]:
        mine, everybodys = learnt_set(version, self.tap), held_set(version, self.server.bridge)
        here = [(int(ip), max(1, left)) for ip, left in self.server.leases if ip.version == version]
        known = [(ip, left) for ip, left in here if any(first <= ip <= last for first, last in found)]
        filled = [f"{name} {{ {ip:#x} timeout {left}s }}" for ip, left in known for name in (mine, everybodys)]
        return [
            _declared(mine, version, _LEARNT),
            _declared(everybodys, version, _HELD),
            *([f"flush set {TABLE} {mine}"] if self.server.is_new else []),
            *(f"add element {TABLE} {element}" for element in filled),
        ]

    def _rules(
        self, version: int, found: Ranges, answers: Iterator[Answer], drop: Callable[[str, str], list[str]]
    ) -> Iterator[str]:
        mine, everybodys = learnt_set(version, self.tap), held_set(version, self.server.bridge)
        seconds = max(1, dict(self.server.seconds)[version])
        for told, address in answers:
            yield from drop(ANOTHERS, f"{told} {address} @{everybodys} {address} != @{mine}")
            element = f"{{ {address} timeout {seconds}s }}"
            yield f"{told} {address} {as_raw(found)} update @{mine} {element} update @{everybodys} {element}"


def _acknowledgement(mac: str, server: Server) -> Iterator[Answer]:
    """A DHCPACK."""
    sender = f"ether saddr {check_mac(server.mac)} " if server.mac else ""
    told = (
        f"{sender}ip saddr {as_set(4, ranges(4, server.addresses))} udp sport 67 udp dport 68 "
        # BOOTREPLY over Ethernet; the port's own hardware address; dnsmasq puts the message type, ACK, first behind the
        # magic cookie (RFC 2131).
        f"@th,64,24 0x020106 @th,288,48 0x{digits(mac)} @th,1952,56 0x63825363350105"
    )
    yield told, "@th,192,32"


def _replies(mac: str, server: Server) -> Iterator[Answer]:
    """DHCPv6 Replies as dnsmasq writes them (src/rfc3315.c; RFC 8415): client, server, perhaps rapid commit, IA_NA and
    its first address. To a release of what nobody leased it says that address, with a valid lifetime of 0."""
    reply = (
        f"ether saddr {check_mac(server.mac)} ether daddr {mac} ip6 saddr fe80::/10 "
        "ip6 nexthdr udp udp sport 547 udp dport 546 @th,64,8 7"
    )
    for duid in _CLIENT_DUIDS:
        ids = f"{_option(12, 1, duid)} {_option(16 + duid, 2, _SERVER_DUID)}"
        after = 20 + duid + _SERVER_DUID
        for middle, ia in (("", after), (_option(after, 14, 0), after + 4)):
            address = f"{_option(ia + 16, 5, 24)} @th,{8 * (ia + 40)},32 != 0"
            yield f"{reply} {ids} {middle} @th,{8 * ia},16 3 {address}", f"@th,{8 * (ia + 20)},128"


def _option(at: int, code: int, length: int) -> str:
    """Matches an option's code and length, so many octets behind the beginning of the UDP header."""
    return f"@th,{8 * at},32 {code << 16 | length:#x}"


def forget(tap: str) -> list[str]:
    """The lines after which a port learns nothing, and has learnt nothing."""
    told = f"chain {TABLE} told-{tap}"
    sets = (line for version in (4, 6) for line in _without_set(learnt_set(version, tap), version))
    return [f"add {told}", f"flush {told}", f"delete {told}", *sets]


def give_back(bridge: str, addresses: Iterable[Address]) -> str:
    """The batch after which others on a network may learn these addresses."""
    lines = []
    for address in addresses:
        name = held_set(address.version, bridge)
        element = f"element {TABLE} {name} {{ {int(address):#x} }}"
        lines += [_declared(name, address.version, _HELD), f"add {element}", f"delete {element}"]
    return "".join(f"{line}\n" for line in lines)


def forget_network(bridge: str) -> str:
    """The batch that removes what is known of a network on which nobody learns any more."""
    lines = (line for version in (4, 6) for line in _without_set(held_set(version, bridge), version, _HELD))
    return f"add table {TABLE}\n" + "".join(f"{line}\n" for line in lines)


def _declared(name: str, version: int, size: int) -> str:
    return f"add set {TABLE} {name} {{ typeof {SOURCE[version]}; size {size}; flags dynamic,timeout; }}"


def _without_set(name: str, version: int, size: int = _LEARNT) -> list[str]:
    return [_declared(name, version, size), f"delete set {TABLE} {name}"]

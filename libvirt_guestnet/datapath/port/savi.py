"""IPv6 addresses that a guest forms itself, as nft text: whoever claims one first has it (FCFS SAVI, RFC 6620). Pure.

Windows, NetworkManager and systemd form addresses that do not follow from the MAC address, and change them. Before they
use one, they ask by duplicate address detection (DAD) whether anybody has it. The guard reads that question. If no
other port holds the address by policy, lease or claim, and it is not the host's, the port has claimed it: it goes into
the port's own set, and into the set of what is held on the link, in which leases are as well. If somebody answers
within two seconds that the address is his, the claim is undone, and nobody can repeat it for an hour. A claim lasts a
day from its last use, and a port can have MOST claims at a time.

A DAD question about an address that another port holds is dropped: it could keep that port from its own address.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet.datapath.port.learning import declared, held_set
from libvirt_guestnet.datapath.port.port_facts import PortGuard, link_local
from libvirt_guestnet.datapath.port.ranges import Ranges, as_raw
from libvirt_guestnet.datapath.port.shared import ALOUD
from libvirt_guestnet.datapath.run.names import TABLE, check_device, check_segment, policy_set, wide_set

Drop = Callable[[str, str], list[str]]

MOST = 64
SECONDS = 86400
# How long an answer undoes a claim (RFC 4862: guests wait for one second), and for how long nobody can repeat it.
_VETO_SECONDS, _DENIED_SECONDS = 2, 3600
# At this rate the sets have room for an hour. A guest that boots asks for one or two addresses of each prefix.
_RATE = "2/minute burst 64 packets"
_SOURCE, _TARGET = "@nh,64,128", "@th,64,128"
_SOLICITATION = "icmpv6 type nd-neighbor-solicit"
_ADVERTISED = "nd-neighbor-advert"
# One in 64 frames from a claimed address renews the claim: an address in use sends more than that in a day.
SAMPLE = "numgen random mod 64 0"
# Where a prefix option may begin in a router advertisement, after options such as the MAC address and the MTU
# (RFC 4861, 4.2). Guests form addresses in a prefix if its length is 64 bits and its flag A (autonomous) is set.
_OPTIONS, _OPTION, _AUTONOMOUS = range(16, 80, 8), 0x030440, 0x40
_MOST_PREFIXES = 1024
# Interface identifiers that nobody may claim: the subnet-router anycast address, and those of RFC 5453.
_ANYCAST = ("0x0", "0xfdffffffffffff80-0xfdffffffffffffff")
ANOTHERS, TOO_MANY, SOURCE = "another's address", "claimed addresses", "IPv6 source"


# Ports whose guest ran before it was guarded, by device index. For this time they may use addresses without DAD: their
# guests asked for them before any guard was there to read it.
LATE, LATE_SECONDS = "late-ports", 600


def claimed_set(tap: str) -> str:
    """The name of the set of the addresses that a port has claimed."""
    return f"claimed6-{check_device(tap)}"


def tried_set(segment: str) -> str:
    """The name of the set of addresses that were just asked for by DAD, and of those for which somebody answered."""
    return f"tried6-{check_segment(segment)}"


def announced_set(segment: str) -> str:
    """The name of the set of prefixes in which routers on a link tell guests to form addresses."""
    return f"announced6-{check_segment(segment)}"


class Claimer:
    """The rules by which a port claims addresses: those in the ranges `free` that no port holds in `accounts`, the
    links whose sets of held addresses count for it. An address that follows from another MAC address than the port's
    cannot be claimed. In a range wider than one /64, only prefixes that a router announces can be claimed: the others
    may be in use elsewhere (RFC 6620, 3.2.3)."""

    def __init__(self, port: PortGuard, accounts: tuple[str, ...], free: Ranges) -> None:
        self.segment, self.accounts, self.free, self.late = port.segment, accounts, free, port.late
        self.own_set, self.held = claimed_set(port.tap), held_set(6, port.segment)
        self.formed = int(link_local(port.mac)) & (1 << 64) - 1  # RFC 4291, appendix A

    def sets(self, emptied: bool) -> list[str]:
        """The lines that declare the sets which the rules use; `emptied`: earlier claims of the port are forgotten."""
        return [
            declared(self.own_set, 6, MOST),
            declared(self.held, 6),
            declared(tried_set(self.segment), 6),
            _announced_declared(self.segment),
            *([f"flush set {TABLE} {self.own_set}"] if emptied else []),
            f"add set {TABLE} {LATE} {{ type iface_index; size 65535; flags timeout; }}",
            *([f"add element {TABLE} {LATE} {{ {self.late:d} timeout {LATE_SECONDS}s }}"] if self.late else []),
        ]

    def has(self, field: str) -> str:
        """A match on a raw field: an address that the port has claimed, and that no port holds by its policy."""
        return f"{field} @{self.own_set}{self._by_policy(field)}"

    def claims(self, dad: str, drop: Drop) -> list[str]:
        """The rules for the port's DAD questions, which `dad` matches."""
        tried = f"update @{tried_set(self.segment)} {{ {_TARGET} timeout {_VETO_SECONDS}s }}"
        return [
            # The one option that a DAD question may have is a nonce (RFC 7527).
            *drop(SOURCE, f"{dad} ip6 length != 24 ip6 length != 32"),
            *drop(SOURCE, f"{dad} ip6 length 32 @th,192,16 != 0x0e01"),
            *(line for name in self._policies() for line in drop(ANOTHERS, f"{dad} {_TARGET} @{name}")),
            *drop(ANOTHERS, f"{dad} {_TARGET} @{self.held} {_TARGET} != @{self.own_set}"),
            *drop(ANOTHERS, f"{dad} {_octets(_TARGET, 11, 2)} 0xfffe {self._formed(_TARGET, '!= ')}"),
            *(line for end in _ANYCAST for line in drop(ANOTHERS, f"{dad} {_octets(_TARGET, 8, 8)} {end}")),
            f"{dad} {_TARGET} @{self.own_set} {self._noted(_TARGET)} accept",
            *drop(TOO_MANY, f"{dad} limit rate over {_RATE}"),
            # All in one rule, which stops where a set is full: there is no claim if the set of pending questions has no
            # room, or if the question is not sent to all who might answer (ALOUD). The next rule undoes half a claim.
            *(f"{dad} {ALOUD} {free} {tried} {self._noted(_TARGET)} accept" for free in self._free(_TARGET)),
            f"{dad} delete @{self.own_set} {{ {_TARGET} }}",
            *(line for free in self._free(_TARGET) for line in drop(TOO_MANY, f"{dad} {free}")),
        ]

    def used(self, field: str) -> list[str]:
        """Matches on a raw field that claim the address if nobody holds it, for ports that may claim without DAD."""
        unheld = f"{field} != @{self.held}{self._by_policy(field)} {self._noted(field)}"
        anycast = "".join(f" {_octets(field, 8, 8)} != {end}" for end in _ANYCAST)
        unformed = f"{_octets(field, 11, 2)} != 0xfffe{anycast}"
        return [f"{free} {its} {unheld}" for free in self._free(field) for its in (unformed, self._formed(field))]

    def _formed(self, field: str, sign: str = "") -> str:
        """A match for addresses that follow from the port's MAC address or, with `sign` "!= ", for all others."""
        return f"{_octets(field, 8, 8)} {sign}{self.formed:#x}"

    def _free(self, field: str) -> list[str]:
        """One match for each free range: a single one would need a set for every port, which is too many."""
        announced = f" {_octets(field, 0, 8)} @{announced_set(self.segment)}"
        return [f"{_within(field, span)}{announced if _is_wide(span) else ''}" for span in self.free]

    def refreshed(self, before: str) -> str:
        """The rule by which frames that `before` matches renew the claim on their source address."""
        return f"{before} {_SOURCE} @{self.own_set} {self._noted(_SOURCE)}"

    def heard(self) -> list[str]:
        """The rules for the frames that the bridge sends to the port."""
        noted = self._announcements() if any(map(_is_wide, self.free)) else []
        return ["meta l4proto != icmpv6 accept", self._answer(), *noted]

    def _announcements(self) -> list[str]:
        """Rules that note in which prefixes routers tell guests to form addresses. No port without the role sends
        that."""
        advert = "ip6 saddr fe80::/10 ip6 hoplimit 255 ip6 nexthdr icmpv6 icmpv6 type nd-router-advert"
        name = announced_set(self.segment)
        return [
            f"{advert} @th,{8 * at},24 {_OPTION:#08x} @th,{8 * at + 24},8 & {_AUTONOMOUS:#x} == {_AUTONOMOUS:#x} "
            f"update @{name} {{ @th,{8 * at + 128},64 timeout {SECONDS}s }}"
            for at in _OPTIONS
        ]

    def _answer(self) -> str:
        """The rule that undoes a claim if somebody else answers that he has the address."""
        tried, denied = tried_set(self.segment), f"{{ {_TARGET} timeout {_DENIED_SECONDS}s }}"
        # For an hour no port can claim the address again; one with any address can go on using it.
        undone = f"delete @{self.own_set} {{ {_TARGET} }} update @{self.held} {denied} update @{tried} {denied}"
        # With hop limit 255 the answer comes from this link: a router would have lowered it (RFC 4861).
        answer = f"ip6 hoplimit 255 ip6 nexthdr icmpv6 icmpv6 type {_ADVERTISED}"
        return f"{answer} {_TARGET} @{tried} {_TARGET} @{self.own_set} {undone}"

    def _noted(self, field: str) -> str:
        return " ".join(f"update @{name} {{ {field} timeout {SECONDS}s }}" for name in (self.own_set, self.held))

    def _policies(self) -> list[str]:
        return [of(6, account) for account in self.accounts for of in (policy_set, wide_set)]

    def _by_policy(self, field: str) -> str:
        return "".join(f" {field} != @{name}" for name in self._policies())


def _octets(field: str, first: int, size: int) -> str:
    """The raw payload expression for `size` octets of an address, from octet `first` on."""
    base, offset, _ = field.split(",")
    return f"{base},{int(offset) + 8 * first},{8 * size}"


def _within(field: str, span: tuple[int, int]) -> str:
    return f"{field} {as_raw([span])}"


def _is_wide(span: tuple[int, int]) -> bool:
    return span[1] - span[0] >> 64 > 0


def _announced_declared(segment: str) -> str:
    kind = f"{{ typeof @th,64,64; size {_MOST_PREFIXES}; flags dynamic,timeout; }}"
    return f"add set {TABLE} {announced_set(segment)} {kind}"


def hearing(tap: str) -> list[str]:
    """The lines that make an empty chain for the frames that the bridge sends to the port."""
    hook = f'type filter hook egress device "{check_device(tap)}" priority filter; policy accept;'
    return [f"add chain {TABLE} heard-{tap} {{ {hook} }}", f"flush chain {TABLE} heard-{tap}"]


def forgotten(tap: str) -> list[str]:
    """The lines that remove a port's claims, and the chain without which it cannot claim."""
    chain, name = f"chain {TABLE} heard-{check_device(tap)}", claimed_set(tap)
    return [
        *(f"{verb} {chain}" for verb in ("add", "flush", "delete")),
        declared(name, 6, MOST),
        f"delete set {TABLE} {name}",
    ]


def forget_segment(segment: str) -> str:
    """The batch that removes a link's sets once no port is left on it."""
    tried, announced = tried_set(segment), announced_set(segment)
    lines = [
        declared(tried, 6),
        _announced_declared(segment),
        *(f"delete set {TABLE} {each}" for each in (tried, announced)),
    ]
    return "".join(f"{line}\n" for line in lines)

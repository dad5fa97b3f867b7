"""IPv6 addresses that a guest forms itself, as nft text: whoever claims one first has it (FCFS SAVI, RFC 6620). Pure.

Windows, NetworkManager and systemd form others than the MAC address says, and change them; what they form they ask for
before, by duplicate address detection. Such a question about an address that nobody has, by policy, lease or claim, and
that is not the host's, binds it to the port: in the set of what the port has claimed, and in the set of what is held on
its link, where leases are, too. Who answers within two seconds that it has the address already undoes that, for an
hour. A binding lasts a day from its last use, and a port has so many at most: more are not bound.

A question about what another has passes nowhere: it could keep that one from its own address.
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
# RFC 4862: guests wait for one second after each question.
_VETO_SECONDS, _DENIED_SECONDS = 2, 3600
# Of all that ports ask for, also what others have answered for, there is room for an hour; a guest that boots asks for
# one or two of each prefix.
_RATE = "2/minute burst 64 packets"
_SOURCE, _TARGET = "@nh,64,128", "@th,64,128"
_SOLICITATION = "icmpv6 type nd-neighbor-solicit"
_ADVERTISED = "nd-neighbor-advert"
# Of frames from what is claimed, so many make one that is noted: a day has room for some of any address that is in use.
SAMPLE = "numgen random mod 64 0"
# Where prefixes may stand among the options of a router advertisement: behind its MAC address, an MTU and so on
# (RFC 4861, 4.2). One that guests form addresses of has 64 bits and the flag A.
_OPTIONS, _OPTION, _AUTONOMOUS = range(16, 80, 8), 0x030440, 0x40
_MOST_PREFIXES = 1024
# Ends that are everybody's: the subnet's routers' anycast address (RFC 4291, 2.6.1), and those of RFC 5453.
_ANYCAST = ("0x0", "0xfdffffffffffff80-0xfdffffffffffffff")
ANOTHERS, TOO_MANY, SOURCE = "another's address", "claimed addresses", "IPv6 source"


# The ports that have run before their filter was there, by index, for as long as they need not ask: their guests asked
# long ago, where nobody noted it.
LATE, LATE_SECONDS = "late-ports", 600


def claimed_set(tap: str) -> str:
    """The name of the set of what a port has claimed."""
    return f"claimed6-{check_device(tap)}"


def tried_set(segment: str) -> str:
    """The name of the set of what somebody has just asked for, and of what somebody answered for since."""
    return f"tried6-{check_segment(segment)}"


def announced_set(segment: str) -> str:
    """The name of the set of the prefixes of which routers on a link have guests form addresses."""
    return f"announced6-{check_segment(segment)}"


class Claimer:
    """A port that may claim what is `free` on its link, and in none of these `accounts` of links. What follows from
    another MAC than its own is no more free than what is held; and of a range with more than one prefix only what a
    router announces is, as the rest is somebody's elsewhere (RFC 6620, 3.2.3)."""

    def __init__(self, port: PortGuard, accounts: tuple[str, ...], free: Ranges) -> None:
        self.segment, self.accounts, self.free, self.late = port.segment, accounts, free, port.late
        self.own_set, self.held = claimed_set(port.tap), held_set(6, port.segment)
        self.formed = int(link_local(port.mac)) & (1 << 64) - 1  # RFC 4291, appendix A

    def sets(self, emptied: bool) -> list[str]:
        """What declares the sets that the rules look into; `emptied`: what was claimed is forgotten."""
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
        """What matches if a raw field holds what the port has claimed, and nobody has by policy."""
        return f"{field} @{self.own_set}{self._by_policy(field)}"

    def claims(self, dad: str, drop: Drop) -> list[str]:
        """Rules for a port's questions whether anybody has an address."""
        tried = f"update @{tried_set(self.segment)} {{ {_TARGET} timeout {_VETO_SECONDS}s }}"
        return [
            # With a nonce and nothing else (RFC 7527).
            *drop(SOURCE, f"{dad} ip6 length != 24 ip6 length != 32"),
            *drop(SOURCE, f"{dad} ip6 length 32 @th,192,16 != 0x0e01"),
            *(line for name in self._policies() for line in drop(ANOTHERS, f"{dad} {_TARGET} @{name}")),
            *drop(ANOTHERS, f"{dad} {_TARGET} @{self.held} {_TARGET} != @{self.own_set}"),
            *drop(ANOTHERS, f"{dad} {_octets(_TARGET, 11, 2)} 0xfffe {self._formed(_TARGET, '!= ')}"),
            *(line for end in _ANYCAST for line in drop(ANOTHERS, f"{dad} {_octets(_TARGET, 8, 8)} {end}")),
            f"{dad} {_TARGET} @{self.own_set} {self._noted(_TARGET)} accept",
            *drop(TOO_MANY, f"{dad} limit rate over {_RATE}"),
            # In one rule: nothing is bound where there is no room to note that somebody may still answer, nor what
            # nobody hears who could. What is bound by half there is not bound.
            *(f"{dad} {ALOUD} {free} {tried} {self._noted(_TARGET)} accept" for free in self._free(_TARGET)),
            f"{dad} delete @{self.own_set} {{ {_TARGET} }}",
            *(line for free in self._free(_TARGET) for line in drop(TOO_MANY, f"{dad} {free}")),
        ]

    def used(self, field: str) -> list[str]:
        """What matches, and binds, an address that nobody has: where guests need not have asked for it."""
        unheld = f"{field} != @{self.held}{self._by_policy(field)} {self._noted(field)}"
        anycast = "".join(f" {_octets(field, 8, 8)} != {end}" for end in _ANYCAST)
        unformed = f"{_octets(field, 11, 2)} != 0xfffe{anycast}"
        return [f"{free} {its} {unheld}" for free in self._free(field) for its in (unformed, self._formed(field))]

    def _formed(self, field: str, sign: str = "") -> str:
        """What matches an address that ends as the port's MAC says, or with a sign one that does not."""
        return f"{_octets(field, 8, 8)} {sign}{self.formed:#x}"

    def _free(self, field: str) -> list[str]:
        """What matches one of its ranges each: together they would be a set, of which there would be too many."""
        announced = f" {_octets(field, 0, 8)} @{announced_set(self.segment)}"
        return [f"{_within(field, span)}{announced if _is_wide(span) else ''}" for span in self.free]

    def refreshed(self, before: str) -> str:
        """The rule after which such a frame makes its source last."""
        return f"{before} {_SOURCE} @{self.own_set} {self._noted(_SOURCE)}"

    def heard(self) -> list[str]:
        """The rules for what the port is about to hear."""
        noted = self._announcements() if any(map(_is_wide, self.free)) else []
        return ["meta l4proto != icmpv6 accept", self._answer(), *noted]

    def _announcements(self) -> list[str]:
        """Rules that note of which prefixes a router has guests form addresses. No guarded port sends what is none."""
        advert = "ip6 saddr fe80::/10 ip6 hoplimit 255 ip6 nexthdr icmpv6 icmpv6 type nd-router-advert"
        name = announced_set(self.segment)
        return [
            f"{advert} @th,{8 * at},24 {_OPTION:#08x} @th,{8 * at + 24},8 & {_AUTONOMOUS:#x} == {_AUTONOMOUS:#x} "
            f"update @{name} {{ @th,{8 * at + 128},64 timeout {SECONDS}s }}"
            for at in _OPTIONS
        ]

    def _answer(self) -> str:
        """The rule by which another keeps an address that it answers for."""
        tried, denied = tried_set(self.segment), f"{{ {_TARGET} timeout {_DENIED_SECONDS}s }}"
        # Held by nobody here, it is not claimed again at once; a port with any address may go on being it.
        undone = f"delete @{self.own_set} {{ {_TARGET} }} update @{self.held} {denied} update @{tried} {denied}"
        # No router passes one on that comes with this hop limit (RFC 4861).
        answer = f"ip6 hoplimit 255 ip6 nexthdr icmpv6 icmpv6 type {_ADVERTISED}"
        return f"{answer} {_TARGET} @{tried} {_TARGET} @{self.own_set} {undone}"

    def _noted(self, field: str) -> str:
        return " ".join(f"update @{name} {{ {field} timeout {SECONDS}s }}" for name in (self.own_set, self.held))

    def _policies(self) -> list[str]:
        return [of(6, account) for account in self.accounts for of in (policy_set, wide_set)]

    def _by_policy(self, field: str) -> str:
        return "".join(f" {field} != @{name}" for name in self._policies())


def _octets(field: str, first: int, size: int) -> str:
    """Some octets of an address in a raw field."""
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
    """The lines that make an empty chain at what the port is about to hear."""
    hook = f'type filter hook egress device "{check_device(tap)}" priority filter; policy accept;'
    return [f"add chain {TABLE} heard-{tap} {{ {hook} }}", f"flush chain {TABLE} heard-{tap}"]


def forgotten(tap: str) -> list[str]:
    """The lines after which a port has claimed nothing, and cannot."""
    chain, name = f"chain {TABLE} heard-{check_device(tap)}", claimed_set(tap)
    return [
        *(f"{verb} {chain}" for verb in ("add", "flush", "delete")),
        declared(name, 6, MOST),
        f"delete set {TABLE} {name}",
    ]


def forget_segment(segment: str) -> str:
    """The batch that removes what is known of a link on which no port is left."""
    tried, announced = tried_set(segment), announced_set(segment)
    lines = [
        declared(tried, 6),
        _announced_declared(segment),
        *(f"delete set {TABLE} {each}" for each in (tried, announced)),
    ]
    return "".join(f"{line}\n" for line in lines)

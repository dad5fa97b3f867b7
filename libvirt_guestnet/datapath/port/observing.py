"""A port that is observed, as nft text: its chains are those of a guarded one, and what they would drop passes. Pure.

What would be dropped is counted under the same reason, and its address is noted in sets of the port's own, for who asks
what to declare. They are bounded in size and time, as the guest chooses the addresses; a set that is full notes no
more. A note is a rule of its own before the one that counts: it may fail, and the frame passes all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet.datapath.run.names import NOTE_KINDS, TABLE, check_device
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.port.role_rules import RoleRules

# So many different pairs of a MAC address and an address, or VLANs, for so long from when each was last seen.
MOST, SECONDS = 128, 604800
# How rules that only count are called: the port announces itself as router, or sends what a role lets pass. No reason
# is called so.
ANNOUNCES, TOLD = "announces a router", "sends as "

_MAC, _SOURCE4, _SOURCE6 = "@ll,48,48", "@nh,96,32", "@nh,64,128"
_SENDER, _PROBED, _TARGET = "@nh,112,32", "@nh,192,32", "@th,64,128"
# Not `vlan id`: behind a match of the tag nft takes that for the id of a second one.
_VLAN = "@ll,116,12"
_ND = "ip6 nexthdr icmpv6 icmpv6 type"
_KEYS = dict(zip(NOTE_KINDS, (f"{_MAC} . {_SOURCE4}", f"{_MAC} . {_SOURCE6}", _VLAN), strict=True))


def declared(tap: str, emptied: bool) -> list[str]:
    """The lines that make the port's sets, if they are not there."""
    names = [f"{kind}-{check_device(tap)}" for kind in _KEYS]
    lines = [
        f"add set {TABLE} {name} {{ typeof {key}; size {MOST}; flags dynamic,timeout; }}"
        for name, key in zip(names, _KEYS.values(), strict=True)
    ]
    return lines + [f"flush set {TABLE} {name}" for name in names if emptied]


def forgotten(tap: str) -> list[str]:
    """The lines after which nothing is noted of a port; it need not have been observed."""
    return [*declared(tap, False), *(f"delete set {TABLE} {kind}-{tap}" for kind in _KEYS)]


def told(role: str) -> str:
    """The end of a rule that counts what a role would let pass."""
    return f'counter comment "{TOLD}{role}"'


class Notes:
    """The rules that note what is about to be counted, by the reason for which it would be dropped."""

    def __init__(self, tap: str, roles: RoleRules, tag: str = "") -> None:
        """`roles`: rules that count what roles would let pass that the port has not; `tag`: the EtherType of the port's
        own tags, on a trunk."""
        self._tap, self._tag = check_device(tap), tag
        self._roles = roles
        self._rules: dict[str, Callable[[], list[str]]] = {
            "source MAC": self._any_packet,
            "ARP": self._arp,
            "IPv4 source": lambda: [f"ip saddr != 0.0.0.0 {self._see(4, _SOURCE4)}"],
            "IPv6 source": lambda: [f"ip6 saddr != :: {self._see(6, _SOURCE6)}", self._asked("ip6 saddr :: ")],
            "another's address": lambda: [self._asked()],
            "claimed addresses": lambda: [self._asked()],
            "ND": self._advertised,
            "VLAN": self._tags,
            "VLAN tag": self._tags,
        }

    def declared(self, emptied: bool) -> list[str]:
        """The lines that make the port's sets."""
        return declared(self._tap, emptied)

    def of(self, reason: str, match: str) -> list[str]:
        """The rules for frames that match."""
        return [
            *(f"{match} {rule}".strip() for rule in self._rules.get(reason, list)()),
            *self._as_roles(reason, match),
        ]

    def _as_roles(self, reason: str, match: str) -> list[str]:
        """What tells roles, without the match: that is another protocol's, perhaps. At these places of their chains,
        nothing passes any more that a role's rule matches."""
        if reason == "EtherType":
            return [rule for of_type in self._of_types() for rule in self._roles.link(of_type)]
        if reason == "multicast router":  # routing protocols are dropped behind it
            return self._roles.routing(4 if "igmp" in match else 6)
        kinds = {"DHCP server": self._roles.relayed4, "DHCPv6 relay": self._roles.between6}
        return kinds.get(reason, list)()

    def _see(self, version: int, field: str) -> str:
        return f"update @seen{version}-{self._tap} {{ {_MAC} . {field} timeout {SECONDS}s }}"

    def _arp(self) -> list[str]:
        sent, probed = self._see(4, _SENDER), self._see(4, _PROBED)
        return [f"arp saddr ip != 0.0.0.0 {sent}", f"arp operation request arp saddr ip 0.0.0.0 {probed}"]

    def _asked(self, before: str = "") -> str:
        return f"{before}{_ND} nd-neighbor-solicit {self._see(6, _TARGET)}"

    def _advertised(self) -> list[str]:
        counted = f'{_ND} nd-router-advert counter comment "{ANNOUNCES}"'
        return [f"{_ND} nd-neighbor-advert {self._see(6, _TARGET)}", counted]

    def _any_packet(self) -> list[str]:
        packets = (("ip", 4, _SOURCE4), ("ip6", 6, _SOURCE6), ("arp", 4, _SENDER))
        return [
            f"{of_type} {kind} {self._see(version, field)}"
            for of_type in self._of_types()
            for kind, version, field in packets
        ]

    def _of_types(self) -> list[str]:
        return ["ether type", *([f"ether type {self._tag} vlan type"] if self._tag else [])]

    def _tags(self) -> list[str]:
        return [f"update @seentags-{self._tap} {{ {_VLAN} timeout {SECONDS}s }}"]

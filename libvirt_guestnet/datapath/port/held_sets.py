"""Addresses that ports hold by their policy, as nft sets: one for each link and family. Pure.

The rules of a port with an open range (any address, privacy addresses) or a lease look into its link's set for each
frame. So the port can never use an address that another port holds, whichever of the two started first. Prefixes that
are too large to be listed address by address are in a second set, of ranges. `learning` has a third, of addresses held
by lease. A network with many reservations has them in one more set, which its hook writes once for all ports.

A link is a bridge, or one VLAN of it. Trunks are on all VLANs: `kept_on` says in which links' sets a port's addresses
are, `looked_into` whose sets a port's rules look into.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from libvirt_guestnet.datapath.port.learning import SOURCE
from libvirt_guestnet.datapath.port.port_facts import PortGuard, certain
from libvirt_guestnet.datapath.port.ranges import as_raw, ranges
from libvirt_guestnet.datapath.run.names import TABLE, policy_set, reserved_set, wide_set
from libvirt_guestnet.parse import Address, Prefix

Held = frozenset[tuple[str, int, int]]  # link, IP version and address of each

_SIZE = 65535
# So many addresses of a port at most are in the set of addresses, so that none fills it. Others are in that of ranges.
MOST_OF_A_PORT = 256


def held(port: PortGuard) -> Held:
    """What a port holds, and what is the host's on its link if the port could claim it otherwise."""
    own = ((port.segment, prefix) for prefix in (*_parted(port)[0], *port.unclaimed))
    beside = ((link, prefix) for link, prefix in port.beside if prefix.num_addresses <= MOST_OF_A_PORT)
    return frozenset(
        (account, prefix.version, int(prefix.network_address) + offset)
        for link, prefix in (*own, *beside)
        for account in kept_on(link)
        for offset in range(prefix.num_addresses)
    )


def kept_on(segment: str) -> tuple[str, ...]:
    """The links in whose sets a port's addresses are: its own and, for a port in one VLAN, BRIDGE/0, where trunks
    look."""
    bridge, slash, _ = segment.partition("/")
    return (segment, f"{bridge}/0") if slash else (segment,) if segment else ()


def looked_into(segment: str, is_trunk: bool) -> tuple[str, ...]:
    """The links into whose sets a port's rules look: its own, and that of trunks or, for a trunk, of all VLANs."""
    bridge, slash, _ = segment.partition("/")
    more = (bridge,) if slash else (f"{bridge}/0",) if is_trunk else ()
    return (segment, *more) if segment else ()


def large(port: PortGuard) -> list[Prefix]:
    """The largest of a port's own prefixes, for which the set of addresses has no room."""
    return _parted(port)[1]


def _parted(port: PortGuard) -> tuple[list[Prefix], list[Prefix]]:
    own = sorted({*certain(port, 4), *certain(port, 6)}, key=lambda prefix: (prefix.num_addresses, str(prefix)))
    sums = list(accumulate(prefix.num_addresses for prefix in own))
    room = bisect_right(sums, MOST_OF_A_PORT)
    return own[:room], own[room:]


def add(port: PortGuard) -> list[str]:
    """The lines that add what a port holds: then no other port can use it, nor claim what is the host's."""
    beside = (account for link, _ in port.beside for account in kept_on(link))
    accounts = dict.fromkeys([*kept_on(port.segment), *looked_into(port.segment, port.trunk is not None), *beside])
    return [*(line for account in accounts for line in _all_declared(account)), *_lines(held(port), ("add",))]


def spread(segment: str, prefixes: Iterable[Prefix]) -> list[str]:
    """The lines that make a link's sets of ranges hold exactly these prefixes, the large pairs of all its ports."""
    listed, lines = list(prefixes), list(_all_declared(segment))
    for version in (4, 6):
        name, spans = f"{TABLE} {wide_set(version, segment)}", ranges(version, listed)
        lines += [f"flush set {name}", *([f"add element {name} {as_raw(spans)}"] if spans else [])]
    return lines


def reserve(segment: str, addresses: Iterable[Address]) -> list[str]:
    """The lines that make these a link's reserved addresses: no ranges, as nft reads sets with ranges at each
    change."""
    listed, lines = list(addresses), list[str]()
    for version in (4, 6):
        name, numbers = reserved_set(version, segment), [hex(int(ip)) for ip in listed if ip.version == version]
        lines += [_reserved_declared(version, segment), f"flush set {TABLE} {name}"]
        lines += [f"add element {TABLE} {name} {{ {', '.join(numbers)} }}"] if numbers else []
    return lines


def give_up(addresses: Held) -> list[str]:
    """The lines that take these addresses out of the sets; those that are not in them do not matter."""
    named = {(segment, version) for segment, version, _ in addresses}
    # nft refuses to delete what is not there, so each element is added before it is deleted.
    declare = (declared(version, segment) for segment, version in sorted(named))
    return [*declare, *_lines(addresses, ("add", "delete"))]


def _lines(addresses: Held, verbs: Iterable[str]) -> list[str]:
    found: dict[tuple[str, int], list[int]] = {}
    for segment, version, address in sorted(addresses):
        found.setdefault((segment, version), []).append(address)
    return [
        f"{verb} element {TABLE} {policy_set(version, segment)} {{ {', '.join(map(hex, listed))} }}"
        for (segment, version), listed in found.items()
        for verb in verbs
    ]


def declared(version: int, segment: str) -> str:
    """The line that makes the set of addresses, if it is not there."""
    return f"add set {TABLE} {policy_set(version, segment)} {{ typeof {SOURCE[version]}; size {_SIZE}; }}"


def _wide_declared(version: int, segment: str) -> str:
    return f"add set {TABLE} {wide_set(version, segment)} {{ typeof {SOURCE[version]}; flags interval; }}"


def _reserved_declared(version: int, segment: str) -> str:
    return f"add set {TABLE} {reserved_set(version, segment)} {{ typeof {SOURCE[version]}; }}"


def _all_declared(segment: str) -> list[str]:
    return [of(version, segment) for of in (declared, _wide_declared) for version in (4, 6)]


def forget_segment(segment: str) -> str:
    """The batch that removes a link's sets once no port is left on it."""
    names = [of(version, segment) for of in (policy_set, wide_set, reserved_set) for version in (4, 6)]
    declare = [*_all_declared(segment), *(_reserved_declared(version, segment) for version in (4, 6))]
    lines = [*declare, *(f"delete set {TABLE} {name}" for name in names)]
    return "".join(f"{line}\n" for line in lines)

"""The places where an accept of ours counts (see `accepts`), and putting it there. On the hook path.

A place is planned by a pure function from what its forward chain says now; only this module reads and changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from libvirt_guestnet.datapath.firewalls.accepts import (
    CHAIN,
    Link,
    Wanted,
    iptables_batch,
    leads_last,
    nft_batch,
    nft_leads,
)
from libvirt_guestnet.datapath.run import culprits, iptables
from libvirt_guestnet.datapath.run.nft import listed, nft
from libvirt_guestnet.errors import GuestnetError

_LIBVIRT = "-j LIBVIRT_FW"  # its chains in iptables' FORWARD


class Place(NamedTuple):
    """One forward chain of somebody else's, for IPv4 or IPv6.

    `read` gives its rules, None where there is no such chain or it can refuse nothing; `leads` says whether they lead
    in time to the chains of ours that these need; `plan` gives the change that is needed, "" for none; `write` makes it
    in one transaction. `read` and `write` raise GuestnetError.
    """

    name: str
    version: int
    read: Callable[[], list[str] | None]
    leads: Callable[[list[Wanted], list[str]], bool]
    plan: Callable[[list[Wanted], list[str]], str]
    write: Callable[[str, int | None], None]


Name = Callable[[Wanted], str]  # whose it is, for messages


def arrange(accepts: Iterable[Wanted], hold: int | None = None, name: Name = str) -> list[str]:
    """Every place accepts exactly these. Goes on past failures and returns them, each with its place: one that refuses
    some of these accepts the others."""
    wanted = list(accepts)
    return [failure for place in PLACES for failure in _arrange(place, wanted, hold, name)]


def lost(accepts: Iterable[Wanted]) -> list[str]:
    """The places that somebody took a chain of ours out of. Raises GuestnetError where that cannot be told."""
    wanted = list(accepts)
    mine = ((place, _of(place, wanted)) for place in PLACES)
    read = ((place, its, place.read()) for place, its in mine if its)
    return [place.name for place, its, there in read if there is not None and not place.leads(its, there)]


def _of(place: Place, accepts: list[Wanted]) -> list[Wanted]:
    return [accept for accept in accepts if accept.guest.version == place.version]


def _arrange(place: Place, accepts: list[Wanted], hold: int | None, name: Name) -> list[str]:
    mine = _of(place, accepts)
    try:
        place.read()
    except GuestnetError as error:
        return [f"{place.name}: {error}"] if mine else []  # what cannot be read has nothing of ours

    def write(some: list[Wanted]) -> None:
        there = place.read()
        if there is not None:
            place.write(place.plan(some, there), hold)

    try:
        refused = culprits.left_out(mine, write)
    except GuestnetError as error:
        return [f"{place.name}: {error}"]
    return [f"{place.name}: {failure}" for failure in culprits.named(refused, name)]


def _iptables(tool: str, version: int) -> Place:
    def read() -> list[str] | None:
        rules = iptables.forward(tool)
        return None if rules == ["-P FORWARD ACCEPT"] else rules

    def write(batch: str, hold: int | None) -> None:
        iptables.restore(tool, batch, hold)

    return Place(f"{tool} FORWARD", version, read, _iptables_leads, iptables_batch, write)


def _iptables_leads(wanted: list[Wanted], forward: list[str]) -> bool:
    last = any(isinstance(each, Link) for each in wanted)
    first = any(not isinstance(each, Link) for each in wanted)
    return (not first or _before_libvirt(forward)) and (not last or leads_last(forward))


def _before_libvirt(rules: list[str]) -> bool:
    # Docker and ufw refuse by the chain's policy or at its end; libvirt puts its rejects first when it starts.
    jump = f"-A FORWARD -j {CHAIN}"
    return jump in rules and not any(_LIBVIRT in rule for rule in rules[: rules.index(jump)])


def _libvirt(family: str, version: int) -> Place:
    table = f"{family} libvirt_network"  # since libvirt 10.4, where its firewall_backend is nftables

    # libvirt rejects only what has to do with its own bridges.
    def plan(wanted: list[Wanted], forward: list[str]) -> str:
        return nft_batch([each for each in wanted if not isinstance(each, Link)], table, forward)

    def leads(wanted: list[Wanted], forward: list[str]) -> bool:
        needed = any(not isinstance(each, Link) for each in wanted)
        return not needed or nft_leads(forward)

    def read() -> list[str] | None:
        return listed("chain", *table.split(), "forward") or None

    return Place(f"nftables {table}", version, read, leads, plan, nft)


PLACES = (_iptables("iptables", 4), _iptables("ip6tables", 6), _libvirt("ip", 4), _libvirt("ip6", 6))

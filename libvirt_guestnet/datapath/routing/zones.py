"""Zones on a host that routes, as one nft table of ours. Pure.

Where the host has an address on the networks of two zones, it would route between them. So what comes from a bridge of
one zone and would go to a bridge of another, or to the host's address there, is dropped. What belongs to a connection
to an address that the host translates passes: a port forward or floating IP is public, for guests of other zones too.

A packet is looked up in one map, however many networks there are. The table is written from all receipts in one
transaction, and is not there unless two zones have a bridge on this host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.light_typing import NamedTuple

TABLE = "inet guestnet-zones"
# Before the other filters: what they accept cannot pass all the same, and they need not judge it.
_PRIORITY = -5


class Routed(NamedTuple):
    """A bridge of the host's, the zone that it is in, and the host's addresses on it."""

    bridge: str
    zone: tuple[str, str]
    hosts: tuple[str, ...] = ()


def batch(bridges: Iterable[Routed]) -> str:
    """The nft batch that makes our table keep these zones apart, or removes it where there is nothing to keep apart."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}"]
    if zones := _zones(bridges):
        lines += [f"add table {TABLE}", *_sets(zones), *_chains(zones)]
    return "\n".join([*lines, ""])


def sizes(bridges: Iterable[Routed]) -> dict[str, int]:
    """How many elements each set of that table has, and how many rules each chain; nothing where there is no table."""
    zones = _zones(bridges)
    if not zones:
        return {}
    every = [each for zone in zones.values() for each in zone]
    found = {"zones": len(every), "zoned": len(every), "forward": 1, "input": 1}
    found |= {f"hosts{version}": len(_hosts(every, version)) for version in (4, 6)}
    for number, zone in zones.items():
        found |= {f"of-{number}": len(zone), f"from-{number}": len(list(_rules(number)))}
        found |= {f"hosts{version}-{number}": len(_hosts(zone, version)) for version in (4, 6)}
    return found


def _zones(bridges: Iterable[Routed]) -> dict[int, list[Routed]]:
    """The bridges of each zone, by a number; nothing unless there are several zones."""
    found: dict[tuple[str, str], list[Routed]] = {}
    for each in sorted(set(bridges)):
        found.setdefault(each.zone, []).append(each)
    return dict(enumerate(found.values(), 1)) if len(found) > 1 else {}


def _hosts(bridges: Iterable[Routed], version: int) -> list[str]:
    addresses = (parse.address(text) for each in bridges for text in each.hosts)
    return sorted({str(address) for address in addresses if address.version == version})


def _sets(zones: Mapping[int, list[Routed]]) -> Iterator[str]:
    every = [each for zone in zones.values() for each in zone]
    yield _set("zoned", "ifname", _names(every))
    for version in (4, 6):
        yield _set(f"hosts{version}", f"ipv{version}_addr", _hosts(every, version))
    for number, zone in zones.items():
        yield _set(f"of-{number}", "ifname", _names(zone))
        for version in (4, 6):
            yield _set(f"hosts{version}-{number}", f"ipv{version}_addr", _hosts(zone, version))


def _names(bridges: Iterable[Routed]) -> list[str]:
    return sorted({f'"{check_device(each.bridge)}"' for each in bridges})


def _set(name: str, kind: str, elements: list[str]) -> str:
    listed = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"add set {TABLE} {name} {{ type {kind};{listed} }}"


def _chains(zones: Mapping[int, list[Routed]]) -> Iterator[str]:
    jumps = []
    for number, zone in zones.items():
        yield f"add chain {TABLE} from-{number}"
        yield from (f"add rule {TABLE} from-{number} {rule}" for rule in _rules(number))
        jumps += [f"{name} : jump from-{number}" for name in _names(zone)]
    yield f"add map {TABLE} zones {{ type ifname : verdict; elements = {{ {', '.join(jumps)} }}; }}"
    for hook in ("forward", "input"):
        yield f"add chain {TABLE} {hook} {{ type filter hook {hook} priority {_PRIORITY}; policy accept; }}"
        yield f"add rule {TABLE} {hook} iifname vmap @zones"


def _rules(number: int) -> Iterator[str]:
    yield "ct status dnat return"
    yield f"oifname @of-{number} return"
    yield "oifname @zoned counter drop"
    for version, ip in ((4, "ip"), (6, "ip6")):
        yield f"{ip} daddr @hosts{version} {ip} daddr != @hosts{version}-{number} counter drop"

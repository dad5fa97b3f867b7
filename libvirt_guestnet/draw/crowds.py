"""Which guests share a box: of sixty that are alike, sixty boxes would be too many to find anything in. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.topology import Guest, Topology

# More rows than this in a box stand beside each other, in so many columns at most.
_MOST_ROWS, _MOST_COLUMNS = 16, 4


def boxes(topology: Topology, most: int) -> Iterator[tuple[int, tuple[Guest, ...]]]:
    """The guests of each box, with the first one's number, in the topology's order: more than `most` that are alike, or
    one."""
    alike: dict[tuple[str, ...], list[Guest]] = {}
    for guest in topology.guests:
        alike.setdefault(_networks(guest), []).append(guest)
    for i, guest in enumerate(topology.guests):
        crowd = alike[_networks(guest)] if _networks(guest) else [guest]
        if len(crowd) <= most:
            yield i, (guest,)
        elif crowd[0] is guest:
            yield i, tuple(crowd)


def _networks(guest: Guest) -> tuple[str, ...]:
    """What makes a guest like others: its ports' networks. One that routes is like nobody."""
    return () if guest.routes else tuple(port.network for port in guest.ports)


def title(crowd: tuple[Guest, ...]) -> str:
    return f"on {', '.join(dict.fromkeys(_networks(crowd[0])))}"


def label(guest: Guest, port: str) -> str:
    """Of a port's row in a box with other guests'."""
    return guest.name if len(guest.ports) == 1 else f"{guest.name} {port}"


def columns(rows: int) -> int:
    return min(-(-rows // _MOST_ROWS), _MOST_COLUMNS) or 1

"""The rows of `status` of one guest, network or topology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.parse import shown

R = TypeVar("R", bound=Mapping[str, object])


class Only(NamedTuple):
    """What is asked for; None: all. A row must fit everything that is given."""

    guest: str | None = None
    network: str | None = None
    topology: str | None = None


EVERYTHING = Only()


def picked(rows: Sequence[R], only: Only) -> list[R]:
    """The rows that fit, in their order. With a guest these are also the networks that its NICs are on; with a network
    also the forwards and routes of the ports on it."""
    nics = [row for row in rows if "mac" in row and _fits(row, only)]
    networks = {row["network"] for row in nics}
    ports = {(row["guest"], row.get("port")) for row in nics}
    return [row for row in rows if _is_picked(row, only, networks, ports)]


def _is_picked(row: R, only: Only, networks: set[object], ports: set[tuple[object, object]]) -> bool:
    if row["kind"] == "network":
        wanted = networks if only.guest is not None else {only.network or row["name"]}
        return row["name"] in wanted and only.network in (None, row["name"])
    if "mac" in row:
        return _fits(row, only)
    return only.guest in (None, row["guest"]) and (only.network is None or (row["guest"], row["port"]) in ports)


def _fits(row: R, only: Only) -> bool:
    """Whether a NIC's row does."""
    return only.guest in (None, row["guest"]) and only.network in (None, row["network"])


def check(only: Only, snapshot: Snapshot, rows: Sequence[object]) -> None:
    """Raises GuestnetError where nothing fits a name because nothing has it: somebody watches what is not there."""
    topologies = {each.topology for each in snapshot.networks} | {each.topology for each in snapshot.domains}
    known = {"guest": snapshot.domain.keys(), "network": snapshot.network.keys(), "topology": topologies}
    for what, name in only._asdict().items():
        if name is not None and not rows and name not in known[what]:
            raise GuestnetError(f"libvirt has no {what} {shown(name)}")

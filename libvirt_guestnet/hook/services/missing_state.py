"""What of ours is missing in the kernel, by the receipts. Changes nothing.

One table for the service, which puts it back, and for `status`, `plan` and `doctor`, which show it.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet.datapath.port import bridge_filter
from libvirt_guestnet.datapath.routing.gateway import ARP_TABLE
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.nft import tables
from libvirt_guestnet.hook.enforce import (
    bridge_guard,
    bridge_ports,
    checksum_guard,
    forwards,
    host_routes,
    impairing,
    port_guard,
    tagging,
    zones,
)
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.state.folder import State


class Lost(NamedTuple):
    """What is missing in the kernel: tables `of_all` ports; by tap, the guests whose `ports` lack something of their
    own; and `others`, which are put back without touching any guest."""

    of_all: list[str]
    ports: dict[str, str]
    others: list[str]


NOTHING = Lost([], {}, [])

# What single ports must have: by name, the function that returns the taps that lack it, each with its domain.
OF_PORTS: dict[str, Callable[[State], dict[str, str]]] = {
    "port security": port_guard.lost,
    "checksum guard": checksum_guard.lost,
    "ARP rules": host_routes.ungated,
    "gateway address or VRF": host_routes.without_address,
    "routes or published addresses": host_routes.lost,
    "VLANs": tagging.lost,
    "bridge entries": bridge_ports.lost,
    "impairment": impairing.lost,
}


def lost(state: State) -> Lost:
    """Looks for everything. Raises GuestnetError."""
    present = tables()
    of_all = _tables_lost(state, present)
    ports = {} if of_all else {tap: domain for find in OF_PORTS.values() for tap, domain in find(state).items()}
    open_ = bridge_guard.closed(state) and (bridge_filter.TABLE not in present or bridge_guard.lost(state))
    if open_ and notes.is_at_work(state, notes.SYNCING):  # it closes them when all guests are under guard
        open_ = False
    return Lost(of_all, ports, [*([bridge_filter.TABLE] if open_ else []), *zones.lost(state), *forwards.lost(state)])


def _tables_lost(state: State, present: set[str]) -> list[str]:
    gated = any(receipt.gateway for receipt in state.host_routes())
    wanted = {ARP_TABLE: gated, TABLE: bool(state.tapnames())}
    return [table for table, is_wanted in wanted.items() if is_wanted and table not in present]


def by_port(state: State) -> dict[str, list[str]]:
    """By tap, the names of what it lacks of its own. Raises GuestnetError."""
    found: dict[str, list[str]] = {}
    for what, find in OF_PORTS.items():
        for tap in find(state):
            found.setdefault(tap, []).append(what)
    return found

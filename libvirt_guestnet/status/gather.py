"""The facts behind `guestnet status`: from libvirt, the receipts and the kernel."""

from __future__ import annotations

import os

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.kernel import bridge_guard, guarded_ports
from libvirt_guestnet.datapath.routing import routes
from libvirt_guestnet.hook.enforce import checksum_guard
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt
from libvirt_guestnet.status import rows as reporting
from libvirt_guestnet.status.drift import lacking, wrongs
from libvirt_guestnet.status.filters import EVERYTHING, Only, check, picked
from libvirt_guestnet.status.open_forwards import opened
from libvirt_guestnet.status.ports import ChecksumGuards
from libvirt_guestnet.status.routers import router_rows
from libvirt_guestnet.status.routes import RouteFacts


def status_rows(
    uri: str | None, only: Only = EVERYTHING, *, known: bool = True, tried: bool = False
) -> list[dict[str, object]]:
    """The networks, virtual routers and NICs of this host, or `only` some, with forwards and routes to guests; with the
    routers' health, where that is to be `tried`. Raises GuestnetError; also for names that libvirt does not have, where
    they are to be `known`."""
    snapshot, found = look(uri, only.topology)
    routers = router_rows(snapshot, only.topology, tried=tried) if os.geteuid() == 0 else []
    rows = picked([row.json() for row in (*found, *routers)], only)
    if known:
        check(only, snapshot, rows)
    return rows


def look(uri: str | None, topology: str | None = None) -> tuple[Snapshot, list[reporting.Row]]:
    """What libvirt has, and the rows that `reporting.status` makes of it. Raises GuestnetError."""
    # Only root can list nft's rules. If no hook has run yet, there are no receipts that others cannot read.
    is_root, state = os.geteuid() == 0, UnlockedState()
    seen, closed = (guarded_ports(), bridge_guard()) if is_root else ({}, (set[str](), set[str]()))
    bridges, ports, managed = *map(frozenset, closed), state.bridges()
    guards = reporting.BridgeGuards(
        bridges,
        ports,
        managed is not None and bool(managed.cannot),
        {r.name: r for r in state.networks()},
        managed.networks if managed is not None else {},
    )
    checksums = ChecksumGuards(
        frozenset(checksum_guard.lost(state)), checksum_guard.drops(state), checksum_guard.program_state(state).cannot
    )
    route_facts = RouteFacts(tuple(state.host_routes()), routes.present())
    lacks = lacking(state)
    with connect(uri) as connection:
        snapshot = host_snapshot(connection)
        # Receipts say what was applied, the kernel what is still there: after a flush nothing may look guarded.
        found = reporting.status(
            snapshot,
            topology,
            lambda tap: _applied(tap, state) if tap in seen else None,
            seen.get,
            opened(state, route_facts.present),
            guards=guards,
            offload=checksums,
            route_facts=route_facts,
            host=hostwide.read(),
            plugging=state.pluggings(),
            wrong=wrongs(snapshot, state, lacks),
            lacks=lacks,
        )
    return snapshot, found


def _applied(tap: str, state: State) -> PortReceipt | None:
    """The receipt of a tap that is still the device which it was written for."""
    receipt = state.sound_port(tap)
    return receipt if receipt is not None and links.exists(tap, receipt.ifindex) else None

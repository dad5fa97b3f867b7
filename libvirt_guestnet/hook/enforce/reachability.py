"""Routes, published addresses and forwards to a guest, made once it runs here.

At `start` that would be too early. And as long as a guest migrates to this host, it still runs on the other one.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet import log, parse, xmlread
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress
from libvirt_guestnet.datapath.routing import gateway as kernel
from libvirt_guestnet.datapath.routing import routes
from libvirt_guestnet.datapath.routing.announce import announce
from libvirt_guestnet.errors import NotRoutedError
from libvirt_guestnet.hook.enforce import bridge_guard, bridge_ports, forwards, host_routes
from libvirt_guestnet.hook.processes import incoming, notes
from libvirt_guestnet.hook.read import host_routed, libvirt_records, next_hop, wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import HostRoutes, PortForwards, ProxyEntry, Route


def connect(domain: Domain, state: UnlockedState) -> None:
    """Makes a running guest's routes and announces its addresses. If it still migrates to this host, a helper is left
    behind that does so once it runs here. Raises GuestnetError; in both cases if a route is somebody else's already."""
    wanted, guarded = _wanted(domain, state), _expected(domain, state)
    taps = list(dict.fromkeys([*(receipt.tap for receipt in wanted), *guarded]))
    if taps and incoming.is_incoming(domain):
        routes.check(wanted)
        incoming.leave_helper(domain, taps, lambda: _connect_noted(domain, state, taps[0]), state)
        return
    _tell_bridges(domain, state)
    _ensure_routes(domain, wanted, state)


def try_to_connect(domain: Domain, state: UnlockedState) -> list[str]:
    """The same, but a problem of the host that prevents a route is returned, not raised, so that the rest is done."""
    try:
        connect(domain, state)
    except NotRoutedError as error:
        return [str(error)]
    return []


def _expected(domain: Domain, state: State) -> list[str]:
    """The taps of a guest that migrates to this host: their static bridge entries are made once it runs here."""
    return state.taps(domain.uuid) if state.incoming(domain.name) else []


def _tell_bridges(domain: Domain, state: UnlockedState) -> None:
    name = domain.name
    if state.incoming(name):
        with state.lock() as locked:
            bridge_ports.settle_incoming(name, domain.uuid, locked)


def _connect_noted(domain: Domain, state: UnlockedState, tap: str) -> None:
    with notes.promised(state, notes.CONNECTING, domain.name):
        _connect_and_announce(domain, state, tap)


def _connect_and_announce(domain: Domain, state: UnlockedState, tap: str) -> None:
    try:
        domain = _now(domain, state)
        _tell_bridges(domain, state)
        try:
            published = _ensure_routes(domain, _wanted(domain, state), state)
        finally:
            open_forwards([domain], state)  # other firewalls must accept what is routed here
    except Exception as error:  # the guest runs, and no call waits for the outcome: all that is left is to log it
        log.complain(f"domain {domain.name} has migrated to here, but not all routes and forwards to it work: {error}")
        return
    incoming.repeat(lambda: announce(published), tap)


def _now(domain: Domain, state: State) -> Domain:
    """The domain as libvirt has it now: it may have changed while a helper waited for it."""
    record = libvirt_records.record(domain.name)
    same = record is not None and record.domain.text_of("uuid") == domain.uuid
    return bridge_guard.joined(record.domain, state) if record is not None and same else domain


def _wanted(domain: Domain, state: State) -> list[HostRoutes]:
    ports, floating = (
        host_routed.routed_ports(domain),
        [each for each in wanted_forwards.port_forwards(domain) if each.floating],
    )
    ports = [port._replace(table=kernel.table_of(port.vrf)) if port.vrf else port for port in ports]
    vrfs = {port.vrf for port in ports if port.publish} | ({""} if floating else set())
    hosts = {vrf: kernel.host_addresses(vrf) for vrf in vrfs}

    def uplink_of(address: str, port: host_routed.RoutedPort) -> str:
        return kernel.uplink_of(address, port.device, hosts[port.vrf], port.vrf)

    wanted = [host_routed.host_routes(domain, port, uplink_of) for port in ports]
    wanted += [floats(each, hosts[""]) for each in floating]
    return [*wanted, *next_hop.host_routes(domain)]


def _ensure_routes(domain: Domain, wanted: list[HostRoutes], state: UnlockedState) -> list[ProxyEntry]:
    published = _prepared(wanted)
    try:
        with state.lock() as locked:
            host_routes.ensure(domain.uuid, wanted, locked)
    except NotRoutedError:
        present = routes.present()
        announce(each for each in published if each in present)
        raise
    announce(published)
    return published


def _prepared(wanted: list[HostRoutes]) -> list[ProxyEntry]:
    for version in {6 if ":" in route.prefix else 4 for receipt in wanted for route in receipt.routes if route.via}:
        kernel.forward(version)  # for mode open, libvirt does not do that
    published = [each for receipt in wanted for each in receipt.published]
    _answer(published)
    return published


def connect_nic(domain: Domain, tap: str, locked: LockedState) -> None:
    """Makes the routes to the one NIC of `domain`, which is new or has moved; deletes old ones. Raises
    GuestnetError."""
    wanted = _wanted(domain, locked)
    published = _prepared(wanted)
    host_routes.ensure(domain.uuid, wanted, locked, only=tap)
    announce(published)


def disconnect_old_bridge(port: xmlread.Node, locked: LockedState) -> None:
    """Deletes the routes and forwards by the old bridge of a NIC that was unplugged or has moved, if its tap is not in
    that bridge any more. `forwards.settle` must follow."""
    host_routes.sweep(locked)
    plug = port.one("plug")
    bridge, uuid = plug.get("bridge") if plug else "", port.text_of("owner/uuid")
    routed = {each.tap for each in locked.host_routes() if each.uuid == uuid}
    for tap in sorted(routed | {each.tap for each in locked.forwards() if each.uuid == uuid}):
        if bridge and links.master_of(tap) not in ("", bridge):
            host_routes.delete_on_bridge(tap, bridge, locked)
            forwards.delete_on_bridge(tap, bridge, locked)


def floats(port: PortForwards, host: list[HostAddress]) -> HostRoutes:
    """The routes and published addresses for a port's floating addresses. The host answers for those on LANs that it is
    on itself; others have to be routed to it. For its own addresses it answers anyway (a guest that had one before the
    host got it keeps it). The route is needed as the kernel answers only for addresses that it routes elsewhere."""
    near = {f.ip: device for f in port.floating for device in _near(f.ip, host)}
    routed = [f for f in port.floating if f.via or f.ip in near]
    routes = tuple(Route(f"{f.ip}/{128 if ':' in f.ip else 32}", port.bridge, f.via) for f in routed)
    return HostRoutes(port.tap, port.uuid, port.domain, routes, tuple(map(ProxyEntry._make, near.items())))


def _near(address: str, host: list[HostAddress]) -> list[str]:
    wanted = parse.address(address)
    if any(each.address == wanted for each in host):
        return []
    return [name for name in kernel.lans_of(wanted, host) if name][:1]


def open_forwards(domains: list[Domain], state: UnlockedState, force: bool = False) -> None:
    """Opens the forwards to running guests. With `force`, for guests that ran before, the kernel's rules are written
    again, as somebody may have changed them. Raises GuestnetError."""
    open_forwards_of({domain.uuid for domain in domains}, state, force)


def open_forwards_of(uuids: set[str], state: UnlockedState, force: bool = False) -> None:
    """The same by their domains' UUIDs. Raises GuestnetError."""
    with state.lock() as locked:
        forwards.activate(uuids, locked, force)


def _answer(published: Iterable[ProxyEntry]) -> None:
    for device, version in sorted({(each.device, 6 if ":" in each.address else 4) for each in published}):
        kernel.answer_on(device, version)

"""A guest is there: only now does the host lead anything to it.

At `start` it would be too early; and while its migration to this host lasts, it still runs where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from libvirt_guestnet.datapath import links, routes
from libvirt_guestnet.datapath import routed as kernel
from libvirt_guestnet.datapath.announce import announce
from libvirt_guestnet.datapath.routes import Published, Reach, Route
from libvirt_guestnet.datapath.rtnl import HostAddress
from libvirt_guestnet.datapath.ways import Ways
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import asked, incoming, log, nexthop, reaching, routed, ways, xmlread
from libvirt_guestnet.state import State


def arrive(domain: xmlread.Node, state: State) -> None:
    """Leads to a guest that is there, and tells its LANs; or, when it is still on its way, has that done as soon as it
    runs here. Raises GuestnetError, in the second case too when it is clear by now that the guest cannot be led to."""
    wanted = _wanted(domain, state)
    if wanted and incoming.is_incoming(domain):
        routes.check(wanted)
        taps = list(dict.fromkeys(reach.tap for reach in wanted))
        incoming.leave_helper(domain, taps, lambda: _arrived(domain, state, taps[0]))
    else:
        _lead(domain, wanted, state)


def _arrived(domain: xmlread.Node, state: State, tap: str) -> None:
    try:
        published = _lead(domain, _wanted(domain, state), state)
        open_ways([domain], state)  # what leads here has to pass other firewalls
    except Exception as error:  # nobody waits, and the guest runs: it can only be said
        log.complain(f"domain {domain.text_of('name')} has arrived and is not led to: {error}")
        return
    incoming.repeat(lambda: announce(published), tap)


def _wanted(domain: xmlread.Node, state: State) -> list[Reach]:
    ports, floating = routed.routed_ports(domain), [each for each in asked.ways(domain, state.network) if each.floating]
    ports = [port._replace(table=kernel.table_of(port.vrf)) if port.vrf else port for port in ports]
    vrfs = {port.vrf for port in ports if port.publish} | ({""} if floating else set())
    hosts = {vrf: kernel.host_addresses(vrf) for vrf in vrfs}

    def uplink_of(address: str, port: routed.RoutedPort) -> str:
        return kernel.uplink_of(address, port.device, hosts[port.vrf], port.vrf)

    wanted = [routed.reach(domain, port, uplink_of) for port in ports]
    wanted += [_floats(each, hosts[""]) for each in floating]
    return [*wanted, *nexthop.reaches(domain)]


def _lead(domain: xmlread.Node, wanted: list[Reach], state: State) -> list[Published]:
    for version in {6 if ":" in route.prefix else 4 for reach in wanted for route in reach.routes if route.via}:
        kernel.forward(version)  # libvirt does not for mode open
    published = [each for reach in wanted for each in reach.published]
    _answer(published)
    with state.lock():
        reaching.lead(domain.text_of("uuid"), wanted, state)
    announce(published)
    return published


def _floats(port: Ways, host: list[HostAddress]) -> Reach:
    """The host answers for floating addresses on the LANs that it is on itself; others are routed to it by whoever has
    them, and its own it answers for anyway. The kernel answers only for what it would not send back out there. Raises
    GuestnetError where the host itself has what it is to route to the guest."""
    near = {f.ip: device for f in port.floating for device in _near(f.ip, host)}
    own = {str(each.address) for each in host}
    if taken := next((f.ip for f in port.floating if f.via and f.ip in own), ""):
        raise GuestnetError(
            f"domain {port.domain!r}: {taken} cannot be routed to a guest: it is this host's own address"
        )
    routed = [f for f in port.floating if f.via or f.ip in near]
    routes = tuple(Route(f"{f.ip}/{128 if ':' in f.ip else 32}", port.bridge, f.via) for f in routed)
    return Reach(port.tap, port.uuid, port.domain, routes, tuple(map(Published._make, near.items())))


def _near(address: str, host: list[HostAddress]) -> list[str]:
    wanted = ip_address(address)
    if any(each.address == wanted for each in host):
        return []
    return [name for each in host if wanted in each.subnet and (name := links.name_of(each.ifindex))][:1]


def open_ways(domains: list[xmlread.Node], state: State, force: bool = False) -> None:
    """Opens the ways in to guests that are there; `force` for some that were there before, whatever became of the
    kernel's rules meanwhile. Raises GuestnetError."""
    with state.lock() as hold:
        ways.activate({domain.text_of("uuid") for domain in domains}, state, hold, force)


def _answer(published: Iterable[Published]) -> None:
    for device, version in sorted({(each.device, 6 if ":" in each.address else 4) for each in published}):
        kernel.answer_on(device, version)

"""From a topology to a plan, and to the changes: what `guestnet plan`, `apply`, `destroy` and labs do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from libvirt_guestnet import terminal, xmlgen
from libvirt_guestnet.apply import apply as applying
from libvirt_guestnet.apply import routers
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.datapath.devices import host_devices
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.guest import image
from libvirt_guestnet.hook import live
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.own import meaning
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import Snapshot, Wanted, WantedExternal, WantedGuest, WantedNetwork
from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.notes import notes
from libvirt_guestnet.model.topology import Guest, Port, Topology
from libvirt_guestnet.plan import hairpins, link_roles, separation
from libvirt_guestnet.plan.addresses import taken_addresses
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import Plan, plan, plan_destroy
from libvirt_guestnet.router.image import ensure_router_image
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.status.drift import wrongs
from libvirt_guestnet.status.leases import leased
from libvirt_guestnet.status.overdue import overdue
from libvirt_guestnet.styled import line
from libvirt_guestnet.xmlgen import Element, domain_metadata, external_metadata, interface, network

# So many changes have a bar at a terminal: of fewer, the lines say enough.
MANY = 10


def current_plan(found: Topology, hostmap: HostMap, uri: str | None) -> Plan:
    """What `apply_topology` would do. Raises GuestnetError."""
    hostmap.check_mapped(found.networks)
    define = definer(found, hostmap)
    with connect(uri) as connection:
        return planned(found, hostmap, define, host_snapshot(connection), routers.GLANCE_SECONDS)[0]


Define = Callable[[Topology, Guest], Element]


def planned(
    found: Topology,
    hostmap: HostMap,
    define: Define | None,
    snapshot: Snapshot,
    patience: float,
    *,
    left_alone: frozenset[str] = frozenset(),
) -> tuple[Plan, Topology]:
    """The plan, and the topology with what this host knows of it. Routers have `patience` seconds to answer."""
    here = resolved(found, snapshot)
    wished = wanted(here, hostmap, None if define is None else lambda guest: define(here, guest))
    wished = replace(wished, left_alone=left_alone)
    facts = replace(_facing(here, hostmap, wished, snapshot), routers=routers.seen(wished, snapshot, patience))
    return plan(wished, facts), here


def apply_topology(
    found: Topology, hostmap: HostMap, uri: str | None, *, allow_interrupt: bool = False, quiet: bool = False
) -> Sequence[object]:
    """Plans and makes the changes, telling each as it comes; returns them. Raises GuestnetError."""
    hostmap.check_mapped(found.networks)
    define = definer(found, hostmap)
    with applying.locked(), connect(uri) as connection:
        made, here = planned(found, hostmap, define, host_snapshot(connection), routers.PATIENCE_SECONDS)
        hooks = hook_files.unseen() if made.changes else ""
        for note in (*made.notes, *notes(here), *notes_here(here, hostmap), *([hooks] if hooks else ())):
            applying.tell_note(note)

        with telling(made, quiet=quiet) as tell:
            effects, tell_note = applying.KernelEffects(), applying.tell_note
            return applying.apply(made, connection, effects, tell, allow_interrupt=allow_interrupt, on_note=tell_note)


def destroy_topology(
    name: str, uri: str | None, guests: Sequence[str] | None = None, *, allow_interrupt: bool = False
) -> Sequence[object]:
    """Removes everything of a topology, and prints each step; returns the steps. `guests`: those in its file. Raises
    GuestnetError."""
    with applying.locked(), connect(uri) as connection:
        known = {receipt.name: receipt.topology for receipt in UnlockedState().networks() if receipt.external}
        made = plan_destroy(name, replace(host_snapshot(connection), adopted=known), guests)
        for note in made.notes:
            applying.tell_note(note)
        with telling(made) as tell:
            effects, tell_note = applying.KernelEffects(), applying.tell_note
            applying.destroy(made, connection, effects, tell, allow_interrupt=allow_interrupt, on_note=tell_note)
        live.remove_unused()
    return made.changes


@contextmanager
def telling(made: Plan, *, quiet: bool = False, where: str = "") -> Iterator[Callable[[Change], None]]:
    """What says each change before it is made, behind `where`; with a bar at a terminal, where they are many."""
    done = count()
    with terminal.Progress(sys.stdout, sys.stderr) as progress:

        def tell(change: Change) -> None:
            if quiet:
                return
            progress.say(line(where, *change.line().parts))
            if len(made.changes) >= MANY:
                progress(f"{change.verb} {change.KIND} {change.name}", next(done), len(made.changes))

        yield tell


def notes_here(found: Topology, hostmap: HostMap) -> list[str]:
    """The same, on this host."""
    bridges = {each.name: hostmap.bridge(each) for each in found.networks if each.routed is None}
    there = {bridge for bridge in bridges.values() if bridge and links.index_of(bridge)}
    spanning, switches = set(filter(links.runs_spanning_tree, there)), {b for b in there if not links.is_bridge(b)}
    return [*hairpins.notes(found, host_devices.bridged()), *link_roles.notes(found, bridges, spanning, switches)]


def wanted(topology: Topology, hostmap: HostMap, define: Callable[[Guest], Element] | None = None) -> Wanted:
    """What libvirt must have for a topology.

    `define` makes the <domain> of a lab guest; without it guests with an image are left out.
    Raises GuestnetError when a physical network is not mapped.
    """
    hostmap.check_mapped(topology.networks)
    guests = [guest for guest in topology.guests if guest.image is None or define is not None]
    return Wanted(
        topology=topology.name,
        networks=tuple(
            WantedNetwork(n.name, network(topology, n, hostmap), n.autostart, n.drawn, n.take_over, meaning)
            for n in topology.libvirt_networks
        ),
        guests=tuple(_wanted_guest(topology, guest, hostmap, define) for guest in guests),
        externals=tuple(
            WantedExternal(n.name, external_metadata(topology, n))
            for n in topology.external_networks
            if n.external and not n.external.bridge
        ),
    )


def _wanted_guest(
    topology: Topology, guest: Guest, hostmap: HostMap, define: Callable[[Guest], Element] | None
) -> WantedGuest:
    definition = None if guest.image is None or define is None else define(guest)
    if definition is None:
        nics = [_of_users(port, interface(topology, guest, port, hostmap)) for port in guest.ports]
    else:
        nics = definition.findall("devices/interface")
    return WantedGuest(
        name=guest.name,
        interfaces=tuple(nics),
        metadata=domain_metadata(topology, guest, hostmap),
        definition=definition,
        autostart=guest.autostart,
        kept=frozenset(port.mac for port in guest.ports if _was_there(topology.network(port.network))),
        mtus=frozenset(port.mac for port in guest.ports if "mtu" in port.given),
        document=routers.document_of(topology, guest),
    )


def _of_users(port: Port, nic: Element) -> Element:
    """A NIC of a user's own domain, by what the file says: of which model it is when it is plugged in, if that says
    nothing, the plan knows."""
    for model in nic.findall("model") if "model" not in port.given else ():
        nic.remove(model)
    return nic


def _was_there(on: Network) -> bool:
    return on.external is not None or on.take_over


def definer(found: Topology, hostmap: HostMap) -> Define | None:
    """What makes a lab guest's or a router's <domain>, once their images are built; None where no guest has one."""
    kinds = {guest.image for guest in found.guests} - {None}
    if not kinds:
        return None
    with terminal.Progress(sys.stderr) as progress:
        tiny = image.ensure_image(tell=progress) if "tiny" in kinds else None
        pairs = {r.pair is not None for guest in found.guests if (r := guest.virtual_router)}
        appliances = {of_pair: ensure_router_image(tell=progress, of_pair=of_pair) for of_pair in pairs}
    kind = image.virt_type()

    def define(topology: Topology, guest: Guest) -> Element:
        if guest.virtual_router is not None:
            appliance = appliances[guest.virtual_router.pair is not None]
            return xmlgen.router_domain(topology, guest, hostmap, appliance, kind)
        assert tiny is not None
        return xmlgen.domain(topology, guest, hostmap, tiny, kind)

    return define


def _facing(found: Topology, hostmap: HostMap, wished: Wanted, snapshot: Snapshot) -> Snapshot:
    bridges = [each.bridge for each in found.external_networks if any(subnet.dhcp for subnet in each.subnets)]
    found_leases = {mac: ips for bridge in bridges for mac, ips in leased(bridge).items()}
    here = facing(wished, snapshot, found_leases)
    shared = separation.problems(found, hostmap, snapshot.links, snapshot.networks)
    return replace(here, taken=(*here.taken, *shared, *hairpins.problems(found, host_devices.bridged())))


def facing(wished: Wanted, snapshot: Snapshot, leases: Mapping[str, frozenset[str]]) -> Snapshot:
    """The snapshot with the wanted addresses that are in use on this host or its LANs, with what is wrong in the
    kernel, and with what DHCP servers gave. Raises GuestnetError."""
    taken = taken_addresses(wished, snapshot, UnlockedState())
    networks, guests = overdue(snapshot, UnlockedState() if os.geteuid() == 0 else None)
    wrong = (*wrongs(snapshot), *guests)
    return replace(snapshot, taken=taken, wrong=wrong, leased=leases, overdue=networks)

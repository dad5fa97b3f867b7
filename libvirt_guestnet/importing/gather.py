"""`guestnet import`: the host is read, and the file's text is checked as anybody's would be."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from libvirt_guestnet import topology
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.importing import survey
from libvirt_guestnet.importing.facts import Imported, Leases, Request, Seen
from libvirt_guestnet.importing.text import text
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.status.leases import leased


def imported(uri: str | None, request: Request) -> tuple[Imported, str]:
    """What is to be said, and the file that says it. Raises GuestnetError, also where there is nothing."""
    with connect(uri) as connection:
        snapshot = host_snapshot(connection)
    found = survey.survey(seen(snapshot, request), request)
    if not (found.networks or found.guests):
        reasons = "".join(f"\n{each.what}: {each.why}" for each in found.left_out)
        raise GuestnetError(f"there is nothing on this host that could be imported{reasons}")
    said = text(found)
    topology.loads(said, "import")
    return found, said


def seen(snapshot: Snapshot, request: Request) -> Seen:
    """With what the bridges of what was asked for tell of addresses."""
    names = survey.bridges(snapshot, request)
    told, neighbours = {name: leases(name) for name in names}, {name: _neighbours(name) for name in names}
    return Seen(snapshot, told, neighbours, _hosts(names))


def leases(bridge: str) -> Leases:
    """What a bridge's DHCP server gave; nothing where it is none of libvirt's."""
    with suppress(GuestnetError):  # a name that no bridge of ours can have
        return leased(bridge)
    return {}


def _neighbours(bridge: str) -> tuple[tuple[IPAddress, str], ...]:
    """None of a bridge that is gone meanwhile."""
    index = links.index_of(bridge)
    if not index:
        return ()
    with Rtnl() as netlink:
        return tuple(netlink.neighbours(index))


def _hosts(bridges: Iterable[str]) -> dict[str, frozenset[IPAddress]]:
    """The host's own addresses on bridges, and on the VLANs that it has on them."""
    found = {bridge: {links.index_of(name) for name in (bridge, *links.over(bridge))} for bridge in bridges}
    with Rtnl() as netlink:
        present = netlink.addresses(all_scopes=True)
    return {bridge: frozenset(e.address for e in present if e.ifindex in found[bridge]) for bridge in found}

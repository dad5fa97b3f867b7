"""The hosts of a topology: which of them this one is, and libvirt on each, side by side, with a deadline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from libvirt_guestnet.datapath.devices import host_devices
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap, of_host
from libvirt_guestnet.libvirtd.connection import Connection, connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.placing import in_file
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.hosted import hosted

_OWN = "qemu:///system"  # whatever virsh is told to take: that may be another host
MOST_AT_ONCE = 8
"""So many hosts are asked at a time; each has libvirtd.connection's deadlines to answer."""


@dataclass(frozen=True)
class Reached:
    """A host that answers, with what libvirt has there. `is_here`: it is the one that asks."""

    host: Host
    is_here: bool
    connection: Connection
    snapshot: Snapshot


class DownError(GuestnetError):
    """Hosts that do not answer, by name, each with why."""

    def __init__(self, down: dict[str, str], rest: str) -> None:
        self.down = down
        super().__init__("\n".join([*(told(name, why) for name, why in down.items()), rest]))


def told(name: str, why: str) -> str:
    """That a host does not answer."""
    return f"host {name}: not reached: {why}"


def reach(hosts: Sequence[Host], closing: ExitStack) -> tuple[list[Reached], dict[str, str]]:
    """Those that answer, and why the others do not, in the file's order. Raises GuestnetError where the kernel does not
    say which of them this is."""
    local = here(hosts, _addresses())
    with ThreadPoolExecutor(min(MOST_AT_ONCE, len(hosts) or 1)) as pool:
        answers = list(pool.map(lambda host: _answer(host, host is local), hosts))
    found = [each for each in answers if isinstance(each, Reached)]
    for each in found:
        closing.callback(_close, each.connection)
    down = {host.name: each for host, each in zip(hosts, answers, strict=True) if isinstance(each, str)}
    return found, down


def here(hosts: Iterable[Host], addresses: set[str]) -> Host | None:
    """Which of them has these addresses; one without an underlay is known by its name."""
    node = os.uname().nodename.partition(".")[0]
    return next((h for h in hosts if (str(h.underlay) in addresses if h.underlay else h.name == node)), None)


def own_part(found: Topology) -> tuple[Topology, HostMap]:
    """What this host has of a topology, by the file. Raises GuestnetError where it is none of its hosts."""
    host = local(found)
    return in_file(hosted(found), host), of_host(host)


def local(found: Topology) -> Host:
    """Which of a topology's hosts this one is. Raises GuestnetError where it is none of them."""
    host = here(found.hosts, _addresses())
    if host is None:
        known = ", ".join(f"{each.name} ({each.underlay or 'known by its name'})" for each in found.hosts)
        raise GuestnetError(f"this is none of the hosts of topology {found.name!r}: {known}")
    return host


def _addresses() -> set[str]:
    return {address for each in host_devices.read().values() for address in each.addresses}


def _answer(host: Host, is_here: bool) -> Reached | str:
    connection: Connection | None = None
    try:
        connection = connect(_OWN if is_here else unattended(host.uri))
        # libvirt does not say which devices another host has, and no hook hears of metadata that changes.
        snapshot = host_snapshot(connection) if is_here else _from_afar(connection)
    except GuestnetError as error:
        if connection is not None:
            _close(connection)
        return str(error)
    return Reached(host, is_here, connection, snapshot)


def _from_afar(connection: Connection) -> Snapshot:
    return replace(connection.snapshot(), network_metadata=False)


def unattended(uri: str) -> str:
    """The URI with which ssh asks nobody anything: several of them would ask at once."""
    if not uri.partition("://")[0].endswith("+ssh") or "no_tty=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"


def _close(connection: Connection) -> None:
    with suppress(GuestnetError):  # of one that does not answer any more, nothing is left to close
        connection.close()

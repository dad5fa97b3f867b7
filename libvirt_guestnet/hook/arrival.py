"""A guest is there: QEMU runs, an incoming migration's vCPUs not yet. Only now does the host lead anything to it.

At `start` it would be too early: for the whole length of an incoming migration the guest still runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath import routed as kernel
from libvirt_guestnet.datapath.announce import announce
from libvirt_guestnet.datapath.routes import Published
from libvirt_guestnet.hook import reaching, routed, ways, xmlread
from libvirt_guestnet.state import State


def arrive(domain: xmlread.Node, state: State) -> None:
    """Leads to a guest that is there, and tells its LANs. Raises GuestnetError."""
    ports = routed.routed_ports(domain)
    host = kernel.host_addresses() if any(port.publish for port in ports) else []
    wanted = [routed.reach(domain, port, lambda ip, named: kernel.uplink_of(ip, named, host)) for port in ports]
    published = [each for reach in wanted for each in reach.published]
    _answer(published)
    with state.lock():
        reaching.lead(domain.text_of("uuid"), wanted, state)
    announce(published)


def open_ways(domain: xmlread.Node, state: State, force: bool = False) -> None:
    """Opens the ways in to a guest that is there; `force` for one that was there before, whatever became of the
    kernel's rules meanwhile. Raises GuestnetError."""
    with state.lock() as hold:
        ways.activate(domain, state, hold, force)


def _answer(published: Iterable[Published]) -> None:
    for device, version in sorted({(each.device, 6 if ":" in each.address else 4) for each in published}):
        kernel.answer_on(device, version)

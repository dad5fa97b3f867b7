"""Puts back what somebody else's tool takes out of the kernel: `nft flush ruleset`, a firewall's or Docker's restart.

A service for hosts on which that happens; ports are safe without it from start to stop as long as nobody does. Every
change of nftables' rules, iptables' own among them, is told over netlink (NFNLGRP_NFTABLES, kernel 3.14). Then one look
says whether something of ours is missing, and every running guest is repaired as after a restart of libvirt's daemon.
libvirt's own rules come back only with a restart of its daemon (9.0: a reload finds its chains missing): the log tells.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from libvirt_guestnet.datapath import bridgeguard, places, program
from libvirt_guestnet.datapath.names import TABLE
from libvirt_guestnet.datapath.nft import tables
from libvirt_guestnet.datapath.routed import ARP_TABLE
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import bridges, entry, log, reaching, repair, ways, xmlread
from libvirt_guestnet.state import State

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP = 12, 270, 1, 7
_LIBVIRT = "/run/libvirt"
# One command of a firewall is many changes.
_QUIET_SECONDS, _MOST_SECONDS = 0.1, 1.0
# iptables-legacy tells nobody what it does; and what could not be repaired is tried again.
_LOOK_SECONDS = 30.0


def main() -> int:
    """Watches until it is told to end."""
    signal.signal(signal.SIGALRM, entry.expired)
    watch = _Watch()
    with _changes() as change:
        while True:
            watch.look()
            _wait(change)


def _changes() -> socket.socket:
    change = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    change.bind((0, 0))
    change.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    change.setblocking(False)
    return change


def _wait(change: socket.socket) -> None:
    """Until something has changed and all is quiet again, or it is time to look anyway."""
    if not select.select([change], [], [], _LOOK_SECONDS)[0]:
        return
    end = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < end and select.select([change], [], [], _QUIET_SECONDS)[0]:
        _drain(change)


def _drain(change: socket.socket) -> None:
    """What changed does not matter: not knowing (ENOBUFS) is one more reason to look."""
    try:
        while change.recv(1 << 16):
            pass
    except OSError:
        return


class _Watch:
    def __init__(self) -> None:
        self._told = False

    def look(self) -> None:
        """Looks for what is missing, and has it put back. Never fails: the next change is the next try."""
        try:
            missing = lost(State())
            if missing:
                log.complain(f"missing in the kernel, being put back: {', '.join(missing)}")
                _close_bridges(State())
                repair.repair(_recorded("qemu"), "after a change of the host's rules")
            self._tell_of_libvirt()
        except (GuestnetError, OSError) as error:
            log.complain(f"what is missing in the kernel is not put back yet: {error}")

    def _tell_of_libvirt(self) -> None:
        missing = _libvirt_lost()
        if missing and not self._told:
            log.complain("libvirt's own rules were flushed: restart its daemon (systemctl restart libvirtd)")
        self._told = missing


def lost(state: State) -> list[str]:
    """What should be in the kernel and is not. Raises GuestnetError."""
    wanted = {TABLE} if state.tapnames() else set()
    wanted |= {bridgeguard.TABLE} if bridges.closed(state) else set()
    wanted |= {ARP_TABLE} if any(reach.gateway for reach in reaching.receipts(state)) else set()
    return [*sorted(wanted - tables()), *ways.lost(state)]


def _close_bridges(state: State) -> None:
    with state.lock() as hold:
        if bridges.closed(state):
            bridges.changing(state)
            bridges.settle(state, hold)


def _recorded(kind: str) -> list[str]:
    """The names of what libvirt has records of: running domains, active networks."""
    folder = f"{_LIBVIRT}/{kind}"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [name.removesuffix(".xml") for name in sorted(names) if name.endswith(".xml")]


def _libvirt_lost() -> bool:
    """Whether libvirt has networks with rules of its own, and not one of these is in the kernel."""
    if not any(map(_has_rules, _recorded("network"))):
        return False
    if "ip libvirt_network" in tables():
        return False
    return places.LIBVIRT not in program.run(["iptables", "-w", "5", "-S", "FORWARD"], "", "iptables").stdout


def _has_rules(network_name: str) -> bool:
    with open(f"{_LIBVIRT}/network/{network_name}.xml", "rb") as file:
        network = xmlread.parse(file.read(xmlread.MAX_BYTES + 1)).one("network")
    forward = network.one("forward") if network else None
    return network is not None and (forward is None or (forward.get("mode") or "nat") in ("nat", "route"))

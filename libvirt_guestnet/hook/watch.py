"""Puts back what somebody else's tool takes out of the kernel: `nft flush ruleset`, a firewall's or Docker's restart.

A service for hosts on which that happens; ports are safe without it from start to stop as long as nobody does. Every
change of nftables' rules, iptables' own among them, is told over netlink (NFNLGRP_NFTABLES, kernel 3.14). Then one look
says whether something of ours is missing, and every running guest is repaired as after a restart of libvirt's daemon.
libvirt makes its own rules anew when it hears on D-Bus that firewalld has reloaded, whoever says so (9.0 to 11.3); at a
mere SIGHUP it finds its chains missing. So that is said; again where some are still missing (11.3's nftables backend
deletes by the handles of flushed rules, and so some that it has just made); and at last the log asks for a restart.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress

from libvirt_guestnet.datapath import bridgeguard, program
from libvirt_guestnet.datapath.names import TABLE
from libvirt_guestnet.datapath.nft import listed, tables
from libvirt_guestnet.datapath.routed import ARP_TABLE
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import bridges, entry, log, reaching, repair, ways, xmlread
from libvirt_guestnet.state import State

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP = 12, 270, 1, 7
_LIBVIRT, _LIBVIRT_TABLE = "/run/libvirt", "ip libvirt_network"
# One command of a firewall is many changes.
_QUIET_SECONDS, _MOST_SECONDS = 0.1, 1.0
# iptables-legacy tells nobody what it does; and what could not be repaired is tried again.
_LOOK_SECONDS = 30.0
_LIBVIRT_SECONDS, _LIBVIRT_TIMES = 1.5, 4
_RELOADED = ("busctl", "emit", "/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1", "Reloaded")


def main() -> int:
    """Watches until it is told to end."""
    signal.signal(signal.SIGALRM, entry.expired)
    watch = _Watch()
    with _changes() as change:
        while True:
            watch.look()
            _wait(change, watch.patience)


def _changes() -> socket.socket:
    change = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    change.bind((0, 0))
    change.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    change.setblocking(False)
    return change


def _wait(change: socket.socket, seconds: float) -> None:
    """Until something has changed and all is quiet again, or it is time to look anyway."""
    if not select.select([change], [], [], seconds)[0]:
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
        self._noticed, self._asked, self._times = 0.0, 0.0, 0
        self.patience = _LOOK_SECONDS

    def look(self) -> None:
        """Looks for what is missing, and has it put back. Never fails: the next change is the next try."""
        try:
            missing = lost(State()) and _lost_for_good(State())
            if missing:
                log.complain(f"missing in the kernel, being put back: {', '.join(missing)}")
                _close_bridges(State())
                repair.repair(_recorded("qemu"), "after a change of the host's rules")
            self._see_to_libvirt()
        except (GuestnetError, OSError) as error:
            log.complain(f"what is missing in the kernel is not put back yet: {error}")

    def _see_to_libvirt(self) -> None:
        lost, some_left = _libvirt_lost()
        if not lost:
            self._noticed, self._times, self.patience = 0.0, 0, _LOOK_SECONDS
            return
        now = time.monotonic()
        self._noticed = self._noticed or now
        # Less and less often: it may be at it, or be a daemon that does not hear us.
        self.patience = min(_LIBVIRT_SECONDS * 2 ** max(0, self._times - 1), _LOOK_SECONDS)
        stopping = some_left and now - self._noticed < _LIBVIRT_SECONDS  # perhaps just one network
        if not stopping and (not self._times or now - self._asked >= self.patience):
            self._ask_libvirt(now)

    def _ask_libvirt(self, now: float) -> None:
        self._asked, self._times = now, self._times + 1
        with suppress(GuestnetError):
            program.run(list(_RELOADED), "", "systemd")
        if self._times == _LIBVIRT_TIMES:
            log.complain("libvirt's own rules were flushed: restart its daemon (systemctl restart libvirtd)")


def _lost_for_good(state: State) -> list[str]:
    """Not what a hook is just about to put there, or has taken away with its guest."""
    with state.lock():
        return lost(state)


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


def _libvirt_lost() -> tuple[bool, bool]:
    """Whether a network of libvirt's that has rules of its own lacks them in the kernel; whether another has them."""
    bridges = {bridge for name in _recorded("network") if (bridge := _ruled_bridge(name))}
    if not bridges:
        return False, False
    if _LIBVIRT_TABLE in tables():
        rules = "\n".join(listed("table", *_LIBVIRT_TABLE.split()))
    else:
        rules = program.run(["iptables", "-w", "5", "-S"], "", "iptables").stdout
    there = bridges.intersection(rules.replace('"', " ").split())
    return there != bridges, bool(there)


def _ruled_bridge(network_name: str) -> str:
    """The bridge of a network, if libvirt has rules for it."""
    with open(f"{_LIBVIRT}/network/{network_name}.xml", "rb") as file:
        network = xmlread.parse(file.read(xmlread.MAX_BYTES + 1)).one("network")
    bridge, forward = (network.one("bridge"), network.one("forward")) if network else (None, None)
    ruled = forward is None or (forward.get("mode") or "nat") in ("nat", "route")
    return bridge.get("name") if bridge and ruled else ""

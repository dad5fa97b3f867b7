"""Puts back what somebody else takes out of the kernel: `nft flush ruleset`, a firewall's or Docker's restart, a
network that is stopped and started under its guests, `ip route del`.

A service for hosts on which that happens; ports are safe without it from start to stop as long as nobody does. Every
change that can take something is told over netlink (`datapath.netlink.events`). Then one look says whether something of
ours is missing (`missing_state`), or a tap is out of its bridge (`bridge_members`). Where it is the table of ports,
every running guest is repaired as after a restart of libvirt's daemon; where it is something of single ports, such as a
chain that was deleted, emptied or made to accept, their guests alone are, and the others' counters go on. What killed
processes owe is finished (`unfinished`), as a new device may be the tap of a NIC whose plug helper is gone. When
libvirt writes down another lease, forwards to what guests have by DHCP follow it. `libvirt_rules` has libvirt make its
own rules anew.
"""

from __future__ import annotations

import select
import signal
import socket
import time

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink.events import Changes
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.enforce import bridge_guard, bridge_members, forwards, lease_forwards
from libvirt_guestnet.hook.helpers import unfinished
from libvirt_guestnet.hook.processes import deadline, notes
from libvirt_guestnet.hook.services import libvirt_rules
from libvirt_guestnet.hook.services.missing_state import NOTHING, Lost, lost
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortForwards

# One command of a firewall is many changes.
_QUIET_SECONDS, _MOST_SECONDS = 0.1, 1.0
# iptables-legacy tells nobody what it does; and what could not be repaired is tried again.
_LOOK_SECONDS = 30.0
_PLUG_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 900.0


def main() -> int:
    """Watches until it is told to end."""
    signal.signal(signal.SIGALRM, deadline.expired)
    watch, changes, files = _Watch(), Changes(), lease_forwards.Files()
    while True:
        files.look()
        watch.look()
        _wait(changes, files, watch.patience)


def _wait(changes: Changes, files: lease_forwards.Files, seconds: float) -> None:
    """Until something has changed and all is quiet again, or it is time to look anyway."""
    end = time.monotonic() + seconds
    while not _heard(changes, files, end - time.monotonic()):
        if time.monotonic() >= end:
            return
    end = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < end and _heard(changes, files, _QUIET_SECONDS):
        pass


def _heard(changes: Changes, files: lease_forwards.Files, seconds: float) -> bool:
    """Whether something that matters came within that time."""
    every: list[socket.socket | lease_forwards.Files] = [*changes.sockets, files]
    ready = select.select(every, [], [], max(0.0, seconds))[0]
    if files in ready:
        files.drain()
    heard = [changes.matters(each) for each in changes.sockets if each in ready]  # each is emptied
    return files in ready or any(heard)


class _Watch:
    def __init__(self) -> None:
        self._looks = log.Looks()
        self._libvirts = libvirt_rules.Libvirts(self._looks)
        self.patience = _LOOK_SECONDS
        self._missing, self._tried, self._tries = NOTHING, 0.0, 0
        self._strays = bridge_members.Strays(self._looks)
        self._following: list[PortForwards] = []
        self._followed = 0.0

    def look(self) -> None:
        """Looks for what is missing, and has it put back. Never fails: the next change is the next try."""
        try:
            missing = self._all_missing(UnlockedState())
            if any(missing) and self._is_worth_trying(missing):
                _put_back(missing, tell=self._tries == 1)
            self._missing = missing
            self._libvirts.see_to()
            self.patience = self._libvirts.patience or _LOOK_SECONDS
            self._see_to_owed(UnlockedState())
            self._see_to_leases(UnlockedState())
            if any(missing):
                self.patience = min(self.patience, max(_QUIET_SECONDS, self._pause_left()))
            if self._strays.waiting:
                self.patience = min(self.patience, bridge_members.GRACE_SECONDS)
        except (GuestnetError, OSError) as error:
            self._looks.complain(f"what is missing in the kernel is not put back yet: {error}")
        self._looks.end()

    def _all_missing(self, state: UnlockedState) -> Lost:
        missing = _lost_for_good(state) if any(lost(state)) else NOTHING
        strays = self._strays.lost(libvirt_rules.recorded("qemu"), state)
        return missing._replace(ports={**missing.ports, **strays})

    def _is_worth_trying(self, missing: Lost) -> bool:
        """Not what could not be put back, at every change: our own try is one. But soon again, as a firewall that is
        restarting takes calls only later, and then ever more seldom."""
        if missing != self._missing:
            self._tries = 0
        if self._pause_left() > 0:
            return False
        self._tries, self._tried = self._tries + 1, time.monotonic()
        return True

    def _pause_left(self) -> float:
        """Seconds until the next try of the same."""
        pause = min(_FIRST_PAUSE * 2 ** (self._tries - 1), _LONGEST_PAUSE) if self._tries else 0.0
        return self._tried + pause - time.monotonic()

    def _see_to_owed(self, state: UnlockedState) -> None:
        if unfinished.is_left(state):
            unfinished.finish(state)
        _settle_bridges(state)
        if any(state.plugging_age(mark.portid) < _LOOK_SECONDS for mark in state.pluggings()):
            self.patience = min(self.patience, _PLUG_SECONDS)

    def _see_to_leases(self, state: UnlockedState) -> None:
        """What cannot be arranged is not tried at every change: our own try is one."""
        following, now = forwards.following(state), time.monotonic()
        if following and (following != self._following or now - self._followed >= _LOOK_SECONDS):
            self._following, self._followed = following, now
            forwards.follow(state)


def _put_back(missing: Lost, *, tell: bool) -> None:
    what = [*missing.of_all, *missing.others, *missing.ports]
    if tell:
        log.complain(f"missing in the kernel, being put back: {', '.join(what)}")
    _close_bridges(UnlockedState())
    guests = libvirt_rules.recorded("qemu") if missing.of_all else sorted(set(missing.ports.values()))
    repair.repair(guests, "after a change of the host's rules")


def _lost_for_good(state: UnlockedState) -> Lost:
    """Not what a hook is just about to put there, or has taken away with its guest."""
    with state.lock() as locked:
        return lost(locked)


def _settle_bridges(state: UnlockedState) -> None:
    """What a killed call of a network's left undone."""
    bridges = state.bridges()
    if bridges is not None and not bridges.settled:
        with state.lock() as locked:
            if not notes.is_at_work(locked, notes.SYNCING):
                bridge_guard.settle_pending(locked)


def _close_bridges(state: UnlockedState) -> None:
    """Not while somebody is still putting guests under guard, who closes them afterwards."""
    with state.lock() as locked:
        if bridge_guard.closed(locked) and not notes.is_at_work(locked, notes.SYNCING):
            bridge_guard.changing(locked)
            bridge_guard.settle(locked)

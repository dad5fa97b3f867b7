"""The service that puts back what somebody else removes from the kernel: by `nft flush ruleset`, a firewall's or
Docker's restart, `ip route del`, or by stopping and starting a network under its guests.

It is for hosts on which that happens; if nobody does such things, ports are safe without
it, but for NICs of type bridge that are plugged in. Netlink notifies of every
change that can remove something (`datapath.netlink.events`). Then the service looks whether something of ours is
missing (`missing_state`), a tap is out of its bridge (`bridge_members`), or a NIC came without a hook (`newcomers`). If
the table of ports is missing, every running guest is repaired as after a restart of libvirt's daemon. If single ports
lack something, such as a chain that was deleted, emptied or made to accept, only their guests are repaired, and the
others' counters go on. The service also finishes the work of killed processes (`unfinished`), as a new device may be
the tap of a NIC whose plug helper is gone. When libvirt writes a new lease, forwards to leased addresses follow it. And
`libvirt_rules` makes libvirt put its own rules back.
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
from libvirt_guestnet.hook.services import libvirt_rules, newcomers
from libvirt_guestnet.hook.services.missing_state import NOTHING, Lost, lost
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortForwards

# A firewall's command is many changes: how long it must be quiet before the service looks, and when it looks anyway.
_QUIET_SECONDS, _MOST_SECONDS = 0.1, 1.0
# It looks at least so often: iptables-legacy's changes are not notified, and what could not be repaired is tried again.
_LOOK_SECONDS = 30.0
_PLUG_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 900.0


def main() -> int:
    """Runs until it is stopped."""
    signal.signal(signal.SIGALRM, deadline.expired)
    watch, changes, files = _Watch(), Changes(), lease_forwards.Files()
    while True:
        files.look()
        watch.look()
        _wait(changes, files, watch.patience)


def _wait(changes: Changes, files: lease_forwards.Files, seconds: float) -> None:
    """Waits until something has changed and it is quiet again, or until it is time to look anyway."""
    end = time.monotonic() + seconds
    while not _heard(changes, files, end - time.monotonic()):
        if time.monotonic() >= end:
            return
    end = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < end and _heard(changes, files, _QUIET_SECONDS):
        pass


def _heard(changes: Changes, files: lease_forwards.Files, seconds: float) -> bool:
    """Whether there was a change that matters within that time."""
    every: list[socket.socket | lease_forwards.Files] = [*changes.sockets, files]
    ready = select.select(every, [], [], max(0.0, seconds))[0]
    if files in ready:
        files.drain()
    heard = [changes.matters(each) for each in changes.sockets if each in ready]  # a list, so that each is emptied
    return files in ready or any(heard)


class _Watch:
    def __init__(self) -> None:
        self._looks = log.Looks()
        self._libvirts = libvirt_rules.Libvirts(self._looks)
        self.patience = _LOOK_SECONDS
        self._missing, self._tried, self._tries = NOTHING, 0.0, 0
        self._strays = bridge_members.Strays(self._looks)
        self._newcomers = newcomers.Newcomers(self._looks)
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
            if self._newcomers.waiting:
                self.patience = min(self.patience, newcomers.PATIENCE_SECONDS)
        except (GuestnetError, OSError) as error:
            self._looks.complain(f"what is missing in the kernel is not put back yet: {error}")
        self._looks.end()

    def _all_missing(self, state: UnlockedState) -> Lost:
        missing = _lost_for_good(state) if any(lost(state)) else NOTHING
        names = libvirt_rules.recorded("qemu")
        found = {**self._strays.lost(names, state), **self._newcomers.lost(names, state)}
        return missing._replace(ports={**missing.ports, **found})

    def _is_worth_trying(self, missing: Lost) -> bool:
        """Whether to try now. What could not be put back is not tried at every change, since our own try makes some. It
        is tried again soon, as a restarting firewall answers only later, and then less and less often."""
        if missing != self._missing:
            self._tries = 0
        if self._pause_left() > 0:
            return False
        self._tries, self._tried = self._tries + 1, time.monotonic()
        return True

    def _pause_left(self) -> float:
        """The seconds until the same is tried again."""
        pause = min(_FIRST_PAUSE * 2 ** (self._tries - 1), _LONGEST_PAUSE) if self._tries else 0.0
        return self._tried + pause - time.monotonic()

    def _see_to_owed(self, state: UnlockedState) -> None:
        if unfinished.is_left(state):
            unfinished.finish(state)
        state.finish_map()
        _settle_bridges(state)
        if any(state.plugging_age(mark.portid) < _LOOK_SECONDS for mark in state.pluggings()):
            self.patience = min(self.patience, _PLUG_SECONDS)

    def _see_to_leases(self, state: UnlockedState) -> None:
        """Makes forwards follow leases. What failed is not tried at every change, since our own try makes some."""
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
    """What is missing under the state's lock: not what a hook is just about to make, or has removed with its guest."""
    with state.lock() as locked:
        return lost(locked)


def _settle_bridges(state: UnlockedState) -> None:
    """Finishes what a killed call for a network left undone."""
    bridges = state.bridges()
    if bridges is not None and not bridges.settled:
        with state.lock() as locked:
            if not notes.is_at_work(locked, notes.SYNCING):
                bridge_guard.settle_pending(locked)


def _close_bridges(state: UnlockedState) -> None:
    """Closes bridges, unless a `guestnet hooks sync` still guards guests: that closes them afterwards."""
    with state.lock() as locked:
        if bridge_guard.closed(locked) and not notes.is_at_work(locked, notes.SYNCING):
            bridge_guard.changing(locked)
            bridge_guard.settle(locked)

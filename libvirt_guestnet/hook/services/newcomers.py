"""NICs of type bridge that are plugged into running guests: libvirt calls no hook for them.

So the service guards one as soon as libvirt's record of its domain has it, if its domain's metadata, its network or
this host's default says so.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import bridge_guard, port_guard
from libvirt_guestnet.hook.read import hostwide, libvirt_records
from libvirt_guestnet.state.folder import State

# libvirt writes its record after the tap has joined the bridge: how soon to look again, and for how long.
PATIENCE_SECONDS, _LONGEST_SECONDS = 0.5, 10.0


class _Read(NamedTuple):
    """What was read of a domain: `by` what it follows from, all its `taps`, and those `wanted` under guard."""

    by: object
    taps: frozenset[str]
    wanted: tuple[str, ...]


class Newcomers:
    """Looks for such NICs again and again, and reads only those of libvirt's records that have changed."""

    def __init__(self, looks: log.Looks) -> None:
        self._looks = looks
        self._read_before: dict[str, _Read] = {}
        self._since: dict[int, float] = {}
        self.waiting = False  # whether a tap has joined a bridge and is in no record yet

    def lost(self, names: list[str], state: State) -> dict[str, str]:
        """The taps of these running domains that nobody was called for, each with its domain. Never fails: a record
        that cannot be read is logged."""
        try:
            said = hostwide.read(), tuple(state.networks()), state.bridges()
        except GuestnetError as error:
            self._looks.complain(f"new NICs of type bridge are not guarded: {error}")
            return {}
        self._read_before = {name: read for name in names if (read := self._read(name, said, state))}
        self._wait({tap for read in self._read_before.values() for tap in read.taps} | state.tapnames())
        found = ((tap, name) for name, read in self._read_before.items() for tap in read.wanted)
        return {tap: name for tap, name in found if _is_bare(tap, state)}

    def _read(self, name: str, said: object, state: State) -> _Read | None:
        before, by = self._read_before.get(name), (libvirt_records.version(name), said)
        if before and before.by == by:
            return before
        try:
            record = libvirt_records.record(name)
            domain = bridge_guard.joined(record.domain, state) if record else None
            if record is None or domain is None:
                return None
            others = [nic for nic in domain.nics if nic.type != "bridge" or nic.portid]
            planned = port_guard.planned(domain.without(others), state)
            return _Read((record.version, said), frozenset(domain.taps), tuple(each.tap for each in planned))
        except GuestnetError as error:
            self._looks.complain(f"domain {name}: whether it has new NICs that are to be guarded is not known: {error}")
            return _Read(by, before.taps if before else frozenset(), ())

    def _wait(self, known: set[str]) -> None:
        now = time.monotonic()
        new = {links.index_of(name) for name in links.names() - known if _is_tap(name) and links.master_of(name)}
        self._since = {index: self._since.get(index, now) for index in new}
        self.waiting = any(now - since < _LONGEST_SECONDS for since in self._since.values())


def _is_bare(tap: str, state: State) -> bool:
    index, receipt = links.index_of(tap), state.sound_port(tap)
    return bool(index) and (receipt is None or receipt.ifindex != index)


def _is_tap(name: str) -> bool:
    return os.path.exists(f"/sys/class/net/{name}/tun_flags")

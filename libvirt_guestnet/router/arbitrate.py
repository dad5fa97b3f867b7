"""The process that decides which of a pair of routers serves: `python3 -IS launch.py ROUTER`.

A hook leaves it behind when a router of the pair starts (`processes.arbiters`). It has the lock of a note as long as it
runs, so that there is one for each pair, and ends when neither router runs any more. Decision 105 says how it decides.
"""

from __future__ import annotations

import time
from contextlib import suppress

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import arbiters, detached, notes
from libvirt_guestnet.router import disks, folder, pairing
from libvirt_guestnet.router.arbiter import LOOK_SECONDS, Arbiter, PairHost, PairMember
from libvirt_guestnet.router.arbitration import Role
from libvirt_guestnet.router.client import CHANNEL, RouterClient
from libvirt_guestnet.router.pairing import Member
from libvirt_guestnet.router.pings import Pings
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.xmlread import Node, parse

_ROLE_SECONDS, _TAKE_OVER_SECONDS = 1.0, 10.0
_RESTART_SECONDS, _READ_SECONDS = 120, 5.0
_IDLE_SECONDS = 20.0
"""That neither router runs before this process ends: both may just be starting."""
_PACKAGE = "libvirt-clients"


def main(router: str) -> int:
    """Looks after the pair of a router until neither runs; nothing for a router that is alone, or whose pair somebody
    looks after already."""
    pair = pairing.pair_of(router)
    if pair is None:
        return 0
    lock = arbiters.taken(UnlockedState(), pair[0].router)
    if lock is None:
        return 0
    host = VirshHost(pair)
    members = [PairMember(each.router, each.address) for each in pair]
    with Pings(each.address for each in pair) as pings:
        arbiter = Arbiter(members[0], members[1], host, pings, log.complain)
        while host.is_running():
            arbiter.look()
            time.sleep(LOOK_SECONDS)
    notes.forget(lock)
    return 0


class VirshHost(PairHost):
    """This host, by virsh and its own devices."""

    def __init__(self, pair: tuple[Member, Member]) -> None:
        self._members = {each.router: each for each in pair}
        self._seen = time.monotonic()
        self._known: dict[str, tuple[float, list[str]]] = {}

    def is_running(self) -> bool:
        """Whether one of the two runs, or did a moment ago."""
        if any(links.index_of(tap) for router in self._members for tap in self._last_taps(router)):
            self._seen = time.monotonic()
        return time.monotonic() - self._seen < _IDLE_SECONDS

    def run(self, router: str) -> str:
        return " ".join(str(index) for tap in self._last_taps(router) if (index := links.index_of(tap)))

    def role(self, router: str) -> Role:
        try:
            with self._client(router, _ROLE_SECONDS) as client:
                return Role.WAITS if client.state().waits else Role.SERVES
        except GuestnetError:
            return Role.UNKNOWN

    def linked(self, router: str) -> bool:
        taps = self._last_taps(router)
        return bool(taps) and all(links.is_up(tap) and links.master_of(tap) for tap in taps)

    def fence(self, router: str) -> None:
        for tap in self._taps(router):
            with suppress(OSError):  # it is gone
                links.set_down(tap)
            if links.is_up(tap):
                raise GuestnetError(f"the link {tap} of router {router} cannot be taken down")

    def activate(self, router: str, previous: str) -> None:
        leases = disks.read(folder.disk(previous, disks.LEASES)) or b""
        with self._client(router, _TAKE_OVER_SECONDS) as client:
            try:
                for tap in self._taps(router):
                    links.set_up(tap)
            except OSError as error:
                raise GuestnetError(f"the links of router {router} cannot be brought up: {error.strerror}") from error
            # What it wrote is a guest's word: what is no ASCII would be longer as text, and too long for a request.
            client.activate(leases.decode("ascii", "ignore"))

    def restart(self, router: str, run: str) -> None:
        """Of one that has ended, whoever ended it has it started, or not: `processes.revive` if it was killed."""
        if not run or self.run(router) != run:
            return
        number = _virsh("domid", router).strip()
        if self.run(router) == run:  # else the number may be that of a run which has begun meanwhile
            detached.leave(lambda: _restart(router, number), _RESTART_SECONDS, f"start router {router} again")

    def _client(self, router: str, seconds: float) -> RouterClient:
        for channel in self._xml(router).all("devices/channel"):
            target, source = channel.one("target"), channel.one("source")
            if target and source and target.get("name") == CHANNEL:
                return RouterClient.connect(source.get("path"), router, seconds)
        raise GuestnetError(f"router {router} has no channel")

    def _xml(self, router: str) -> Node:
        return parse(_virsh("dumpxml", router).encode())

    def _last_taps(self, router: str) -> list[str]:
        """The same, read anew now and then only: a host has many receipts."""
        when, taps = self._known.get(router, (0.0, []))
        if time.monotonic() - when < _READ_SECONDS and taps and all(map(links.index_of, taps)):
            return taps
        return self._taps(router)

    def _taps(self, router: str) -> list[str]:
        """Those of its NICs that only the router that serves may use, by our own receipts: the domain's XML may say
        anything."""
        macs = self._members[router].macs
        taps = [port.tap for port in UnlockedState().ports() if port.domain == router and port.mac in macs]
        self._known[router] = time.monotonic(), taps
        return taps


def _restart(router: str, number: str) -> None:
    """Ends the run of that number, if it goes on: not one that somebody has begun since."""
    try:
        _virsh("destroy", number)
        _virsh("start", router)
    except GuestnetError as error:
        log.complain(f"router {router!r} is not started again: {error}")


def _virsh(*words: str) -> str:
    return program.said(["virsh", "-q", "-c", "qemu:///system", *words], _PACKAGE)

"""Guests that migrate to this host: `started` is called before their memory is here, and no call says when they run.

QEMU announces every NIC by a frame from its tap as soon as it runs the guest here. A helper waits for that; until then
the guest runs on the other host, and its addresses belong there.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import select
import time
from collections.abc import Callable

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.processes import detached, notes
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState

LONGEST_SECONDS = 24 * 3600
_ALL_PROTOCOLS, _OUTGOING = 0x0003, 4


def is_incoming(domain: Domain) -> bool:
    """Whether libvirt's own record says that the domain is paused for its migration to this host. The record says so of
    a guest that was restored paused, too, but then without a job `migration in`."""
    status = libvirt_records.status(domain.name)
    if status is None or (status.get("state"), status.get("reason")) != ("paused", "migration"):
        return False
    return any(job.get("async") == "migration in" for job in status.all("job"))


def leave_helper(domain: Domain, taps: list[str], connect: Callable[[], None], state: UnlockedState) -> None:
    """Leaves a process behind that calls `connect` once the guest runs here; if the migration fails, it never does.
    Does nothing if one waits already. Raises OSError or GuestnetError when it cannot be made."""
    turn = _turn(domain, state)
    if turn is None:
        return
    try:
        _leave(domain, taps, connect, turn)
    finally:
        turn.hand_over()


def _turn(domain: Domain, state: UnlockedState) -> Promise | None:
    """The note that this process waits for the domain, locked; None if another process does already."""
    name = domain.name
    with state.lock() as locked:
        path = locked.incoming_path(name)
        if locked.incoming(name) and not notes.is_broken(path):
            return None
        locked.put_incoming(name, domain.uuid, waiting=True)
        return Promise(path, locked)


def _leave(domain: Domain, taps: list[str], connect: Callable[[], None], turn: Promise) -> None:
    ears = [_ear(tap) for tap in taps]  # opened now, so that no frame is missed while the helper is made
    why = "wait until the guest has migrated to here"
    try:
        detached.leave(lambda: _wait(domain, taps, ears, connect), LONGEST_SECONDS, why, turn)
    finally:
        for ear in ears:
            ear.close()


def _ear(tap: str) -> _socket.socket:
    ear = _socket.socket(
        _socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, _ALL_PROTOCOLS << 8
    )
    ear.bind((tap, _ALL_PROTOCOLS))
    return ear


def _wait(domain: Domain, taps: list[str], ears: list[_socket.socket], connect: Callable[[], None]) -> None:
    indexes = [links.index_of(tap) for tap in taps]
    poll = select.poll()
    for ear in ears:
        poll.register(ear, select.POLLIN)
    while [links.index_of(tap) for tap in taps] == indexes:
        poll.poll(1000)
        if any(_heard(ear) for ear in ears) or _runs(domain):
            connect()
            return


def _runs(domain: Domain) -> bool:
    status = libvirt_records.status(domain.name)
    return status is not None and status.get("state") == "running"


def _heard(ear: _socket.socket) -> bool:
    """Whether a frame came from the guest; frames that the host itself sends to the tap do not count."""
    try:
        while True:
            _, (_, _, kind, *_) = ear.recvfrom(64)
            if kind != _OUTGOING:
                return True
    except OSError:
        return False


def repeat(announce: Callable[[], None], tap: str) -> None:
    """Announces again a little later: a switch was still learning, or a host asked the old one meanwhile."""
    index = links.index_of(tap)
    for seconds in (1, 2):
        time.sleep(seconds)
        if not index or links.index_of(tap) != index:
            return
        announce()

"""Starting a virtual router again whose QEMU crashed or was killed: libvirt does not, and its networks are without a
gateway meanwhile. A router that somebody shut down or destroyed stays off (decision 87).

libvirt knows which of these it was, but no hook may ask it, and 9.0 does not tell `release`. So a process is left
behind that asks virsh, once libvirt is done with the domain.
"""

from __future__ import annotations

import time

from libvirt_guestnet import log
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import detached, notes
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.xmlread import Node

_SECONDS = 120
# A router that crashes at each start does not keep the host busy with that alone.
_PAUSE = 1.0
_PACKAGE = "libvirt-clients"


def see_to(xml: Node, state: UnlockedState) -> None:
    """Leaves a process behind that starts a router again, if it has crashed. Never fails: errors are logged, as the
    domain is gone in any case."""
    name, uuid = xml.text_of("name"), xml.text_of("uuid")
    try:
        with state.lock() as locked:
            promise = Promise(notes.path(locked, notes.REVIVING, uuid), locked)
        try:
            detached.leave(lambda: _revive(uuid, promise), _SECONDS, f"start router {name} again", promise)
        finally:
            promise.hand_over()
    except (GuestnetError, OSError) as error:
        log.complain(f"router {name!r}, if it crashed, does not come back by itself: {error}")


def _revive(uuid: str, promise: Promise) -> None:
    time.sleep(_PAUSE)
    revive(uuid)
    promise.kept()


def revive(uuid: str) -> None:
    """Starts the domain with this UUID, if it crashed. Never fails: errors are logged."""
    try:
        if "(crashed)" in _virsh("domstate", "--reason", uuid):
            log.complain(f"router {_virsh('domname', uuid).strip()!r} crashed, or was killed: it is started again")
            _virsh("start", uuid)
    except Exception as error:  # whatever the bug: nobody else hears of it
        log.complain(f"a router that may have crashed is not started again: {error}")


def _virsh(*words: str) -> str:
    return program.said(["virsh", "-q", "-c", "qemu:///system", *words], _PACKAGE)

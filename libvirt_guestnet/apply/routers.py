"""What a topology's virtual routers are to do, and what they do now."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import DomainState, RouterSeen, Snapshot, Wanted
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.router import folder
from libvirt_guestnet.router.client import RouterClient
from libvirt_guestnet.router.config import router_config
from libvirt_guestnet.router.document import document

GLANCE_SECONDS, PATIENCE_SECONDS = 3.0, 30.0
"""How long `plan` waits for a router to answer, and `apply`, which would leave it without what it should do; all of
them together."""


def document_of(topology: Topology, guest: Guest) -> bytes | None:
    """What a virtual router is told; None for any other guest. Raises GuestnetError."""
    if guest.virtual_router is None:
        return None
    return document(router_config(topology, guest)).encoded()


def seen(wanted: Wanted, snapshot: Snapshot, seconds: float) -> dict[str, RouterSeen]:
    """What each wanted router does. One that does not answer in time holds up nobody. Raises GuestnetError."""
    if os.geteuid() != 0:  # only root can look; who plans as somebody else learns of the rest
        found = {guest.name: guest.document for guest in wanted.guests if guest.document is not None}
        return {name: RouterSeen(document, silent="only root can ask it") for name, document in found.items()}
    routers = [guest.name for guest in wanted.guests if guest.document is not None]
    states = [snapshot.domain.get(name) for name in routers]
    if not routers:
        return {}
    with ThreadPoolExecutor(len(routers)) as pool:
        return dict(zip(routers, pool.map(_seen, routers, states, repeat(seconds)), strict=True))


def left(snapshot: Snapshot) -> dict[str, str]:
    """The routers that have disks and no domain, each with its topology. Only root can look. Raises GuestnetError."""
    if os.geteuid() != 0:
        return {}
    return {name: topology for name, topology in folder.found().items() if name not in snapshot.domain}


def _seen(name: str, state: DomainState | None, seconds: float) -> RouterSeen:
    on_disk = RouterSeen(folder.document(name))
    if state is None or not state.channel:
        return on_disk
    try:
        with RouterClient.connect(state.channel, name, seconds) as client:
            return replace(on_disk, in_force=client.state().document)
    except GuestnetError as error:
        return replace(on_disk, silent=str(error))

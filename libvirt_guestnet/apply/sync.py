"""`guestnet hooks sync`: guards guests that started without the hooks, and removes what no running guest needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lxml.etree import tostring

from libvirt_guestnet.errors import GuestnetError, NotRoutedError
from libvirt_guestnet.hook import live
from libvirt_guestnet.hook.helpers import unfinished
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.libvirtd.connection import Connection, host_snapshot
from libvirt_guestnet.state.locked import UnlockedState


class SyncResult(NamedTuple):
    """What a sync could not do: `failures`; and `unrouted`, guests to which the host cannot route for a reason that
    guestnet cannot remove."""

    failures: list[str]
    unrouted: list[str]


Tell = Callable[[str, int, int], None]


def _quiet(_doing: str, _done: int, _total: int) -> None:
    return None


def sync(connection: Connection, tell: Tell = _quiet) -> SyncResult:
    """Does for everything that runs what the hooks would have done. Goes on past failures and returns them. `tell`
    hears what is done next, and how many of how many steps are over.

    Raises GuestnetError when libvirt does not answer.
    """
    state = UnlockedState()
    with notes.promised(state, notes.SYNCING, str(os.getpid())):
        result = _sync(connection, tell)
    if unfinished.is_left(state):
        unfinished.finish(state)
    return result


def _sync(connection: Connection, tell: Tell) -> SyncResult:
    state = UnlockedState()
    networks_before, owners = {receipt.name for receipt in state.networks()}, set(state.owned())
    snapshot = host_snapshot(connection)
    networks = {n.name: tostring(told) for n in snapshot.networks if (told := n.told) is not None}
    domains = {d.name: tostring(d.live) for d in snapshot.domains if d.live is not None}
    ended = owners - {d.uuid for d in snapshot.domains if d.live is not None}
    unrouted: list[str] = []
    steps: list[tuple[str, Callable[[], None], list[str] | None]] = [
        ("guests that ended", partial(live.forget_ended, ended), None),
        *((f"network {name}", partial(live.adopt_network, xml), None) for name, xml in networks.items()),
        ("bridges", live.review_bridges, None),
        # Bridges are closed once all guests are guarded, so that none is cut off meanwhile.
        *((f"domain {name}", partial(live.guard_domain, xml, settle=False), unrouted) for name, xml in domains.items()),
        ("what nobody needs", partial(live.tidy, set(networks), networks_before), None),
    ]
    failures = []
    for done, (what, step, without_route) in enumerate(steps):
        tell(what, done, len(steps))
        failures.append(_attempt(what, step, without_route))
    return SyncResult([failure for failure in failures if failure], unrouted)


def _attempt(what: str, step: Callable[[], None], unrouted: list[str] | None) -> str:
    try:
        step()
    except NotRoutedError as error:
        if unrouted is None:
            return f"{what}: {error}"
        unrouted.append(str(error))
    except GuestnetError as error:
        return f"{what}: {error}"
    return ""

"""`guestnet hooks sync`: guards guests that started without the hooks, and removes what no running guest needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from lxml.etree import tostring

from libvirt_guestnet.errors import GuestnetError, NotRoutedError
from libvirt_guestnet.hook import live
from libvirt_guestnet.hook.helpers import unfinished
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.libvirtd.connection import Connection, host_snapshot
from libvirt_guestnet.state.locked import UnlockedState

T = TypeVar("T")


class SyncResult(NamedTuple):
    """What a sync could not do: `failures`; and `unrouted`, guests to which the host cannot route for a reason that
    guestnet cannot remove."""

    failures: list[str]
    unrouted: list[str]


def sync(connection: Connection) -> SyncResult:
    """Does for everything that runs what the hooks would have done. Goes on past failures and returns them.

    Raises GuestnetError when libvirt does not answer.
    """
    state = UnlockedState()
    with notes.promised(state, notes.SYNCING, str(os.getpid())):
        result = _sync(connection)
    if unfinished.is_left(state):
        unfinished.finish(state)
    return result


def _sync(connection: Connection) -> SyncResult:
    state = UnlockedState()
    networks_before, owners = {receipt.name for receipt in state.networks()}, set(state.owned())
    snapshot = host_snapshot(connection)
    networks = {n.name: tostring(told) for n in snapshot.networks if (told := n.told) is not None}
    domains = {d.name: tostring(d.live) for d in snapshot.domains if d.live is not None}
    ended = owners - {d.uuid for d in snapshot.domains if d.live is not None}
    unrouted: list[str] = []
    failures = [
        _attempt("guests that ended", live.forget_ended, ended),
        *(_attempt(f"network {name}", live.adopt_network, xml) for name, xml in networks.items()),
        _attempt("bridges", lambda _: live.review_bridges(), None),
        # Bridges are closed once all guests are guarded, so that none is cut off meanwhile.
        *(
            _attempt(f"domain {name}", lambda xml: live.guard_domain(xml, settle=False), xml, unrouted)
            for name, xml in domains.items()
        ),
        _attempt("what nobody needs", lambda active: live.tidy(active, networks_before), set(networks)),
    ]
    return SyncResult([failure for failure in failures if failure], unrouted)


def _attempt(what: str, step: Callable[[T], None], argument: T, unrouted: list[str] | None = None) -> str:
    try:
        step(argument)
    except NotRoutedError as error:
        if unrouted is None:
            return f"{what}: {error}"
        unrouted.append(str(error))
    except GuestnetError as error:
        return f"{what}: {error}"
    return ""

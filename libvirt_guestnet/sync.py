"""`guestnet hooks sync`: guards guests that started without the hooks, and removes what no running guest needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lxml.etree import tostring

from libvirt_guestnet.apply import host_snapshot
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import entry
from libvirt_guestnet.state import State
from libvirt_guestnet.virt import Connection

T = TypeVar("T")


def sync(connection: Connection) -> list[str]:
    """Does for everything that runs what the hooks would have done, past all failures; returns those.

    Raises GuestnetError when libvirt does not answer.
    """
    known = {receipt.name for receipt in State().networks()}
    snapshot = host_snapshot(connection)
    networks = {n.name: tostring(n.live) for n in snapshot.networks if n.live is not None}
    domains = {d.name: tostring(d.live) for d in snapshot.domains if d.live is not None}
    failures = [
        *(_attempt(f"network {name}", entry.adopt_network, xml) for name, xml in networks.items()),
        _attempt("bridges", lambda _: entry.review_bridges(), None),
        # Bridges are closed when all guests are under guard, so that none is cut off meanwhile.
        *(
            _attempt(f"domain {name}", lambda xml: entry.guard_domain(xml, settle=False), xml)
            for name, xml in domains.items()
        ),
        _attempt("what nobody needs", lambda active: entry.tidy(active, known), set(networks)),
    ]
    return [failure for failure in failures if failure]


def _attempt(what: str, step: Callable[[T], None], argument: T) -> str:
    try:
        step(argument)
    except GuestnetError as error:
        return f"{what}: {error}"
    return ""

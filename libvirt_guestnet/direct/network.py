"""`guestnet guard` of a whole network: what it says of the ports that have no policy of their own. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.direct.guard import OBSERVE, OFF, ON
from libvirt_guestnet.direct.report import plain
from libvirt_guestnet.direct.subject import unsaid
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.hostwide import DECLARED
from libvirt_guestnet.importing.places import places
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import shown

_SAID = {ON: "yes", OBSERVE: "observe", OFF: "no"}
_WORDS = {
    "yes": "guarded; what DHCP tells them is theirs",
    "observe": "observed: what would be dropped is counted, and passes",
    "no": "not guarded",
}
_BY_HOST = {"yes": "guarded", "observe": "observed"}


def guard(snapshot: Snapshot, name: str, how: str) -> str:
    """How the network's metadata says it. Raises GuestnetError where the network cannot have any, and where its guests
    would be cut off."""
    found = places(snapshot, DIRECT)
    if ("network", name) in found.refused:
        raise GuestnetError(f"network {shown(name)}: {found.refused['network', name]}")
    served = any(subnet.dhcp for subnet in found.known["network", name].network.subnets)
    if how == ON and not served:
        raise GuestnetError(
            f"network {shown(name)}: this host has no DHCP server on it, so nobody knows its guests' addresses: guard "
            f"them one by one, or say observe"
        )
    return _SAID[how]


def lines(snapshot: Snapshot, name: str, said: str, by_host: str = DECLARED) -> Iterator[str]:
    """What is so from now on, also by this host's default."""
    running = sorted({plain(domain) for domain, _ in snapshot.plugged.get(name, ())})
    now = f"; running there: {', '.join(running)}" if running else ""
    word = _WORDS[said]
    if said == "no" and by_host != DECLARED:
        word = f"{_BY_HOST[unsaid(by_host)]} by this host's default (guard: {by_host} in host.yaml)"
    yield f"network {plain(name)}: ports that say nothing themselves are {word}{now}"

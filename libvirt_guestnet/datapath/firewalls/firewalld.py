"""What firewalld must let pass untranslated, as sources in a zone of libvirt's, over D-Bus. On the hook path.

firewalld refuses packets between its zones, in an nft table that no accept of ours overrules, unless their destination
was translated. libvirt puts its own routed networks into the zone `libvirt-routed` (libvirt 8.10). An address that is a
source of this zone passes in both directions, on whatever device it is. Sources last until firewalld reloads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.firewalls.accepts import Accept, RoutedLink, Wanted
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.nft import tables
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

ZONE = "libvirt-routed"
TABLE = "inet firewalld"
_SERVICE, _PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"


class Firewalld(Firewall):
    """firewalld, with sources of a zone for guests' addresses."""

    tool, tables = "firewalld", (TABLE.partition(" ")[2],)
    by_name_translated = True

    def sources(self, wanted: Sequence[Wanted]) -> list[str]:
        """The addresses that pass untranslated, and whose devices libvirt has in no zone."""
        bare = (w.guest for w in wanted if isinstance(w, RoutedLink) or (isinstance(w, Accept) and not w.published))
        return sorted(set(map(_text, bare)))

    def arrange(self, change: Change) -> list[str]:
        """Adds and removes sources, if firewalld runs."""
        add, remove = set(self.sources(change.wanted)), set(change.gone)
        try:
            if not (add or remove) or TABLE not in tables():
                return []
            present = _zone_sources()
        except GuestnetError as error:
            return [f"firewalld: {error}"] if add else []
        calls = [("addSource", each) for each in sorted(add - present)]
        calls += [("removeSource", each) for each in sorted((remove - add) & present)]
        return [failure for method, source in calls if (failure := _failed(method, source))]

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        """An error of firewalld's counts as nothing missing, as it must not keep the rest from being put back."""
        try:
            return [] if self._knows(wanted) else ["firewalld's sources"]
        except BusError:
            return []

    def knows(self, wanted: Sequence[Wanted]) -> bool:
        try:
            return self._knows(wanted)
        except GuestnetError:
            return False  # such as where there is no such zone: then firewalld refuses the guests' packets

    def _knows(self, wanted: Sequence[Wanted]) -> bool:
        needed = set(self.sources(wanted))
        return not needed or TABLE not in tables() or needed <= _zone_sources()

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        if guests.untranslated:
            return "guestnet hooks sync; it says what firewalld has against them"
        zone = ZONE if guests.routed else "libvirt"
        return f"firewall-cmd --permanent --zone={zone} --add-interface={guests.device} && firewall-cmd --reload"


class BusError(GuestnetError):
    """firewalld, or the bus, refused a call."""


def _text(prefix: IPv4Network | IPv6Network) -> str:
    return str(prefix.network_address) if prefix.num_addresses == 1 else str(prefix)


def _zone_sources() -> set[str]:
    found = set()
    for text in json.loads(_call("getSources", "s", ZONE))["data"][0]:
        with suppress(ValueError):  # others are MAC addresses and ipsets
            found.add(_text(parse.prefix(text)))
    return found


def _failed(method: str, source: str) -> str:
    try:
        _call(method, "ss", ZONE, source)
    except GuestnetError as error:
        return f"firewalld: {error}"
    return ""


def _call(method: str, signature: str, *arguments: str) -> str:
    argv = ["busctl", "--json=short", "--timeout=5", "call", _SERVICE, _PATH, f"{_SERVICE}.zone", method, signature]
    try:
        output = program.run([*argv, *arguments], "", "systemd")
    except GuestnetError as error:
        raise BusError(str(error)) from error
    if output.status != 0:
        raise BusError(f"{method} {' '.join(arguments)}: {output.complaint}")
    return output.stdout

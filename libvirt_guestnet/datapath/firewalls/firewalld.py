"""What firewalld must let pass untranslated, as sources in a zone of libvirt's, over D-Bus. On the hook path.

firewalld refuses what is forwarded between its zones, in an nft table that no accept of ours overrules; only what was
translated it lets pass. The zone `libvirt-routed` (libvirt 8.10) is what libvirt puts its own routed networks into. An
address that is a source of it passes in both directions, wherever it is. Sources last until firewalld reloads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.firewalls.accepts import Accept, Link, Wanted
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.nft import tables
from libvirt_guestnet.errors import GuestnetError

ZONE = "libvirt-routed"
TABLE = "inet firewalld"
_SERVICE, _PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"


def sources(wanted: Iterable[Wanted]) -> list[str]:
    """The addresses and prefixes that pass untranslated, and that no zone of libvirt's speaks for. Pure."""
    bare = (w.guest for w in wanted if isinstance(w, Link) or (isinstance(w, Accept) and not w.published))
    return sorted(set(map(_text, bare)))


def _text(prefix: IPv4Network | IPv6Network) -> str:
    return str(prefix.network_address) if prefix.num_addresses == 1 else str(prefix)


def arrange(wanted: Iterable[str], gone: Iterable[str]) -> list[str]:
    """Has firewalld, where it runs, know these sources and those that are gone no more. Returns what failed."""
    add, remove = set(wanted), set(gone)
    if not (add or remove):
        return []
    try:
        if TABLE not in tables():
            return []
        there = _there()
        calls = [("addSource", each) for each in sorted(add - there)]
        calls += [("removeSource", each) for each in sorted((remove - add) & there)]
    except GuestnetError as error:
        return [f"firewalld: {error}"] if add else []
    return [failure for method, source in calls if (failure := _failed(method, source))]


def lost(wanted: Iterable[str]) -> bool:
    """Whether firewalld runs and does not know all of these. Raises GuestnetError."""
    needed = set(wanted)
    return bool(needed) and TABLE in tables() and not needed <= _there()


def _there() -> set[str]:
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
    output = program.run([*argv, *arguments], "", "systemd")
    if output.status != 0:
        raise GuestnetError(f"{method} {' '.join(arguments)}: {output.complaint}")
    return output.stdout

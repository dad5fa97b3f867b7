"""Which domain, port or network a word on the command line means. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.importing.places import all_nics, of_nic
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import shown

DOMAIN, NETWORK = "domain", "network"


class Named(NamedTuple):
    """A domain, or with `port` (its name, or its MAC address) one NIC of it; or a network."""

    domain: str = ""
    port: str = ""
    network: str = ""


def named(word: str, snapshot: Snapshot, kind: str = "") -> Named:
    """What is meant; `kind` says whether it is a DOMAIN or a NETWORK. Raises GuestnetError where that is not clear, and
    where a topology has it."""
    domains = [] if kind == NETWORK else list(_domains(word, snapshot))
    networks = [Named(network=word)] if kind != DOMAIN and word in snapshot.network else []
    if domains and networks:
        raise GuestnetError(f"{shown(word)} is a domain and a network: say which is meant, with --domain or --network")
    if len(domains) > 1:
        ports = " or ".join(f"port {shown(each.port)} of domain {shown(each.domain)}" for each in domains)
        raise GuestnetError(f"{shown(word)} is {ports}: say DOMAIN.MAC, with the port's MAC address")
    if not (domains or networks):
        raise GuestnetError(unknown(word, snapshot, kind))
    (found,) = domains or networks
    state = snapshot.network[found.network] if found.network else snapshot.domain[found.domain]
    _check_free(state, "network" if found.network else "domain")
    return found


def _domains(word: str, snapshot: Snapshot) -> Iterator[Named]:
    """A domain of that name is always meant before a port of another one."""
    if word in snapshot.domain:
        yield Named(word)
        return
    for place in (place for place, character in enumerate(word) if character == "."):
        if word[:place] in snapshot.domain and word[place + 1 :]:
            yield Named(word[:place], word[place + 1 :])


def unknown(word: str, snapshot: Snapshot, kind: str) -> str:
    """What to say of a name that is nobody's."""
    on_bridges = {place for d in snapshot.domains for nic in all_nics(d) if (place := of_nic(nic))}
    if ("bridge", word) in on_bridges:
        return (
            f"{shown(word)} is a bridge of this host's, and no network of libvirt's: name the domains on it one by one"
        )
    known = snapshot.network if kind == NETWORK else snapshot.domain
    names = ", ".join(map(shown, sorted(known)[:12])) or "none"
    return f"libvirt has no {kind or 'domain or network'} {shown(word)}; its {kind or 'domain'}s: {names}"


def _check_free(state: DomainState | NetworkState, what: str) -> None:
    """Raises GuestnetError where this is for a topology's file to say."""
    name, topology = shown(state.name), state.topology
    if topology not in (None, DIRECT):
        raise GuestnetError(
            f"{what} {name} is in topology {shown(topology)}: change the file of that and apply it, or take all of it "
            f"back with `guestnet destroy --name {shlex.quote(topology)}` first"
        )
    if isinstance(state, DomainState) and state.is_copy and state.mark is not None:
        raise GuestnetError(
            f"domain {name} has the metadata of {shown(state.mark.get('guest'))}, of which it is a copy: take it out "
            f"with `guestnet destroy --name {DIRECT}`, or virsh edit (guestnet:domain)"
        )

"""From what a host has to what the file says: which NICs of which domains, and what is left out, with the reason. Pure.

What is not clear is never guessed: it is left out, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.importing.addresses import OnNetwork, Owners, addresses_of, on_network
from libvirt_guestnet.importing.facts import (
    Addresses,
    Imported,
    ImportedGuest,
    ImportedNetwork,
    ImportedPort,
    LeftOut,
    Request,
    Seen,
)
from libvirt_guestnet.importing.own import declaration
from libvirt_guestnet.importing.places import Known, Place, Places, all_nics, in_topology, of_nic, places, unusable
from libvirt_guestnet.importing.text import why_not_said
from libvirt_guestnet.importing.values import Value
from libvirt_guestnet.libvirtd.nics import interfaces, mac, stands_in
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, NetworkState, Snapshot
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.elements import node_of, port_policies
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import shown
from libvirt_guestnet.topology import address_kinds, kinds

# guarded= of a network's metadata, in a file.
_GUARDED = {"yes": "true", "observe": "observe", "required": "required"}
_NO_NAMES = ("host", "none")
_STANDS_IN = "it is the transient NIC of a net_failover pair, and nobody can guard it"


def survey(seen: Seen, request: Request) -> Imported:
    """What the file says. Raises GuestnetError where a name is nobody's, or the topology's is taken."""
    found = places(seen.snapshot, request.topology)
    _check(request, seen.snapshot, found)
    request = _whole(request, seen.snapshot) if request.own and request.names else request
    return _Survey(seen, request, found).all()


def left_out(snapshot: Snapshot) -> tuple[LeftOut, ...]:
    """What a file of everything that is in no topology yet could not say."""
    request = Request(" ")  # so no topology is called
    found = _Survey(Seen(snapshot), request, places(snapshot, request.topology)).all()
    return tuple(each for each in found.left_out if not each.managed)


def bridges(snapshot: Snapshot, request: Request) -> tuple[str, ...]:
    """The bridges whose leases and neighbours are worth looking at."""
    found = places(snapshot, request.topology)
    wanted = {place for d in snapshot.domains for nic in all_nics(d) if (place := _concerned(d, nic, request))}
    return tuple(sorted({k.network.bridge for place, k in found.known.items() if place in wanted and k.network.bridge}))


def _concerned(domain: DomainState, nic: Element, request: Request) -> Place | None:
    place = of_nic(nic)
    return place if place and request.concerns(domain.name, place[1]) else None


def _whole(request: Request, snapshot: Snapshot) -> Request:
    """A network that is taken over is so with all guests on it."""
    named = (
        place for d in snapshot.domains if d.name in request.names for nic in all_nics(d) if (place := of_nic(nic))
    )
    return replace(request, names=request.names | {name for kind, name in named if kind == "network"})


def _check(request: Request, snapshot: Snapshot, found: Places) -> None:
    states: list[NetworkState | DomainState] = [*snapshot.networks, *snapshot.domains]
    if request.topology != DIRECT and any(state.topology == request.topology for state in states):
        raise GuestnetError(
            f"topology {request.topology!r} is there already, and what a file of that name does not say would be taken "
            f"out of it: give this one another name with --name"
        )
    known = {*(state.name for state in states), *(name for _, name in (*found.known, *found.refused))}
    if unknown := sorted(request.names - known):
        names = ", ".join(map(shown, unknown))
        raise GuestnetError(f"libvirt has no domain or network {names}, and no NIC on a bridge of that name")


@dataclass
class _Survey:
    seen: Seen
    request: Request
    places: Places
    left_out: list[LeftOut] = field(default_factory=list)
    used: dict[Place, Known] = field(default_factory=dict)
    owners: Owners = field(default_factory=Owners)
    here: dict[Place, OnNetwork] = field(default_factory=dict)
    keys: dict[Place, Mapping[str, Value]] = field(default_factory=dict)
    """What the file says of networks that are taken over."""
    port_owners: dict[str, str] = field(default_factory=dict)
    """GUEST.PORT: a name with dots in it can be read in two ways."""

    def all(self) -> Imported:
        self._take_networks()
        domains = sorted(self.seen.snapshot.domains, key=lambda each: each.name)
        holders = Counter(address for each in domains for address in {mac(nic) for nic in all_nics(each)})
        guests = [guest for each in domains if (guest := self._guest(each, holders))]
        networks = sorted((self._network(*each) for each in self.used.items()), key=lambda each: each.name)
        return Imported(self.request, tuple(networks), tuple(guests), tuple(self.left_out))

    def _take_networks(self) -> None:
        for name in self.places.own() if self.request.own else ():
            if self.request.concerns(name):
                self._declare(name)
        for place, why in self.places.refused.items():
            if self.request.concerns(place[1]):
                state = self.seen.snapshot.network.get(place[1])
                managed = place[0] == "network" and state is not None and why == in_topology(state)
                self.left_out.append(LeftOut(_named(place), why, managed))
        for place, known in self.places.known.items():
            if self.request.concerns(place[1]) and place[0] == "network":
                self.used[place] = known

    def _declare(self, name: str) -> None:
        state, place = self.seen.snapshot.network[name], ("network", name)
        direct = "guestnet guard, forward or address set something for it: take it back, or import it without --own"
        keys = direct if state.mark is not None else declaration(state)
        if isinstance(keys, str):
            self.places.refuse(place, keys)
        else:
            self.keys[place] = keys

    def _guest(self, domain: DomainState, holders: Counter[str]) -> ImportedGuest | None:
        wanted = [nic for nic in all_nics(domain) if self._is_wanted(domain, nic)]
        if not wanted:
            return None
        if why := self._why_no_guest(domain):
            self.left_out.append(LeftOut(f"domain {shown(domain.name)}", why, why == in_topology(domain)))
            return None
        own = Counter(mac(nic) for nic in all_nics(domain) if not stands_in(nic))
        ports: list[ImportedPort] = []
        for nic in wanted:
            if why := self._why_no_port(domain, nic, holders, own):
                self.left_out.append(LeftOut(nic_named(domain.name, mac(nic)), why))
            else:
                ports.append(self._port(domain.name, nic, [*ports]))
        return ImportedGuest(domain.name, tuple(ports)) if ports else None

    def _is_wanted(self, domain: DomainState, nic: Element) -> bool:
        place = of_nic(nic)
        return self.request.concerns(domain.name, *(place[1:] if place else ()))

    def _why_no_guest(self, domain: DomainState) -> str:
        if why := unusable(domain.name, kinds.OBJECT_NAME.read):
            return why
        if domain.name in _NO_NAMES:
            return f"in a topology file the word {domain.name} has a meaning of its own"
        if not domain.persistent:
            return "it is transient, and would lose what guestnet says of it: define it (virsh define)"
        if owner := self.port_owners.get(domain.name):
            return f"its name is also that of a port of guest {shown(owner)}"
        return _marked(domain) or self._why_unsaid(domain)

    def _why_unsaid(self, domain: DomainState) -> str:
        said = () if self.request.topology == DIRECT else _said_of(domain)
        unsaid = sorted({word for each in said for word in why_not_said(each)})
        return f"its metadata says {', '.join(unsaid)}, which import does not write" if unsaid else ""

    def _why_no_port(self, domain: DomainState, nic: Element, holders: Counter[str], own: Counter[str]) -> str:
        place = of_nic(nic)
        if stands_in(nic):
            return f"{_STANDS_IN}: {nics.because(nics.of('hostdev'))}"
        if place is None:
            return _in_no_network(nic)
        if why := self.places.refused.get(place):
            return f"{_named(place)} cannot be imported: {why}"
        if (known := self.places.known.get(place)) is None:
            return f"libvirt has no {_named(place)} now"
        if _in_vlan(nic, known):
            return "libvirt puts it into a VLAN of its own, which guestnet would not know of"
        unclear = _why_unclear(mac(nic), holders, own) or _why_half(domain, mac(nic), place)
        return unclear or self._why_no_name(domain.name, known)

    def _why_no_name(self, guest: str, known: Known) -> str:
        owner = self.port_owners.get(f"{guest}.{known.name}", guest)
        if owner != guest:
            return f"'{guest}.{known.name}' also names a port of guest {shown(owner)}"
        taken = f"{guest}.{known.name}" in self.seen.snapshot.domain
        return f"a domain is called {shown(f'{guest}.{known.name}')}, as the port would be" if taken else ""

    def _port(self, guest: str, nic: Element, before: list[ImportedPort]) -> ImportedPort:
        place = of_nic(nic)
        assert place is not None
        known = self.used.setdefault(place, self.places.known[place])
        said = {each.mac: each for each in _said_of(self.seen.snapshot.domain[guest])}
        mine = said.get(mac(nic))
        taken = {each.name or each.network for each in before} | {each.name for each in said.values()}
        name = mine.name if mine and mine.name else _free_name(known.name, taken)
        self.port_owners[f"{guest}.{name}"] = guest
        here = self._here(place, known)
        found = addresses_of(mac(nic), here, self.owners, f"{guest}.{name}", kept=place in self.keys)
        observed = self._why_observed(place, here, mac(nic), found)
        word = _word(here, found) if place in self.keys else ""
        return ImportedPort(known.name, mac(nic), found, name if name != known.name else "", observed, mine, word)

    def _here(self, place: Place, known: Known) -> OnNetwork:
        if place not in self.here:
            self.here[place] = on_network(known, self.seen)
        return self.here[place]

    def _why_observed(self, place: Place, here: OnNetwork, address: str, found: Addresses) -> str:
        if self.request.observe:
            return "" if self._is_whole(place) else "the network has other guests, which this file is not about"
        known = here.serves or here.reserved(address) or found.own or found.pairs
        return "" if known else "nobody knows its addresses yet: see `guestnet suggest`"

    def _is_whole(self, place: Place) -> bool:
        return self.request.concerns(place[1])

    def _network(self, place: Place, known: Known) -> ImportedNetwork:
        if place in self.keys:
            guarded = {"guarded": "observe"} if self.request.observe else {}
            return ImportedNetwork(known.name, _what(known), keys={**self.keys[place], **guarded})
        observed = "observe" if self.request.observe and self._is_whole(place) else ""
        bridge = known.network.bridge
        if place[0] == "bridge":
            return ImportedNetwork(known.name, "a bridge of this host's", bridge, observed)
        mark = self.seen.snapshot.network[place[1]].mark
        said = "" if mark is None else _GUARDED.get(mark.get("guarded", "yes"), "")
        return ImportedNetwork(known.name, _what(known), "", said or observed)


def _word(here: OnNetwork, found: Addresses) -> str:
    """Without any, a port of the file's own network is given one."""
    if found.own:
        return ""
    return "dhcp" if here.known.facts and here.known.facts.dynamic else "none"


def _what(known: Known) -> str:
    mode = "isolated" if known.network.mode is Mode.ISOLATED else str(known.network.mode)
    return f"libvirt's network: {mode}, bridge {shown(known.network.bridge)}"


def _marked(domain: DomainState) -> str:
    """Why a domain that has metadata of ours already is left as it is."""
    if domain.mark is None:
        return ""
    if domain.is_copy:
        return f"it is a copy of guest {shown(domain.mark.get('guest'))}, with that one's metadata"
    try:
        read = reader.read_domain(node_of(domain.mark))
        topology, why = read.topology, "" if read.topology else "it names no topology"
    except GuestnetError as error:
        why = str(error)
    if why:
        return f"its metadata of guestnet's cannot be read ({why}): take guestnet:domain out with virsh edit"
    if topology == DIRECT:
        return ""
    return in_topology(domain)


def _said_of(domain: DomainState) -> list[PortPolicy]:
    """What was set without a file for its ports."""
    return port_policies(domain.mark) if domain.topology == DIRECT and not domain.is_copy else []


def _in_no_network(nic: Element) -> str:
    target = nic.find("target")
    kind = nics.of(nic.get("type", ""), "" if target is None else target.get("dev", ""))
    if kind.guarded == nics.YES:
        return f"a NIC of type {shown(nic.get('type', ''))} is on no network or bridge that could be adopted"
    return nics.because(kind)


def _in_vlan(nic: Element, known: Known) -> bool:
    source = nic.find("source")
    group = source.get("portgroup") if source is not None else None
    return nic.find("vlan") is not None or None in known.vlans or (group is not None and group in known.vlans)


def _why_unclear(address: str, holders: Counter[str], own: Counter[str]) -> str:
    if why := unusable(address, address_kinds.MAC.read):
        return why
    if own[address] > 1:
        return "the domain has two NICs of that MAC address, and does not say of one that it stands in (<teaming>)"
    return "another domain has a NIC of that MAC address, too: give one of them another" if holders[address] > 1 else ""


def _why_half(domain: DomainState, address: str, place: Place) -> str:
    """Of a running domain, a NIC that is only defined, or only plugged in, or elsewhere, is not one thing."""
    if domain.live is None:
        return ""
    defined, live = (interfaces(root).get(address) for root in (domain.config, domain.live))
    if defined is None:
        return "it is plugged into the running domain only, and in no definition: virsh attach-interface --config"
    if live is None:
        return "it is defined, and the running domain does not have it yet"
    same = of_nic(defined) == of_nic(live) == place
    return "" if same else "the running domain has it elsewhere than its definition says"


def nic_named(domain: str, address: str) -> str:
    return f"domain {shown(domain)}, NIC {shown(address)}"


def _named(place: Place) -> str:
    return f"{place[0]} {shown(place[1])}"


def _free_name(network: str, taken: set[str]) -> str:
    """A port is named like its network, a second one with a number; without that where it would be too long."""
    if network not in taken:
        return network
    numbers = range(2, len(taken) + 3)
    names: Iterator[str] = (f"{start}{n}" for start in (f"{network}-", "nic-") for n in numbers)
    return next(each for each in names if each not in taken and not unusable(each, kinds.OBJECT_NAME.read))

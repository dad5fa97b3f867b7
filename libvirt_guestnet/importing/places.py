"""The networks and bridges that can be adopted, and why others cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.nics import mac, source_network
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, NetworkState, Snapshot
from libvirt_guestnet.model.network import External, Mode, Network
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import shown
from libvirt_guestnet.plan import external
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.topology import kinds

Place = tuple[str, str]
"""What a NIC is on: "network" and its name, or "bridge" and the device."""


@dataclass(frozen=True)
class Known:
    """A place that can be adopted, by its name in the file; of a network of libvirt's with what it is."""

    name: str
    network: Network
    facts: NetworkReceipt | None = None
    vlans: frozenset[str | None] = frozenset()
    """Portgroups that put their NICs into VLANs; None: so does the network."""


@dataclass(frozen=True)
class Places:
    """All of them. `refused` says why a place is not among them."""

    known: dict[Place, Known] = field(default_factory=dict)
    refused: dict[Place, str] = field(default_factory=dict)

    def own(self) -> list[str]:
        """The networks of libvirt's among the known ones."""
        return [name for kind, name in self.known if kind == "network"]

    def refuse(self, place: Place, why: str) -> None:
        """Takes a known place out."""
        del self.known[place]
        self.refused[place] = why


def of_nic(nic: Element) -> Place | None:
    """Where a NIC is, if it is on anything that could be adopted."""
    if name := source_network(nic):
        return "network", name
    source = nic.find("source")
    bridge = source.get("bridge") if nic.get("type") == "bridge" and source is not None else None
    return ("bridge", bridge) if bridge else None


def on_bridge(place: Place | None, snapshot: Snapshot) -> Place | None:
    """The same by its bridge, if that is known: a NIC may be there by its network's name or by the bridge's own."""
    state = snapshot.network.get(place[1]) if place and place[0] == "network" else None
    return ("bridge", state.bridge) if state is not None and state.bridge else place


def places(snapshot: Snapshot, topology: str) -> Places:
    """Every network of libvirt's, and every bridge that a domain has a NIC on without one."""
    found = Places()
    for state in sorted(snapshot.networks, key=lambda each: each.name):
        place = ("network", state.name)
        known = _network(state, topology)
        if isinstance(known, str):
            found.refused[place] = known
        else:
            found.known[place] = known
    for bridge in sorted(_bridges(snapshot)):
        if why := _why_no_bridge(bridge, snapshot):
            found.refused["bridge", bridge] = why
        else:
            found.known["bridge", bridge] = _bridge(bridge, {*snapshot.network})
    return found


def _network(state: NetworkState, topology: str) -> Known | str:
    if why := unusable(state.name, kinds.OBJECT_NAME.read):
        return why
    facts = external.read_facts(state, topology)
    if isinstance(facts, str):
        return f"it {facts}"
    if state.topology not in (None, "", DIRECT):
        return in_topology(state)
    if why := external.unfit(state, topology):
        return f"it {why}"
    bare = Network(state.name, Mode.EXTERNAL, "", gateway="host", external=External())
    try:
        return Known(state.name, external.filled(bare, state), facts, _with_vlans(state.current))
    except (GuestnetError, ValueError) as error:
        return f"its XML cannot be read: {error}"


def in_topology(state: NetworkState | DomainState) -> str:
    """Why what belongs to a topology is not taken into another."""
    return f"it is in topology {shown(state.topology)} already"


def _with_vlans(network: Element) -> frozenset[str | None]:
    groups: set[str | None] = {g.get("name") for g in network.iterfind("portgroup") if g.find("vlan") is not None}
    return frozenset(groups | ({None} if network.find("vlan") is not None else set()))


def _bridges(snapshot: Snapshot) -> set[str]:
    nics = (nic for domain in snapshot.domains for nic in all_nics(domain))
    return {place[1] for nic in nics if (place := of_nic(nic)) and place[0] == "bridge"}


def _why_no_bridge(bridge: str, snapshot: Snapshot) -> str:
    if why := unusable(bridge, kinds.IFNAME.read):
        return why
    return "" if bridge in snapshot.links or not snapshot.links else f"this host has no bridge {bridge} now"


def _bridge(bridge: str, taken: set[str]) -> Known:
    """Named like the device, unless libvirt has another network of that name."""
    names = (bridge, *(f"bridge-{bridge}{'-' * n}" for n in range(len(taken) + 1)))
    name = next(each for each in names if each not in taken)
    return Known(name, Network(name, Mode.BRIDGE, bridge, external=External(bridge)))


def all_nics(domain: DomainState) -> Iterator[Element]:
    """Those that are defined, in order, then those that only the running domain has."""
    defined = list(domain.config.iterfind("devices/interface"))
    yield from defined
    known = set(map(mac, defined))
    live = domain.live.iterfind("devices/interface") if domain.live is not None else ()
    yield from (nic for nic in live if mac(nic) not in known)


def unusable(text: str, read: Callable[[str], object]) -> str:
    """Why a topology file cannot say a text; "" if it can."""
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return ""

"""What must change so that a network which is somebody else's has our metadata, and the DHCP reservations and DNS names
that this lists; and how they are taken back. Nothing else of it is looked at. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from copy import deepcopy

from lxml import etree

from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.network import AdoptNetwork, SectionUpdate, UpdateNetwork
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import guardable
from libvirt_guestnet.hook.read import port_receipts, wants
from libvirt_guestnet.hook.read.domain import Domain, NetworkOf
from libvirt_guestnet.hook.read.network_receipts import network_receipt, subnet_of
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    NETWORK_MARK,
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    WantedExternal,
    marked,
    to_text,
)
from libvirt_guestnet.metadata import writer
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import NAMESPACE, NetworkPolicy
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.parse import address, prefix
from libvirt_guestnet.plan.compare import differences, summary
from libvirt_guestnet.plan.network import bridge_with_rules, others_of

_RESERVATION, _DNS = (f"{{{NAMESPACE}}}{tag}" for tag in ("reservation", "dns"))
_NIC = "devices/interface"


def plan_external(wanted: WantedExternal, snapshot: Snapshot, sure: Collection[str]) -> Iterator[Change]:
    """Everything for one external network of the topology, in order: what is listed and is no more wanted goes before
    the list does, and what comes is listed before. `sure`: guests that follow in any
    case, as their metadata is the topology's own, or is taken out before."""
    state = snapshot.network[wanted.name]
    mark = _without_theirs(wanted.mark, state)
    yield from _updates(state, lambda root: _leaving(root, state.mark, mark))
    yield from _adopt(state, mark, snapshot, sure)
    yield from _updates(state, lambda root: _coming(root, mark))


def plan_release(state: NetworkState, snapshot: Snapshot, why: str, sure: Collection[str]) -> Iterator[Change]:
    """All of that is taken back. Where something is set without a file for a guest on it, the hooks go on knowing the
    network for that one's sake."""
    if state.topology not in (None, DIRECT) and any(set_without_file(state, snapshot)):
        known = writer.network_element(NetworkPolicy(DIRECT, state.name, guarded="no", external=True))
        yield from plan_external(WantedExternal(state.name, known), snapshot, sure)
        return
    yield from _updates(state, lambda root: _leaving(root, state.mark, None))
    mark = state.config.find(NETWORK_MARK)
    old = None if mark is None else to_text(mark)
    ports = followers(state, snapshot, None, sure)
    yield AdoptNetwork(
        state.name, why, mark=Replacement(old, None), ports=ports, others=others_of(ports, snapshot, sure)
    )


def _adopt(state: NetworkState, mark: Element, snapshot: Snapshot, sure: Collection[str]) -> Iterator[Change]:
    config, ports = state.config.find(NETWORK_MARK), followers(state, snapshot, mark, sure)
    old = None if config is None else to_text(config)
    new, what = Replacement(old, to_text(mark)), "its metadata"
    if config is not None:
        found = differences(mark, config)
        what = f"its metadata: {summary(found)}" if found else "the hooks do not know it"
        if not found and state.name not in snapshot.overdue:
            return
        new = new if found else Replacement(old, old)
    yield AdoptNetwork(state.name, what, mark=new, ports=ports, others=others_of(ports, snapshot, sure))


def followers(state: NetworkState, snapshot: Snapshot, mark: Element | None, sure: Collection[str]) -> tuple[str, ...]:
    """Running guests on it that what it says is about: with metadata of their own, or all where it guards all; but not
    those of `left_alone`, which would keep all others from following."""
    marks = [each for each in (state.mark, mark) if each is not None]
    everybody = state.name in snapshot.overdue or any(each.get("guarded") != "no" for each in marks)
    users = (user for user in _users(state, snapshot) if everybody or user.current.find(DOMAIN_MARK) is not None)
    return tuple(sorted({user.name for user in users} - left_alone(state, snapshot, mark, sure).keys()))


def left_alone(state: NetworkState, snapshot: Snapshot, mark: Element | None, sure: Collection[str]) -> dict[str, str]:
    """Running guests on it of whose metadata the hooks can make nothing, and why: they stay as they are, guarded or
    not, and their next start is refused. Who is `sure` is none of them."""
    users = [user for user in _users(state, snapshot) if user.current.find(DOMAIN_MARK) is not None]
    receipt = network_receipt(node_of(marked(state.current, mark))) if users else None
    found = ((user.name, _impossible(user.current, {state.name: receipt}.get)) for user in users)
    return {name: why for name, why in found if why and name not in sure}


def _users(state: NetworkState, snapshot: Snapshot) -> Iterator[DomainState]:
    """Running guests on it, or on its bridge by that one's name."""
    for domain in snapshot.domains:
        if domain.live is not None and any(_is_on(nic, state) for nic in domain.live.iterfind(_NIC)):
            yield domain


def _impossible(domain: Element, network_of: NetworkOf) -> str:
    """What the hooks will say of a guest of which they can make nothing."""
    try:
        found, _ = guardable.without_unguardable(Domain(node_of(domain), network_of))
        list(found.policies())
        port_receipts.port_receipts(found)
        wants.check(found)
    except GuestnetError as error:
        return str(error)
    return ""


def set_without_file(state: NetworkState, snapshot: Snapshot) -> Iterator[str]:
    """The domains on it of which guard, forward or address say something, or somebody who writes what these write."""
    for domain in snapshot.domains:
        if domain.topology == DIRECT and not domain.is_copy:
            nics = (nic for root in (domain.config, domain.live) for nic in interfaces(root).values())
            if any(_is_on(nic, state) and mac(nic) in domain.marked_macs for nic in nics):
                yield domain.name


def _is_on(nic: Element, state: NetworkState) -> bool:
    source = nic.find("source")
    bridge = None if source is None else source.get("bridge")
    return source_network(nic) == state.name or (bridge is not None and bridge == state.bridge)


def _without_theirs(mark: Element, state: NetworkState) -> Element:
    """Not listed is what the network's owner has said already, or made of what was listed, and a name where its DNS is
    off."""
    result, before = deepcopy(mark), _listed(state.mark)
    silent = state.config.find("dns[@enable='no']") is not None
    roots = [state.config] if state.live is None else [state.config, state.live]
    for entry in [*result.iterchildren(_RESERVATION, _DNS)]:
        theirs = any(_is_theirs(root, entry, before.get(_key(entry))) for root in roots)
        if theirs or (silent and entry.tag == _DNS):
            result.remove(entry)
    return result


def _is_theirs(root: Element, entry: Element, before: Element | None) -> bool:
    """Whether there is another element than the one that was listed."""
    found = _present(root, entry)
    return found is not None and (before is None or to_text(_plain(found)) != to_text(_element(before)))


def _listed(mark: Element | None) -> dict[tuple[str, str], Element]:
    return {} if mark is None else {_key(entry): entry for entry in mark.iterchildren(_RESERVATION, _DNS)}


def _key(entry: Element) -> tuple[str, str]:
    return str(entry.tag), entry.get("mac", "").lower() or entry.get("ip", "")


def _updates(state: NetworkState, updates: Callable[[Element], Iterator[SectionUpdate]]) -> Iterator[Change]:
    for live, root in ((True, state.live), (False, state.config)):
        for update in updates(root) if root is not None else ():
            bridge = bridge_with_rules(root) if live and root is not None else None
            yield UpdateNetwork(state.name, _describe(update, live), update=update, bridge=bridge, live=live)


def _leaving(root: Element, before: Element | None, after: Element | None) -> Iterator[SectionUpdate]:
    """What is listed no more, or otherwise, and is there as it was listed."""
    new = _listed(after)
    for key, entry in _listed(before).items():
        found = _present(root, entry)
        stays = key in new and dict(new[key].items()) == dict(entry.items())
        if found is not None and not stays and to_text(_plain(found)) == to_text(_element(entry)):
            yield SectionUpdate(_section(entry), _parent(root, entry), None, to_text(_element(entry)))


def _coming(root: Element, mark: Element) -> Iterator[SectionUpdate]:
    for entry in _listed(mark).values():
        found = _present(root, entry)
        if found is None or to_text(_plain(found)) != to_text(_element(entry)):
            yield SectionUpdate(_section(entry), _parent(root, entry), to_text(_element(entry)), None)


def _present(root: Element, entry: Element) -> Element | None:
    """The network's own element of that MAC address, or of that address in DNS."""
    attribute = "mac" if entry.tag == _RESERVATION else "ip"
    path = "ip/dhcp/host" if entry.tag == _RESERVATION else "dns/host"
    wanted = entry.get(attribute, "").lower()
    return next((each for each in root.iterfind(path) if each.get(attribute, "").lower() == wanted), None)


def _plain(found: Element) -> Element:
    """An element of libvirt's as we write it."""
    result = etree.Element("host", {str(k): str(v) for k, v in sorted(found.items())})
    for name in found.iterfind("hostname"):
        etree.SubElement(result, "hostname").text = (name.text or "").strip()
    return result


def _element(entry: Element) -> Element:
    """What libvirt is to have for an entry of the list."""
    result = etree.Element("host")
    if entry.tag == _DNS:
        result.set("ip", entry.get("ip", ""))
        etree.SubElement(result, "hostname").text = entry.get("name")
        return result
    for name in ("ip", "mac", "name"):
        if entry.get(name):
            result.set(name, entry.get(name, ""))
    return result


def _section(entry: Element) -> str:
    return "dhcp-host" if entry.tag == _RESERVATION else "dns-host"


def _parent(root: Element, entry: Element) -> int:
    """The number of the <ip> that a reservation is in."""
    if entry.tag == _DNS:
        return -1
    here = address(entry.get("ip", ""))
    subnets = [prefix(subnet_of(node_of(ip))) for ip in root.iterfind("ip")]
    return next((index for index, subnet in enumerate(subnets) if here in subnet), -1)


def _describe(update: SectionUpdate, live: bool) -> str:
    element = etree.fromstring(update.new or update.old or "")
    words = [str(v) for e in element.iter() for v in (*e.values(), (e.text or "").strip()) if v]
    verb = "delete" if update.new is None else "add"
    return f"{verb} {update.section} {' '.join(words)}, {'live' if live else 'defined'}"

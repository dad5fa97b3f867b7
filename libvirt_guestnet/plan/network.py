"""What must change so that libvirt has a network as wanted. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy

from lxml import etree

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.network import (
    DefineNetwork,
    LeftNic,
    NetworkBackup,
    Plugged,
    RemoveNetwork,
    RestartNetwork,
    SectionUpdate,
    SetNetworkAutostart,
    SetNetworkMetadata,
    StartNetwork,
    UpdateNetwork,
)
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network, tap
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    NETWORK_MARK,
    Element,
    NetworkState,
    Snapshot,
    WantedNetwork,
    to_text,
)
from libvirt_guestnet.plan.compare import Difference, differences, element_key, summary
from libvirt_guestnet.plan.rewording import leave_as_it_was
from libvirt_guestnet.xmlgen.element import api_text

# What virNetworkUpdate can change in an active network, as differences name it.
_UPDATABLE = re.compile(r"(ip\[[^]]*\]/dhcp/(host|range)|dns/(host|srv|txt)|portgroup)\[.*", re.S)
_REPLACED = frozenset({"dns-host", "dns-srv", "dns-txt", "dhcp-range"})
# What the hook only makes when the network starts.
_CARRIER = re.compile(rf"metadata/.*\b({'|'.join(sorted(registry.TAGS))})\b")


def plan_network(wanted: WantedNetwork, snapshot: Snapshot, sure: Collection[str] = ()) -> Iterator[Change]:
    """All changes for one network of the topology, in order. `sure` as for `others_of`."""
    state = snapshot.network.get(wanted.name)
    if state is None:
        yield DefineNetwork(wanted.name, _kind(wanted.element), xml=to_text(wanted.element))
    else:
        yield from _change_network(fitted(wanted, state), state, snapshot, sure)
    if wanted.autostart != (state is not None and state.autostart):
        yield SetNetworkAutostart(wanted.name, "on" if wanted.autostart else "off", on=wanted.autostart)
    if state is None or state.live is None:
        taps = _taps(wanted.name, snapshot, wanted.element, sure)
        yield StartNetwork(wanted.name, bridge=bridge_of(wanted.element), taps=taps)


def plan_removal(
    state: NetworkState, snapshot: Snapshot, users: set[str], gone: set[str], why: str, *, sure: Collection[str]
) -> RemoveNetwork:
    """The change that removes a network from running `users`, and from saved guests except those `gone` by then. `sure`
    as for `others_of`."""
    saved = snapshot.kept.get(state.name, frozenset()) - gone
    if saved:
        why += f"; what is saved of {', '.join(sorted(saved))} cannot be resumed without it"
    backup = _backup(state, snapshot, sure)
    left = tuple(LeftNic(x.domain, snapshot.domain[x.domain].uuid, x.tap) for x in backup.taps if x.domain in users)
    others = others_of(users, snapshot, sure)
    return RemoveNetwork(state.name, why, tuple(sorted(users | saved)), backup=backup, left=left, others=others)


def others_of(guests: Iterable[str], snapshot: Snapshot, sure: Collection[str]) -> frozenset[str]:
    """Those running guests that follow a network by metadata of their own, which may be impossible: but for those that
    are `sure`, as theirs is what the topology says, or is taken out before."""
    own = (name for name in guests if snapshot.domain[name].current.find(DOMAIN_MARK) is not None)
    return frozenset(own) - frozenset(sure)


def bridge_of(network: Element) -> str | None:
    """The bridge device that a <network> names."""
    bridge = network.find("bridge")
    return None if bridge is None else bridge.get("name")


def _change_network(
    element: Element, state: NetworkState, snapshot: Snapshot, sure: Collection[str]
) -> Iterator[Change]:
    live = () if state.live is None else differences(element, state.live)
    rigid = [d for d in live if not _changes_live(d, snapshot)]
    if rigid:
        users = tuple(sorted({domain for domain, _ in snapshot.plugged.get(state.name, ())}))
        yield RestartNetwork(
            state.name,
            summary(rigid),
            users,
            xml=to_text(element),
            bridge=bridge_of(element),
            taps=_taps(state.name, snapshot, element, sure),
            backup=_backup(state, snapshot, sure),
        )
        return
    config = differences(element, state.config)
    if config or not state.persistent:
        yield DefineNetwork(state.name, summary(config), xml=to_text(element), old=to_text(state.config))
    if state.live is not None and live:
        yield from _live_changes(element, state.live, state.name, live)


def _changes_live(difference: Difference, snapshot: Snapshot) -> bool:
    metadata = snapshot.network_metadata and difference.path.startswith("metadata/")
    if _CARRIER.match(difference.path):
        return False
    return metadata or _UPDATABLE.fullmatch(difference.path) is not None


def _live_changes(element: Element, live: Element, name: str, found: tuple[Difference, ...]) -> Iterator[Change]:
    for update in section_updates(element, live):
        yield UpdateNetwork(name, _describe(update), update=update, bridge=bridge_with_rules(live))
    if any(d.path.startswith("metadata/") for d in found):
        new, old = element.find(NETWORK_MARK), live.find(NETWORK_MARK)
        if new is not None and old is not None:
            yield SetNetworkMetadata(name, summary(found), xml=api_text(new), old=api_text(old))


def bridge_with_rules(live: Element) -> str | None:
    """The bridge of a network whose forwarding libvirt filters."""
    forward = live.find("forward")
    return bridge_of(live) if forward is None or forward.get("mode", "nat") in ("nat", "route") else None


def section_updates(wanted: Element, live: Element) -> list[SectionUpdate]:
    """The virNetworkUpdate calls that turn one into the other: deletions first, so that an address can change hands."""
    updates = [
        *_pair_up("dns-host", -1, wanted, live, "dns/host"),
        *_pair_up("dns-srv", -1, wanted, live, "dns/srv"),
        *_pair_up("dns-txt", -1, wanted, live, "dns/txt"),
        *_pair_up("portgroup", -1, wanted, live, "portgroup"),
    ]
    parents = {element_key(ip): ip for ip in wanted.findall("ip")}
    for index, ip in enumerate(live.findall("ip")):
        if element_key(ip) in parents:
            updates += _pair_up("dhcp-range", index, parents[element_key(ip)], ip, "dhcp/range")
            updates += _pair_up("dhcp-host", index, parents[element_key(ip)], ip, "dhcp/host")
    return sorted(updates, key=lambda update: (update.new is not None, update.old is None))


def _pair_up(section: str, parent: int, wanted: Element, live: Element, path: str) -> Iterator[SectionUpdate]:
    new = {element_key(element): element for element in wanted.findall(path)}
    old = {element_key(element): element for element in live.findall(path)}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before is not None and after is not None and not differences(after, before):
            continue
        texts = [None if e is None else to_text(e) for e in (after, before)]
        if section in _REPLACED:
            yield from _replaced(section, parent, *texts)
        else:
            yield SectionUpdate(section, parent, *texts)


def _replaced(section: str, parent: int, after: str | None, before: str | None) -> Iterator[SectionUpdate]:
    """libvirt modifies none of these (9.0, 11.3); a DNS entry goes by its address alone: a name may have several."""
    if before is not None:
        yield SectionUpdate(section, parent, None, before)
    if after is not None:
        yield SectionUpdate(section, parent, after, None)


def _describe(update: SectionUpdate) -> str:
    verb = "delete" if update.new is None else "add" if update.old is None else "modify"
    element = etree.fromstring(update.new or update.old or "")
    words = [str(v) for e in element.iter() for v in (*e.values(), (e.text or "").strip()) if v]
    return f"{verb} {update.section} {' '.join(words)}, live"


def fitted(wanted: WantedNetwork, state: NetworkState) -> Element:
    """The wanted network with the identity that libvirt gave the existing one: it must be a redefinition."""
    result = deepcopy(wanted.element)
    if wanted.takes_over:
        leave_as_it_was(result, state.config, wanted.meaning)
    for old in result.findall("uuid"):
        result.remove(old)
    uuid = etree.SubElement(result, "uuid")
    uuid.text = state.uuid
    mac = state.config.find("mac")
    if mac is not None and result.find("mac") is None:
        result.append(deepcopy(mac))
    return result


def _backup(state: NetworkState, snapshot: Snapshot, sure: Collection[str]) -> NetworkBackup:
    return NetworkBackup(
        name=state.name,
        config=to_text(state.config),
        live=None if state.told is None else to_text(state.told),
        autostart=state.autostart,
        bridge=state.bridge,
        taps=_taps(state.name, snapshot, state.current, sure),
    )


def _taps(network: str, snapshot: Snapshot, element: Element, sure: Collection[str] = ()) -> tuple[Plugged, ...]:
    """The running guests' taps on a network, with the isolation that `element` gives them."""
    everybody, plugged = _isolated(element) == "yes", snapshot.plugged.get(network, ())
    others = others_of((domain for domain, _ in plugged), snapshot, sure)
    return tuple(
        Plugged(
            domain,
            device,
            _is_isolated(_defined(domain, interface, snapshot), interface, everybody),
            other=domain in others,
        )
        for domain, interface in plugged
        if (device := tap(interface)) is not None
    )


def _is_isolated(defined: Element, live: Element, everybody: bool) -> bool:
    """Whether a NIC is isolated, by its own definition, else by its network. Without a definition, the live NIC's "no"
    may be what the network said before."""
    said = _isolated(defined)
    if said and defined is not live:
        return said == "yes"
    return everybody or said == "yes"


def _isolated(element: Element) -> str:
    port = element.find("port")
    return "" if port is None else port.get("isolated", "")


def _defined(domain: str, live: Element, snapshot: Snapshot) -> Element:
    """A NIC's definition, as the live one also shows what it inherited from the network."""
    return interfaces(snapshot.domain[domain].config, {mac(live): source_network(live)}).get(mac(live), live)


def _kind(element: Element) -> str:
    forward = element.find("forward")
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    return f"{mode}, bridge {bridge_of(element)}"

"""What must change so that a network which libvirt has already is a topology's own: our metadata goes into its
definition, and the hooks are told of it, as of an adopted one (decision 73). All else is as for any other. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.network import AdoptNetwork, RestartNetwork, TakeOverNetwork
from libvirt_guestnet.libvirtd.snapshot import (
    NETWORK_MARK,
    Element,
    NetworkState,
    Snapshot,
    Wanted,
    WantedNetwork,
    marked,
    to_text,
)
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.adoption import followers, left_alone
from libvirt_guestnet.plan.compare import differences, summary
from libvirt_guestnet.plan.network import others_of, plan_network

WORDS = "from now on it is guestnet's own, and guestnet destroy removes it"
_CARRIERS = tuple(f"{{{NAMESPACE}}}{tag}" for tag in registry.TAGS)


def plan_own(wanted: Wanted, snapshot: Snapshot, sure: Collection[str]) -> Iterator[Change]:
    """All changes of the networks that are to be the topology's own, in order. `sure` as for `plan_external`."""
    marks = {each.name: mark for each in wanted.networks if (mark := _mark(each, snapshot)) is not None}
    told = tuple(_told(state, marks[state.name]) if state.name in marks else state for state in snapshot.networks)
    facing = replace(snapshot, networks=told)
    for network in wanted.networks:
        changes = list(plan_network(network, facing, sure))
        state = snapshot.network.get(network.name)
        if state is None or network.name not in marks:
            yield from changes
        elif state.mark is None and any(isinstance(each, RestartNetwork) for each in changes):
            yield from map(_said, plan_network(network, snapshot, sure))
        else:
            yield from _marking(state, marks[network.name], snapshot, sure)
            yield from changes


def is_taken_over(network: WantedNetwork, state: NetworkState | None) -> bool:
    """Whether libvirt has it, made by nobody of ours, and that is what the file says."""
    return network.takes_over and state is not None and state.mark is None


def _mark(network: WantedNetwork, snapshot: Snapshot) -> Element | None:
    """The metadata for a network that cannot be told it while it runs, or that is none of ours yet; but what makes a
    bridge, or puts something into one, does so when the network starts."""
    state, mark = snapshot.network.get(network.name), network.element.find(NETWORK_MARK)
    if state is None or mark is None or not (state.is_apart or is_taken_over(network, state)):
        return None
    return None if any(mark.find(tag) is not None for tag in _CARRIERS) else mark


def _told(state: NetworkState, mark: Element) -> NetworkState:
    live = None if state.live is None else marked(state.live, mark)
    return replace(state, config=marked(state.config, mark), live=live)


def _marking(state: NetworkState, mark: Element, snapshot: Snapshot, sure: Collection[str]) -> Iterator[AdoptNetwork]:
    config, ports = state.config.find(NETWORK_MARK), followers(state, snapshot, mark, sure)
    lost, others = _cut_off(state, snapshot, mark, sure), others_of(ports, snapshot, sure)
    if config is None:
        new = Replacement(None, to_text(mark))
        yield TakeOverNetwork(state.name, WORDS, lost, mark=new, ports=ports, others=others)
        return
    found, old = differences(mark, config), to_text(config)
    if found or state.name in snapshot.overdue:
        what = f"its metadata: {summary(found)}" if found else "the hooks do not know it"
        new = Replacement(old, to_text(mark) if found else old)
        yield AdoptNetwork(state.name, what, lost, mark=new, ports=ports, others=others)


def _cut_off(state: NetworkState, snapshot: Snapshot, mark: Element, sure: Collection[str]) -> tuple[str, ...]:
    """Running guests that cannot be guarded, where the bridge is closed to them."""
    closed = mark.get("guarded", "yes") in ("yes", "required")
    return tuple(sorted(left_alone(state, snapshot, mark, sure))) if closed else ()


def _said(change: Change) -> Change:
    return replace(change, detail=f"{WORDS}; {change.detail}") if isinstance(change, RestartNetwork) else change

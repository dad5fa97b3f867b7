"""What libvirt's XML asks of the hooks, and nobody had them do: an apply that was killed leaves it. Changes nothing.

What they had done, and somebody took away again, is `drift`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import network_receipts
from libvirt_guestnet.hook.read.domain import Nic
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.model.drift import GUEST, Drift
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.status.joining import Joining, with_declared


def overdue(snapshot: Snapshot, state: State | None) -> tuple[frozenset[str], tuple[Drift, ...]]:
    """The networks, adopted or taken over while they run, that the hooks do not know as they are, or of which a guest
    has not what they say of it; and ports of running guests that have not the guard that is asked for. Without a
    `state`, as only root can read it, none are known."""
    if state is None:
        return frozenset(), ()
    known, bridges = {receipt.name: receipt for receipt in state.networks()}, state.bridges()
    joining = Joining(with_declared(known, snapshot.networks), bridges.networks if bridges else {})
    adopted = {
        network.name: network
        for network in snapshot.networks
        if network.is_apart or (network.is_external and network.live is not None)
    }
    networks = {name for name, network in adopted.items() if _is_unknown(network, known.get(name))}
    found: list[Drift] = []
    for domain in (each for each in snapshot.domains if each.live is not None):
        for nic in _without_guard(domain, joining, state):
            found.append(Drift(GUEST, domain.name, nic.tap, "has not the port security that is asked for"))
            networks |= {nic.network} & adopted.keys()
    return frozenset(networks), tuple(found)


def _is_unknown(network: NetworkState, known: NetworkReceipt | None) -> bool:
    """Whether the hooks know anything else of what our metadata says; what they would refuse they cannot know."""
    with suppress(GuestnetError):
        receipt = None if network.told is None else network_receipts.network_receipt(node_of(network.told))
        return receipt is not None and (known is None or _said(known) != _said(receipt))
    return False


def _said(receipt: NetworkReceipt) -> tuple[object, ...]:
    guarded = receipt.guarded, receipt.observed, receipt.required, receipt.offload
    return receipt.topology, receipt.external, guarded, receipt.privacy, receipt.strict, receipt.log


def _without_guard(domain: DomainState, joining: Joining, state: State) -> Iterator[Nic]:
    for nic in () if domain.live is None else joining.domain(domain.live).nics:
        if nic.tap and nic.has_tap and _lacks(nic, domain.uuid, state.sound_port(nic.tap)):
            yield nic


def _lacks(nic: Nic, uuid: str, applied: PortReceipt | None) -> bool:
    with suppress(GuestnetError):
        guard = applied if applied is not None and applied.uuid == uuid and not applied.trusted else None
        if nic.is_guarded:
            return guard is None or guard.observed != nic.is_observed
        # By what its network said before; what this host's default guards is nobody's to plan.
        return guard is not None and not (guard.own or guard.by_host) and nic.receipt is not None
    return False

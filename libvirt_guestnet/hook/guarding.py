"""Ports' filters, receipts and admission to closed bridges, put in place together and taken away together.

All that change something want the state's lock held.
"""

from __future__ import annotations

from contextlib import suppress

from libvirt_guestnet.datapath import filters, links, nft
from libvirt_guestnet.datapath.names import check_device
from libvirt_guestnet.datapath.nft import NftRefusedError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import bridges, intent, known
from libvirt_guestnet.hook.known import Numbers
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.state import PortReceipt, State


def planned(domain: Node, state: State) -> list[PortReceipt]:
    """The receipts of a domain's ports, the trusted ones of closed bridges among them. Raises GuestnetError."""
    bridges.name_networks(domain, state)
    return intent.port_receipts(domain, state.network, bridges.closed(state))


def wanted(domain: Node, state: State) -> list[PortReceipt]:
    """The same, of taps that are there. Raises GuestnetError."""
    return list(map(_measured, planned(domain, state)))


def clear(receipts: list[PortReceipt], state: State, hold: int) -> None:
    """Takes away what killed hooks left, of taps that are gone and of those that bore the names of these taps."""
    replaced = {new.tap for new in receipts if (old := state.port(new.tap)) and old.ifindex != new.ifindex}
    release(sorted(replaced | gone(state)), state, hold)


def record(uuid: str, receipts: list[PortReceipt], state: State, numbers: Numbers = nft.numbers) -> str:
    """Records a domain's ports, and gives the nft batch that puts them under guard.

    Receipts come first, so that a kill leaves nothing unknown.
    """
    complete = [known.completed(receipt, state) for receipt in receipts]
    batch = "".join(_chains(receipt, state, numbers) for receipt in complete)
    if complete:
        state.put_ports(uuid, complete)
    return batch


def put(batch: str, recorded: list[PortReceipt], stale: list[str], state: State, hold: int) -> None:
    """Puts recorded ports under guard by their batch, and takes it off stale ones, in one transaction."""
    _apply(batch + _releasing(stale, state), recorded, stale, state, hold)
    state.drop_ports(stale)


def release(taps: list[str], state: State, hold: int) -> None:
    """Takes guards away, and what was known of the taps."""
    put("", [], taps, state, hold)


def gone(state: State) -> set[str]:
    """What hooks left that were killed: receipts of taps that no longer exist."""
    return state.tapnames() - links.names()


def _measured(receipt: PortReceipt) -> PortReceipt:
    index = links.index_of(check_device(receipt.tap))
    if not index:
        raise GuestnetError(f"domain {receipt.domain!r}: tap {receipt.tap} does not exist, so nothing to guard")
    return receipt._replace(ifindex=index)


def _chains(receipt: PortReceipt, state: State, numbers: Numbers = nft.numbers) -> str:
    before, is_new = state.port(receipt.tap), known.is_new(receipt, state)
    given_back = known.given_back(before, numbers) if before and is_new else ""
    if receipt.trusted:
        return given_back + filters.release([receipt.tap])
    return given_back + filters.own(intent.guard_of(receipt, known.leases(receipt, numbers), is_new), before is None)


def _releasing(taps: list[str], state: State) -> str:
    receipts = (receipt for receipt in map(state.port, taps) if receipt)
    return "".join(map(known.given_back, receipts)) + filters.release(taps) if taps else ""


def _apply(batch: str, admitted: list[PortReceipt], stale: list[str], state: State, hold: int) -> None:
    """Where the bridge guard's table is gone somebody flushed all rules: every port's come back, or it alone would
    shut them out."""
    shut_out = [receipt for tap in stale if (receipt := state.port(tap))]
    change = bridges.change(admitted, shut_out, state)
    shared = filters.shared() if admitted else ""
    try:
        _write(batch + change, shared, state, hold)
    except NftRefusedError:
        if not change:
            raise
        living = [r for r in state.ports() if r.ifindex == links.index_of(r.tap)]
        numbers = nft.numbers_of_all()
        _write("".join(_chains(r, state, numbers) for r in living), filters.shared(), state, hold)
        bridges.settle(state, hold)
        _write(batch + change, shared, state, hold)


def _write(batch: str, shared: str, state: State, hold: int) -> None:
    """Applies a batch, behind the shared part that it needs if that is not there: by what we know, or as nft finds."""
    if shared and state.shared() == shared:
        with suppress(NftRefusedError):
            nft.nft(batch, hold)
            return
    nft.nft(shared + batch, hold)
    if shared:
        state.put_shared(shared)

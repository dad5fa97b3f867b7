"""Ports' filters, receipts and admission to closed bridges, put in place together and taken away together."""

from __future__ import annotations

from contextlib import suppress

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import filters, held_sets
from libvirt_guestnet.datapath.run import culprits, nft
from libvirt_guestnet.datapath.run.names import TABLE, check_device
from libvirt_guestnet.datapath.run.nft import NftRefusedError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import address_sets, bridge_guard, bridge_ports, checksum_guard, reservations
from libvirt_guestnet.hook.enforce.address_sets import Numbers
from libvirt_guestnet.hook.read import port_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt


def planned(domain: Domain, state: State) -> list[PortReceipt]:
    """The receipts of a domain's ports, the trusted ones of closed bridges among them. Raises GuestnetError."""
    return port_receipts.port_receipts(domain, bridge_guard.closed(state))


def wanted(domain: Domain, state: State) -> list[PortReceipt]:
    """The same, of taps that are there. Raises GuestnetError."""
    return list(map(_measured, planned(domain, state)))


def clear(receipts: list[PortReceipt], locked: LockedState) -> None:
    """Takes away what killed hooks left, of taps that are gone and of those that bore the names of these taps."""
    replaced = {new.tap for new in receipts if (old := locked.port(new.tap)) and old.ifindex != new.ifindex}
    release(sorted(replaced | gone(locked)), locked)


def record(
    uuid: str, receipts: list[PortReceipt], locked: LockedState, numbers: Numbers = nft.numbers, *, late: bool = False
) -> str:
    """Records a domain's ports, and gives the nft batch that puts them under guard. `late`: the guest runs already.

    Receipts come first, so that a kill leaves nothing unknown.
    """
    complete = [address_sets.completed(receipt, numbers) for receipt in receipts]
    before = [old for receipt in complete if (old := locked.port(receipt.tap))]
    batch = address_sets.given_up(before, complete, locked) + address_sets.spread(before, complete, locked)
    batch += "".join(_chains(each, locked, numbers, late=late) for each in complete)
    if complete:
        locked.put_ports(uuid, complete)
    return batch


def put(
    batch: str, recorded: list[PortReceipt], stale: list[str], locked: LockedState, *, limited: bool = False
) -> None:
    """Puts recorded ports under guard by their batch, and takes it off stale ones, in one transaction. `limited`:
    libvirt is about to limit their bandwidth, see `offload.guard`."""
    _apply(_releasing(stale, locked) + batch, recorded, stale, locked, limited=limited)
    bridge_ports.release(stale, locked)
    locked.drop_ports(stale)


def put_late(batch: str, recorded: list[PortReceipt], fresh: set[str], stale: list[str], locked: LockedState) -> None:
    """The same for guests that run: no frame is lost while chains come to `fresh` taps, which had none, and go."""
    living = [tap for tap in (*sorted(fresh), *stale) if links.index_of(tap)]
    if living:
        with suppress(NftRefusedError):  # one that goes at this moment spoils no other's guard
            nft.nft(filters.opened(living), locked.descriptor)
    try:
        put(batch, recorded, stale, locked)
    except GuestnetError:
        if fresh:
            nft.nft(filters.release(sorted(fresh & set(living))), locked.descriptor)
        raise


def release(taps: list[str], locked: LockedState) -> None:
    """Takes guards away, and what was known of the taps."""
    put("", [], taps, locked)


def settle_held(locked: LockedState) -> None:
    """Has others kept from what ports have learnt and what networks reserve, and from nothing else."""
    nft.nft(address_sets.held_as_learnt(locked) + reservations.batch(locked.ports(), locked), locked.descriptor)


def gone(state: State) -> set[str]:
    """What hooks left that were killed: receipts of taps that no longer exist."""
    return state.tapnames() - links.names()


def sweep(state: UnlockedState) -> None:
    """Takes away what killed hooks left behind: its next owner must not inherit a tap's old filter."""
    if gone(state):
        with state.lock() as locked:
            clear([], locked)


def lives(tap: str, state: State) -> bool:
    """Whether a tap is the one that its receipt is of; a damaged receipt is taken for that of whatever is there."""
    receipt, index = state.sound_port(tap), links.index_of(tap)
    return bool(index) and (receipt is None or receipt.ifindex == index)


def lost(state: State) -> dict[str, str]:
    """The taps whose own chain is missing in the kernel, empty, or accepts what it does not know, each with its domain.
    Raises GuestnetError."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, missing

    chains = {ChainKey(TABLE, f"tap-{tap}", drops=True): tap for tap in sorted(state.tapnames() & links.names())}
    receipts = [state.sound_port(chains[each]) for each in missing(list(chains)) if isinstance(each, ChainKey)]
    return {r.tap: r.domain for r in receipts if r and not r.trusted and r.ifindex == links.index_of(r.tap)}


def _measured(receipt: PortReceipt) -> PortReceipt:
    index = links.index_of(check_device(receipt.tap))
    if not index:
        raise GuestnetError(f"domain {receipt.domain!r}: tap {receipt.tap} does not exist, so nothing to guard")
    return receipt._replace(ifindex=index)


def _chains(receipt: PortReceipt, state: State, numbers: Numbers = nft.numbers, *, late: bool = False) -> str:
    before, is_new = state.port(receipt.tap), address_sets.is_new(receipt, state)
    given_back = address_sets.given_back(before, numbers, receipt) if before else ""
    if receipt.trusted:
        held = "".join(f"{line}\n" for line in held_sets.add(port_receipts.guard_of(receipt)))
        return given_back + filters.release([receipt.tap]) + held
    leases = reservations.for_itself(address_sets.leases(receipt, numbers), receipt, state)
    guard = port_receipts.guard_of(receipt, leases, is_new)
    if late and receipt.claims and _is_hosts(receipt, state) and _forgot_claims(receipt, before):
        guard = guard._replace(late=receipt.ifindex)
    return given_back + filters.own(guard, before is None)


def _is_hosts(receipt: PortReceipt, state: State) -> bool:
    """Whether a port's link has the host and its guests only: what somebody else has on a LAN is in no set."""
    network = state.sound_network(receipt.network) if receipt.network else None
    return network is not None and bool(network.hosts)


def _forgot_claims(receipt: PortReceipt, before: PortReceipt | None) -> bool:
    """Whether a port may have claimed what is not noted in the kernel: nobody knows the port, or what notes it is
    gone."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, missing

    if before is None:
        return True
    return (
        bool(before.claims)
        and address_sets.stays(before, receipt)
        and bool(missing([ChainKey(TABLE, f"heard-{receipt.tap}")]))
    )


def _releasing(taps: list[str], state: State) -> str:
    receipts = [receipt for receipt in map(state.sound_port, taps) if receipt]
    held = address_sets.given_up(receipts, [], state) + address_sets.spread(receipts, [], state)
    return held + "".join(map(address_sets.given_back, receipts)) + filters.release(taps) if taps else ""


def _apply(batch: str, admitted: list[PortReceipt], stale: list[str], locked: LockedState, *, limited: bool) -> None:
    """Where the bridge guard's table is gone somebody flushed all rules: every port's come back, or it alone would
    shut them out. The checksum guard is there before a port is admitted, and a port that must not be without it gets
    its chains all the same before that is said."""
    shut_out = [receipt for tap in stale if (receipt := locked.sound_port(tap))]
    put = checksum_guard.guard(admitted, locked, limited)
    _change(batch, admitted, shut_out, locked)
    checksum_guard.release(shut_out, locked)
    if put.refused:
        raise GuestnetError(put.refused)
    checksum_guard.settle(put, locked)


def _change(batch: str, admitted: list[PortReceipt], shut_out: list[PortReceipt], locked: LockedState) -> None:
    change = bridge_guard.change(admitted, shut_out, locked)
    try:
        _write(batch + change, admitted, locked)
    except NftRefusedError:
        if not change:
            raise
        shut = _guard_living(locked)
        bridge_guard.settle(locked, shut)
        _write(batch + change, admitted, locked)


def restore(uuid: str, gate: str, locked: LockedState) -> None:
    """Has a domain's ports be under guard as they were, by their receipts; `gate` is a batch to go with them."""
    receipts = [receipt for tap in locked.taps(uuid) if (receipt := locked.sound_port(tap))]
    living = [receipt for receipt in receipts if receipt.ifindex == links.index_of(receipt.tap) != 0]
    if living:
        put("".join(_chains(each, locked, late=True) for each in living) + gate, living, [], locked)


def _guard_living(locked: LockedState) -> set[int]:
    """Puts the chains of every port back. Reports ports for which that is refused, and returns their indexes."""
    living = [r for r in locked.ports() if r.ifindex == links.index_of(r.tap)]
    numbers = nft.numbers_of_all()

    def write(some: list[PortReceipt]) -> None:
        _write("".join(_chains(r, locked, numbers, late=True) for r in some), some, locked)

    refused = culprits.left_out(living, write)
    for receipt, error in refused:
        log.report(f"domain {receipt.domain!r}: tap {receipt.tap} cannot be guarded: {error}")
    return {receipt.ifindex for receipt, _ in refused}


def _write(batch: str, ports: list[PortReceipt], locked: LockedState) -> None:
    """Applies a batch for ports, behind what they share if that is not there: by what we know, or as nft finds."""
    shared = filters.shared() if ports else ""
    if shared and locked.shared() == shared:
        with suppress(NftRefusedError):
            nft.nft(batch, locked.descriptor)
            return
    nft.nft(shared + reservations.batch(ports, locked) + batch, locked.descriptor)
    if shared:
        locked.put_shared(shared)

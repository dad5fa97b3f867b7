"""Ports' filters, receipts and admission to closed bridges, which are made together and removed together."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import checksum, filters, held_sets
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.datapath.run.names import NOTE_KINDS, TABLE, check_device
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
    """The receipts of a domain's ports, with trusted ones on closed bridges. Raises GuestnetError."""
    return port_receipts.port_receipts(domain, bridge_guard.closed(state))


def wanted(domain: Domain, state: State) -> list[PortReceipt]:
    """The same, for taps that must exist. Raises GuestnetError."""
    return list(map(_measured, planned(domain, state)))


def clear(receipts: list[PortReceipt], locked: LockedState) -> None:
    """Removes what killed hooks left: of taps that are gone, and of earlier devices with the names of these taps."""
    replaced = {new.tap for new in receipts if (old := locked.port(new.tap)) and old.ifindex != new.ifindex}
    release(sorted(replaced | gone(locked)), locked)


def record(
    uuid: str, receipts: list[PortReceipt], locked: LockedState, numbers: Numbers = nft.numbers, *, late: bool = False
) -> str:
    """Writes the receipts of a domain's ports, and returns the nft batch that guards them. `late`: the guest runs
    already.

    Receipts are written first, so that nothing is unknown if the call is killed.
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
    """Guards recorded ports by their batch and releases stale ones, in one transaction. For `limited`, see
    `checksum_guard`."""
    _apply(_releasing(stale, locked) + batch, recorded, stale, locked, limited=limited)
    bridge_ports.release(stale, locked)
    locked.drop_ports(stale)


def put_opened(batch: str, recorded: list[PortReceipt], fresh: set[str], stale: list[str], locked: LockedState) -> None:
    """The same for guests that run without a guard until now: no frame is lost while chains come to `fresh` taps, which
    had none, and go from stale ones. In two transactions: if only the first is made, `lost` finds chains that pass all.
    The checksum guard goes to tcx at once, where there is that: for a qdisc at tc ingress the kernel stops the device.
    """
    living = [tap for tap in (*sorted(fresh), *stale) if links.index_of(tap)]
    if living:
        with suppress(NftRefusedError):  # one that goes at this moment spoils no other's guard
            nft.nft(filters.opened(living), locked.descriptor)
    at_once = bool(living) and checksum.has_tcx(links.index_of(living[0]))
    try:
        put(batch, recorded, stale, locked, limited=at_once)
    except GuestnetError:
        if fresh:
            nft.nft(filters.release(sorted(fresh & set(living))), locked.descriptor)
        raise


def release(taps: list[str], locked: LockedState) -> None:
    """Removes the guards and receipts of taps."""
    put("", [], taps, locked)


def settle_held(locked: LockedState) -> None:
    """Makes the sets of learnt, claimed and reserved addresses agree with what ports have and networks reserve."""
    nft.nft(address_sets.held_as_learnt(locked) + reservations.batch(locked.ports(), locked), locked.descriptor)


def gone(state: State) -> set[str]:
    """The taps that have a receipt and do not exist any more: hooks that were killed have left them."""
    return links.missing(state.tapnames())


def sweep(state: UnlockedState) -> None:
    """Removes what killed hooks left, so that the next device with a tap's name does not inherit its filter."""
    if gone(state):
        with state.lock() as locked:
            clear([], locked)


def lives(tap: str, state: State) -> bool:
    """Whether a tap is the device of its receipt; a damaged receipt counts as one of whatever device is there."""
    receipt, index = state.sound_port(tap), links.index_of(tap)
    return bool(index) and (receipt is None or receipt.ifindex == index)


def lost(state: State) -> dict[str, str]:
    """The taps, with their domains, whose own chain is missing, is empty or does not drop, or lets pass what it should
    drop (or the reverse), as a change that was killed between its receipt and its batch leaves it. Raises
    GuestnetError."""
    receipts = [r for tap in sorted(state.tapnames() & links.names()) if (r := state.sound_port(tap))]
    guarded = [r for r in receipts if not r.trusted and r.ifindex == links.index_of(r.tap)]
    taps = [receipt.tap for receipt in guarded]
    bare, observed = _without_chain(taps), _noted(taps)
    return {r.tap: r.domain for r in guarded if r.tap in bare or r.observed != (r.tap in observed)}


def _without_chain(taps: Iterable[str]) -> set[str]:
    from libvirt_guestnet.datapath.netlink.present import ChainKey, missing

    chains = {ChainKey(TABLE, f"tap-{tap}", drops=True): tap for tap in taps}
    return {chains[each] for each in missing(list(chains))}


def _noted(taps: Iterable[str]) -> set[str]:
    """The taps that the kernel only observes, whatever their receipts say: of those it has sets of what is noted, made
    and removed in the transactions that change their chains."""
    from libvirt_guestnet.datapath.netlink.present import SetKey, missing

    sets = {SetKey(TABLE, f"{NOTE_KINDS[0]}-{tap}"): tap for tap in taps}
    return set(sets.values()) - {sets[each] for each in missing(list(sets))}


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
        return given_back + filters.release([receipt.tap], _noted([receipt.tap])) + held
    leases = reservations.for_itself(address_sets.leases(receipt, numbers), receipt, state)
    guard = port_receipts.guard_of(receipt, leases, is_new)
    if late and receipt.claims and _is_hosts(receipt, state) and _forgot_claims(receipt, before):
        guard = guard._replace(late=receipt.ifindex)
    return given_back + filters.own(guard, before is None, before is not None and bool(_noted([receipt.tap])))


def _is_hosts(receipt: PortReceipt, state: State) -> bool:
    """Whether only the host and its guests are on a port's link: on a LAN, others' addresses are in no set."""
    network = state.sound_network(receipt.network) if receipt.network else None
    return network is not None and bool(network.hosts)


def _forgot_claims(receipt: PortReceipt, before: PortReceipt | None) -> bool:
    """Whether a port may have claims that the kernel does not know: it has no receipt, or its set of claims is gone."""
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
    if not taps:
        return ""
    return held + "".join(map(address_sets.given_back, receipts)) + filters.release(taps, _noted(taps))


def _apply(batch: str, admitted: list[PortReceipt], stale: list[str], locked: LockedState, *, limited: bool) -> None:
    """Applies the batch. If the bridge guard's table is gone, somebody flushed all rules: then the chains of all ports
    are put back, because otherwise it would shut them out. The checksum guard is attached before a port is admitted. A
    port that must not be without gets its chains nevertheless, before the error is raised."""
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
    """Guards a domain's ports as before, by their receipts; `gate` is a batch that is applied with theirs."""
    receipts = [receipt for tap in locked.taps(uuid) if (receipt := locked.sound_port(tap))]
    living = [receipt for receipt in receipts if receipt.ifindex == links.index_of(receipt.tap) != 0]
    if living:
        put("".join(_chains(each, locked, late=True) for each in living) + gate, living, [], locked)


def _guard_living(locked: LockedState) -> set[int]:
    """Puts the chains of every port back. Reports ports for which nft refuses that, and returns their indexes."""
    from libvirt_guestnet.datapath.run import culprits

    living = [r for r in locked.ports() if r.ifindex == links.index_of(r.tap)]
    numbers = nft.numbers_of_all()

    def write(some: list[PortReceipt]) -> None:
        _write("".join(_chains(r, locked, numbers, late=True) for r in some), some, locked)

    refused = culprits.left_out(living, write)
    for receipt, error in refused:
        log.report(f"domain {receipt.domain!r}: tap {receipt.tap} cannot be guarded: {error}")
    return {receipt.ifindex for receipt, _ in refused}


def _write(batch: str, ports: list[PortReceipt], locked: LockedState) -> None:
    """Applies a batch for ports; with the shared part first if that is missing by our records, or if nft refuses."""
    shared = filters.shared() if ports else ""
    if shared and locked.shared() == shared:
        with suppress(NftRefusedError):
            nft.nft(batch, locked.descriptor)
            return
    nft.nft(shared + reservations.batch(ports, locked) + batch, locked.descriptor)
    if shared:
        locked.put_shared(shared)

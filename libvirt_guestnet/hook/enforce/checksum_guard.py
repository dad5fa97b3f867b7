"""The checksum guard of guarded ports: attached before their chains are made, and removed with the guard or the tap.

If a host cannot run it, `guestnet status` and `doctor` say so, and guests start without it, except those whose policy
refuses that. If the host can, a guest does not start when it cannot be attached to its taps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import checksum
from libvirt_guestnet.datapath.port.bpf import BpfError, CannotError
from libvirt_guestnet.datapath.port.checksum import Guard, Loaded
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import detached, notes
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.metadata.policy import REFUSE
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import Checksum, PortReceipt

_SETTLE_SECONDS = 60  # for a thousand of them, after a restart
_LIMITED_SECONDS = 2.0
# How long it waits after a start: the kernel then holds the rtnl lock, which libvirt and QEMU need.
_START_SECONDS = 0.5


class ProgramState(NamedTuple):
    """What we know of this host's checksum guard: what was loaded, or what it lacks for that."""

    loaded: Loaded | None = None
    cannot: str = ""


def program_state(state: State) -> ProgramState:
    """The state in our receipt; a damaged one counts as none."""
    found = state.checksum()
    return ProgramState(Loaded(*found[:-1])) if found.guard else ProgramState(cannot=found.cannot)


class Put(NamedTuple):
    """What `guard` did: the reason why these ports must not run, or ""; and the devices for `settle`."""

    refused: str = ""
    unsettled: tuple[int, ...] = ()


def guard(receipts: list[PortReceipt], locked: LockedState, limited: bool = False) -> Put:
    """Attaches it to guarded ports and removes it from trusted ones. Never raises: a port's chains must be made all the
    same.

    `limited`: libvirt is about to limit their bandwidth. It deletes what is at tc ingress, and fails if something is
    there again before it has added its own. So the guard goes to tcx at once; if the kernel has none,
    `guard_when_limited` must follow.
    """
    try:
        wanted = [receipt for receipt in receipts if not receipt.trusted]
        release([receipt for receipt in receipts if receipt.trusted], locked)
        return _guard(wanted, locked, limited) if wanted else Put()
    except (GuestnetError, OSError) as error:
        return Put(f"the checksum guard cannot be put in place: {error}")


def _guard(receipts: list[PortReceipt], locked: LockedState, limited: bool) -> Put:
    try:
        program = _program(locked)
    except CannotError as error:
        if program_state(locked).loaded:
            raise  # this host could run it before
        locked.put_checksum(Checksum(cannot=str(error)))
        refused = next((receipt for receipt in receipts if receipt.offload == REFUSE), None)
        return Put(refusal(refused, str(error)) if refused else "")
    ifindexes = [receipt.ifindex for receipt in receipts]
    with closing(program):
        for receipt in receipts:
            program.begin(receipt.ifindex, receipt.observed)
        if not limited:
            return Put("", tuple(ifindex for ifindex in ifindexes if program.attach(ifindex)))
        for ifindex in filter(checksum.has_tcx, ifindexes):
            program.settle(ifindex)
    return Put()


def settle(put: Put, locked: LockedState) -> None:
    """Leaves a process behind that moves it to tcx, so that only that process waits for the kernel. These ports are
    guarded already, and stay so if it fails: their next repair tries again. Raises GuestnetError and OSError when the
    process cannot be made."""
    if not put.unsettled:
        return
    # A name of its own, as we have the state's lock and must not wait for an earlier process, which needs that lock.
    promise = Promise(notes.path(locked, notes.SETTLING, f"{put.unsettled[0]}-{time.monotonic_ns()}"), locked)
    try:
        why = "settle the checksum guard"
        detached.leave(lambda: _settle_alone(put, promise, locked.root), _SETTLE_SECONDS, why, promise)
    finally:
        promise.hand_over()


def _settle_alone(put: Put, promise: Promise, root: str) -> None:
    # The locks that we inherited, the state's and a repair's, must not last as long as this process.
    os.closerange(3, promise.file)
    os.closerange(promise.file + 1, 1024)
    time.sleep(_START_SECONDS)
    _settle(put.unsettled, UnlockedState(root))
    promise.kept()


def settle_all(state: UnlockedState) -> None:
    """Moves it to tcx at every guarded port, and waits for the kernel. Raises GuestnetError."""
    _settle([receipt.ifindex for receipt in state.ports() if not receipt.trusted and _exists(receipt)], state)


def _exists(receipt: PortReceipt) -> bool:
    return receipt.ifindex > 0 and links.index_of(receipt.tap) == receipt.ifindex


def _settle(ifindexes: Iterable[int], state: UnlockedState) -> None:
    program = checksum.opened(program_state(state).loaded)
    if program is not None:
        with closing(program):
            _settle_by(program, set(ifindexes), state)


def _settle_by(program: Guard, ifindexes: set[int], state: UnlockedState) -> None:
    for ifindex in sorted(ifindexes):
        with suppress(GuestnetError):  # the tap may be gone again
            program.settle(ifindex)
    with state.lock() as locked:
        guarded = {receipt.ifindex for receipt in locked.ports() if not receipt.trusted}
        for ifindex in ifindexes - guarded:
            with suppress(GuestnetError):
                checksum.detach(ifindex, program.loaded)
            program.forget(ifindex)  # the port was released meanwhile: its counter must not stay


def guard_when_limited(tap: str, qdisc: str, state: UnlockedState) -> None:
    """On kernels without tcx, attaches it to a port's tap as soon as libvirt has made its qdisc of that kind there:
    that is before the guest sees its new NIC. Raises GuestnetError."""
    ifindex = links.index_of(tap)
    if checksum.has_tcx(ifindex):
        return
    await_limits(ifindex, qdisc)
    with state.lock() as locked:
        receipt = locked.sound_port(tap)
        put = guard([receipt] if receipt else [], locked)
    if put.refused:
        raise GuestnetError(put.refused)


def await_limits(ifindex: int, qdisc: str) -> None:
    """Waits until libvirt has made the last qdisc, of that kind, for a new NIC's limits of bandwidth: before that it
    deletes all that are there."""
    end = time.monotonic() + _LIMITED_SECONDS
    while time.monotonic() < end and not checksum.has_qdisc(ifindex, qdisc):
        time.sleep(0.002)


def refusal(receipt: PortReceipt, cannot: str) -> str:
    """The reason why a port whose policy requires it must not run on this host."""
    return (
        f"domain {receipt.domain!r}: interface {receipt.mac}: this host cannot guard checksum offload: {cannot}; "
        f"its policy says offload 'refuse': run a kernel with BPF and BTF, such as Debian's, or drop that"
    )


def _program(locked: LockedState) -> Guard:
    loaded = program_state(locked).loaded
    program = checksum.opened(loaded)
    if program is None:
        program = checksum.load(loaded)
        locked.put_checksum(Checksum(*program.loaded))
    return program


def release(receipts: list[PortReceipt], locked: LockedState) -> None:
    """Removes it from ports whose taps still exist, with their counters. Raises GuestnetError."""
    loaded = program_state(locked).loaded if receipts else None
    if loaded is None:
        return
    for receipt in receipts:
        if _exists(receipt):
            checksum.detach(receipt.ifindex, loaded)
    program = checksum.opened(loaded)
    if program is not None:
        with closing(program):
            for receipt in receipts:
                program.forget(receipt.ifindex)


def lost(state: State) -> dict[str, str]:
    """The taps of guarded ports that lack it though this host can have it, or where it drops what it should only count
    (or the reverse), each with its domain. Raises GuestnetError."""
    taps = state.tapnames()
    found = program_state(state) if taps else ProgramState(cannot="nothing")
    return {} if found.cannot else dict(_lost(taps, found.loaded, state))


def _lost(taps: Iterable[str], loaded: Loaded | None, state: State) -> Iterator[tuple[str, str]]:
    for tap in sorted(taps):
        receipt = state.sound_port(tap) if (ifindex := links.index_of(tap)) else None
        if receipt is None or receipt.ifindex != ifindex or receipt.trusted:
            continue
        if not (loaded and checksum.is_attached(ifindex, loaded) and _is_as_asked(receipt, loaded)):
            yield tap, receipt.domain


def _is_as_asked(receipt: PortReceipt, loaded: Loaded) -> bool:
    with suppress(BpfError):
        return checksum.observes(receipt.ifindex, loaded) == receipt.observed
    return True  # the counters are pinned no more: then root alone can see it


def drops(state: State) -> dict[str, int]:
    """By tap, the frames that it dropped. Raises GuestnetError."""
    program = checksum.opened(program_state(state).loaded)
    if program is None:
        return {}
    with closing(program):
        return {links.name_of(ifindex): frames for ifindex, frames in program.drops().items() if frames}


def tidy(locked: LockedState) -> None:
    """Removes the counters of devices that are no ports any more. Raises GuestnetError."""
    program = checksum.opened(program_state(locked).loaded)
    if program is not None:
        with closing(program):
            program.forget_all_but({receipt.ifindex for receipt in locked.ports()})


def unload(locked: LockedState) -> None:
    """Removes it from every device and from the kernel. Raises GuestnetError."""
    loaded = program_state(locked).loaded
    if loaded is not None:
        for ifindex in map(links.index_of, links.names()):
            checksum.detach(ifindex, loaded)
    try:
        checksum.unpin()
    except OSError as error:
        raise GuestnetError(f"{checksum.FOLDER} cannot be removed: {error}") from error
    locked.drop_checksum()

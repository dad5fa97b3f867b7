"""Attaching the checksum guard to devices: a program at tc ingress, which comes before nft's chains. On the hook path.

data/checksum_guard.c says what it is for, decision 40 why it is BPF. It is loaded once after a boot and kept (pinned)
in the bpf file system::

    /sys/fs/bpf/libvirt-guestnet/   0700 root
    ├── guard                       the program
    └── drops                       frames dropped, by the index of the device; with a bit for one that is observed

A pinned program is used only if its number in the kernel is that of the program that we loaded; else it is loaded
again. It is attached as a filter of tc ingress at first, which takes 0.2 ms. Where the kernel has tcx (6.6), which
costs each frame less, it moves there soon after. In both places it comes before all other programs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from libvirt_guestnet.datapath.port import bpf
from libvirt_guestnet.datapath.port.bpf import BpfError
from libvirt_guestnet.light_typing import NamedTuple

FOLDER = "/sys/fs/bpf/libvirt-guestnet"
_MOST_EARLIER = 8
_OBSERVED = 1 << 63  # as in checksum_guard.c
_GUARD, _DROPS = f"{FOLDER}/guard", f"{FOLDER}/drops"


class Loaded(NamedTuple):
    """What was loaded: the kernel's numbers of the program and of its counters, and the version of the object file that
    they are from. `earlier` are programs of earlier versions, which may still be attached to devices."""

    guard: int
    drops: int
    object: str
    earlier: tuple[int, ...] = ()


class Guard:
    """The loaded program: descriptors of it and of its counters. To be closed."""

    def __init__(self, guard: int, drops: int, loaded: Loaded) -> None:
        self._guard, self._drops, self.loaded = guard, drops, loaded

    def close(self) -> None:
        os.close(self._guard)
        os.close(self._drops)

    def begin(self, ifindex: int, observed: bool = False) -> None:
        """Counts what is dropped from a device from now on; `observed`: it passes. A device that changes from one to
        the other begins to be counted anew. Raises GuestnetError."""
        bit = _OBSERVED if observed else 0
        found = bpf.counter(self._drops, ifindex)
        if found is None:
            bpf.begin(self._drops, ifindex, bit)
        elif found & _OBSERVED != bit:
            bpf.set_counter(self._drops, ifindex, bit)

    def attach(self, ifindex: int) -> bool:
        """Attaches the program to a device, before all others there: as a filter of tc ingress, if it is not there yet.
        Idempotent. Returns whether `settle` should move it to tcx. Raises GuestnetError."""
        from libvirt_guestnet.datapath.netlink.rtnl import RefusedError
        from libvirt_guestnet.datapath.netlink.tc import Tc

        bpf.begin(self._drops, ifindex)
        programs = _programs(ifindex)
        if programs and programs[0] == self.loaded.guard:
            return bool(set(programs) & set(self.loaded.earlier))
        try:
            with Tc() as tc:
                if tc.attached(ifindex) != self.loaded.guard:
                    tc.attach_first(ifindex, self._guard)
        except RefusedError:
            if programs is None:
                raise
            self.settle(ifindex)  # somebody else's filter has the first place there, or the kernel has no such filters
            return False
        return programs is not None

    def settle(self, ifindex: int) -> None:
        """Moves the program to tcx. The kernel waits until no processor uses the earlier list of programs any more (an
        RCU grace period), which takes 10 ms and more. Raises BpfError; EINVAL: this kernel has no tcx."""
        from libvirt_guestnet.datapath.netlink.tc import Tc

        bpf.begin(self._drops, ifindex)
        programs = bpf.attached(ifindex)
        if programs[:1] != [self.loaded.guard]:
            if self.loaded.guard in programs:
                bpf.detach(ifindex, self._guard)
            bpf.attach_first(ifindex, self._guard)
        with suppress(BpfError):  # being attached twice does no harm
            _detach(ifindex, set(programs) & set(self.loaded.earlier))
        with Tc() as tc:
            if tc.attached(ifindex) in {self.loaded.guard, *self.loaded.earlier}:
                tc.detach(ifindex)

    def forget(self, ifindex: int) -> None:
        """Forgets what was dropped from a device. Raises GuestnetError."""
        bpf.end(self._drops, ifindex)

    def drops(self) -> dict[int, int]:
        """Frames dropped, by the index of the device. Raises GuestnetError."""
        return {ifindex: found & ~_OBSERVED for ifindex, found in bpf.counters(self._drops).items()}

    def forget_all_but(self, ifindexes: set[int]) -> None:
        """Forgets what was dropped from other devices. Raises GuestnetError."""
        for ifindex in self.drops().keys() - ifindexes:
            bpf.end(self._drops, ifindex)


def _programs(ifindex: int) -> list[int] | None:
    """Those that tcx has at a device; None where the kernel has no tcx. Raises BpfError."""
    try:
        return bpf.attached(ifindex)
    except BpfError as error:
        if error.code == errno.EINVAL:
            return None
        raise


def has_tcx(ifindex: int) -> bool:
    """Whether the kernel has tcx; True as well for a device that is gone. Raises GuestnetError."""
    try:
        return _programs(ifindex) is not None
    except BpfError as error:
        return error.code == errno.ENODEV


def has_qdisc(ifindex: int, kind: str) -> bool:
    """Whether a device has a qdisc of that kind. Raises GuestnetError."""
    from libvirt_guestnet.datapath.netlink.tc import Tc

    with Tc() as tc:
        return kind in tc.qdiscs(ifindex)


def is_attached(ifindex: int, loaded: Loaded) -> bool:
    """Whether the program sees a device's frames before all others. Raises GuestnetError."""
    programs = _programs(ifindex)
    if programs:
        return programs[0] == loaded.guard
    from libvirt_guestnet.datapath.netlink.tc import Tc

    with Tc() as tc:
        return tc.attached(ifindex) == loaded.guard


def observes(ifindex: int, loaded: Loaded) -> bool:
    """Whether the program only counts what it would drop from a device. Raises BpfError."""
    table = _descriptor(loaded.drops, _DROPS, bpf.table)
    try:
        return bool((bpf.counter(table, ifindex) or 0) & _OBSERVED)
    finally:
        os.close(table)


def detach(ifindex: int, loaded: Loaded) -> None:
    """Takes the program, and earlier ones, off a device, however it is attached. What is gone already, or goes
    meanwhile, is success: who settles it does not hold the state's lock. Raises GuestnetError."""
    from libvirt_guestnet.datapath.netlink.tc import Tc

    ours = {loaded.guard, *loaded.earlier}
    with _gone():
        _detach(ifindex, ours & set(_programs(ifindex) or ()))
    with Tc() as tc:
        if tc.attached(ifindex) in ours:
            tc.detach(ifindex)


def _detach(ifindex: int, numbers: set[int]) -> None:
    for number in numbers:
        with _gone():
            program = _descriptor(number, _GUARD, bpf.program)
            try:
                bpf.detach(ifindex, program)
            finally:
                os.close(program)


@contextmanager
def _gone() -> Iterator[None]:
    """Forgives that the device or the program is not there (any more)."""
    try:
        yield
    except BpfError as error:
        if error.code not in (errno.ENODEV, errno.ENOENT):
            raise


def _descriptor(number: int, path: str, by_number: Callable[[int], int]) -> int:
    """A descriptor of a program or of counters, by number. The service lacks CAP_SYS_ADMIN for any but the pinned
    ones."""
    with suppress(BpfError):
        found = bpf.pinned(path)
        if bpf.number(found) == number:
            return found
        os.close(found)
    return by_number(number)


def opened(loaded: Loaded | None) -> Guard | None:
    """The pinned program, if it is the one that we loaded, and from this version's object file."""
    if loaded is None or loaded.object != _version():
        return None
    descriptors: list[int] = []
    try:
        for path in (_GUARD, _DROPS):
            descriptors.append(bpf.pinned(path))
        if [bpf.number(each) for each in descriptors] == [loaded.guard, loaded.drops]:
            return Guard(descriptors.pop(0), descriptors.pop(), loaded)
    except BpfError:  # gone, or something else is in its place
        pass
    finally:
        for each in descriptors:
            os.close(each)
    return None


def load(before: Loaded | None) -> Guard:
    """Loads the program and pins it in place of whatever is there. Raises bpfload.CannotError if this host cannot run
    it, and GuestnetError if loading failed although the host can."""
    from libvirt_guestnet.datapath.port import bpfload

    guard, drops = bpfload.load()
    earlier = (*before.earlier, before.guard) if before else ()
    loaded = Loaded(bpf.number(guard), bpf.number(drops), _version(), earlier[-_MOST_EARLIER:])
    bpfload.ensure_file_system()
    unpin()
    os.mkdir(FOLDER, 0o700)
    bpf.pin(guard, _GUARD)
    bpf.pin(drops, _DROPS)
    return Guard(guard, drops, loaded)


def unpin() -> None:
    """Removes the pins: the program ends with the last device that it is attached to. Raises OSError."""
    with suppress(FileNotFoundError):
        for name in os.listdir(FOLDER):
            os.unlink(f"{FOLDER}/{name}")
        os.rmdir(FOLDER)


def _version() -> str:
    """A version for the object files, which an upgrade replaces."""
    stat = os.stat(f"{bpf.OBJECTS}/guard_cast.o")
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"

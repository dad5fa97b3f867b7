"""Linux's network emulator as a device's root qdisc: what it does to packets that leave by it. On the hook path.

Of a tap, that is what its guest receives. Written by netlink, so that numbers alone reach the kernel. It never takes
the place of a qdisc that somebody else has put there, as libvirt does for its limits of bandwidth; what the kernel
or libvirt gives every tap comes back when ours goes.
"""

from __future__ import annotations

import errno
import struct

from libvirt_guestnet.datapath.netlink.codec import CREATE, EXCL, REPLACE, attributes, encode, u32
from libvirt_guestnet.datapath.netlink.rtnl import RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.model.impairment import Impairment

HANDLE = 0x6E650000
"""By which ours is known ("ne")."""
NOQUEUE = "noqueue"
"""What libvirt gives the taps that it makes; another default is the kernel's."""
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_MESSAGE = struct.Struct("=BxxxiIII")
_ROOT = 0xFFFFFFFF
_KIND, _OPTIONS = 1, 2
_QOPT, _REORDER, _RATE, _TIME = struct.Struct("=6I"), struct.Struct("=2I"), struct.Struct("=IiIi"), struct.Struct("=q")
_OF_CORRELATION, _OF_REORDER, _OF_RATE, _OF_DELAY, _OF_JITTER = 1, 3, 6, 10, 11
# Packets that may be on their way: the kernel's own 1000, or as many of full size as the rate (or, without one, this
# number of kbit/s) needs. netem does not count octets, and with segmentation offload one packet may have 64 KiB: so
# many of one port, then, that they are 256 MiB of the host's memory at most.
_FEWEST, _MOST, _PACKET_BITS, _ASSUMED_RATE = 1000, 4000, 8 * 1500, 100_000
_ALL = 0xFFFFFFFF
# No such device, none there.
_GONE = (errno.ENODEV, errno.EINVAL, errno.ENOENT)


class Root(NamedTuple):
    """A device's root qdisc. A default one of the kernel's has no `handle`; libvirt asks for none, too, but the kernel
    gives one to whatever is asked for."""

    kind: str = ""
    handle: int = 0
    options: bytes = b""

    @property
    def is_ours(self) -> bool:
        return self.handle == HANDLE and self.kind == "netem"

    @property
    def is_default(self) -> bool:
        return not self.handle or self.kind == NOQUEUE

    def does(self, wanted: Impairment) -> bool:
        """Whether it does to packets what is wanted, and nothing else."""
        return self.is_ours and _parts(self.options) == _parts(_options(wanted))


class CannotError(GuestnetError):
    """This kernel has no netem, or there is no room for it."""


class Netem(Rtnl):
    """An rtnetlink socket with methods for root qdiscs, which raise RefusedError with an errno."""

    def roots(self) -> dict[int, Root]:
        """By index, the root qdiscs of all devices."""
        found = {}
        for body in self._dump(_GETQDISC, _MESSAGE.pack(0, 0, 0, 0, 0)):
            _, index, handle, parent, _ = _MESSAGE.unpack_from(body)
            if parent == _ROOT:
                said = attributes(body[_MESSAGE.size :])
                found[index] = Root(said[_KIND].rstrip(b"\0").decode(), handle, said.get(_OPTIONS, b""))
        return found

    def ensure(self, ifindex: int, wanted: Impairment, root: Root) -> None:
        """Has a device, whose root qdisc is known, do to packets what is wanted. One of ours is changed in its place,
        and no packet in it is lost. Raises CannotError."""
        if root.does(wanted):
            return
        if not (root.is_default or root.is_ours):
            raise CannotError(f"a qdisc of somebody else's is there: {root.kind}, such as libvirt's limit of bandwidth")
        body = _qdisc(ifindex, HANDLE, "netem", _options(wanted))
        try:
            self._change(_NEWQDISC, CREATE | REPLACE, body, f"netem at device {ifindex}")
        except RefusedError as error:
            if error.code != errno.ENOENT:
                raise
            raise CannotError(
                "this kernel has no netem: `modprobe sch_netem` says what it lacks (the module is in the package "
                "linux-image of Debian, linux-modules-extra of Ubuntu, kernel-modules-extra of Fedora and RHEL)"
            ) from error

    def delete(self, ifindex: int, before: str = "") -> None:
        """Removes ours, and nobody else's; the device gets a default one again, as it was `before`."""
        try:
            self._change(_DELQDISC, 0, _qdisc(ifindex, HANDLE), f"to delete netem at device {ifindex}")
        except RefusedError as error:
            if error.code not in _GONE:
                raise
            return
        if before == NOQUEUE:
            self._change(_NEWQDISC, CREATE | EXCL, _qdisc(ifindex, 0, NOQUEUE), f"{NOQUEUE} at device {ifindex}")


def _qdisc(ifindex: int, handle: int, kind: str = "", options: bytes = b"") -> bytes:
    said = [(_KIND, f"{kind}\0".encode())] if kind else []
    return _MESSAGE.pack(0, ifindex, handle, _ROOT, 0) + encode([*said, *([(_OPTIONS, options)] if options else [])])


def _options(wanted: Impairment) -> bytes:
    """All is said, also what is not wanted: what is left out of a change stays as it was."""
    delay, jitter = wanted.delay * 1000, wanted.jitter * 1000
    fixed = _QOPT.pack(
        min(delay >> 6, _ALL),  # in the scheduler's ticks of 64 ns, for kernels that do not know the other
        packets(wanted),
        _of_all(wanted.loss),
        1 if wanted.reorder else 0,
        _of_all(wanted.duplicate),
        min(jitter >> 6, _ALL),
    )
    return fixed + encode(
        [
            (_OF_CORRELATION, u32(0) * 3),
            (_OF_REORDER, _REORDER.pack(_of_all(wanted.reorder), 0)),
            (_OF_RATE, _RATE.pack(min(wanted.rate * 125, _ALL), 0, 0, 0)),
            (_OF_DELAY, _TIME.pack(delay)),
            (_OF_JITTER, _TIME.pack(jitter)),
        ]
    )


def packets(wanted: Impairment) -> int:
    """How many packets may be on their way at once; what comes beside them is lost."""
    bits = (wanted.rate or _ASSUMED_RATE) * (wanted.delay + wanted.jitter) // 1000
    return min(max(_FEWEST, bits // _PACKET_BITS), _MOST)


def _of_all(millionths: int) -> int:
    """A share as the kernel has it: of 2^32 - 1."""
    return min((millionths * _ALL + 500_000) // 1_000_000, _ALL)


def _parts(options: bytes) -> tuple[object, ...]:
    """What options say, as far as it is ours to say; () if they are no netem's."""
    if len(options) < _QOPT.size:
        return ()
    _, packets, loss, gap, duplicate, _ = _QOPT.unpack_from(options)
    found = attributes(options[_QOPT.size :])
    said = tuple(found.get(kind, b"") for kind in (_OF_REORDER, _OF_RATE, _OF_DELAY, _OF_JITTER))
    return packets, loss, gap, duplicate, said

"""A BPF program as a filter at a device's tc ingress, for kernels without tcx (before 6.6). On the hook path.

libvirt's bandwidth limits use the same place: libvirt deletes an `ingress` qdisc with all its filters, and adds its
own. A `clsact` qdisc would make that fail, and with it the guest's start. So we add `ingress` if there is no such
qdisc, and use the one that is there otherwise. libvirt's police filter has the last preference, ours has the first.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import errno
import struct
from collections.abc import Iterator

from libvirt_guestnet.datapath.netlink.codec import CREATE, EXCL, attributes, encode, number, u32
from libvirt_guestnet.datapath.netlink.rtnl import RefusedError, Rtnl

_NEWQDISC, _GETQDISC, _NEWFILTER, _DELFILTER, _GETFILTER = 36, 38, 44, 45, 46
_MESSAGE = struct.Struct("=BxxxiIII")
_INGRESS_SLOT, _INGRESS_FILTERS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_PREFERENCE, _HANDLE, _ALL_PROTOCOLS = 1, 1, 3
# No such device, no qdisc there, no such filter.
_GONE = (errno.ENODEV, errno.EINVAL, errno.ENOENT)


class Tc(Rtnl):
    """An rtnetlink socket with methods for filters, which raise RefusedError with an errno."""

    def attach_first(self, ifindex: int, descriptor: int) -> None:
        """Attaches a program to a device, before all other filters. Idempotent."""
        slot = _MESSAGE.pack(0, ifindex, _INGRESS_HANDLE, _INGRESS_SLOT, 0) + encode([(_KIND, b"ingress\0")])
        try:
            self._change(_NEWQDISC, CREATE | EXCL, slot, f"tc ingress of device {ifindex}")
        except RefusedError as error:
            if error.code != errno.EEXIST:
                raise
        program, direct = (_BPF_FD, u32(descriptor)), (_BPF_FLAGS, u32(_DIRECT_ACTION))
        options = encode([program, (_BPF_NAME, b"guestnet\0"), direct])
        self._change(_NEWFILTER, CREATE, _filter(ifindex, options), f"a filter at tc ingress of device {ifindex}")

    def detach(self, ifindex: int) -> None:
        """Takes our filter away; the qdisc may be somebody else's by now, and stays. One that is gone is success."""
        try:
            self._change(_DELFILTER, 0, _filter(ifindex), f"to delete the filter at tc ingress of device {ifindex}")
        except RefusedError as error:
            if error.code not in _GONE:
                raise

    def attached(self, ifindex: int) -> int:
        """The number of the program in our filter's place; 0 for none."""
        where = _MESSAGE.pack(0, ifindex, 0, _INGRESS_FILTERS, 0)
        try:
            return next(self._programs(where), 0)
        except RefusedError as error:
            if error.code in _GONE:
                return 0
            raise

    def qdiscs(self, ifindex: int) -> set[str]:
        """The kinds of a device's qdiscs."""
        found = set()
        for body in self._dump(_GETQDISC, _MESSAGE.pack(0, ifindex, 0, 0, 0)):
            _, index, *_ = _MESSAGE.unpack_from(body)
            if index == ifindex:  # the kernel lists those of all devices
                found.add(attributes(body[_MESSAGE.size :])[_KIND].rstrip(b"\0").decode())
        return found

    def _programs(self, where: bytes) -> Iterator[int]:
        for body in list(self._dump(_GETFILTER, where)):
            *_, handle, _, info = _MESSAGE.unpack_from(body)
            found = attributes(body[_MESSAGE.size :])
            if (info >> 16, handle, found.get(_KIND)) == (_PREFERENCE, _HANDLE, b"bpf\0"):
                yield number(attributes(found[_OPTIONS]).get(_BPF_ID, bytes(4)))


def _filter(ifindex: int, options: bytes = b"") -> bytes:
    info = _PREFERENCE << 16 | _socket.htons(_ALL_PROTOCOLS)
    header = _MESSAGE.pack(0, ifindex, _HANDLE, _INGRESS_FILTERS, info)
    return header + encode([(_KIND, b"bpf\0"), *([(_OPTIONS, options)] if options else [])])

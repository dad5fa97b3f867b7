"""bpf(2): as little of it as the checksum guard needs. On the hook path.

`ctypes` would cost a hook 4 ms; its core, which all of it is made of, takes half of one. The layouts are those of
`union bpf_attr` in linux/bpf.h.
"""

from __future__ import annotations

import _ctypes
import errno
import os
import struct

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING, TypeAlias

OBJECTS = f"{os.path.dirname(os.path.dirname(__file__))}/data"
_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}  # __NR_bpf
_LOOKUP, _UPDATE, _DELETE, _NEXT_KEY = 1, 2, 3, 4
_PIN, _GET, _ATTACH, _DETACH, _PROGRAM_BY_ID, _TABLE_BY_ID, _INFO, _QUERY = 6, 7, 8, 9, 13, 14, 15, 16
_ANY, _NOEXIST = 0, 1
_TCX_INGRESS = 46
_BEFORE = 1 << 3  # BPF_F_BEFORE, without saying what: before all others
_MOST_PROGRAMS = 64  # BPF_MPROG_MAX
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")


if TYPE_CHECKING:
    _Bytes: TypeAlias = _ctypes._SimpleCData[bytes]
    _Number: TypeAlias = _ctypes._SimpleCData[int]
else:
    _Bytes = _Number = _ctypes._SimpleCData


class _Char(_Bytes):
    _type_ = "c"


class _Long(_Number):
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = 1 | 8  # C's calling convention (FUNCFLAG_CDECL), errno kept (FUNCFLAG_USE_ERRNO)
    _restype_ = _Long


class BpfError(GuestnetError):
    """The kernel refused a call of bpf(2); `code` is the errno."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"the kernel refused {what}: {errno.errorcode.get(code, code)} ({os.strerror(code)})")
        self.code = code


class CannotError(GuestnetError):
    """This host cannot run a program at all; the text says what it lacks."""


_syscall = _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall"))  # type: ignore[arg-type]  # this program


def _buffer(data: bytes) -> _ctypes.Array[_Char]:
    return (_Char * len(data)).from_buffer(bytearray(data))


def _bpf(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    """The call's result, and the attributes as it left them. Raises BpfError."""
    number = _NUMBER.get(os.uname().machine)
    if number is None:
        raise BpfError(what, errno.ENOSYS)
    attr = _buffer(attributes)
    result = _syscall(number, command, attr, len(attributes))
    if result < 0:
        raise BpfError(what, _ctypes.get_errno())
    return result, bytes(attr)


def pin(descriptor: int, path: str) -> None:
    """Keeps a program or a map at a path of a bpf file system. EEXIST: something is there. Raises BpfError."""
    name = _buffer(path.encode() + b"\0")
    _bpf(_PIN, struct.pack("=QII", _ctypes.addressof(name), descriptor, 0), f"to keep {path}")


def pinned(path: str) -> int:
    """A descriptor of what is pinned at a path. Raises BpfError; ENOENT: nothing is."""
    name = _buffer(path.encode() + b"\0")
    return _bpf(_GET, struct.pack("=QII", _ctypes.addressof(name), 0, 0), f"to open {path}")[0]


def number(descriptor: int) -> int:
    """The kernel's number of the program or map behind a descriptor; it is never used again. Raises BpfError."""
    # bpf_prog_info and bpf_map_info both begin with a type and this.
    answer = _buffer(bytes(8))
    _bpf(_INFO, struct.pack("=IIQ", descriptor, 8, _ctypes.addressof(answer)), "to describe a program")
    return int(_U32.unpack_from(bytes(answer), 4)[0])


def program(number: int) -> int:
    """A descriptor of a program that is loaded, by its number. Raises BpfError; ENOENT: there is none."""
    return _bpf(_PROGRAM_BY_ID, _U32.pack(number) + bytes(8), f"to open program {number}")[0]


def table(number: int) -> int:
    """The same of a table of counters."""
    return _bpf(_TABLE_BY_ID, _U32.pack(number) + bytes(8), f"to open counters {number}")[0]


def attach_first(ifindex: int, descriptor: int) -> None:
    """Has a program see a device's frames first (tcx, Linux 6.6). EINVAL: older kernels. Raises BpfError."""
    _change(_ATTACH, ifindex, descriptor, _BEFORE, "to attach a program")


def detach(ifindex: int, descriptor: int) -> None:
    """The opposite. ENOENT: it is not there. Raises BpfError."""
    _change(_DETACH, ifindex, descriptor, 0, "to detach a program")


def _change(command: int, ifindex: int, descriptor: int, flags: int, what: str) -> None:
    request = struct.pack("=IIIIIIQ", ifindex, descriptor, _TCX_INGRESS, flags, 0, 0, 0)
    _bpf(command, request, f"{what}: device {ifindex}")


def attached(ifindex: int) -> list[int]:
    """The numbers of the programs at a device, in the order in which they see its frames. EINVAL: Linux before 6.6;
    ENODEV: no such device. Raises BpfError."""
    numbers = _buffer(bytes(4 * _MOST_PROGRAMS))
    request = struct.pack("=IIIIQI36x", ifindex, _TCX_INGRESS, 0, 0, _ctypes.addressof(numbers), _MOST_PROGRAMS)
    _, answer = _bpf(_QUERY, request, f"to list the programs of device {ifindex}")
    (count,) = _U32.unpack_from(answer, 24)
    return list(struct.unpack_from(f"={count}I", bytes(numbers)))


def begin(table: int, key: int, value: int = 0) -> None:
    """A counter in a table of counters, from that value on; one that is there stays as it is. Raises BpfError."""
    at, first = _buffer(_U32.pack(key)), _buffer(_U64.pack(value))
    try:
        _element(_UPDATE, table, _ctypes.addressof(at), _ctypes.addressof(first), _NOEXIST)
    except BpfError as error:
        if error.code != errno.EEXIST:
            raise


def set_counter(table: int, key: int, value: int) -> None:
    """Has a counter go on from that value. Raises BpfError."""
    at, first = _buffer(_U32.pack(key)), _buffer(_U64.pack(value))
    _element(_UPDATE, table, _ctypes.addressof(at), _ctypes.addressof(first), _ANY)


def counter(table: int, key: int) -> int | None:
    """One counter; None where there is none. Raises BpfError."""
    at, value = _buffer(_U32.pack(key)), _buffer(bytes(8))
    try:
        _element(_LOOKUP, table, _ctypes.addressof(at), _ctypes.addressof(value), 0)
    except BpfError as error:
        if error.code == errno.ENOENT:
            return None
        raise
    return int(_U64.unpack(bytes(value))[0])


def end(table: int, key: int) -> None:
    """Forgets a counter; one that is not there does not matter. Raises BpfError."""
    at = _buffer(_U32.pack(key))
    try:
        _element(_DELETE, table, _ctypes.addressof(at), 0, 0)
    except BpfError as error:
        if error.code != errno.ENOENT:
            raise


def counters(table: int) -> dict[int, int]:
    """Every counter of a table. Raises BpfError."""
    found: dict[int, int] = {}
    key, after, value = _buffer(bytes(4)), _buffer(bytes(4)), _buffer(bytes(8))
    previous = 0
    try:
        while True:
            _element(_NEXT_KEY, table, previous, _ctypes.addressof(after), 0)
            (number,) = _U32.unpack(bytes(after))
            if number in found:  # somebody deleted the previous key, and the kernel began again
                return found
            key = _buffer(bytes(after))
            previous = _ctypes.addressof(key)
            _element(_LOOKUP, table, previous, _ctypes.addressof(value), 0)
            (found[number],) = _U64.unpack(bytes(value))
    except BpfError as error:
        if error.code != errno.ENOENT:  # ENOENT: that was the last key
            raise
    return found


def _element(command: int, table: int, key: int, value: int, flags: int) -> None:
    _bpf(command, struct.pack("=IIQQQ", table, 0, key, value, flags), "a counter")

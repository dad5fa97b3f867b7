"""Loading the checksum guard: libbpf fits it to this kernel's types. Once after each boot, off the usual hook path."""

from __future__ import annotations

import ctypes
import errno
import os

from libvirt_guestnet.datapath.port.bpf import OBJECTS, BpfError, CannotError
from libvirt_guestnet.errors import GuestnetError

TABLE = b"drops"
# The first of these that the kernel accepts is used. Each has an object file of its own: if one needs what an old
# kernel lacks, libbpf searches all modules for that, which takes CAP_SYS_ADMIN.
PROGRAMS = (b"guard_cast", b"guard_probe")
BTF = "/sys/kernel/btf/vmlinux"
BPF_FS, _BPF_FS_MAGIC = "/sys/fs/bpf", 0xCAFE4A11
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_LIBRARY = "libbpf.so.1"
# The kernel's errors when it lacks BPF or what the program needs, or does not allow it.
_CANNOT = (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ESRCH, errno.ENOENT)


def load() -> tuple[int, int]:
    """Descriptors of the program and of its table of counters. Raises CannotError if this host cannot run it, and
    GuestnetError if loading failed although the host can."""
    if lacks := lacking():
        raise CannotError(lacks)
    library = _library()
    failures: list[BpfError] = []
    for name in PROGRAMS:
        try:
            return load_one(name, library)
        except BpfError as error:
            failures.append(error)
    if all(failure.code in _CANNOT for failure in failures):
        raise CannotError(str(failures[-1]))
    raise failures[-1]


def lacking() -> str:
    """What this kernel lacks, as far as that shows without loading; "" for nothing. Raises GuestnetError if something
    must be installed."""
    _library()
    return "" if os.path.exists(BTF) else f"the kernel does not describe its types (no {BTF}: CONFIG_DEBUG_INFO_BTF)"


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise GuestnetError(f"{_LIBRARY} cannot be loaded: install the package libbpf1") from error


def load_one(name: bytes, library: ctypes.CDLL | None = None) -> tuple[int, int]:
    """Loads one of the PROGRAMS, and returns the same descriptors. Raises BpfError."""
    of = library or _library()
    pointer = ctypes.c_void_p
    for function in ("open_file", "find_program_by_name", "find_map_by_name"):
        getattr(of, f"bpf_object__{function}").restype = pointer
    of.libbpf_set_print(None)
    path = f"{OBJECTS}/{name.decode()}.o"
    found = pointer(of.bpf_object__open_file(os.fsencode(path), None))
    if not found:
        raise BpfError(f"to read {path}", ctypes.get_errno())
    try:
        status = of.bpf_object__load(found)
        if status < 0:
            raise BpfError(f"the program {name.decode()}", -status)
        program = pointer(of.bpf_object__find_program_by_name(found, name))
        table = pointer(of.bpf_object__find_map_by_name(found, TABLE))
        descriptors = of.bpf_program__fd(program), of.bpf_map__fd(table)
        return os.dup(descriptors[0]), os.dup(descriptors[1])
    finally:
        of.bpf_object__close(found)


def ensure_file_system() -> None:
    """Mounts the bpf file system where systemd and every other loader have it. Raises GuestnetError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if _type_of(libc, BPF_FS) == _BPF_FS_MAGIC:
        return
    place = BPF_FS.encode()
    if libc.mount(b"bpf", place, b"bpf", ctypes.c_ulong(_NOSUID | _NODEV | _NOEXEC), b"mode=0700") != 0:
        why = os.strerror(ctypes.get_errno())
        raise GuestnetError(f"{BPF_FS} cannot be mounted ({why}): run `mount -t bpf bpf {BPF_FS}` and start again")


def _type_of(libc: ctypes.CDLL, path: str) -> int:
    found = (ctypes.c_long * 32)()  # struct statfs begins with it
    return int(found[0]) if libc.statfs(path.encode(), found) == 0 else 0

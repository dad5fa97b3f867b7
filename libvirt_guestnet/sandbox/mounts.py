"""The sandbox's own view of the file system: an overlay over the machine's root, or another, that ends with it.

::

    /                     overlay: ROOT below, a tmpfs above; the same again for file systems mounted in ROOT
    /proc /sys            fresh
    /dev                  the few harmless nodes, tun, a private pts and shm; kvm only when asked for
    /run                  empty tmpfs; so is /tmp over another root
    /etc/libvirt … (EMPTY)  empty tmpfs: the machine's own networks, domains and hooks do not exist in here
    checkout, image cache, binds   the real ones, read only

Everything here runs between unshare() and the start of libvirtd, in the process that becomes PID 1.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 1 << 30
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = -100, 0x8000, 1
# Numbers above 424 are the same on every architecture; pivot_root has no C library wrapper.
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

OLD = "/.machine"
EMPTY = (
    *("/etc/libvirt", "/etc/libvirt-guestnet"),
    *("/var/lib/libvirt", "/var/lib/libvirt-guestnet", "/var/log/libvirt", "/var/cache/libvirt"),
)
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
# Mounts below these are not part of the machine's software: kernel file systems, other people's disks, containers.
_FOREIGN = ("/proc", "/sys", "/dev", "/run", "/mnt", "/media", "/boot", "/snap", *EMPTY)
_FOREIGN_BELOW_VAR = ("/var/lib/docker", "/var/lib/containers", "/var/lib/kubelet", "/var/lib/lxc", "/var/lib/incus")
# Looking into these can hang, or fail even for root.
_FOREIGN_TYPES = ("autofs", "fuse", "nsfs", "nfs", "cifs", "9p")

_LIBC = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo that matters here."""

    target: str
    fstype: str


def build(root: str, stage: str, binds: Sequence[tuple[str, str]], kvm: bool) -> None:
    """Makes `root` this process's root directory, with `stage` (a directory of the machine) as workshop.

    `binds` are (path on the machine, path inside). Needs a mount namespace of its own. Raises OSError whose text names
    the step.
    """
    mounted = parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines())
    mount(None, "/", None, _REC | _PRIVATE)
    mount("guestnet", stage, "tmpfs", _NOSUID | _NODEV, "mode=755")
    _overlay(root, f"{stage}/root", stage, 0)
    _pivot(f"{stage}/root")
    for number, inner in enumerate(inner_mounts(root, mounted), start=1):
        _take_over(inner, f"{OLD}{stage}", number)
    _fresh(kvm, with_tmp=root != "/")
    for path in EMPTY:
        Path(path).mkdir(parents=True, exist_ok=True)
        mount("guestnet", path, "tmpfs", _NOSUID | _NODEV, "mode=755")
    for source, target in binds:
        _bind_read_only(f"{OLD}{source}", target)


def leave_machine() -> None:
    """Drops the last way to the machine's own file system; called when nothing has to be copied from it any more."""
    _check(_LIBC.umount2(OLD.encode(), _MNT_DETACH), f"unmount {OLD}")
    Path(OLD).rmdir()


def parse_mountinfo(lines: Iterable[str]) -> list[Mount]:
    """The mounts that can be reached, outermost first; see proc(5). Pure."""
    found: dict[str, Mount] = {}
    for line in lines:
        fields, _, rest = line.partition(" - ")
        target = fields.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        found[target] = Mount(target, rest.split(" ")[0])
    return sorted(found.values())


def inner_mounts(root: str, mounted: Sequence[Mount]) -> list[str]:
    """Which mounts the sandbox needs besides the root: /usr or /var of their own, but no foreign disk. Pure."""
    if root != "/":
        return []
    return [m.target for m in mounted if m.target != "/" and not _foreign(m)]


def _foreign(mounted: Mount) -> bool:
    folders = (*_FOREIGN, *_FOREIGN_BELOW_VAR)
    return mounted.fstype.startswith(_FOREIGN_TYPES) or any(
        mounted.target == folder or mounted.target.startswith(f"{folder}/") for folder in folders
    )


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    texts = [None if t is None else os.fsencode(t) for t in (source, target, fstype)]
    status = _LIBC.mount(*texts, ctypes.c_ulong(flags), os.fsencode(data) if data else None)
    _check(status, f"mount {fstype or source or 'private'} on {target.removeprefix(OLD)}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _check(_LIBC.unshare(ctypes.c_int(flags)), "make namespaces")


def _check(status: int, what: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _overlay(lower: str, target: str, stage: str, number: int) -> None:
    """A writable view of the directory `lower` at `target`. Raises OSError."""
    upper, work = f"{stage}/upper{number}", f"{stage}/work{number}"
    for path in (upper, work, target):
        Path(path).mkdir(mode=0o755, exist_ok=True)
    mount("guestnet", target, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")


def _take_over(inner: str, stage: str, number: int) -> None:
    """Something mounted in the machine's root, seen in the sandbox too: writable if it can be, else read only."""
    try:
        if Path(f"{OLD}{inner}").is_dir():
            return _overlay(f"{OLD}{inner}", inner, stage, number)
    except OSError as error:
        # EINVAL: FAT cannot be a lower layer. ENOENT: another mount hides it. EACCES: not even root may look.
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.EACCES):
            raise
    with suppress(FileNotFoundError, PermissionError):
        _bind_read_only(f"{OLD}{inner}", inner)
    return None


def _pivot(root: str) -> None:
    Path(f"{root}{OLD}").mkdir(mode=0o700)
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root: unknown architecture {os.uname().machine}")
    status = _LIBC.syscall(ctypes.c_long(number), os.fsencode(root), os.fsencode(f"{root}{OLD}"))
    _check(status, "pivot_root")
    os.chdir("/")


def _fresh(kvm: bool, with_tmp: bool) -> None:
    quiet = _NOSUID | _NODEV | _NOEXEC
    mount("proc", "/proc", "proc", quiet)
    mount("sysfs", "/sys", "sysfs", quiet)
    mount("guestnet", "/run", "tmpfs", _NOSUID | _NODEV, "mode=755")
    Path("/run/lock").mkdir(mode=0o755)
    if with_tmp:
        mount("guestnet", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777")  # noqa: S108
    _devices((*_NODES, "net/tun", *(("kvm", "vhost-net") if kvm else ())))


def _devices(nodes: Sequence[str]) -> None:
    mount("guestnet", "/dev", "tmpfs", _NOSUID | _NOEXEC, "mode=755")
    for folder in ("net", "pts", "shm"):
        Path("/dev", folder).mkdir(mode=0o755)
    for node in nodes:
        if Path(f"{OLD}/dev/{node}").exists():
            # Bound, not made: a container often may use a node but not mknod it.
            Path("/dev", node).touch()
            mount(f"{OLD}/dev/{node}", f"/dev/{node}", None, _BIND)
    for name, text in _LINKS.items():
        Path("/dev", name).symlink_to(text)
    mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,mode=620,ptmxmode=666")
    mount("guestnet", "/dev/shm", "tmpfs", _NOSUID | _NODEV, "mode=1777")  # noqa: S108


def _bind_read_only(source: str, target: str) -> None:
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    elif not Path(target).exists():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    mount(source, target, None, _BIND | _REC)
    attributes = struct.pack("QQQQ", _ATTR_RDONLY, 0, 0, 0)
    status = _LIBC.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _check(status, f"make {target} read only")

"""The two processes of a sandbox: its keeper on the machine, and PID 1 inside.

::

    whoever starts it ──► keeper (machine's namespaces; waits, then removes the sandbox's directory)
                            └─► PID 1 (namespaces of its own; mounts, prepares, keeps libvirtd running, reaps)
                                  └─► libvirtd, guests, dnsmasq, whatever is run inside

PID 1 leaves as soon as its keeper or its owner is gone, and with PID 1 the kernel ends every process, mount and
network interface of the sandbox. Both are watched through pidfds, so SIGKILL is as good as a polite end.

This runs as `python3 -I -S` with nothing but the standard library. Whatever is imported is imported before the
root directory changes: another root may have another Python.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from libvirt_guestnet.sandbox import mounts

INSIDE = "/run/guestnet-sandbox"
PAUSED = f"{INSIDE}/paused"
CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"
_SOCKET = "/run/libvirt/libvirt-sock"
_LIBVIRTD_LOG = "/var/log/libvirt/libvirtd.log"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
_PREPARE_SECONDS = 480.0
_LIBVIRTD_SECONDS = 240.0
_TAIL_BYTES = 4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
# remote program, version 1, AUTH_LIST: the one call that any client may make; answered once all drivers are up.
_AUTH_LIST = struct.pack(">IIIIIII", 28, 0x20008086, 1, 66, 0, 1, 0)

_QEMU_CONF = """\
# guests run as root without cgroups or confinement: the sandbox has none of their infrastructure
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
"""
_LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
log_outputs = "3:stderr"
"""


class SandboxFailure(Exception):
    """Something inside failed; the text is for the user."""


def main() -> NoReturn:
    """The keeper: reads its orders from stdin, makes the first process, waits for it, removes what it wrote."""
    orders: dict[str, Any] = json.load(sys.stdin)
    status, owner = int(orders["status"]), int(orders["owner"])
    for fd in (status, owner):
        os.set_inheritable(fd, False)
    keeper = os.pidfd_open(os.getpid())
    try:
        # Only the children of this process get the new PID namespace; it stays outside itself.
        mounts.unshare(mounts.CLONE_NEWPID)
        first = os.fork()
    except OSError as error:
        _report(status, error=_explain(error))
        first = -1
    if first == 0:
        _first_process(orders, Watch(status, owner, keeper))
    if first > 0:
        # It may be gone already, and then nobody needs to find it.
        with suppress(FileNotFoundError):
            _record(orders["stage"], first)
        os.close(status)
        os.waitpid(first, 0)
    stage = Path(orders["stage"])
    for name in ("record", "first", "ready"):
        (stage / name).unlink(missing_ok=True)
    stage.rmdir()
    sys.exit(0)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with the PID it names a process for good. Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def _record(stage: str, pid: int) -> None:
    draft = Path(stage, ".first")
    draft.write_text(json.dumps([pid, start_ticks(pid)]))
    draft.rename(Path(stage, "first"))


def _report(status: int, **message: str) -> None:
    os.write(status, json.dumps(message).encode())


def _explain(error: OSError) -> str:
    hints = {
        1: "it needs root with CAP_SYS_ADMIN; in a container, one that was started privileged",
        19: "the kernel has no such file system: modprobe overlay",
        22: "the root cannot be the lower layer of an overlay (is this itself a container on two overlays?)",
        28: "too many namespaces: see /proc/sys/user/max_*_namespaces",
    }
    return f"{error.strerror or error}: {hints[error.errno]}" if error.errno in hints else str(error.strerror or error)


class Watch:
    """Waiting that ends with the owner, and reaping of every child while waiting."""

    def __init__(self, status: int, owner: int, keeper: int) -> None:
        self.status = status
        self.ends = [owner, keeper]
        self.exits: dict[int, int] = {}
        self.started: set[int] = set()

    def arm(self) -> None:
        """Starts to notice children that end; belongs into the first process."""
        self._wake, into = os.pipe()
        for fd in (self._wake, into):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)

    def disown(self) -> None:
        """From now on the sandbox outlives its owner."""
        self.ends = self.ends[1:]

    def wait(self, seconds: float | None, also: int | None = None) -> None:
        """Sleeps until a child ends, `also` is readable or the time is over; does not return when the end has come."""
        fds = [self._wake, *self.ends, *([] if also is None else [also])]
        readable, _, _ = select.select(fds, [], [], seconds)
        if any(end in readable for end in self.ends):
            os._exit(0)
        if self._wake in readable:
            os.read(self._wake, 4096)
            self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.started:
                self.exits[pid] = os.waitstatus_to_exitcode(status)

    def spawn(self, argv: Sequence[str], log: str) -> int:
        """Starts a program with its output appended to `log`. Raises OSError when it cannot be executed."""
        # Python's own ignored signals must not be inherited.
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            _ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
        self.started.add(pid)
        return pid

    def finish(self, pid: int, seconds: float) -> int | None:
        """A program's exit status (negative: the signal), or None when it had to be killed after `seconds`."""
        deadline = time.monotonic() + seconds
        while pid not in self.exits and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        if pid not in self.exits:
            os.kill(pid, signal.SIGKILL)
        return self.exits.pop(pid, None)


def _first_process(orders: dict[str, Any], watch: Watch) -> NoReturn:
    try:
        watch.arm()
        _settle(orders)
        for argv in orders["prepare"]:
            _prepare(watch, argv)
        libvirtd = watch.spawn(orders["libvirtd"], _LIBVIRTD_LOG)
        _await_libvirtd(watch, libvirtd)
        if orders["keep"]:
            watch.disown()
        _report(watch.status, ready="yes")
        os.close(watch.status)
        _supervise(watch, libvirtd, lambda: watch.spawn(orders["libvirtd"], _LIBVIRTD_LOG))
    except SandboxFailure as error:
        _report(watch.status, error=str(error))
    except OSError as error:
        _report(watch.status, error=_explain(error))
    except Exception as error:
        _report(watch.status, error=f"bug in {__name__}: {error!r}")
    finally:
        os._exit(1)


def _settle(orders: dict[str, Any]) -> None:
    flags = mounts.CLONE_NEWNS | mounts.CLONE_NEWUTS | mounts.CLONE_NEWIPC | mounts.CLONE_NEWNET
    mounts.unshare(flags)
    socket.sethostname(orders["name"])
    _loopback_up()
    filters = _read_all(f"{orders['root'].rstrip('/')}/etc/libvirt/nwfilter")
    known = _read_all(orders["capabilities"])
    mounts.build(orders["root"], orders["stage"], [(s, t) for s, t in orders["binds"]], orders["kvm"])
    mounts.leave_machine()
    Path(INSIDE).mkdir(mode=0o700)
    _write_all("/etc/libvirt/nwfilter", filters)
    _write_all(CAPABILITIES, known)
    # libvirt's package has it: libvirtd itself makes it for a dnsmasq, but puts files of other networks there, too.
    Path("/var/lib/libvirt/dnsmasq").mkdir(mode=0o755)
    config = f'{_LIBVIRTD_CONF}host_uuid = "{orders["uuid"]}"\n'
    _write_all("/etc/libvirt", {"qemu.conf": _QEMU_CONF.encode(), "libvirtd.conf": config.encode()})
    _add_account("/etc/passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin")
    _add_account("/etc/group", "libvirt-qemu:x:64055:")
    _write_all("/etc", {"hosts": f"127.0.0.1 localhost\n127.0.1.1 {orders['name']}\n::1 localhost\n".encode()})


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0]
        struct.pack_into("H", request, 16, flags | _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def _read_all(folder: str) -> dict[str, bytes]:
    try:
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
    except FileNotFoundError:
        return {}


def _write_all(folder: str, contents: dict[str, bytes]) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        Path(folder, name).write_bytes(data)


def _add_account(path: str, line: str) -> None:
    """libvirtd looks its usual account up before it reads that another one is wanted; in Debian 12 only the package
    libvirt-daemon-system, which starts libvirtd on the machine, makes it."""
    known = Path(path).read_text()
    if not any(entry.split(":")[0] == line.split(":", maxsplit=1)[0] for entry in known.splitlines()):
        Path(path).write_text(f"{known.rstrip()}\n{line}\n")


def _prepare(watch: Watch, argv: Sequence[str]) -> None:
    log = f"{INSIDE}/prepare.log"
    Path(log).unlink(missing_ok=True)
    status = watch.finish(watch.spawn(argv, log), _PREPARE_SECONDS)
    if status != 0:
        how = f"took more than {_PREPARE_SECONDS:.0f} s" if status is None else f"ended with status {status}"
        raise SandboxFailure(f"{' '.join(argv)} {how}: {_tail(log)}")


def _await_libvirtd(watch: Watch, pid: int) -> None:
    deadline = time.monotonic() + _LIBVIRTD_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        while _connects(client) is False:
            watch.wait(0.01)
            _check_libvirtd(watch, pid, deadline)
        client.sendall(_AUTH_LIST)
        while not select.select([client], [], [], 0)[0]:
            watch.wait(1.0, client.fileno())
            _check_libvirtd(watch, pid, deadline)
        client.recv(4096)


def _connects(client: socket.socket) -> bool:
    try:
        client.connect(_SOCKET)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def _check_libvirtd(watch: Watch, pid: int, deadline: float) -> None:
    if pid in watch.exits:
        raise SandboxFailure(f"libvirtd ended with status {watch.exits[pid]}: {_tail(_LIBVIRTD_LOG)}")
    if time.monotonic() > deadline:
        raise SandboxFailure(f"libvirtd did not answer in {_LIBVIRTD_SECONDS:.0f} s: {_tail(_LIBVIRTD_LOG)}")


def _tail(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace").strip() or "(it said nothing)"
    except FileNotFoundError:
        return "(it said nothing)"


def _supervise(watch: Watch, libvirtd: int, again: Callable[[], int]) -> NoReturn:
    """Keeps libvirtd running for ever, as systemd would; a file at PAUSED holds it back."""
    while True:
        watch.wait(None)
        while libvirtd in watch.exits:
            # Not at once: a daemon that dies over and over must not eat a processor.
            watch.wait(0.1)
            if not Path(PAUSED).exists():
                watch.exits.clear()
                libvirtd = again()

"""Sandboxes: a private libvirtd in namespaces of its own, which changes nothing on the machine and vanishes.

`start` returns once libvirtd answers inside. A sandbox ends with the process that started it, however that dies, or,
when kept, with `stop`. Several run side by side. It is a clean host to work in, not a jail: whoever is root in it is
root (it shares the machine's kernel and sees the machine's files, which it cannot change).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.ownfolder import ensure_own_folder
from libvirt_guestnet.sandbox import boot, bytecode, registry
from libvirt_guestnet.sandbox.registry import Process, RegistryEntry

CACHE = Path("/var/cache/libvirt-guestnet")
_LIBRARY = bytecode.LIBRARY
_LIBVIRTD = ("/usr/sbin/libvirtd", "--config", "/etc/libvirt/libvirtd.conf")
_START_SECONDS = 240.0
_STATUS_BYTES = 65536
# Children must be waited for by whoever made them; without this they stay zombies until this process ends.
_keepers: dict[str, subprocess.Popen[bytes]] = {}


class NoSandboxError(GuestnetError):
    """No sandbox of that name is running."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. `first` is its first process, seen from the machine; leaving a `with` block stops it."""

    name: str
    root: Path
    keep: bool
    first: Process

    @property
    def uri(self) -> str:
        """How libvirt clients on the machine reach the libvirtd inside."""
        return f"qemu+unix:///system?socket=/proc/{self.first.pid}/root/run/libvirt/libvirt-sock"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs `argv` inside, in /, as root; what it starts dies with it."""
        enter = ["nsenter", "--target", str(self.first.pid), "--root", "--mount", "--net", "--uts", "--ipc", "--pid"]
        # A killed nsenter must not leave its child behind with our pipes open.
        return [*enter, "--", "setpriv", "--pdeathsig", "KILL", "--", *argv]

    def python(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs Python with this package inside, for example `["-m", "libvirt_guestnet.cli"]`."""
        return self.command(python_inside(argv, self.root))

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 120.0,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program inside and returns what it said. Raises GuestnetError when it fails (with `check`) or when
        it takes longer than `timeout` seconds."""
        try:
            done = subprocess.run(
                self.command(argv), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise GuestnetError(f"{' '.join(argv)} in sandbox {self.name} took more than {timeout:.0f} s") from error
        if check and done.returncode != 0:
            raise GuestnetError(
                f"{' '.join(argv)} in sandbox {self.name} ended with status {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def libvirtd(self) -> int:
        """The PID of libvirtd, as processes inside see it. Raises GuestnetError when there is none."""
        try:
            return int(self.run(["cat", "/run/libvirtd.pid"]).stdout)
        except ValueError as error:
            raise GuestnetError(f"libvirtd does not run in sandbox {self.name}") from error

    def stop_libvirtd(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ends libvirtd and keeps it from coming back; guests and networks go on. Raises GuestnetError."""
        self.run(["touch", boot.PAUSED])
        self._end_libvirtd(with_signal)

    def start_libvirtd(self, timeout: float = 240.0) -> None:
        """Lets libvirtd run again; returns when it answers."""
        self.run(["rm", "-f", boot.PAUSED])
        deadline = time.monotonic() + timeout
        while self.run(["virsh", "-q", "-c", "qemu:///system", "uri"], check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise GuestnetError(f"libvirtd in sandbox {self.name} did not come back in {timeout:.0f} s")
            time.sleep(0.05)

    def restart_libvirtd(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ends libvirtd with a signal and returns when the next one answers."""
        self.stop_libvirtd(with_signal)
        self.start_libvirtd()

    def _end_libvirtd(self, with_signal: signal.Signals) -> None:
        pid = str(self.libvirtd())
        self.run(["kill", f"-{with_signal.name[3:]}", pid])
        deadline = time.monotonic() + 60
        while self.run(["kill", "-0", pid], check=False).returncode == 0:
            if time.monotonic() > deadline:
                raise GuestnetError(f"libvirtd in sandbox {self.name} does not end: `sandbox stop` ends everything")
            time.sleep(0.02)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.first.alive()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive():
            stop(self.name)


def start(
    name: str,
    *,
    root: Path = Path("/"),
    prepare: Iterable[Sequence[str]] = (),
    binds: Iterable[Path] = (),
    keep: bool = False,
    kvm: bool = False,
) -> Sandbox:
    """Makes a sandbox and returns when libvirtd answers in it.

    Each argument list of `prepare` is run inside before libvirtd starts (libvirt looks for hooks only then). `binds`
    are files and folders to be seen inside under the same path, read only and always current; the checkout, the
    interpreter and the image cache are among them anyway. Without `keep` it ends with this process, however that ends.
    `kvm` shows /dev/kvm inside: only where it truly works, libvirt is slow with one that does not.

    Raises GuestnetError: the name is taken or impossible, a namespace or the overlay is refused, `prepare` or libvirtd
    failed.
    """
    registry.check_name(name)
    _check_root(root)
    bytecode.compile_for(root)
    ensure_own_folder(CACHE)
    orders = {
        **_orders(name, root, binds),
        "prepare": [list(argv) for argv in prepare],
        "keep": keep,
        "kvm": kvm,
    }
    reader, status = os.pipe()
    with ExitStack() as undo, os.fdopen(reader, "rb") as answers:
        try:
            entry = _launch(name, root, keep, orders, status)
        finally:
            os.close(status)
        undo.callback(_end, entry)
        _await(name, answers.fileno())
        first = entry.first()
        if first is None:
            raise GuestnetError(f"sandbox {name!r} ended while it started")
        (entry.folder / "ready").touch()
        undo.pop_all()
        return Sandbox(name, root, keep, first)


def python_inside(argv: Sequence[str], root: Path = Path("/")) -> list[str]:
    """The argument list that runs Python with this package in a sandbox over `root`, for `prepare`. Pure."""
    program = sys.executable if root == Path("/") else "/usr/bin/python3"
    return ["env", f"PYTHONPATH={_LIBRARY}", "PYTHONDONTWRITEBYTECODE=1", program, *argv]


def stop(name: str) -> None:
    """Ends a sandbox with everything in it. Raises GuestnetError when there is none or it does not end."""
    with registry.locked():
        if name not in {entry.name for entry in registry.sweep() if entry.seen_from_here()}:
            raise _unknown(name)
        entry = registry.read(name)
    if entry:
        if first := entry.first():
            _save_capabilities(entry, first)
        _end(entry)


def find(name: str) -> Sandbox:
    """The running sandbox of that name. Raises GuestnetError when there is none."""
    for sandbox in running():
        if sandbox.name == name:
            return sandbox
    raise _unknown(name)


def running() -> list[Sandbox]:
    """The sandboxes that are up, by name; what dead ones left is removed."""
    with registry.locked():
        entries = registry.sweep()
    found = [(e, e.first()) for e in entries if e.ready() and e.seen_from_here()]
    return [Sandbox(e.name, Path(e.root), e.keep, first) for e, first in found if first]


def _unknown(name: str) -> NoSandboxError:
    return NoSandboxError(f"no sandbox {name!r} is running: see `guestnet sandbox list`, or `guestnet sandbox start`")


def _check_root(root: Path) -> None:
    if os.geteuid() != 0:
        raise GuestnetError("sandboxes are made and entered by root: run this with sudo")
    if not (root / _LIBVIRTD[0].lstrip("/")).exists():
        raise GuestnetError(f"no libvirtd under {root}: install the package libvirt-daemon-system there")
    if not Path("/dev/net/tun").exists():
        raise GuestnetError("/dev/net/tun is missing, guests cannot have network cards: modprobe tun")
    if any(c in str(root) for c in ":,\\"):
        raise GuestnetError(f"the root {root} cannot be an overlay's lower layer: its path has one of : , \\")


def _orders(name: str, root: Path, binds: Iterable[Path]) -> dict[str, Any]:
    own = [_LIBRARY, Path(sys.prefix), CACHE]
    paths = {p.resolve() for p in [*own, *binds] if p.exists()} - {Path("/"), Path("/usr")}
    return {
        "name": name,
        "root": str(root.resolve()),
        "stage": str(registry.ROOT / name),
        "binds": [[str(p), str(p)] for p in sorted(paths)],
        "uuid": str(uuid.uuid4()),
        "libvirtd": list(_LIBVIRTD),
        "capabilities": str(_capabilities(root)),
    }


def _capabilities(root: Path) -> Path:
    """Where QEMU's probed capabilities outlive the sandbox; libvirt itself checks that they still fit the binary."""
    return CACHE / "capabilities" / ("machine" if root == Path("/") else root.name)


def _save_capabilities(entry: RegistryEntry, first: Process) -> None:
    """Keeps what libvirt found out about QEMU, 0.6 s of work, for the next sandbox over the same root."""
    target = _capabilities(Path(entry.root))
    # Only a convenience: a sandbox that ends meanwhile, or a full disk, must not keep `stop` from stopping.
    with suppress(OSError):
        for found in Path(f"/proc/{first.pid}/root{boot.CAPABILITIES}").glob("*.xml"):
            target.mkdir(parents=True, exist_ok=True)
            draft = target / f".{found.name}.{os.getpid()}"
            draft.write_bytes(found.read_bytes())
            draft.rename(target / found.name)


def _launch(name: str, root: Path, keep: bool, orders: dict[str, Any], status: int) -> RegistryEntry:
    owner = os.pidfd_open(os.getpid())
    try:
        with registry.locked():
            if name in {entry.name for entry in registry.sweep()}:
                raise GuestnetError(f"sandbox {name!r} is already running: stop it, or choose another name")
            (registry.ROOT / name).mkdir(mode=0o700)
            keeper = _spawn_keeper(name, (status, owner))
            processes = Process.of(keeper.pid), Process.of(os.getpid())
            entry = RegistryEntry(name, str(root), keep, *processes, registry.own_pid_namespace())
            registry.write(entry)
            _keepers[name] = keeper
            # Only now may the keeper act: until its orders are complete it does nothing at all.
            assert keeper.stdin is not None
            keeper.stdin.write(json.dumps({**orders, "status": status, "owner": owner}).encode())
            keeper.stdin.close()
            return entry
    finally:
        os.close(owner)


def _spawn_keeper(name: str, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from libvirt_guestnet.sandbox.boot import main; main()"
    return subprocess.Popen(
        # The last argument is for people who read `ps`.
        [sys.executable, "-I", "-S", "-c", code, str(_LIBRARY), f"guestnet-sandbox={name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=fds,
        start_new_session=True,
    )


def _await(name: str, reader: int) -> None:
    if not select.select([reader], [], [], _START_SECONDS * 3)[0]:
        raise GuestnetError(f"sandbox {name!r} did not come up in {_START_SECONDS * 3:.0f} s")
    answer: Mapping[str, str] = json.loads(os.read(reader, _STATUS_BYTES) or b"{}")
    if "ready" not in answer:
        raise GuestnetError(f"sandbox {name!r} did not start: {answer.get('error', 'it was killed')}")


def _end(entry: RegistryEntry) -> None:
    first = entry.first()
    (first or entry.keeper).kill()
    if not entry.keeper.gone(registry.GONE_SECONDS):
        raise GuestnetError(f"sandbox {entry.name!r} does not end: its keeper, process {entry.keeper.pid}, still waits")
    if keeper := _keepers.pop(entry.name, None):
        keeper.wait(registry.GONE_SECONDS)
    with registry.locked(), suppress(FileNotFoundError):
        registry.sweep()

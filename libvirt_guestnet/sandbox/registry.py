"""Which sandboxes exist on this machine.

::

    /run/libvirt-guestnet/sandboxes/     0700 root
    ├── lock                             flock: one start, stop or sweep at a time claims or removes names
    └── NAME/                            a tmpfs is mounted here, seen by the sandbox alone
        ├── record                       who keeps it, who owns it, its root (written before anything is done)
        ├── first                        PID and start time of its first process (by the keeper)
        └── ready                        it was up (by whoever started it)

A process is always named by PID and start time, and signalled through a pidfd: a PID alone may be somebody else's by
now. The keeper removes NAME/ when the sandbox ends; where even the keeper was killed, the next start, stop or list
does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.sandbox.boot import start_ticks

ROOT = Path("/run/libvirt-guestnet/sandboxes")
GONE_SECONDS = 60.0
# Also a host name, and part of overlayfs options: nothing that needs quoting there.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class Process(NamedTuple):
    """A process for good: its PID and when it started, in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises ProcessLookupError or FileNotFoundError when there is none."""
        return cls(pid, start_ticks(pid))

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A pidfd of this very process, or None when it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield fd if self._is(fd) else None
        finally:
            os.close(fd)

    def _is(self, fd: int) -> bool:
        try:
            same = start_ticks(self.pid) == self.started
        except (FileNotFoundError, ProcessLookupError):
            return False
        # A zombie has ended: its pidfd is readable.
        return same and not select.select([fd], [], [], 0)[0]

    def alive(self) -> bool:
        with self.opened() as fd:
            return fd is not None

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        with self.opened() as fd:
            if fd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)

    def gone(self, seconds: float) -> bool:
        """Waits for its end; False when it is still there after `seconds`."""
        with self.opened() as fd:
            return fd is None or bool(select.select([fd], [], [], seconds)[0])


@dataclass(frozen=True)
class RegistryEntry:
    """One claimed name."""

    name: str
    root: str
    keep: bool
    keeper: Process
    owner: Process
    pid_namespace: int = 0

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    def ready(self) -> bool:
        return (self.folder / "ready").exists()

    def first(self) -> Process | None:
        """The first process inside, as the keeper wrote it; None while it does not exist yet."""
        with suppress(FileNotFoundError):
            return Process(*json.loads((self.folder / "first").read_text()))
        return None

    def seen_from_here(self) -> bool:
        """Whether its processes have the same numbers here as where it was started: in another PID namespace that
        shares /run they look as if they had ended. 0: its version did not say."""
        return self.pid_namespace in (0, own_pid_namespace())

    def doomed(self) -> bool:
        """Its owner is gone, so it is about to end by itself."""
        return not (self.keep and self.ready()) and not self.owner.alive()


def own_pid_namespace() -> int:
    """The inode number of the PID namespace that this process is in."""
    return Path("/proc/self/ns/pid").stat().st_ino


def check_name(name: str) -> None:
    """Raises GuestnetError for what cannot be a sandbox's name."""
    if not _NAME.fullmatch(name):
        raise GuestnetError(
            f"{name!r} cannot be a sandbox's name: use up to 32 lower-case letters, digits and '-', "
            f"with a letter or digit at both ends"
        )


@contextmanager
def locked() -> Iterator[None]:
    """Only one claims or removes names meanwhile. Raises GuestnetError for users who are not root."""
    try:
        for folder in (ROOT.parent, ROOT):
            folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(ROOT / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise GuestnetError("sandboxes are made and entered by root: run this with sudo") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write(entry: RegistryEntry) -> None:
    """Puts a claim on disk, whole."""
    draft = entry.folder / ".record"
    draft.write_text(json.dumps(asdict(entry)))
    draft.rename(entry.folder / "record")


def read(name: str) -> RegistryEntry | None:
    """The claim on a name, or None. Raises GuestnetError for impossible names."""
    check_name(name)
    try:
        fields = json.loads((ROOT / name / "record").read_text())
    except FileNotFoundError:
        return None
    fields["keeper"], fields["owner"] = Process(*fields["keeper"]), Process(*fields["owner"])
    return RegistryEntry(**fields)


def sweep() -> list[RegistryEntry]:
    """Removes what dead sandboxes left and waits for those about to end; returns the living. Call it when locked."""
    living = []
    for folder in sorted(ROOT.iterdir()):
        if not folder.is_dir():
            continue
        entry = read(folder.name)
        if entry and not entry.seen_from_here():
            living.append(entry)
            continue
        if entry and entry.doomed():
            entry.keeper.gone(GONE_SECONDS)
        if entry and entry.keeper.alive():
            living.append(entry)
        elif entry is None or (first := entry.first()) is None or first.gone(GONE_SECONDS):
            # Without a record nobody got to work here: the claim and its record are made under one lock.
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
    return living

"""Running a program of the system: arguments and a finished input, never a shell; with a deadline. On the hook path."""

from __future__ import annotations

import errno
import os
import select
import time

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple, NewType
from libvirt_guestnet.parse import shown

_LONGEST = 128 << 20  # nft's listing of a thousand guarded ports has tens of megabytes
SECONDS = 15.0  # of the 20 that a hook has
# What kernels and programs say when the whole host is short of something for a moment; and how long to wait for it.
_STARVED = ("Too many open files", "Cannot allocate memory", "No buffer space", "Resource temporarily unavailable")
_STARVING = (errno.ENFILE, errno.EMFILE, errno.ENOMEM, errno.EAGAIN)
PAUSES = (0.1, 0.2, 0.4, 0.8)
_FILES = ("stdin", "stdout", "stderr")


LockDescriptor = NewType("LockDescriptor", int)
"""The descriptor of a lock's file: the lock lasts until every process that has inherited it has ended."""


class RefusedBatchError(GuestnetError):
    """A program, or the kernel behind it, refused a batch, or `grammar` did. Nothing was changed."""


class NotInstalledError(GuestnetError):
    """There is no such program on this host."""


class Output(NamedTuple):
    """What a program printed, and its exit status."""

    status: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The first line of its error message."""
        return (self.stderr or self.stdout).strip().split("\n", 1)[0][:300] or f"exit status {self.status}"

    @property
    def is_starved(self) -> bool:
        """Whether the host was short of something, and may not be any more when it is asked again."""
        return self.status != 0 and any(word in self.stderr for word in _STARVED)


def said(argv: list[str], package: str) -> str:
    """What a program that changes nothing prints. Raises GuestnetError when it fails, too."""
    output = run(argv, "", package)
    if output.status != 0:
        raise GuestnetError(f"{' '.join(argv)}: {output.complaint}")
    return output.stdout


def run_transaction(argv: list[str], stdin: str, package: str, lock: LockDescriptor | None = None) -> Output:
    """Runs a program that does all of it or nothing, again while the host is short of files or memory: that passes, and
    a guest that starts meanwhile would not get its guard. Raises GuestnetError as `run`, and where it does not pass."""
    output = run(argv, stdin, package, lock)
    for pause in PAUSES:
        if not output.is_starved:
            return output
        time.sleep(pause)
        output = run(argv, stdin, package, lock)
    if output.is_starved:
        raise GuestnetError(
            f"the host is short of files or memory, {argv[0]} says {len(PAUSES) + 1} times in {sum(PAUSES):.1f} s, and "
            f"nothing was changed: {output.complaint}; see /proc/sys/fs/file-nr and `free`"
        )
    return output


def run(argv: list[str], stdin: str, package: str, lock: LockDescriptor | None = None) -> Output:
    """Runs a program to its end. `package` is Debian's name for where it comes from.

    The program reads a finished file, never a pipe, so that it never works on half an input if we are killed. It
    inherits the `lock`, which even then lasts until it has ended. Raises GuestnetError when it cannot be run
    (NotInstalledError: there is none), or has not ended within SECONDS.
    """
    if not all(argument.isascii() and argument.isprintable() for argument in argv):
        raise RefusedBatchError(f"not run, since we never write {shown(argv)}; please report this bug")
    files: list[int] = []
    try:
        pid = _begin(argv, stdin, package, lock, files)
        status = _wait(pid, argv[0])
        stdout, stderr = (_read(file).decode(errors="replace") for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    return Output(status, stdout, stderr)


def _begin(argv: list[str], stdin: str, package: str, lock: LockDescriptor | None, files: list[int]) -> int:
    """The process's number. Nothing has happened yet while the host has no file or process for it: it is tried again.
    Adds the `files` that it has, to be closed. Raises GuestnetError."""
    for pause in (*PAUSES, 0.0):
        try:
            while len(files) < len(_FILES):
                files.append(os.memfd_create(_FILES[len(files)]))
            _write(files[0], stdin.encode())
            return _spawn(argv, files, lock)
        except OSError as error:
            if not pause or error.errno not in _STARVING:
                advice = f": install the package {package}" if isinstance(error, FileNotFoundError) else ""
                kind = NotInstalledError if advice else GuestnetError
                raise kind(f"{argv[0]} cannot be run ({error.strerror}){advice}") from error
            time.sleep(pause)
    raise AssertionError


def _write(file: int, data: bytes) -> None:
    done = os.lseek(file, 0, os.SEEK_SET)
    while done < len(data):
        done += os.write(file, data[done:])
    os.lseek(file, 0, os.SEEK_SET)


def _read(file: int) -> bytes:
    """All that was printed, as half a listing would look like a whole one. Raises GuestnetError if it is too long."""
    size = os.fstat(file).st_size
    if size > _LONGEST:
        raise GuestnetError(f"a program said more than {_LONGEST >> 20} MiB, which is not read")
    return os.pread(file, size, 0)


def _spawn(argv: list[str], files: list[int], lock: LockDescriptor | None) -> int:
    """Raises OSError."""
    actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
    if lock is not None:
        actions.append((os.POSIX_SPAWN_DUP2, lock, 3))
    return os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)


def _wait(pid: int, name: str) -> int:
    """The exit status. Kills the program when its time is up or we are interrupted, so that nothing happens later."""
    status = None
    try:
        handle = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            ready = poll.poll(SECONDS * 1000)
        finally:
            os.close(handle)
        if not ready:
            raise GuestnetError(f"{name} did not finish within {SECONDS:.0f} s; nothing was changed")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status
    finally:
        if status is None:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

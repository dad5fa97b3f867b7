"""Applying nft batches: the nft program, one transaction a batch. Imports next to nothing: it is on the hook path."""

from __future__ import annotations

import os
import select

from libvirt_guestnet.errors import GuestnetError

NFT_SECONDS = 10.0


def nft(batch: str, hold: int | None = None) -> None:
    """Applies an nft batch in one transaction: all of it or, with a GuestnetError, nothing.

    The program reads a finished file, never a pipe: should we be killed, it must not apply half a batch. It inherits
    the descriptor `hold`, so a lock lasts until the batch is in the kernel, even then.
    """
    if not batch:
        return
    files = [os.memfd_create("batch"), os.memfd_create("output")]
    try:
        _write(files[0], batch.encode())
        status = _wait(_spawn(files[0], files[1], hold))
        output = os.pread(files[1], 2000, 0).decode(errors="replace").strip()
    finally:
        for file in files:
            os.close(file)
    if status != 0:
        first = output.split("\n", maxsplit=1)[0]
        raise GuestnetError(f"nft refused the change: {first or f'exit status {status}'}")


def _write(file: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(file, data[done:])
    os.lseek(file, 0, os.SEEK_SET)


def _spawn(batch: int, output: int, hold: int | None) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, batch, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    if hold is not None:
        actions.append((os.POSIX_SPAWN_DUP2, hold, 3))
    try:
        return os.posix_spawnp("nft", ["nft", "-f", "-"], os.environ, file_actions=actions)
    except OSError as error:
        raise GuestnetError(f"nft cannot be run ({error.strerror}): install the package nftables") from error


def _wait(pid: int) -> int:
    """The exit status. Kills the program when its time is up or we are interrupted: no orphan changes the kernel."""
    status = None
    try:
        handle = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            ready = poll.poll(NFT_SECONDS * 1000)
        finally:
            os.close(handle)
        if not ready:
            raise GuestnetError(f"nft did not finish within {NFT_SECONDS:.0f} s; nothing was changed")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status
    finally:
        if status is None:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

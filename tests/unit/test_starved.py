"""A host that is short of files or memory for a moment: nft and iptables are tried again, and nothing is concluded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.run import iptables, nft, program
from libvirt_guestnet.datapath.run.nft import NftRefusedError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Bridges

SAID = "Error: Could not process rule: Too many open files in system"
BATCH = "add table netdev guestnet\n"


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], int]]:
    """An nft that complains so many times first; gives how often it ran."""

    def install(failures: int, said: str = SAID, name: str = "nft") -> Callable[[], int]:
        runs = tmp_path / "runs"
        runs.write_text("")
        script = f"#!/bin/sh\necho >>{runs}; [ $(wc -l <{runs}) -gt {failures} ] && exit 0; echo '{said}' >&2; exit 1\n"
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return lambda: len(runs.read_text())

    monkeypatch.setattr(program, "PAUSES", (0.01, 0.01, 0.01, 0.01))
    return install


@pytest.mark.parametrize("said", [SAID, "Error: Could not process rule: Cannot allocate memory"])
def test_a_batch_is_applied_once_the_host_has_files_again(standin: Callable[..., Callable[[], int]], said: str) -> None:
    ran = standin(4, said)
    nft.nft(BATCH)
    assert ran() == 5


def test_it_is_tried_for_a_while_only_and_the_message_says_what_to_look_at(
    standin: Callable[..., Callable[[], int]],
) -> None:
    ran = standin(100)
    with pytest.raises(GuestnetError) as failed:
        nft.nft(BATCH)
    assert not isinstance(failed.value, NftRefusedError)
    assert str(failed.value) == (
        "the host is short of files or memory, nft says 5 times in 0.0 s, and nothing was changed: "
        f"{SAID}; see /proc/sys/fs/file-nr and `free`"
    )
    assert ran() == 5


def test_what_is_refused_is_not_tried_again(standin: Callable[..., Callable[[], int]]) -> None:
    ran = standin(100, "Error: Could not process rule: Operation not supported")
    with pytest.raises(NftRefusedError):
        nft.nft(BATCH)
    assert ran() == 1


def test_iptables_and_listings_are_tried_again_too(standin: Callable[..., Callable[[], int]]) -> None:
    ran = standin(2, name="iptables-restore")
    iptables.restore("iptables", "*filter\nCOMMIT\n")
    assert ran() == 3
    ran = standin(2)
    assert nft.tables() == set()
    assert ran() == 3


def test_nobody_takes_it_for_a_kernel_that_cannot_guard_bridges(standin: Callable[..., Callable[[], int]]) -> None:
    """That would leave them open for as long as the host runs."""
    standin(100)
    with UnlockedState().lock() as locked:
        locked.put_bridges(Bridges({"gn-a": "a"}, False))
        with pytest.raises(GuestnetError, match="short of files"):
            bridge_guard.settle(locked)
        found = locked.bridges()
        assert found is not None
        assert (found.settled, found.cannot) == (False, "")


@pytest.mark.parametrize("number", [errno.ENFILE, errno.EMFILE, errno.ENOMEM])
def test_a_program_is_begun_once_there_are_files_for_it(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "PAUSES", (0.01, 0.01))
    real, left = os.memfd_create, [3]

    def create(name: str) -> int:
        left[0] -= 1
        if left[0] in (0, 1):
            raise OSError(number, os.strerror(number))
        return real(name)

    monkeypatch.setattr(os, "memfd_create", create)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert program.run(["cat"], "all of it", "coreutils").stdout == "all of it"
    left[0] = 2
    monkeypatch.setattr(program, "PAUSES", ())
    with pytest.raises(GuestnetError, match=r"cat cannot be run \("):
        program.run(["cat"], "", "coreutils")
    assert len(list(Path("/proc/self/fd").iterdir())) == before

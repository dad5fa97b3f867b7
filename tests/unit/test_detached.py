"""Processes that outlive a call: they are sessions of their own, and leave no zombies with what goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.processes import detached

SECONDS = 20


def _written(file: Path) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if file.exists() and (text := file.read_text()):
            return text
        time.sleep(0.01)
    raise AssertionError("the helper wrote nothing")


def test_a_helper_is_a_session_of_its_own_and_no_zombie_stays(tmp_path: Path) -> None:
    def work(file: Path) -> None:
        draft, stdout = file.with_suffix(".draft"), Path("/proc/self/fd/1").readlink()
        draft.write_text(f"{os.getsid(0)} {os.getpid()} {stdout}")
        draft.rename(file)

    helpers = []
    for number in range(3):
        file = tmp_path / str(number)
        detached.leave(lambda file=file: work(file), SECONDS, "write a file")  # type: ignore[misc]
        session, helper, stdout = _written(file).split()
        assert session == helper != str(os.getpid())
        assert stdout == os.devnull
        helpers.append(helper)
        end = time.monotonic() + SECONDS
        while Path(f"/proc/{helper}/wchan").exists() and _state(helper) != "Z" and time.monotonic() < end:
            time.sleep(0.01)
    # Who leaves the next one has waited for those before.
    assert not any(Path(f"/proc/{helper}").exists() for helper in helpers[:-1])


def _state(process: str) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_host_without_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(GuestnetError, match=r"the helper that would do it could not be started .*out of processes"):
        detached.leave(lambda: None, SECONDS, "do it")

"""One process looks after each pair of routers: its note, which others look at, too."""

from __future__ import annotations

import os
import threading
from fcntl import LOCK_EX, flock
from pathlib import Path

from libvirt_guestnet.hook.processes import arbiters, notes
from libvirt_guestnet.state.locked import UnlockedState


def _held(note: str) -> int:
    Path(note).parent.mkdir(exist_ok=True)
    file = os.open(note, os.O_RDWR | os.O_CREAT, 0o600)
    flock(file, LOCK_EX)
    return file


def test_another_arbiter_is_left_to_its_work(tmp_path: Path) -> None:
    state = UnlockedState(str(tmp_path))
    file = _held(notes.path(state, notes.ARBITRATING, "edge"))
    assert arbiters.taken(state, "edge") is None
    os.close(file)


def test_who_only_looks_whether_it_lives_is_waited_for(tmp_path: Path) -> None:
    """Else nobody would look after the pair: whoever finds the note of a killed process locks it for a moment."""
    state = UnlockedState(str(tmp_path))
    note = notes.path(state, notes.ARBITRATING, "edge")
    file = _held(note)
    timer = threading.Timer(0.2, os.close, [file])
    timer.start()
    assert arbiters.taken(state, "edge") == note
    timer.join()
    assert not notes.is_broken(note), "it is locked"


def test_a_note_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    state = UnlockedState(str(tmp_path))
    note = notes.path(state, notes.ARBITRATING, "edge")
    file = _held(note)

    def forgotten() -> None:
        notes.forget(note)
        os.close(file)

    timer = threading.Timer(0.1, forgotten)
    timer.start()
    assert arbiters.taken(state, "edge") == note
    timer.join()
    assert Path(note).exists()

"""Unit tests run as anybody, and reach nothing of the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.state.folder import State


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Receipts are in a folder of the test's own, not under /run."""
    monkeypatch.setattr(State.__init__, "__defaults__", (f"{tmp_path}/state-of-no-host",))

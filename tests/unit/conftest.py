"""Unit tests run as anybody, and reach nothing of the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.state.locked import UnlockedState

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Receipts are in a folder of the test's own, not under /run."""
    root = f"{tmp_path}/state-of-no-host"
    monkeypatch.setattr(UnlockedState.__init__, "__defaults__", (root,))
    monkeypatch.setattr(concern, "_STATE", root)
    monkeypatch.setattr(repair, "SPOOL", f"{root}/reconnect")
    monkeypatch.setattr(repair, "TAKEN", f"{root}/repairing")

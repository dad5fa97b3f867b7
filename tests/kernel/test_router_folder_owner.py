"""Whose a router's disks are: only root gives files away."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.folder import Owner


def test_qemu_reads_one_and_owns_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "ROUTERS", tmp_path / "libvirt-guestnet/routers")
    folder.ensure("edge", Owner(64055, 64056))
    config, leases = folder.disk("edge", disks.CONFIG), folder.disk("edge", disks.LEASES)
    found = [(each.stat().st_uid, each.stat().st_gid) for each in (config.parent, config, leases)]
    assert found == [(0, 64056), (0, 64056), (64055, 64056)]

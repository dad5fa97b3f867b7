"""The process that moves the checksum guard to tcx, which lets the start go on first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from test_hook import repaired
from test_hook_owners import MAC, SETUP, A
from test_hook_watch import LAN
from test_owed import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    yield Host(box, tmp_path)
    box.close()


def settled(host: Host) -> None:
    host.soon(lambda: host.notes() == [], "it is done")


def test_a_repair_that_fails_does_not_wait_for_that(host: Host) -> None:
    """It guards the port, cannot tell the bridge of it, and puts back what was there."""
    assert host.call("network", "lan", "started", "begin", LAN) == (0, "")
    host.record("a", A)
    host.box.ok("sh", "-c", f"ip link set up0 master br0; bridge fdb replace {MAC} dev up0 master static")
    begun = time.monotonic()
    said = repaired(host, "a")
    assert "guest a is not repaired" in "".join(said)
    assert time.monotonic() - begun < 10
    settled(host)

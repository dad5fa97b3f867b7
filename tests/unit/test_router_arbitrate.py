"""What the host does with the routers of a pair, where that is more than asking virsh."""

from __future__ import annotations

from contextlib import nullcontext
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import pytest

from libvirt_guestnet.guest import wire
from libvirt_guestnet.router import arbitrate, disks, folder
from libvirt_guestnet.router.arbitrate import VirshHost
from libvirt_guestnet.router.pairing import Member


def test_no_router_keeps_the_other_one_from_taking_over_by_what_it_wrote_as_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "ROUTERS", tmp_path)
    (tmp_path / "edge").mkdir()
    path = folder.disk("edge", disks.LEASES)
    disks.ensure_disk(path, disks.LEASES_BYTES)
    disks.write(path, b"\xff" * (disks.LEASES_BYTES // 2 - disks.HEAD_BYTES))
    given: list[str] = []
    client = nullcontext(SimpleNamespace(activate=given.append))
    monkeypatch.setattr(VirshHost, "_client", lambda *_: client)
    monkeypatch.setattr(VirshHost, "_taps", lambda *_: [])
    members = [Member(name, IPv4Address("169.254.1.2"), frozenset()) for name in ("edge", "edge-2")]
    VirshHost((members[0], members[1])).activate("edge-2", "edge")
    request = wire.request(b"8 bytes.", 10.0, (b"activate", given[0].encode()))
    assert len(request) < wire.LINE_MAX


@pytest.mark.parametrize(("runs", "ended"), [(["7", "7"], True), (["7", "8"], False), (["8"], False), ([""], False)])
def test_only_the_run_that_was_silent_is_ended(runs: list[str], ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking over takes a while: `guestnet router replace` may have started the silent one again by then."""
    left: list[str] = []
    monkeypatch.setattr(VirshHost, "run", lambda *_: runs.pop(0))
    monkeypatch.setattr(arbitrate, "_virsh", lambda *_: "3\n")
    monkeypatch.setattr(arbitrate.detached, "leave", lambda *words: left.append(words[-1]))
    members = [Member(name, IPv4Address("169.254.1.2"), frozenset()) for name in ("edge", "edge-2")]
    VirshHost((members[0], members[1])).restart("edge", "7")
    assert bool(left) is ended

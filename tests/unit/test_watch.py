"""What the service misses in the kernel, as the receipts have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.datapath.routes import Reach
from libvirt_guestnet.hook import watch, ways
from libvirt_guestnet.state import Bridges, PortReceipt, State

ALL = {"netdev guestnet", "bridge guestnet", "arp guestnet"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A host with a guarded bridge and a host-routed guest; other firewalls are looked at elsewhere."""
    monkeypatch.setattr(ways, "lost", lambda _state: [])
    state = State(str(tmp_path))
    with state.lock():
        state.put_ports("u", [PortReceipt("vme0", "52:54:00:00:00:01", "g", "u")])
        state.put_reach(Reach("vme0", "u", "g", gateway="169.255.30.1")._asdict())
        state.put_bridges(Bridges({"gn-one": "one"}, True, ""))
    return state


def missing(state: State, monkeypatch: pytest.MonkeyPatch, there: set[str]) -> list[str]:
    monkeypatch.setattr(watch, "tables", lambda: there | {"ip filter"})
    return watch.lost(state)


def test_every_table_of_ours_is_missed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(state, monkeypatch, ALL) == []
    for table in ALL:
        assert missing(state, monkeypatch, ALL - {table}) == [table]


def test_only_what_is_needed_is_missed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    with state.lock():
        state.put_bridges(Bridges({"gn-one": "one"}, True, "the kernel cannot"))
        state.drop_reach("vme0")
    assert missing(state, monkeypatch, set()) == ["netdev guestnet"]
    with state.lock():
        state.drop_ports(["vme0"])
    assert missing(state, monkeypatch, set()) == []

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


class Libvirt:
    """One whose rules are there or not, and who is asked to make them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost, self.some_left, self.now, self.asked, self.told = False, False, 1000.0, 0, 0
        monkeypatch.setattr(watch, "_libvirt_lost", lambda: (self.lost, self.some_left))
        monkeypatch.setattr(watch, "lost", lambda _state: [])
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(watch.program, "run", self._asked)
        monkeypatch.setattr(watch.log, "complain", self._told)

    def _asked(self, argv: list[str], *_: str) -> None:
        assert argv[:2] == ["busctl", "emit"]
        self.asked += 1

    def _told(self, _text: str) -> None:
        self.told += 1

    def looks(self, service: watch._Watch, seconds: float) -> tuple[int, int]:
        """How often it has been asked, and the log told, by then."""
        self.now += seconds
        service.look()
        return self.asked, self.told


def test_libvirt_is_asked_at_once_and_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt, service = Libvirt(monkeypatch), watch._Watch()
    assert libvirt.looks(service, 0) == (0, 0)
    libvirt.lost = True
    assert libvirt.looks(service, 0) == (1, 0)
    assert libvirt.looks(service, 0.3) == (1, 0), "it may be at it"
    assert libvirt.looks(service, 1.5) == (2, 0)
    assert libvirt.looks(service, 1.5) == (2, 0)
    assert libvirt.looks(service, 1.5) == (3, 0)
    assert libvirt.looks(service, 6) == (4, 1)
    assert libvirt.looks(service, 12) == (5, 1), "the log is told once"
    assert libvirt.looks(service, 29) == (6, 1)
    assert service.patience <= 30
    libvirt.lost = False
    assert libvirt.looks(service, 1) == (6, 1)
    assert service.patience == 30
    libvirt.lost = True
    assert libvirt.looks(service, 1) == (7, 1)


def test_a_network_that_is_being_stopped_is_no_reason_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt, service = Libvirt(monkeypatch), watch._Watch()
    libvirt.lost = libvirt.some_left = True
    assert libvirt.looks(service, 0) == (0, 0)
    assert libvirt.looks(service, 0.5) == (0, 0)
    assert libvirt.looks(service, 2) == (1, 0), "but one whose rules do not come is"

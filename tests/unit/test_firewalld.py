"""What firewalld is told, and what not, over a bus that is none."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.firewalls import firewalld, registry
from libvirt_guestnet.datapath.firewalls.accepts import Accept, OriginalDestination, Passage, RoutedLink
from libvirt_guestnet.datapath.firewalls.contract import Change
from libvirt_guestnet.datapath.firewalls.firewalld import Firewalld
from libvirt_guestnet.datapath.routing.routes import HostRoutes, Route
from libvirt_guestnet.datapath.run.program import Output
from libvirt_guestnet.hook.enforce import forwards
from libvirt_guestnet.state.locked import UnlockedState


def links(*guests: str) -> list[RoutedLink]:
    return [RoutedLink("vme1", ip_network(guest)) for guest in guests]


class Bus:
    """A firewalld with these sources in its zone; `runs` says whether it is there at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sources: str, runs: bool = True, refuses: str = "") -> None:
        self.sources, self.refuses, self.calls = list(sources), refuses, list[str]()
        monkeypatch.setattr(firewalld, "tables", lambda: {"inet firewalld", "ip filter"} if runs else {"ip filter"})
        monkeypatch.setattr(firewalld.program, "run", self.run)

    def run(self, argv: list[str], _stdin: str, _package: str) -> Output:
        method, _, *words = argv[argv.index("org.fedoraproject.FirewallD1.zone") + 1 :]
        assert words[0] == "libvirt-routed"
        if method == self.refuses:
            return Output(1, "", "Call failed: INVALID_ZONE: libvirt-routed\n")
        if method != "getSources":
            self.calls.append(f"{method} {words[1]}")
        return Output(0, json.dumps({"type": "as", "data": [self.sources]}), "")


def test_what_is_translated_needs_no_source() -> None:
    guest = ip_network("10.0.1.5/32")
    wanted: list[Accept | Passage | RoutedLink] = [
        Accept("gn-a", guest, "tcp", (80, 80), OriginalDestination(None, (8080, 8080))),
        Accept("gn-a", ip_network("198.18.1.60/32")),
        Passage("gn-r", ip_network("10.0.9.0/24"), "up0"),
        RoutedLink("vme1", ip_network("198.18.1.70/32")),
        RoutedLink("vme1", ip_network("fd61::/64")),
    ]
    assert Firewalld().sources(wanted) == ["198.18.1.60", "198.18.1.70", "fd61::/64"]


def test_exactly_what_differs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus(monkeypatch, "198.18.1.60/32", "198.18.1.61", "198.18.1.62", "52:54:00:00:00:01", "ipset:x")
    assert Firewalld().arrange(Change(links("198.18.1.60", "fd61::60"), ["198.18.1.61", "198.18.1.99"])) == []
    assert bus.calls == ["addSource fd61::60", "removeSource 198.18.1.61"]
    assert Firewalld().missing(links("198.18.1.60")) == []
    assert Firewalld().missing(links("198.18.1.60", "fd61::60")) == ["firewalld's sources"]


def test_a_host_without_firewalld_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus(monkeypatch, runs=False, refuses="getSources")
    assert Firewalld().arrange(Change(links("198.18.1.60"), ["198.18.1.61"])) == []
    assert Firewalld().missing(links("198.18.1.60")) == []
    assert bus.calls == []


@pytest.mark.parametrize("method", ["getSources", "addSource"])
def test_a_refusal_is_told_where_something_was_wanted(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    Bus(monkeypatch, refuses=method)
    (failure,) = Firewalld().arrange(Change(links("198.18.1.60"), []))
    assert failure.startswith(f"firewalld: {method} libvirt-routed")
    assert failure.endswith("INVALID_ZONE: libvirt-routed")
    assert Firewalld().arrange(Change(links(), ["198.18.1.61"])) == []


def test_a_firewalld_that_refuses_keeps_nothing_else_from_coming_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bus(monkeypatch, refuses="getSources")
    state = UnlockedState(str(tmp_path))
    with state.lock() as locked:
        locked.put_host_routes(HostRoutes("vme1", "u", "g", (Route("198.18.1.70/32", "vme1"),)))
    monkeypatch.setattr(registry.IPTABLES, "missing", lambda _wanted: ["iptables FORWARD"])
    monkeypatch.setattr(registry.IN_NFTABLES[0], "missing", lambda _wanted: [])
    assert forwards.lost(state) == ["iptables FORWARD"]
    assert Firewalld().knows(forwards.wanted_accepts(state)) is False

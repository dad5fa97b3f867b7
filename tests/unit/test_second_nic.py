"""A NIC is plugged that has the MAC of one that is there, on its network: another one, or that one, which changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.helpers import hotplug
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Plugging, PortReceipt

MAC, OLD, NEW = "52:54:00:00:00:01", "old", "new"
NIC = """<interface type='network'><mac address='{mac}'/><source network='lan' portid='{port}'/><target dev='{tap}'/>
</interface>"""


def domain(*nics: tuple[str, str]) -> xmlread.Node:
    """A running one with NICs on these (port, tap)."""
    listed = "".join(NIC.format(mac=MAC, port=port, tap=tap) for port, tap in nics)
    text = f"<domain><name>a</name><uuid>u-a</uuid><devices>{listed}</devices></domain>"
    return xmlread.parse(text.encode())


class Watch:
    """Hears of these taps, one after the other, then of nothing for as long as it is to wait."""

    def __init__(self, *taps: str) -> None:
        self.taps, self.waited = list(taps), 0.0

    def tap(self, _mac: str, _bridge: str, seconds: float, mine: Callable[[str], bool]) -> str:
        while self.taps:
            if mine(tap := self.taps.pop(0)):
                return tap
        self.waited += seconds
        return ""


@pytest.mark.parametrize(
    ("heard", "records", "taps"),
    [
        (["first", "second"], [], ["second"]),
        (["first"], [domain((NEW, "first"))], ["first"]),
        (["first"], [domain((OLD, "first")), domain((OLD, "first"), (NEW, "second"))], ["second"]),
        (["others", "second"], [], ["second"]),
        ([], [domain((NEW, "others"))], []),
        ([], [None], []),
    ],
    ids=["another one", "itself", "another one, unheard", "past a neighbour's", "a neighbour's", "ended"],
)
def test_the_helper_finds_the_new_tap_or_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    heard: list[str],
    records: list[xmlread.Node | None],
    taps: list[str],
) -> None:
    found = candidates(monkeypatch, tmp_path, Watch(*heard), records, hotplug.Staying("first"))
    assert found == [(tap, True) for tap in taps]


def test_a_nic_that_moves_within_its_bridge_is_there_when_libvirt_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """libvirt 9.0 takes its tap out, which the kernel tells of as of one that is in, and puts it in again."""
    records: list[xmlread.Node | None] = [domain((OLD, "first")), domain((OLD, "first")), domain((NEW, "first"))]
    found = candidates(monkeypatch, tmp_path, Watch("first", "first"), records, hotplug.Staying("first", moves=True))
    assert found == [("first", False), ("first", False), ("first", True)]


def candidates(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    watch: Watch,
    records: list[xmlread.Node | None],
    stays: hotplug.Staying,
) -> list[tuple[str, bool]]:
    """All of them, up to the first that is there for good."""
    state = UnlockedState(str(root))
    monkeypatch.setattr(links, "index_of", {"first": 1, "second": 2, "others": 3}.get)
    monkeypatch.setattr(hotplug.libvirt_records, "running", lambda _name, _uuid: records.pop(0))
    with state.lock() as locked:
        locked.put_ports("u-b", [PortReceipt("others", MAC, "b", "u-b", ifindex=3)])
        locked.put_plugging(Plugging(NEW, "u-a", MAC))
    port = xmlread.parse(f"<networkport><uuid>{NEW}</uuid><mac address='{MAC}'/></networkport>".encode())
    plug = hotplug.Plug(domain((OLD, "first")), port, "lan")
    found = []
    for each in hotplug._candidates(watch, plug, state, stays):  # type: ignore[arg-type]
        found.append(each)
        if each[1]:
            break
    assert records == []
    assert watch.waited < 1
    return found

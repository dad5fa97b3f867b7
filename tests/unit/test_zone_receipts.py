"""Zones as the hooks know them, by receipts: what shares a bridge, and what the table is."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.datapath.routing.zones import TABLE, Routed, batch, sizes
from libvirt_guestnet.datapath.run import grammar
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import zones
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt

BLUE = Routed("br0", ("t", "blue"), ("10.1.1.1", "fd00::1"))
RED = Routed("br1", ("t", "red"), ("10.1.2.1",))


def receipt(name: str, zone: str, vlan: int = 0, topology: str = "t") -> NetworkReceipt:
    return NetworkReceipt(name, topology, True, "br0", vlan=vlan, mode="bridge", zone=zone)


def change(tmp_path: Path, *receipts: NetworkReceipt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "sizes_of", lambda _table: {})
    with UnlockedState(str(tmp_path)).lock() as locked:
        for each in receipts:
            zones.change(None, each, locked)
            locked.put_network(each)


@pytest.mark.parametrize(
    "other",
    [receipt("b", "red"), receipt("b", ""), receipt("b", "blue", topology="another")],
    ids=lambda each: each.zone,
)
def test_zones_share_no_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: NetworkReceipt) -> None:
    with pytest.raises(GuestnetError, match="would share bridge br0 with 'a' in zone 'blue' of 't'"):
        change(tmp_path, receipt("a", "blue"), other, monkeypatch=monkeypatch)


def test_they_may_share_one_that_tells_their_vlans_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(tmp_path, receipt("a", "blue", 10), receipt("b", "red", 20), monkeypatch=monkeypatch)
    change(tmp_path, receipt("c", "blue", 10), receipt("d", "", 30), monkeypatch=monkeypatch)
    with pytest.raises(GuestnetError, match="share bridge br0"):
        change(tmp_path, receipt("e", "red", 10), monkeypatch=monkeypatch)


def test_somebody_elses_network_is_not_refused_for_our_sake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = receipt("b", "")._replace(topology="", external=True, undeclared=True)
    change(tmp_path, receipt("a", "blue"), stranger, monkeypatch=monkeypatch)


def test_one_zone_needs_no_table() -> None:
    nothing = f"add table {TABLE}\ndelete table {TABLE}\n"
    assert batch([]) == batch([BLUE]) == batch([BLUE, BLUE._replace(bridge="br2")]) == nothing
    assert sizes([BLUE]) == {}
    assert "drop" in batch([BLUE, RED])


def test_zones_of_two_topologies_are_two() -> None:
    assert sizes([BLUE, RED._replace(zone=("other", "blue"))])


def test_only_what_we_could_have_written_reaches_nft() -> None:
    grammar.check_nft(batch([BLUE, RED]))
    with pytest.raises(GuestnetError):
        batch([BLUE, RED._replace(bridge='br1"; }')])
    with pytest.raises(GuestnetError):
        batch([BLUE, RED._replace(hosts=("10.1.2.1; flush ruleset",))])

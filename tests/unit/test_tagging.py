"""Whose VLANs a tap has, and an uplink for it, where names of taps are used again: the kernel's part is played here."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import taps
from libvirt_guestnet.hook.calls import domain, networks
from libvirt_guestnet.hook.enforce import bridge_guard, forwards, host_routes, tagging
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import TapVlans

NS = 'xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"'
NETWORK = f"""<hookData><network><name>{{name}}</name><metadata><guestnet:network {NS} topology="t" name="{{name}}">
<guestnet:vlan label="lan" uplink="{{uplink}}"/></guestnet:network></metadata><forward mode="bridge"/>
<bridge name="br0"/></network></hookData>"""


class Host:
    """One whose taps are there with an index each; `tags` and `uplinks` are what its bridge has been told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.state, self.taps = UnlockedState(str(root)), {"vme0": 5, "vme1": 6}
        self.tags: dict[str, int] = {}
        self.uplinks: dict[str, set[int]] = {"up0": set(), "up1": set()}
        monkeypatch.setattr(links, "index_of", lambda name: self.taps.get(name, 0))
        monkeypatch.setattr(links, "master_of", lambda _name: "br0")
        monkeypatch.setattr(vlan_bridge, "tag", lambda port, _lock: self.tags.update({port.tap: port.pvid}))
        monkeypatch.setattr(vlan_bridge, "untag", lambda tap, _bridge, _lock: self.tags.pop(tap))
        monkeypatch.setattr(vlan_bridge, "current", lambda uplink: dict.fromkeys(self.uplinks[uplink], frozenset()))
        monkeypatch.setattr(vlan_bridge, "join", lambda uplink, vlans, _lock: self.uplinks[uplink].update(vlans))
        monkeypatch.setattr(
            vlan_bridge, "leave", lambda uplink, vlans, _lock: self.uplinks[uplink].difference_update(vlans)
        )
        for name, uplink in (("one", "up0"), ("two", "up1")):
            networks.keep(xmlread.parse(NETWORK.format(name=name, uplink=uplink).encode()), self.state)

    def start(self, name: str, tap: str, network: str = "one", tag: int = 0, kind: str = "bridge") -> Domain:
        own = f'<guestnet:vlan tag="{tag}"/>' if tag else ""
        port = f'<guestnet:port mac="52:54:00:00:00:01" name="p" network="one" guarded="no">{own}</guestnet:port>'
        text = f"""<domain><name>{name}</name><uuid>u-{name}</uuid><metadata>
        <guestnet:domain {NS} topology="t" guest="g">{port if tag else ""}</guestnet:domain></metadata>
        <devices><interface type="{kind}"><mac address="52:54:00:00:00:01"/>
        <source network="{network}" bridge="br0"/><target dev="{tap}"/></interface></devices></domain>"""
        domain = bridge_guard.joined(xmlread.parse(text.encode()), self.state)
        with self.state.lock() as locked:
            taps.check([domain], locked)
            tagging.tag(domain, locked)
        return domain


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    host = Host(monkeypatch, tmp_path)
    host.start("a", "vme0", tag=7)
    return host


@pytest.mark.parametrize(("kind", "tag"), [("bridge", 0), ("bridge", 9), ("network", 9), ("ethernet", 0)])
def test_a_tap_that_only_has_vlans_is_not_taken_over_either(host: Host, kind: str, tag: int) -> None:
    with pytest.raises(taps.OthersTapError, match="domain 'thief': tap vme0 belongs to domain 'a', which runs"):
        host.start("thief", "vme0", tag=tag, kind=kind)
    assert (host.tags, host.uplinks) == ({"vme0": 7}, {"up0": {7}, "up1": set()})


def test_a_name_without_a_tap_changes_no_vlan(host: Host) -> None:
    host.start("thief", "vme0", network="plain", kind="user")
    assert (host.tags, host.uplinks) == ({"vme0": 7}, {"up0": {7}, "up1": set()})


@pytest.mark.parametrize(("network", "tag", "uplinks"), [
    ("two", 9, {"up0": set(), "up1": {9}}),
    ("plain", 0, {"up0": set(), "up1": set()}),
])  # fmt: skip
def test_a_new_device_of_that_name_has_nothing_of_the_old(
    host: Host, network: str, tag: int, uplinks: dict[str, set[int]]
) -> None:
    """The old one's `release` was killed: its uplink must not stay in a VLAN for it."""
    host.taps["vme0"], host.tags = 8, {}
    host.start("b", "vme0", network=network, tag=tag)
    assert (host.tags, host.uplinks) == ({"vme0": tag} if tag else {}, uplinks)
    with host.state.lock() as locked:
        tagging.untag("u-a", locked)  # comes late
    assert (host.tags, host.uplinks) == ({"vme0": tag} if tag else {}, uplinks)
    assert [port.uuid for port in host.state.tap_vlans()] == (["u-b"] if tag else [])


def test_a_device_that_went_takes_its_vlans_along_with_anybodys_call(host: Host) -> None:
    del host.taps["vme0"]
    host.start("b", "vme1", network="two", tag=9)
    assert host.uplinks == {"up0": set(), "up1": {9}}


def test_a_vlan_taken_by_hand_is_missed_at_the_tap_and_at_its_uplink(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, tagged = {7: frozenset({"PVID", "Egress Untagged"})}, {7: frozenset[str]()}
    for there, missed in (
        ({"vme0": own, "up0": tagged}, {}),
        ({"vme0": own, "up0": {**tagged, 8: frozenset[str]()}}, {}),
        ({"vme0": tagged, "up0": tagged}, {"vme0": "a"}),
        ({"up0": tagged}, {"vme0": "a"}),
        ({"vme0": own, "up0": {}}, {"vme0": "a"}),
    ):
        monkeypatch.setattr(vlan_bridge, "all_current", lambda there=there: there)
        assert tagging.lost(host.state) == missed
    monkeypatch.setattr(links, "master_of", lambda _name: "")
    assert tagging.lost(host.state) == {}, "its bridge comes first"


def test_an_uplink_that_is_gone_keeps_nothing_else_of_a_guest_that_is_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another guest's VLANs are to be on it still."""
    done: list[str] = []

    def refuse(_uplink: str) -> None:
        raise GuestnetError("no bridge port")

    host.start("b", "vme1", tag=9)
    monkeypatch.setattr(vlan_bridge, "current", refuse)
    monkeypatch.setattr(host_routes, "delete", lambda *_: done.append("routes"))
    monkeypatch.setattr(host_routes, "sweep", lambda *_: done.append("others' routes"))
    monkeypatch.setattr(forwards, "sweep", lambda *_: done.append("forwards"))
    with pytest.raises(GuestnetError, match="no bridge port"):
        domain.release_all_of("u-a", set(), host.state)
    assert done == ["routes", "others' routes", "forwards"]


def test_what_changes_vlans_has_the_states_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that nobody else begins before it is done, whoever is killed."""
    ran: list[tuple[list[str], object]] = []

    def run(argv: list[str], _stdin: str, _package: str, lock: object) -> program.Output:
        ran.append((argv, lock))
        return program.Output(0, '[{"ifname": "up0", "vlans": [{"vlan": 5}]}]', "")

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(links, "is_vlan_aware", lambda _bridge: True)
    monkeypatch.setattr(vlan_bridge, "_read", lambda _bridge, _setting: "7")
    with UnlockedState(str(tmp_path)).lock() as locked:
        vlan_bridge.tag(TapVlans("vme0", "u", "br0", "up0", 9), locked.descriptor)
        vlan_bridge.untag("vme0", "br0", locked.descriptor)
        vlan_bridge.join("up0", {6}, locked.descriptor)
        vlan_bridge.leave("up0", {5}, locked.descriptor)
        changes = [lock for argv, lock in ran if argv == ["bridge", "-batch", "-"]]
        assert changes == [locked.descriptor] * 4

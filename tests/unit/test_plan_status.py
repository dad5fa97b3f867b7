"""Status rows from what libvirt has and what the hooks recorded."""

from ipaddress import ip_address

import pytest
from lxml import etree

from libvirt_guestnet import commands
from libvirt_guestnet.datapath.kernel import Guarded
from libvirt_guestnet.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.state import NetworkReceipt, PortReceipt
from libvirt_guestnet.status import BridgeGuards, status

NETWORK = """
<network><name>vlan1</name>
<metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t"/></metadata>
<forward mode="route"/><bridge name="gn-vlan1"/></network>"""
DOMAIN = """
<domain><name>b</name><uuid>u-b</uuid>
<metadata><g:domain xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" guest="b" image="tiny">
  <g:port mac="52:54:00:61:0b:02" name="p" network="vlan1"><g:address ip="10.61.2.1"/></g:port></g:domain></metadata>
<devices>
<interface type="network"><mac address="52:54:00:61:0B:02"/><source network="vlan1"/><target dev="vme1"/></interface>
<interface type="network"><mac address="52:54:00:61:0b:03"/><source network="vlan1"/><target dev="vme2"/>
  <link state="down"/></interface>
</devices></domain>"""
KNOWN = NetworkReceipt("vlan1", "t", True, "gn-vlan1", managed=True)

SEEN = {"vme1": Guarded({"ARP": 3, "ND": 4}, [ip_address("10.61.2.9"), ip_address("fd61:2::9")])}


def xml(text: str) -> etree._Element:
    return etree.fromstring(text)


def snapshot(running: bool, image: str = "tiny") -> Snapshot:
    domain = xml(DOMAIN.replace(' image="tiny"', f' image="{image}"' if image else ""))
    network = xml(NETWORK)
    foreign = xml("<network><name>default</name></network>")
    return Snapshot(
        (NetworkState("vlan1", "n", network, network, True), NetworkState("default", "d", foreign)),
        (DomainState("b", "u-b", domain, domain if running else None), DomainState("x", "u-x", xml("<domain/>"))),
    )


def receipt(tap: str) -> PortReceipt | None:
    owners = {"vme1": "u-b", "vme2": "somebody else's"}
    return PortReceipt(tap, "52:54:00:61:0b:02", "b", owners[tap]) if tap in owners else None


def test_a_running_guests_ports_say_whether_they_are_guarded() -> None:
    network, first, second = (row.json() for row in status(snapshot(True), None, receipt, SEEN.get))
    assert network == {
        "kind": "network",
        "topology": "t",
        "name": "vlan1",
        "mode": "route",
        "bridge": "gn-vlan1",
        "active": True,
        "autostart": True,
        "ports": 2,
        "bridge_guard": "missing",
        "silent": [],
    }
    assert first == {
        "kind": "port",
        "topology": "t",
        "guest": "b",
        "port": "p",
        "mac": "52:54:00:61:0b:02",
        "network": "vlan1",
        "running": True,
        "tap": "vme1",
        "link": "up",
        "addresses": ["10.61.2.1"],
        "guarded": True,
        "drops": 7,
        "learnt": ["10.61.2.9", "fd61:2::9"],
        "trusted": False,
        "reasons": {"ARP": 3, "ND": 4},
    }
    assert (second["port"], second["link"], second["guarded"]) == ("", "down", False)  # a receipt of another domain


def test_a_stopped_guest_has_no_tap_and_no_guard() -> None:
    _, first, _ = status(snapshot(False), "t", receipt)
    assert (first.running, first.tap, first.guarded, first.drops) == (False, "", None, None)


def test_a_users_own_nics_and_other_topologies_are_left_out() -> None:
    assert [row.json().get("mac") for row in status(snapshot(True, image=""), "t", receipt)][1:] == [
        "52:54:00:61:0b:02"
    ]
    assert status(snapshot(True), "other", receipt) == []


@pytest.mark.parametrize(
    ("guards", "word"),
    [
        (BridgeGuards(bridges=frozenset({"gn-vlan1"})), "on"),
        (BridgeGuards(refused=True, networks={"vlan1": KNOWN}), "kernel cannot"),
        (BridgeGuards(refused=True), "missing"),
        (BridgeGuards(networks={"vlan1": KNOWN}), "missing"),
        (BridgeGuards(refused=True, networks={"vlan1": KNOWN._replace(managed=False)}), "not our bridge"),
        (BridgeGuards(networks={"vlan1": KNOWN._replace(managed=False, guarded=False)}), "not wanted"),
    ],
)
def test_a_network_says_where_unguarded_ports_pass_nothing(guards: BridgeGuards, word: str) -> None:
    row = status(snapshot(True), None, receipt, guards=guards)[0]
    assert row.json()["bridge_guard"] == word


def test_a_network_that_is_down_has_no_bridge_to_guard() -> None:
    down = Snapshot((NetworkState("vlan1", "n", xml(NETWORK)),))
    assert [row.json()["bridge_guard"] for row in status(down, guards=BridgeGuards(refused=True))] == [""]


def test_silenced_ports_are_said_aloud() -> None:
    rows = [row.json() for row in status(snapshot(False), None, receipt)]
    rows[0]["silent"] = ["vnet3", "vnet7"]
    told = commands.status_text(rows)
    assert "SILENCED, nobody guards them, try `guestnet hooks sync`: vnet3 on gn-vlan1, vnet7 on gn-vlan1\n" in told


def test_people_are_told_aloud_what_nothing_guards() -> None:
    rows = [row.json() for row in status(snapshot(True), None, receipt, SEEN.get)]
    assert "UNGUARDED, try `guestnet hooks sync`: b.52:54:00:61:0b:03" in commands.status_text(rows)
    trusted = [{**row, "guarded": False, "trusted": True} if row.get("port") == "p" else row for row in rows]
    assert "TRUSTED, no port security by their own policy: b.p\n" in commands.status_text(trusted)
    assert commands.drops_text(rows).split() == [
        *("GUEST", "PORT", "NETWORK", "TAP", "REASON", "FRAMES"),
        *("b", "p", "vlan1", "vme1", "ARP", "3"),
        *("b", "p", "vlan1", "vme1", "ND", "4"),
    ]
    assert commands.drops_text([]) == "nothing was dropped\n"

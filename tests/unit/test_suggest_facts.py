"""Whose an address is, for `guestnet suggest`: what an observed guest spoke for is nobody else's that is known."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress
from libvirt_guestnet.datapath.port import notes
from libvirt_guestnet.datapath.routing import gateway
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.hook.enforce import checksum_guard
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.status import suggestions
from libvirt_guestnet.status.suggest import Suggestion, suggest
from libvirt_guestnet.status.suggestions import Policy

MINE, OTHER, STOPPED = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
PORT = PortReceipt(
    tap="vnet0",
    mac=MINE,
    domain="web",
    uuid="1",
    network="lan",
    segment="br0",
    owned=("10.0.0.5/32",),
    observed=True,
    own=True,
)
NEIGHBOUR = PortReceipt(
    tap="vnet1",
    mac=OTHER,
    domain="db",
    uuid="2",
    network="beside",
    segment="br0",
    owned=("10.0.0.7/32",),
    pairs=(("", "10.0.0.64/28"),),
    claims=("fd00::/64",),
)
POLICIES = {
    ("1", MINE): Policy("", "web", PortPolicy(MINE, "p", "lan", addresses=(IPv4Address("10.0.0.5"),))),
    ("3", STOPPED): Policy("", "off", PortPolicy(STOPPED, "p", "lan", addresses=(IPv4Address("10.0.0.8"),))),
}


def suggested(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch, *used: str, mac: str = MINE, port: PortReceipt = PORT
) -> Suggestion:
    with state.lock() as locked:
        locked.put_network(NetworkReceipt("lan", "t", True, "br0", subnets=("10.0.0.0/24", "fd00::/64")))
        locked.put_ports("1", [port])
        locked.put_ports("2", [NEIGHBOUR])
    noted = {"vnet0": notes.Noted(tuple((mac, ip_address(each)) for each in used))}
    seen: Mapping[str, Guarded] = {tap: Guarded({"ARP": 1} if tap == "vnet0" else {}, []) for tap in ("vnet0", "vnet1")}
    claimed = {"claimed6-vnet1": [int(ip_address("fd00::9"))]}
    router, mine = [ip_address("10.0.0.254")], HostAddress(3, ip_address("192.0.2.1"), ip_network("192.0.2.0/24"))
    monkeypatch.setattr(kernel, "guarded_ports", lambda: seen)
    monkeypatch.setattr(notes, "read", lambda: noted)
    monkeypatch.setattr(checksum_guard, "drops", lambda _: {})
    monkeypatch.setattr(nft, "numbers_of_all", lambda: lambda name: claimed.get(name, []))
    own = {"br0": [ip_address("10.0.0.1")]}
    monkeypatch.setattr(gateway, "on_link", lambda bridge, routers: (own.get(bridge, []), router if routers else []))
    monkeypatch.setattr(gateway, "host_addresses", lambda *, every: [mine] if every else [])
    (found,) = map(suggest, suggestions.observed(state, POLICIES))
    return found


@pytest.mark.parametrize(
    ("used", "whose"),
    [
        ("10.0.0.254", "that of a router of the host's"),
        ("192.0.2.1", "the host's"),
        ("10.0.0.1", "the host's"),  # on the bridge of Open vSwitch, which is not the tap's master
        ("10.0.0.7", "that of db on beside"),
        ("10.0.0.70", "that of db on beside"),
        ("fd00::9", "that of db on beside"),
        ("10.0.0.8", "that of off"),
    ],
)
def test_what_is_known_to_be_somebodys_is_a_warning(
    used: str, whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = suggested(UnlockedState(str(tmp_path)), monkeypatch, used)
    assert (found.declare, found.ask) == ({}, ())
    assert found.warnings[0].startswith(f"{used} is {whose}:")


def test_the_mac_address_of_a_guest_that_does_not_run_is_that_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = suggested(UnlockedState(str(tmp_path)), monkeypatch, "10.0.0.9", mac=STOPPED)
    assert found.declare == {}
    assert "the MAC address of off" in found.warnings[0]


def test_a_port_that_the_host_routes_to_is_asked_about_any_further_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = PORT._replace(network="routed", segment="")
    found = suggested(UnlockedState(str(tmp_path)), monkeypatch, "203.0.113.9", port=port)
    assert found.declare == {}
    assert [question.get("sources") for question in found.ask] == [["203.0.113.9/32"]]


def test_a_free_address_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = suggested(UnlockedState(str(tmp_path)), monkeypatch, "10.0.0.6")
    assert (found.declare, found.warnings) == ({"addresses": ["10.0.0.5", "10.0.0.6"]}, ())


def test_a_guest_that_sends_from_a_groups_mac_address_keeps_nobody_from_his_suggestions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [0x01005E000005, 0x0A000001], [0xFFFFFFFFFFFF, "0xfe800000000000000000000000000001"]
    listed = [
        ("set", {"name": f"seen{4 + 2 * at}-vnet0", "elem": [{"elem": {"val": {"concat": pair}}}]})
        for at, pair in enumerate(pairs)
    ]
    monkeypatch.setattr(notes, "items", lambda *_: iter(listed))
    macs = [mac for mac, _ in notes.read()["vnet0"].addresses]
    assert macs == ["01:00:5e:00:00:05", "ff:ff:ff:ff:ff:ff"]

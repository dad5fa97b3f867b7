"""A NIC with a larger MTU than its bridge's way outside carries is refused: the kernel would drop what it sends there
without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import NS, Hooks

TAP, MAC = "vme0", "52:54:00:00:00:0a"
NETWORK = f"""<hookData><network><name>lan</name><metadata><guestnet:network {NS} topology="t" name="lan">
  <guestnet:uplink label="lan" device="nic0"/></guestnet:network></metadata><forward mode="bridge"/>
  <bridge name="gn-lan"/></network></hookData>""".encode()
DOMAIN = """<domain type="qemu"><name>a</name><uuid>63000000-0000-4000-8000-00000000000a</uuid>
  <metadata>{metadata}</metadata>
  <devices><interface type="network"><mac address="{mac}"/><source network="{network}" bridge="{bridge}"/>
  <target dev="{tap}"/><mtu size="{mtu}"/></interface></devices></domain>"""
PORT = f"""<guestnet:domain {NS} topology="t" guest="a"><guestnet:port mac="{MAC}" name="p" network="lan">
  <guestnet:address ip="10.0.0.7"/></guestnet:port></guestnet:domain>"""


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    box.ok("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "far0")
    box.ok("ip", "tuntap", "add", TAP, "mode", "tap")
    hooks = Hooks(box, tmp_path)
    for operation in ("start", "started"):
        assert hooks.call("network", "lan", operation, "begin", NETWORK) == (0, "")
    box.ok("ip", "link", "set", TAP, "mtu", "9000", "master", "gn-lan", "up")
    yield hooks
    box.close()


def start(
    hooks: Hooks, mtu: int, metadata: str = PORT, bridge: str = "gn-lan", network: str = "lan"
) -> tuple[int, str]:
    xml = DOMAIN.format(metadata=metadata, mac=MAC, network=network, bridge=bridge, tap=TAP, mtu=mtu)
    return hooks.call("qemu", "a", "start", "begin", xml.encode())


@pytest.mark.parametrize("metadata", [PORT, ""], ids=["own policy", "its network's"])
def test_what_the_nic_does_not_carry_is_refused_until_it_does(hooks: Hooks, metadata: str) -> None:
    status, said = start(hooks, 9000, metadata)
    assert status == 1
    assert (
        f"domain 'a': interface {MAC}: its MTU is 9000, and nic0, by which bridge gn-lan leads outside, carries" in said
    )
    assert "carries 1500: larger packets would vanish there; raise the MTU of nic0" in said
    assert hooks.chains() == []
    assert start(hooks, 1500, metadata) == (0, "")
    hooks.box.ok("ip", "link", "set", "nic0", "mtu", "9000")
    assert start(hooks, 9000, metadata) == (0, "")
    assert hooks.chains() == [TAP]


def test_a_bridge_without_an_uplink_carries_anything(hooks: Hooks) -> None:
    """As does one on which only guests, or containers, are narrower: that is between them."""
    hooks.box.ok("sh", "-c", f"ip link add br9 type bridge; ip link set {TAP} master br9; ip link set far0 master br9")
    assert start(hooks, 9000, PORT, "br9", "") == (0, "")
    assert start(hooks, 9000, "", "br9", "") == (0, "")


def test_a_nic_that_is_not_ours_may_be_on_any_bridge(hooks: Hooks) -> None:
    """Also on one whose name we never write anywhere."""
    assert start(hooks, 9000, "", "br:9", "") == (0, "")
    status, said = start(hooks, 9000, PORT, "br:9", "")
    assert (status, "device name 'br:9' cannot be guarded" in said) == (1, True)

"""The watch service beside guests: what somebody takes off one port comes back, and the other ports are left alone.

It is told of each change over netlink; only of published neighbours the kernel tells nobody (found within 30 s).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import Hooks, own_table, recorded, repaired, with_handles
from support.kernel_guests import LAN, MAC, ROUTED_TAP, SETUP, TAP, A, C

from libvirt_guestnet.hook import main


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    """Guests g1, g2 and g3 run, and a, with forwards, and c, host-routed; the service watches."""
    box = Box()
    box.ok("sh", "-c", SETUP)
    hooks = Hooks(box, tmp_path)
    repaired(hooks, *(recorded(hooks, number) for number in (1, 2, 3)))
    for name, xml in (("a", A), ("c", C)):
        hooks.running(name, xml)
    argv = ["nsenter", "-t", box.pid, "--net", "--mount", "--", sys.executable, "-IS", main.__file__, "watch"]
    with subprocess.Popen(argv) as service:
        # It hears of changes, and has looked once.
        soon(lambda: f" {service.pid} 00000040" in " ".join(box.ok("cat", f"/proc/{service.pid}/net/netlink").split()))
        yield hooks
        service.kill()
    box.close()


def soon(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 240
    while not true():
        assert time.monotonic() < end, "not within 240 s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain netdev guestnet tap-v2a; delete chain netdev guestnet tap-v2a",
        "flush chain netdev guestnet tap-v2a",
        "add chain netdev guestnet tap-v2a { policy accept; }",
    ],
    ids=["deleted", "emptied", "accepting"],
)
def test_one_ports_chain_comes_back_and_the_others_stay(hooks: Hooks, damage: str) -> None:
    whole, others = own_table(hooks), with_handles(hooks, "v1a", "v1b", "v3a", TAP, ROUTED_TAP)
    hooks.box.ok("nft", damage)
    soon(lambda: own_table(hooks) == whole)
    assert with_handles(hooks, "v1a", "v1b", "v3a", TAP, ROUTED_TAP) == others


def test_the_gate_of_a_routed_port_comes_back(hooks: Hooks) -> None:
    gate, others = hooks.box.ok("nft", "-s", "list", "table", "arp", "guestnet"), with_handles(hooks, "v1a", "v2a", TAP)
    for damage in (f"delete element arp guestnet taps {{ {ROUTED_TAP} }}", "flush chain arp guestnet input"):
        hooks.box.ok("nft", damage)
        soon(lambda: hooks.box.ok("nft", "-s", "list", "table", "arp", "guestnet") == gate)
    assert with_handles(hooks, "v1a", "v2a", TAP) == others


@pytest.mark.parametrize(
    "damage",
    [
        "delete table inet guestnet",
        "flush chain inet guestnet wanted",
        "flush map inet guestnet floating4",
        "delete element inet guestnet hairpin4 { br0 . br0 . 10.61.1.10 }",
    ],
)
def test_forwards_come_back_without_touching_a_port(hooks: Hooks, damage: str) -> None:
    forwards = hooks.box.ok("nft", "-s", "list", "table", "inet", "guestnet")
    ports = with_handles(hooks, *hooks.chains())
    hooks.box.ok("nft", damage)
    soon(lambda: hooks.box.run("nft", "-s", "list", "table", "inet", "guestnet").stdout.decode() == forwards)
    assert with_handles(hooks, *hooks.chains()) == ports


@pytest.mark.parametrize("text", ['ip="nonsense', 'ip="10.61.1.1" /><x y="'], ids=["unreadable", "somebody's"])
def test_a_guest_that_cannot_be_repaired_is_guarded_as_it_was(hooks: Hooks, text: str) -> None:
    """Its tenant wrote into its metadata what no guest can be guarded by, and waits for somebody to flush the rules."""
    spoil = ["sed", "-i", f's|<guestnet:address ip="|<guestnet:address {text}|', "/run/libvirt/qemu/g2.xml"]
    whole = hooks.chains()
    hooks.box.ok(*spoil)
    for damage in ("flush ruleset", "delete chain netdev guestnet tap-v2a"):
        hooks.box.ok("nft", damage)
        soon(lambda: hooks.chains() == whole)
        assert "policy drop" in hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", "tap-v2a")


RESTARTED = """set -e
ip link del br0
ip link add br0 type bridge
ip address add 10.61.1.1/24 dev br0
ip link set br0 up
"""


def led(hooks: Hooks) -> set[str]:
    """The routes to guests, on the link or by way of one."""
    lines = hooks.box.ok("sh", "-c", "ip -4 route show table all proto 71; ip neigh show proxy").splitlines()
    return {" ".join(line.split()) for line in lines}


def place(hooks: Hooks) -> str:
    return hooks.box.ok("sh", "-c", f"basename $(readlink /sys/class/net/{TAP}/master) 2>/dev/null || true").strip()


def test_a_network_restarted_by_hand_gets_its_taps_and_routes_back(hooks: Hooks) -> None:
    there, others = led(hooks), with_handles(hooks, "v1a", "v2a", ROUTED_TAP)
    assert {line for line in there if "10.61.99.0/24 via 10.61.1.10 dev br0" in line}
    hooks.box.ok("sh", "-c", RESTARTED)
    assert place(hooks) == ""
    soon(lambda: place(hooks) == "br0" and led(hooks) == there)
    assert with_handles(hooks, "v1a", "v2a", ROUTED_TAP) == others


def test_a_tap_that_is_put_elsewhere_stays_there(hooks: Hooks) -> None:
    """Only who is in no bridge at all is put back; whoever moves a tap meant it."""
    hooks.box.ok("sh", "-c", f"ip link add br1 type bridge; ip link set {TAP} master br1; ip link set v1a nomaster")
    hooks.box.ok("nft", "delete chain netdev guestnet tap-v2a")
    soon(lambda: "v2a" in hooks.chains())
    assert place(hooks) == "br1"


@pytest.mark.parametrize(
    "damage",
    [
        f"ip link set {TAP} nomaster",
        "ip route del 10.61.99.0/24",
        "ip route del 198.18.1.60",
        "ip neigh del proxy 198.18.1.60 dev up0",
        f"ip address del 169.255.30.1/32 dev {ROUTED_TAP}",
        "ip link set br0 down; ip link set br0 up",
    ],
)
def test_a_guests_routes_and_published_addresses_come_back(hooks: Hooks, damage: str) -> None:
    def all_of_it() -> tuple[set[str], str, bool]:
        return led(hooks), place(hooks), "169.255.30.1" in hooks.box.ok("ip", "address", "show", "dev", ROUTED_TAP)

    whole, others = all_of_it(), with_handles(hooks, "v1a", "v2a")
    hooks.box.ok("sh", "-c", damage)
    assert all_of_it() != whole
    soon(lambda: all_of_it() == whole)
    assert with_handles(hooks, "v1a", "v2a") == others


def test_what_a_bridge_knows_of_a_port_comes_back(hooks: Hooks) -> None:
    assert hooks.call("network", "lan", "started", "begin", LAN) == (0, "")
    assert hooks.call("qemu", "a", "start", "begin", A) == (0, "")

    def known() -> str:
        entry = hooks.box.ok("sh", "-c", f"bridge fdb show dev {TAP} | grep '^{MAC}.*sticky' || true")
        return entry + hooks.box.ok("sh", "-c", f"cd /sys/class/net/{TAP}/brport && cat learning unicast_flood")

    whole = known()
    assert "sticky" in whole
    assert whole.endswith("\n0\n0\n")
    for damage in (f"bridge fdb del {MAC} dev {TAP} master", f"bridge link set dev {TAP} learning on flood on"):
        hooks.box.ok("sh", "-c", damage)
        assert known() != whole
        soon(lambda: known() == whole)

"""Guests that something on the host keeps from being led to: told by name, once, while all else is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import Hooks, repaired
from support.kernel_guests import FORWARD, MAC, PORT, SETUP, TAP, UUID, domain, nic, policy

from libvirt_guestnet.sandbox import python_inside

BEHIND = (
    '<guestnet:address ip="fd61:1::10"/><guestnet:behind prefix="10.61.99.0/24"/><guestnet:behind prefix="fd99::/64"/>'
)
A = domain("a", UUID, policy(MAC, "10.61.1.10", BEHIND + FORWARD), nic("network", TAP, MAC, PORT))
SYNC = """
import json, sys
from types import SimpleNamespace
from libvirt_guestnet.apply import sync
from lxml import etree
live = etree.fromstring(sys.argv[1])
guest = SimpleNamespace(name="a", uuid=live.findtext("uuid"), live=live)
sync.host_snapshot = lambda _: SimpleNamespace(networks=[], domains=[guest])
told = sync.sync(None)
print(json.dumps([told, []] if isinstance(told, list) else list(told)))
"""
ROUTES = "ip -4 route show table all proto 71; ip -6 route show table all proto 71"
V4, V6 = "10.61.99.0/24 via 10.61.1.10 dev br0", "fd99::/64 via fd61:1::10 dev br0"
NO_IPV6 = "echo 1 >/proc/sys/net/ipv6/conf/br0/disable_ipv6"
ELSEWHERE = "ip -6 route del fd99::/64 proto 71; ip -6 route add fd99::/64 dev up0"


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    box.ok("sh", "-c", SETUP + "ip address add fd61:1::1/64 dev br0")
    hooks = Hooks(box, tmp_path)
    hooks.running("a", A)
    assert led(hooks) == [V4, V6]
    yield hooks
    box.close()


def led(hooks: Hooks) -> list[str]:
    lines = hooks.box.ok("sh", "-c", ROUTES).splitlines()
    return [" ".join(line.split()[:5]) for line in lines]


def synced(hooks: Hooks) -> list[list[str]]:
    found: list[list[str]] = json.loads(hooks.box.ok(*python_inside(["-c", SYNC, A.decode()], Path("/"))))
    return found


def spoil(hooks: Hooks, damage: str) -> None:
    """And all else, which has to come back."""
    hooks.box.ok("sh", "-c", f"nft flush ruleset; ip route del 10.61.99.0/24; {damage}")


def is_whole_but_for_that(hooks: Hooks) -> None:
    assert (led(hooks), hooks.chains()) == ([V4], [TAP])
    assert "8080" in hooks.box.ok("nft", "list", "table", "inet", "guestnet")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (NO_IPV6, "there is no route to fd99::/64: IPv6 is switched off on br0"),
        (ELSEWHERE, "fd99::/64 is routed elsewhere on this host already"),
    ],
    ids=["without IPv6", "routed elsewhere"],
)
def test_a_sync_tells_who_is_not_routed_to_and_goes_on(hooks: Hooks, damage: str, why: str) -> None:
    spoil(hooks, damage)
    for _ in range(2):
        failures, unrouted = synced(hooks)
        assert (failures, len(unrouted)) == ([], 1)
        assert unrouted[0].startswith(f"domain 'a': {why}")
        is_whole_but_for_that(hooks)


def test_a_sync_goes_on_where_the_bridge_is_gone(hooks: Hooks) -> None:
    spoil(hooks, "ip link del br0")
    failures, unrouted = synced(hooks)
    assert (failures, len(unrouted)) == ([], 1)
    assert unrouted[0].startswith("domain 'a': device br0 does not exist on this host")
    assert hooks.chains() == [TAP]


def test_a_repair_tells_it_once_and_goes_on(hooks: Hooks) -> None:
    """After a restart of the daemon; the service tries again later, and says no more."""
    spoil(hooks, NO_IPV6)
    said = [line for line in repaired(hooks, "a") if line != "transaction"]
    assert len(said) == 1
    assert "domain 'a': there is no route to fd99::/64" in said[0]
    is_whole_but_for_that(hooks)


def test_a_start_is_refused_by_it_as_before(hooks: Hooks) -> None:
    assert hooks.call("qemu", "a", "release", "end", A) == (0, "")
    hooks.box.ok("sh", "-c", NO_IPV6)
    assert hooks.call("qemu", "a", "start", "begin", A) == (0, "")
    status, said = hooks.call("qemu", "a", "started", "begin", A)
    assert (status, "domain 'a': there is no route to fd99::/64" in said) == (1, True)
    assert hooks.call("qemu", "a", "release", "end", A) == (0, "")
    assert led(hooks) == []

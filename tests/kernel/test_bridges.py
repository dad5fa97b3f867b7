"""Bridges for uplinks and stand-ins for LANs, on a real kernel, checked with `ip`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.box import Box

LIBRARY = str(Path(__file__).parents[2])
LAN = (
    "from ipaddress import ip_interface as i; from libvirt_guestnet.datapath.netlink.lan import *; "
    "lan = Lan('lan-x', 'lan-x', 'eth0', '52:54:01:00:00:01', (i('198.18.2.2/24'), i('fd61:12::2/64')), "
    "(i('198.18.2.1/24'), i('fd61:12::1/64')), ('198.18.2.2', 'fd61:12::2')); "
)
KERNEL = "from libvirt_guestnet.datapath.netlink import kernel; "


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


def python(box: Box, code: str) -> subprocess.CompletedProcess[bytes]:
    return box.run("env", f"PYTHONPATH={LIBRARY}", sys.executable, "-c", code)


def ok(box: Box, code: str) -> None:
    done = python(box, code)
    assert done.returncode == 0, done.stderr.decode()


def refused(box: Box, code: str) -> str:
    done = python(box, code)
    assert done.returncode == 1
    return done.stderr.decode().strip().splitlines()[-1]


def devices(box: Box) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(box.ok("ip", "-d", "-j", "link")) if link["ifname"] != "lo"}


def test_a_lan_answers_in_both_families_and_goes_without_a_trace(box: Box) -> None:
    ok(box, LAN + "make_lan(lan); make_lan(lan)")
    for address in ("198.18.2.1", "fd61:12::1"):
        box.ok("busybox", "ping", "-c", "1", "-W", "2", address)
    inside = json.loads(box.ok("ip", "netns", "exec", "lan-x", "ip", "-j", "route"))
    assert [route["gateway"] for route in inside if route["dst"] == "default"] == ["198.18.2.2"]
    ok(box, LAN + "delete_lan(lan); delete_lan(lan)")
    assert devices(box) == {}
    assert box.ok("ip", "netns") == ""


def test_an_uplink_bridge_is_made_once_and_removed_once(box: Box) -> None:
    box.ok("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "far9")
    make = KERNEL + "kernel.ensure_uplink_bridge('gn-x', 'eth9', 'net1')"
    ok(box, make)
    before = devices(box)
    assert before["eth9"]["master"] == "gn-x"
    assert before["gn-x"]["linkinfo"]["info_data"]["stp_state"] == 0
    ok(box, make)
    assert devices(box)["gn-x"]["ifindex"] == before["gn-x"]["ifindex"]
    ok(box, KERNEL + "kernel.remove_bridge('gn-x'); kernel.remove_bridge('gn-x')")
    assert sorted(devices(box)) == ["eth9", "far9"]


def test_a_nic_with_addresses_is_refused_by_name(box: Box) -> None:
    box.ok("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "far9")
    box.ok("ip", "addr", "add", "192.0.2.7/24", "dev", "eth9")
    message = refused(box, KERNEL + "kernel.ensure_uplink_bridge('gn-x', 'eth9', 'net1')")
    assert "device eth9 carries 192.0.2.7" in message
    assert sorted(devices(box)) == ["eth9", "far9"]


def test_what_is_not_ours_is_neither_taken_nor_removed(box: Box) -> None:
    box.ok("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "far9")
    box.ok("ip", "link", "add", "gn-x", "type", "bridge")
    make = KERNEL + "kernel.ensure_uplink_bridge('gn-x', 'eth9', 'net1')"
    assert "gn-x exists and is not ours" in refused(box, make)
    ok(box, KERNEL + "kernel.remove_bridge('gn-x')")
    assert "gn-x" in devices(box)
    box.ok("ip", "link", "set", "eth9", "master", "gn-x")
    assert "already in another bridge" in refused(box, make.replace("gn-x", "gn-y"))
    assert "gn-y" not in devices(box)


def test_a_missing_nic_is_named(box: Box) -> None:
    message = refused(box, KERNEL + "kernel.ensure_uplink_bridge('gn-x', 'nosuch0', 'net1')")
    assert "device nosuch0 does not exist" in message
    assert devices(box) == {}


def test_a_bridge_that_cannot_be_filled_is_not_left_behind(box: Box) -> None:
    # A bridge cannot be a port of a bridge: the kernel says ELOOP only when it is tried.
    box.ok("ip", "link", "add", "eth9", "type", "bridge")
    message = refused(box, KERNEL + "kernel.ensure_uplink_bridge('gn-x', 'eth9', 'net1')")
    assert "ELOOP" in message
    assert sorted(devices(box)) == ["eth9"]

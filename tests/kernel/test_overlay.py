"""VXLAN networks: what the network hook makes in a real kernel, removes again, and refuses to touch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.box import Box

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: t
physical-networks: {{ core: {{}} }}
networks:
  red: {{ mode: bridge, mtu: {mtu}, vxlan: {{ vni: 5001, underlay: core, {ends} }} }}
"""
STATIC = "remotes: [192.0.2.2, 192.0.2.3]"
STATIC6 = 'remotes: ["fd00:2::2", "fd00:2::3"]'
GROUP = "group: 239.1.1.1"
GROUP6 = 'group: "ff05::1"'


def hook_data(ends: str = STATIC, mtu: int = 1430) -> bytes:
    topology = loads(TOPOLOGY.format(ends=ends, mtu=mtu), "test")
    network = xmlgen.network(topology, topology.network("red"), HostMap({"core": "eth1"}, lambda _device: False))
    return b"<hookData>" + etree.tostring(network) + b"</hookData>"


class Host:
    """A host with an underlay NIC of MTU 1500, and our network hook."""

    def __init__(self, box: Box, root: Path) -> None:
        self.box, self.hook = box, str(root / "etc/libvirt/hooks/network.d/50-guestnet")
        hook_files.install(root, any_owner=True)
        box.ok("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far1")
        for device in ("eth1", "far1"):
            box.ok("ip", "link", "set", device, "up")
        box.ok("ip", "address", "add", "192.0.2.1/24", "dev", "eth1")
        box.ok("ip", "address", "add", "fd00:2::1/64", "dev", "eth1", "nodad")
        self.before = self.names()

    def call(self, operation: str, xml: bytes) -> str:
        """The hook's complaint; "" when it succeeds."""
        sub = "end" if operation == "stopped" else "begin"
        done = self.box.run("env", "-i", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", self.hook, "red", operation, sub, "-", stdin=xml)  # fmt: skip  # noqa: E501
        assert (done.returncode == 0) == (done.stderr == b"")
        return done.stderr.decode()

    def link(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.box.ok("ip", "-d", "-j", "link", "show", name))
        return dict(found)

    def names(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.box.ok("ip", "-j", "link"))}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    yield Host(box, tmp_path)
    box.close()


@pytest.mark.parametrize("ends", [STATIC, STATIC6, GROUP, GROUP6])
def test_a_network_has_its_device_and_bridge_while_it_runs(host: Host, ends: str) -> None:
    assert host.call("start", hook_data(ends)) == ""
    device, bridge = host.link("vx5001"), host.link("gn-red")
    data = device["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["link"]) == (5001, 4789, "eth1")
    assert (device["master"], device["mtu"], bridge["mtu"]) == ("gn-red", 1430, 1430)
    assert "UP" in device["flags"] and "UP" in bridge["flags"]
    entries = json.loads(host.box.ok("bridge", "-j", "fdb", "show", "dev", "vx5001"))
    flooded = {entry["dst"] for entry in entries if entry["mac"] == "00:00:00:00:00:00" and "dst" in entry}
    assert flooded == set(ends.partition(":")[2].strip(" []").replace('"', "").split(", "))
    for name in ("vx5001", "gn-red"):  # the host has no part in it
        assert host.box.ok("cat", f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") == "1\n"
    assert host.call("started", hook_data(ends)) == ""
    assert host.call("stopped", hook_data(ends)) == ""
    assert host.names() == host.before


def test_a_second_start_replaces_what_a_killed_hook_left(host: Host) -> None:
    assert host.call("start", hook_data(STATIC)) == ""
    assert host.call("start", hook_data(GROUP)) == ""
    assert host.link("vx5001")["linkinfo"]["info_data"]["group"] == "239.1.1.1"


def test_an_mtu_that_does_not_fit_the_real_underlay_names_both(host: Host) -> None:
    message = host.call("start", hook_data(STATIC, 1451))
    assert "its MTU 1451 does not fit: the underlay eth1 has MTU 1500, and VXLAN takes 50 of it" in message
    assert "set mtu: 1430" in host.call("start", hook_data(STATIC6, 1450))
    assert host.names() == host.before
    host.box.ok("ip", "link", "set", "eth1", "mtu", "1501")
    assert host.call("start", hook_data(STATIC, 1451)) == ""


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        ("gn-red type bridge", "device gn-red exists and is not ours"),
        ("vx5001 type bridge", "device vx5001 exists and is not ours"),
        (
            "theirs type vxlan id 5001 dstport 4789 remote 192.0.2.9",
            "VNI 5001 on UDP port 4789 is already used by device theirs, which is not ours",
        ),
    ],
)
def test_strangers_devices_are_never_taken_over(host: Host, stranger: str, message: str) -> None:
    host.box.ok("ip", "link", "add", *stranger.split())
    before = host.names()
    assert message in host.call("start", hook_data())
    assert host.names() == before
    name = stranger.split(maxsplit=1)[0]
    assert host.link(name)["operstate"] == "DOWN"
    host.call("stopped", hook_data())
    assert host.names() == before


def test_an_underlay_must_be_there_and_have_an_address(host: Host) -> None:
    host.box.ok("ip", "address", "flush", "dev", "eth1")
    assert "the underlay eth1 has no IPv4 address to send from" in host.call("start", hook_data(STATIC))
    assert "the underlay eth1 has no IPv6 address to send from" in host.call("start", hook_data(STATIC6))
    host.box.ok("ip", "link", "delete", "eth1")
    assert "device eth1 does not exist on this host" in host.call("start", hook_data(STATIC))
    assert host.names() == {"lo"}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('vni="5001"', 'vni="0"'),
        ('vni="5001"', 'vni="16777216"'),
        ('port="4789"', 'port="x"'),
        ('mtu="1430"', 'mtu=""'),
    ],
)
def test_damaged_metadata_is_refused(host: Host, good: str, bad: str) -> None:
    damaged = hook_data().replace(good.encode(), bad.encode())
    assert f"<guestnet:vxlan> {bad.partition('=')[0]}: " in host.call("start", damaged)
    assert host.names() == host.before

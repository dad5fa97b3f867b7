"""VLANs on Debian's own kernel: hooks called as libvirt calls them; test_vlans_libvirt.py has libvirt itself."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest
from support.labvm_host import ACCESS, DOT1AD, DOT1Q, Host, Tap, frame, ip, vlans

from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.only("trixie")  # those that depend on the kernel say so themselves

TOPOLOGY = """
name: t
physical-networks: { lan: {}, provider: {} }
networks:
  red: { mode: bridge, physical-network: lan, vlan: 100, subnets: [10.0.0.0/24] }
  blue: { mode: bridge, physical-network: lan, vlan: 200 }
  plain: { mode: bridge, physical-network: lan }
  customer: { mode: bridge, physical-network: provider, service-vlan: 300 }
  inside: { mode: isolated, vlan: 10, subnets: [10.9.9.0/24] }
guests:
  red1: { ports: [{ network: red, tap: red1, addresses: [], guarded: false }] }
  red2: { ports: [{ network: red, tap: red2, addresses: [10.0.0.2] }] }
  blue1: { ports: [{ network: blue, tap: blue1, addresses: [], guarded: false }] }
  trunk: { ports: [{ network: plain, tap: trunk, trunk: [100-110], native-vlan: 7, addresses: [], guarded: false }] }
  site: { ports: [{ network: customer, tap: site, addresses: [], guarded: false }] }
  in1: { ports: [{ network: inside, tap: in1, addresses: [], guarded: false }] }
  in2: { ports: [{ network: inside, tap: in2, vlan: 11, addresses: [], guarded: false }] }
  in3: { ports: [{ network: inside, tap: in3, trunk: [11-12], native-vlan: 10, addresses: [10.9.9.3] }] }
"""
FOUND = loads(TOPOLOGY, "test")


def mac(guest: str) -> str:
    return FOUND.guest(guest).ports[0].mac


@pytest.fixture
def aware(namespace: None, tmp_path: Path) -> Host:
    """A VLAN-aware bridge br0 with the default PVID 1 and, as its port to the outside, the tap `out0`."""
    ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 vlan_filtering 1")
    ip("link set br0 up")
    host = Host(tmp_path, FOUND, {"lan": "br0/out0", "provider": "nic"})
    host.taps["out0"] = Tap("out0", "br0")
    return host


def start_all(host: Host) -> None:
    for network in ("red", "blue", "plain"):
        assert host.network(network, "start", "started") == ""
    for guest in ("red1", "red2", "blue1", "trunk"):
        host.start(guest, "br0")


def test_the_uplink_leaves_a_vlan_with_its_last_port(aware: Host) -> None:
    start_all(aware)
    aware.stop("blue1", "br0")
    aware.stop("red1", "br0")
    assert set(vlans("out0")) == {1, 7, *range(100, 111)}
    aware.stop("trunk", "br0")
    assert set(vlans("out0")) == {1, 100}  # red2 is still there
    aware.stop("red2", "br0")
    assert set(vlans("out0")) == {1}
    assert not list(Path("/run/libvirt-guestnet").glob("*/*2*.json"))


def test_a_vlan_that_the_uplink_had_before_stays_with_it(aware: Host) -> None:
    subprocess.run(["bridge", "vlan", "add", "vid", "100", "dev", "out0"], check=True)
    aware.network("red", "start", "started")
    aware.start("red1", "br0")
    aware.stop("red1", "br0")
    assert set(vlans("out0")) == {1, 100}


def test_frames_leave_with_their_tag_and_stay_in_their_vlan(aware: Host) -> None:
    start_all(aware)
    taps = aware.taps
    taps["red1"].send(frame(mac("red1")))
    tagged = frame(mac("red1"), (DOT1Q, 100))
    assert taps["out0"].heard(least=1) == [tagged]
    assert taps["red2"].heard(0.1, least=1) == [frame(mac("red1"))]
    assert taps["trunk"].heard(0.1, least=1) == [tagged]
    assert taps["blue1"].heard(0.1) == []
    taps["out0"].send(frame("02:00:00:00:00:01", (DOT1Q, 200)))
    assert taps["blue1"].heard(least=1) == [frame("02:00:00:00:00:01")]
    assert [taps[name].heard(0.1) for name in ("red1", "red2", "trunk")] == [[], [], []]


def test_a_trunk_sends_its_vlans_tagged_and_its_native_one_untagged(aware: Host) -> None:
    start_all(aware)
    trunk, up = aware.taps["trunk"], aware.taps["out0"]
    trunk.send(frame(mac("trunk"), (DOT1Q, 105)))
    trunk.send(frame(mac("trunk")))
    trunk.send(frame(mac("trunk"), (DOT1Q, 200)))  # not in its trunk
    assert up.heard(least=2) == [frame(mac("trunk"), (DOT1Q, 105)), frame(mac("trunk"), (DOT1Q, 7))]
    assert aware.taps["blue1"].heard(0.1) == []


def test_an_access_port_hops_into_no_other_vlan(aware: Host) -> None:
    """Double tags, service tags and priority tags, from an unguarded and from a guarded port."""
    start_all(aware)
    for tags in ([(DOT1Q, 200)], [(DOT1Q, 100), (DOT1Q, 200)], [(DOT1AD, 200)], [(DOT1Q, 0)], [(DOT1Q, 100)]):
        for guest in ("red1", "red2"):
            aware.taps[guest].send(frame(mac(guest), *tags))
    assert aware.taps["blue1"].heard() == []
    outside = aware.taps["out0"].heard(0.1, least=1)
    assert [data for data in outside if data[12:16] != struct.pack("!HH", DOT1Q, 100)] == []
    # A guarded port sends no tag at all, not even its own VLAN's.
    assert [data for data in outside if data[6:12].hex(":") == mac("red2")] == []


def test_reconnect_repairs_what_somebody_changed(aware: Host) -> None:
    start_all(aware)
    subprocess.run(["bridge", "vlan", "add", "vid", "200", "dev", "red1"], check=True)
    subprocess.run(["bridge", "vlan", "del", "vid", "100", "dev", "out0"], check=True)
    assert aware.domain("red1", "reconnect", "br0") == ""
    assert vlans("red1") == {100: ACCESS}
    assert 100 in vlans("out0")


def test_an_inert_tag_is_an_error(aware: Host) -> None:
    Path("/sys/class/net/br0/bridge/vlan_filtering").write_text("0")
    assert "network 'red': bridge br0 does not tell VLANs apart" in aware.network("red", "start")
    Path("/sys/class/net/br0/bridge/vlan_filtering").write_text("1")
    assert aware.network("red", "start", "started") == ""
    Path("/sys/class/net/br0/bridge/vlan_filtering").write_text("0")
    aware.taps["red1"] = Tap("red1", "br0")
    assert "tap red1: bridge br0 does not tell VLANs apart" in aware.domain("red1", "start", "br0")


@pytest.fixture
def nic(namespace: None, tmp_path: Path) -> Host:
    """A host whose labels are mapped to NICs: the taps `nic` and `pro`."""
    host = Host(tmp_path, FOUND, {"lan": "nic", "provider": "pro"})
    for name in ("nic", "pro"):
        host.taps[name] = Tap(name)
    return host


def test_a_subinterface_carries_one_vlan_to_a_bridge_of_its_own(nic: Host) -> None:
    for network in ("red", "blue"):
        assert nic.network(network, "start", "started") == ""
    nic.start("red1", "gn-lan.100")
    nic.start("blue1", "gn-lan.200")
    nic.taps["red1"].send(frame(mac("red1")))
    assert nic.taps["nic"].heard(least=1) == [frame(mac("red1"), (DOT1Q, 100))]
    nic.taps["nic"].send(frame("02:00:00:00:00:01", (DOT1Q, 200)))
    assert nic.taps["blue1"].heard(least=1) == [frame("02:00:00:00:00:01")]
    assert nic.taps["red1"].heard(0.1) == []
    for network in ("red", "blue"):
        assert nic.network(network, "stopped") == ""
    assert not Path("/sys/class/net/nic.100").exists()
    assert not Path("/sys/class/net/gn-lan.200").exists()


@pytest.mark.only("bookworm", "trixie")
def test_a_service_tag_goes_around_the_customers_own(nic: Host) -> None:
    assert nic.network("customer", "start", "started") == ""
    nic.start("site", "gn-provider.300")
    inner = frame(mac("site"), (DOT1Q, 100))
    nic.taps["site"].send(inner)
    assert nic.taps["pro"].heard(least=1) == [frame(mac("site"), (DOT1AD, 300), (DOT1Q, 100))]
    nic.taps["pro"].send(frame("02:00:00:00:00:01", (DOT1Q, 300)))  # the same number as a customer's tag
    assert nic.taps["site"].heard() == []
    nic.taps["pro"].send(frame("02:00:00:00:00:01", (DOT1AD, 300), (DOT1Q, 42)))
    assert nic.taps["site"].heard(least=1) == [frame("02:00:00:00:00:01", (DOT1Q, 42))]


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        ("nic.100 link nic type vlan id 100", "device nic.100 exists and is not ours"),
        ("gn-lan.100 type bridge", "device gn-lan.100 exists and is not ours"),
        ("theirs link nic type vlan id 100", "VLAN 100 of nic is already used by device theirs"),
    ],
)
def test_strangers_devices_are_never_taken_over(nic: Host, stranger: str, message: str) -> None:
    name, _, rest = stranger.partition(" ")
    ip(f"link add {rest.replace('type', f'name {name} type', 1)}" if "link" in rest else f"link add {stranger}")
    before = sorted(Path("/sys/class/net").iterdir())
    assert message in nic.network("red", "start")
    nic.network("red", "stopped")
    assert sorted(Path("/sys/class/net").iterdir()) == before


def test_libvirts_own_bridge_tells_vlans_apart_too(nic: Host) -> None:
    ip("link add gn-inside type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    ip("link set gn-inside up")
    assert nic.network("inside", "start", "started") == ""
    assert vlans("gn-inside") == {10: ACCESS}  # the host itself
    first, second = nic.start("in1", "gn-inside"), nic.start("in2", "gn-inside")
    assert (vlans("in1"), vlans("in2")) == ({10: ACCESS}, {11: ACCESS})
    first.send(frame(mac("in1")))
    assert second.heard() == []


def test_a_guarded_port_is_known_in_each_of_its_vlans(nic: Host) -> None:
    ip("link add gn-inside type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    ip("link set gn-inside up")
    assert nic.network("inside", "start", "started") == ""
    for guest in ("in2", "in3"):
        nic.start(guest, "gn-inside")
    shown = subprocess.run(["bridge", "-j", "fdb", "show", "br", "gn-inside"], check=True, capture_output=True).stdout
    held = [entry for entry in json.loads(shown) if entry.get("state") == "static"]
    assert {(entry["ifname"], entry["mac"], entry["vlan"]) for entry in held} == {
        ("in3", mac("in3"), vid) for vid in (10, 11, 12)
    }
    thief = frame(mac("in3"))
    nic.taps["in2"].send(thief)  # trusted, in VLAN 11, where in3 is tagged
    assert nic.taps["in3"].heard(0.1, least=1) == [frame(mac("in3"), (DOT1Q, 11))]
    answer = bytes.fromhex(mac("in3").replace(":", "")) + frame(mac("in2"))[6:]
    nic.taps["in2"].send(answer)
    assert nic.taps["in3"].heard(least=1) == [answer[:12] + struct.pack("!HH", DOT1Q, 11) + answer[12:]]
    assert nic.domain("in3", "reconnect", "gn-inside") == ""
    assert nic.domain("in3", "release", "gn-inside") == ""
    assert "sticky" not in subprocess.run(["bridge", "fdb"], check=True, capture_output=True, text=True).stdout

"""VLANs on Debian's own kernel: tags as they leave through the uplink, and frames that stay in their VLAN.

Taps stand for guests' NICs and for the uplink: what is read from one is the frame on the wire, tag and all.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import install, xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.only("trixie")  # those that depend on the kernel say so themselves

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWNET = 0x00020000, 0x40000000
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
DOT1Q, DOT1AD = 0x8100, 0x88A8
TOPOLOGY = """
name: t
physical-networks: { lan: {}, provider: {} }
networks:
  red: { mode: bridge, physical-network: lan, vlan: 100, subnets: [10.0.0.0/24] }
  blue: { mode: bridge, physical-network: lan, vlan: 200 }
  plain: { mode: bridge, physical-network: lan }
  customer: { mode: bridge, physical-network: provider, service-vlan: 300 }
  inside: { mode: isolated, vlan: 10 }
guests:
  red1: { ports: [{ network: red, tap: red1, addresses: [], guarded: false }] }
  red2: { ports: [{ network: red, tap: red2, addresses: [10.0.0.2] }] }
  blue1: { ports: [{ network: blue, tap: blue1, addresses: [], guarded: false }] }
  trunk: { ports: [{ network: plain, tap: trunk, trunk: [100-110], native-vlan: 7, addresses: [], guarded: false }] }
  site: { ports: [{ network: customer, tap: site, addresses: [], guarded: false }] }
  in1: { ports: [{ network: inside, tap: in1, addresses: [], guarded: false }] }
  in2: { ports: [{ network: inside, tap: in2, vlan: 11, addresses: [], guarded: false }] }
"""
FOUND = loads(TOPOLOGY, "test")


def mac(guest: str) -> str:
    return FOUND.guest(guest).ports[0].mac


def frame(source: str, *tags: tuple[int, int], text: str = "") -> bytes:
    """A broadcast of a local experimental EtherType, with tags as (EtherType, VLAN), the outermost first."""
    octets = b"\xff" * 6 + bytes.fromhex(source.replace(":", ""))
    stacked = b"".join(struct.pack("!HH", kind, vlan) for kind, vlan in tags)
    return octets + stacked + b"\x88\xb5" + (text or source).encode().ljust(46, b".")


class Tap:
    def __init__(self, name: str, bridge: str = "") -> None:
        self.name, self.fd = name, os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        if bridge:
            ip(f"link set {name} master {bridge}")
        ip(f"link set {name} up")

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def heard(self, within: float = 0.3) -> list[bytes]:
        """Every frame of ours that comes out, whatever else is there."""
        found, end = [], time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                data = os.read(self.fd, 4096)
                found += [data] if b"\x88\xb5" in data else []
        return found


class Host:
    """A network namespace with our hooks, called as libvirt calls them."""

    def __init__(self, root: Path, devices: dict[str, str]) -> None:
        self.hostmap, self.root, self.taps = HostMap(devices), root, {}
        install.install(root, any_owner=True)

    def call(self, hook: str, name: str, operation: str, xml: bytes) -> str:
        file = self.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
        done = subprocess.run([file, name, operation, "begin", "-"], input=xml, capture_output=True, timeout=60)
        assert (done.returncode == 0) == (done.stderr == b"")
        return done.stderr.decode()

    def network(self, name: str, *operations: str) -> str:
        xml = etree.tostring(xmlgen.network(FOUND, FOUND.network(name), self.hostmap))
        done = [self.call("network", name, each, b"<hookData>" + xml + b"</hookData>") for each in operations]
        return "".join(done)

    def domain(self, name: str, operation: str, bridge: str) -> str:
        guest = FOUND.guest(name)
        (port,) = guest.ports
        metadata = etree.tostring(xmlgen.domain_metadata(FOUND, guest, HostMap())).decode()
        return self.call(
            "qemu",
            name,
            operation,
            f"<domain><name>{name}</name><uuid>{name}</uuid><metadata>{metadata}</metadata><devices>"
            f"<interface type='bridge'><mac address='{port.mac}'/><source network='{port.network}' bridge='{bridge}'/>"
            f"<target dev='{port.tap}'/></interface></devices></domain>".encode(),
        )

    def start(self, guest: str, bridge: str) -> Tap:
        tap = self.taps[guest] = Tap(guest, bridge)
        assert self.domain(guest, "start", bridge) == ""
        return tap

    def stop(self, guest: str, bridge: str) -> None:
        os.close(self.taps.pop(guest).fd)
        assert self.domain(guest, "release", bridge) == ""


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, timeout=10)


def vlans(device: str) -> dict[int, set[str]]:
    listed = json.loads(
        subprocess.run(["bridge", "-j", "vlan", "show", "dev", device], check=True, capture_output=True).stdout
    )
    return {
        vid: set(entry.get("flags", ()))
        for port in listed
        for entry in port["vlans"]
        for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }


ACCESS = {"PVID", "Egress Untagged"}


@pytest.fixture
def namespace() -> Iterator[None]:
    homes = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    cwd = Path.cwd()
    assert _LIBC.unshare(_NEWNET | _NEWNS) == 0
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "sysfs", "sys", "/sys"], check=True)
        ip("link set lo up")
        yield
    finally:
        for home in homes:
            _LIBC.setns(home, 0)
            os.close(home)
        os.chdir(cwd)
        shutil.rmtree("/run/libvirt-guestnet", ignore_errors=True)


@pytest.fixture
def aware(namespace: None, tmp_path: Path) -> Host:
    """A VLAN-aware bridge br0 with the default PVID 1 and, as its port to the outside, the tap `out0`."""
    ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 vlan_filtering 1")
    ip("link set br0 up")
    host = Host(tmp_path, {"lan": "br0/out0", "provider": "nic"})
    host.taps["out0"] = Tap("out0", "br0")
    return host


def start_all(host: Host) -> None:
    for network in ("red", "blue", "plain"):
        assert host.network(network, "start", "started") == ""
    for guest in ("red1", "red2", "blue1", "trunk"):
        host.start(guest, "br0")


def test_members_are_exactly_what_was_declared(aware: Host) -> None:
    start_all(aware)
    assert vlans("red1") == vlans("red2") == {100: ACCESS}
    assert vlans("blue1") == {200: ACCESS}
    assert vlans("trunk") == {7: ACCESS, **{vid: set() for vid in range(100, 111)}}
    # The uplink's own VLAN 1 is not ours to take.
    assert vlans("out0") == {1: ACCESS, 7: set(), 200: set(), **{vid: set() for vid in range(100, 111)}}


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


@pytest.mark.only("bookworm", "trixie")
def test_frames_leave_with_their_tag_and_stay_in_their_vlan(aware: Host) -> None:
    start_all(aware)
    taps = aware.taps
    taps["red1"].send(frame(mac("red1")))
    tagged = frame(mac("red1"), (DOT1Q, 100))
    assert taps["out0"].heard() == [tagged]
    assert taps["red2"].heard(0.1) == [frame(mac("red1"))]
    assert taps["trunk"].heard(0.1) == [tagged]
    assert taps["blue1"].heard(0.1) == []
    taps["out0"].send(frame("02:00:00:00:00:01", (DOT1Q, 200)))
    assert taps["blue1"].heard() == [frame("02:00:00:00:00:01")]
    assert [taps[name].heard(0.1) for name in ("red1", "red2", "trunk")] == [[], [], []]


def test_a_trunk_sends_its_vlans_tagged_and_its_native_one_untagged(aware: Host) -> None:
    start_all(aware)
    trunk, up = aware.taps["trunk"], aware.taps["out0"]
    trunk.send(frame(mac("trunk"), (DOT1Q, 105)))
    trunk.send(frame(mac("trunk")))
    trunk.send(frame(mac("trunk"), (DOT1Q, 200)))  # not in its trunk
    assert up.heard() == [frame(mac("trunk"), (DOT1Q, 105)), frame(mac("trunk"), (DOT1Q, 7))]
    assert aware.taps["blue1"].heard(0.1) == []


@pytest.mark.only("bookworm", "trixie")
def test_an_access_port_hops_into_no_other_vlan(aware: Host) -> None:
    """Double tags, service tags and priority tags, from an unguarded and from a guarded port."""
    start_all(aware)
    for tags in ([(DOT1Q, 200)], [(DOT1Q, 100), (DOT1Q, 200)], [(DOT1AD, 200)], [(DOT1Q, 0)], [(DOT1Q, 100)]):
        for guest in ("red1", "red2"):
            aware.taps[guest].send(frame(mac(guest), *tags))
    assert aware.taps["blue1"].heard() == []
    outside = aware.taps["out0"].heard(0.1)
    assert [data for data in outside if data[12:16] != struct.pack("!HH", DOT1Q, 100)] == []
    # A guarded port sends no tag at all, not even its own VLAN's.
    assert [data for data in outside if data[6:12].hex(":") == mac("red2")] == []


def test_a_default_pvid_other_than_1_is_left_as_well(aware: Host) -> None:
    for setting, value in (("vlan_filtering", "0"), ("default_pvid", "5"), ("vlan_filtering", "1")):
        Path("/sys/class/net/br0/bridge", setting).write_text(value)
    aware.network("red", "start", "started")
    aware.start("red1", "br0")
    assert vlans("red1") == {100: ACCESS}


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
    host = Host(tmp_path, {"lan": "nic", "provider": "pro"})
    for name in ("nic", "pro"):
        host.taps[name] = Tap(name)
    return host


def test_a_subinterface_carries_one_vlan_to_a_bridge_of_its_own(nic: Host) -> None:
    for network in ("red", "blue"):
        assert nic.network(network, "start", "started") == ""
    nic.start("red1", "gn-lan.100")
    nic.start("blue1", "gn-lan.200")
    nic.taps["red1"].send(frame(mac("red1")))
    assert nic.taps["nic"].heard() == [frame(mac("red1"), (DOT1Q, 100))]
    nic.taps["nic"].send(frame("02:00:00:00:00:01", (DOT1Q, 200)))
    assert nic.taps["blue1"].heard() == [frame("02:00:00:00:00:01")]
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
    assert nic.taps["pro"].heard() == [frame(mac("site"), (DOT1AD, 300), (DOT1Q, 100))]
    nic.taps["pro"].send(frame("02:00:00:00:00:01", (DOT1Q, 300)))  # the same number as a customer's tag
    assert nic.taps["site"].heard() == []
    nic.taps["pro"].send(frame("02:00:00:00:00:01", (DOT1AD, 300), (DOT1Q, 42)))
    assert nic.taps["site"].heard() == [frame("02:00:00:00:00:01", (DOT1Q, 42))]


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

"""The bridge guard on Debian's own kernels: what nobody guards passes nothing, and all else passes as before.

ARP announcements are what is sent: the one kind of frame that a guarded port, a trusted one and the world outside may
all send.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from support import nft_golden
from support.labvm_host import Host, Tap, ip

from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.only("trixie")  # those that depend on the kernel say so themselves

TOPOLOGY = """
name: t
physical-networks: { nic: {}, tagged: {}, lan: {} }
networks:
  one: { mode: isolated, subnets: [10.0.0.0/24] }
  open: { mode: isolated, subnets: [10.0.1.0/24], guarded: false }
  wire: { mode: bridge, physical-network: nic, subnets: [10.0.2.0/24] }
  tagged: { mode: bridge, physical-network: tagged, vlan: 100, subnets: [10.0.3.0/24] }
  theirs: { mode: bridge, physical-network: lan, subnets: [10.0.4.0/24] }
guests:
  ann: { ports: [{ network: one, tap: ann, addresses: [10.0.0.2] }] }
  bob: { ports: [{ network: one, tap: bob, addresses: [10.0.0.3] }] }
  tom: { ports: [{ network: one, tap: tom, addresses: [10.0.0.4], guarded: false }] }
  will: { ports: [{ network: wire, tap: will, addresses: [10.0.2.5] }] }
  vera: { ports: [{ network: tagged, tap: vera, addresses: [10.0.3.6] }] }
  xena: { ports: [{ network: theirs, tap: xena, addresses: [10.0.4.7] }] }
"""
FOUND = loads(TOPOLOGY, "test")
DEVICES = {"nic": "nic", "tagged": "nic2", "lan": "br0"}
STRANGER = "02:00:00:00:00:99"
ARP = b"\x08\x06"


def arp(guest: str) -> bytes:
    """The announcement of a guest's address, or of one that nobody has."""
    if guest == "stranger":
        return announcement(STRANGER, "10.0.0.99")
    (port,) = FOUND.guest(guest).ports
    return announcement(port.mac, str(port.addresses[0].ip))


def announcement(mac: str, address: str) -> bytes:
    octets, four = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + octets + four + bytes(6) + four
    return (b"\xff" * 6 + octets + ARP + body).ljust(60, b"\0")


def hears(tap: Tap, data: bytes, within: float = 0.3) -> bool:
    return data in [heard[:60] for heard in tap.heard(within, kind=ARP)]


def soon_hears(tap: Tap, data: bytes) -> bool:
    """The same of what should come, however long an emulated and busy machine takes for it."""
    return any(hears(tap, data) for _ in range(200))


@pytest.fixture
def host(namespace: None, tmp_path: Path) -> Host:
    """Libvirt's bridge gn-one, and a host whose NICs are taps."""
    for bridge in ("gn-one", "gn-open", "br0"):
        make_bridge(bridge)
    ip("addr add 10.0.0.1/24 dev gn-one")
    host = Host(tmp_path, FOUND, DEVICES)
    for nic in ("nic", "nic2"):
        host.taps[nic] = Tap(nic)
    return host


def make_bridge(name: str) -> None:
    ip(f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    ip(f"link set {name} up")


def ear(device: str) -> socket.socket:
    """Hears what a device of the host receives, and what it sends."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    found.bind((device, 0))
    found.settimeout(0.3)
    return found


def heard_by_host(listener: socket.socket, data: bytes) -> bool:
    try:
        while listener.recv(2048)[:42] != data[:42]:
            pass
    except TimeoutError:
        return False
    return True


def admitted() -> set[str]:
    """The ports that the kernel's bridge guard lets through."""
    done = subprocess.run(["nft", "-j", "list", "set", "bridge", "guestnet", "ports"], capture_output=True, timeout=240)
    if done.returncode != 0:
        return set()
    (found,) = (item["set"] for item in json.loads(done.stdout)["nftables"] if "set" in item)
    return set(map(str, found.get("elem", ())))


def guarded_bridges() -> set[str]:
    done = subprocess.run(["nft", "-j", "list", "set", "bridge", "guestnet", "bridges"], capture_output=True)
    if done.returncode != 0:
        return set()
    return {name for item in json.loads(done.stdout)["nftables"] if "set" in item for name in item["set"]["elem"]}


def start_one(host: Host, *guests: str) -> list[Tap]:
    assert host.network("one", "start", "started") == ""
    return [host.start(guest, "gn-one") for guest in guests]


@pytest.mark.only("bookworm", "trixie")
def test_what_nobody_guards_passes_nothing_and_hears_nothing(host: Host) -> None:
    a, b = start_one(host, "ann", "bob")
    stranger, listener = Tap("stranger", "gn-one"), ear("gn-one")
    stranger.send(arp("stranger"))
    assert [hears(a, arp("stranger")), hears(b, arp("stranger"), 0.1)] == [False, False]
    assert not heard_by_host(listener, arp("stranger"))
    listener.send(announcement("02:00:00:00:00:01", "10.0.0.1"))
    assert soon_hears(a, announcement("02:00:00:00:00:01", "10.0.0.1"))
    a.send(arp("ann"))
    assert soon_hears(b, arp("ann"))
    assert heard_by_host(listener, arp("ann"))
    assert stranger.heard(0.1, kind=ARP) == []
    assert admitted() == {"ann", "bob"}


@pytest.mark.only("bookworm", "trixie")
def test_it_is_the_bridge_guard_that_stops_it(host: Host) -> None:
    (a,) = start_one(host, "ann")
    stranger = Tap("stranger", "gn-one")
    subprocess.run(["nft", "delete", "table", "bridge", "guestnet"], check=True)
    stranger.send(arp("stranger"))
    assert soon_hears(a, arp("stranger"))
    a.send(arp("ann"))
    assert soon_hears(stranger, arp("ann"))


@pytest.mark.only("bookworm", "trixie")
def test_a_link_local_group_is_no_way_into_the_host(host: Host) -> None:
    """A bridge hands such frames to its host past prerouting, and IP takes what is in them for the host's own."""
    start_one(host, "ann")
    stranger = Tap("stranger", "gn-one")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.0.0.1", 9999))
        server.settimeout(0.3)
        stranger.send(datagram("01:80:c2:00:00:03"))
        with pytest.raises(TimeoutError):
            server.recv(100)
        subprocess.run(["nft", "delete", "table", "bridge", "guestnet"], check=True)
        stranger.send(datagram("01:80:c2:00:00:03"))
        assert server.recv(100) == b"hello"


def datagram(to: str) -> bytes:
    udp = struct.pack("!HHHH", 1234, 9999, 13, 0) + b"hello"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ends = socket.inet_aton("10.0.0.99") + socket.inet_aton("10.0.0.1")
    total = sum(struct.unpack("!10H", head + ends))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = head[:10] + struct.pack("!H", checksum) + ends + udp
    return bytes.fromhex(to.replace(":", "")) + bytes.fromhex(STRANGER.replace(":", "")) + b"\x08\x00" + packet


@pytest.mark.only("bookworm", "trixie")
def test_the_uplink_of_our_bridge_passes_everything(host: Host) -> None:
    assert host.network("wire", "start", "started") == ""
    w, nic = host.start("will", "gn-nic"), host.taps["nic"]
    assert admitted() == {"nic", "will"}
    w.send(arp("will"))
    assert soon_hears(nic, arp("will"))
    spanning = b"\x01\x80\xc2\0\0\0" + b"\x02\0\0\0\0\1" + b"\x08\x06" + b"BPDU".ljust(46, b"\0")
    nic.send(arp("stranger"))
    nic.send(spanning)
    heard = [data[:60] for data in w.heard(kind=ARP)]
    assert heard == [arp("stranger"), spanning]


def test_a_subinterfaces_bridge_is_guarded_and_passes_its_vlan(host: Host) -> None:
    assert host.network("tagged", "start", "started") == ""
    v = host.start("vera", "gn-tagged.100")
    assert admitted() == {"nic2.100", "vera"}
    v.send(arp("vera"))
    data = arp("vera")
    assert data[:12] + b"\x81\x00\x00\x64" + data[12:] in [heard[:64] for heard in host.taps["nic2"].heard(kind=ARP)]
    stranger = Tap("stranger", "gn-tagged.100")
    stranger.send(arp("stranger"))
    assert not hears(v, arp("stranger"))


def test_somebodys_bridge_and_an_unguarded_network_are_left_alone(host: Host) -> None:
    start_one(host)
    for network, bridge in (("open", "gn-open"), ("theirs", "br0")):
        assert host.network(network, "start", "started") == ""
        first, second = Tap(f"{network}1", bridge), Tap(f"{network}2", bridge)
        first.send(arp("stranger"))
        assert soon_hears(second, arp("stranger"))
    assert guarded_bridges() == {"gn-one"}
    x = host.start("xena", "br0")
    x.send(arp("xena"))
    assert soon_hears(first, arp("xena"))


@pytest.mark.only("bookworm", "trixie")
def test_a_trusted_port_passes_until_its_domain_is_gone(host: Host) -> None:
    a, t = start_one(host, "ann", "tom")
    t.send(arp("stranger"))
    assert soon_hears(a, arp("stranger"))
    a.send(arp("ann"))
    assert soon_hears(t, arp("ann"))
    host.stop("tom", "gn-one")
    assert admitted() == {"ann"}


@pytest.mark.only("bookworm", "trixie")
def test_a_name_inherits_nothing(host: Host) -> None:
    """A killed release: the tap is gone, its receipt is not."""
    b, _ = start_one(host, "bob", "tom")
    os.close(host.taps.pop("tom").fd)
    again = Tap("tom", "gn-one")
    again.send(arp("stranger"))
    assert not hears(b, arp("stranger"))
    assert host.domain("tom", "start", "gn-one") == ""
    again.send(arp("stranger"))
    assert soon_hears(b, arp("stranger"))
    assert admitted() == {"bob", "tom"}
    host.stop("bob", "gn-one")
    host.taps["tom"] = again
    host.stop("tom", "gn-one")
    assert admitted() == set()


def test_a_tap_named_like_an_index_is_not_mistaken_for_it(host: Host) -> None:
    """libvirt lets users name taps."""
    (b,) = start_one(host, "bob")
    numbered = Tap(str(socket.if_nametoindex("bob")), "gn-one")
    assert host.domain("bob", "reconnect", "gn-one") == ""
    numbered.send(arp("stranger"))
    assert not hears(b, arp("stranger"))
    assert admitted() == {"bob"}


def test_a_network_that_restarts_keeps_its_running_guests(host: Host) -> None:
    a, b = start_one(host, "ann", "bob")
    assert host.network("one", "stopped") == ""
    assert guarded_bridges() == set()
    assert host.network("one", "start", "started") == ""
    a.send(arp("ann"))
    assert soon_hears(b, arp("ann"))
    assert admitted() == {"ann", "bob"}


def test_the_table_lasts_as_long_as_a_bridge_needs_it(host: Host) -> None:
    assert host.network("theirs", "start", "started") == ""
    assert tables() == set()
    start_one(host, "ann")
    assert host.network("wire", "start", "started") == ""
    assert guarded_bridges() == {"gn-one", "gn-nic"}
    assert host.network("one", "stopped") == ""
    assert guarded_bridges() == {"gn-nic"}
    assert host.network("wire", "stopped") == ""
    assert tables() == {"netdev guestnet"}
    assert not Path("/run/libvirt-guestnet/bridges.json").exists()


def tables() -> set[str]:
    listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    return {line.removeprefix("table ") for line in listed.splitlines()}


@pytest.mark.only("bookworm", "trixie")
def test_flushed_rules_come_back_with_anybodys_next_call(host: Host) -> None:
    a, t = start_one(host, "ann", "tom")
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    b = host.start("bob", "gn-one")
    assert admitted() == {"ann", "bob", "tom"}
    a.send(arp("stranger"))
    assert not hears(b, arp("stranger")), "its own filter is back, too"
    a.send(arp("ann"))
    assert [soon_hears(b, arp("ann")), soon_hears(t, arp("ann"))] == [True, True]


@pytest.mark.only("bookworm")  # whose nft is the one that the golden files are of
def test_the_rules_of_the_bridge_guard_are_those_of_the_golden_file(namespace: None, tmp_path: Path) -> None:
    make_bridge("br-web")
    host = Host(tmp_path, nft_golden.TOPOLOGY, {"lan": "up0"})
    assert host.network("web", "start", "started") == ""
    tap = Tap("static0", "br-web")
    assert host.domain("static-port", "start", "br-web") == ""
    listed = ["nft", "--stateless", "list", "table", "bridge", "guestnet"]
    rules = subprocess.run(listed, check=True, capture_output=True, text=True, timeout=240).stdout
    nft_golden.compare(nft_golden.BRIDGE_GUARD, rules)
    os.close(tap.fd)

"""The frame corpus on everything that carries VLANs: no attack leaves the guarded port, every honest frame does.

A frame counts as delivered when it arrives octet for octet: at a neighbour in the VLAN, and at the uplink with the tag.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import frames
import pytest
from support import labvm_ovs as ovs
from support.labvm_host import DOT1Q, Host, Tap, ip

from libvirt_guestnet.topology import loads

TAG = struct.pack("!HH", DOT1Q, 100)
TOPOLOGY = f"""
name: t
physical-networks: {{ lan: {{}} }}
networks:
  red:
    {{ mode: bridge, physical-network: lan, vlan: 100, subnets: [10.61.1.0/24, "fd61:1::/64"],
       privacy-addresses: strict }}
guests:
  me: {{ ports: [{{ network: red, tap: me, mac: "{frames.ME}", addresses: [{frames.ME4}, "{frames.ME6}"] }}] }}
  them: {{ ports: [{{ network: red, tap: them, addresses: [], guarded: false }}] }}
"""
FOUND = loads(TOPOLOGY, "test")
BARE = loads(TOPOLOGY.replace(f'"{frames.ME6}"] ', f'"{frames.ME6}"], guarded: false '), "test")
# Of tagged frames each carrier has its own view, guarded or not.
TAGS = (b"\x81\x00", b"\x88\xa8")
UNTAGGED = {n: f for n, f in frames.FORGED.items() if f[12:14] not in TAGS and f[20:22] not in TAGS}  # the second: SNAP
_BATCH = 24


class Stage:
    """The port under test and its neighbour, on a bridge whose uplink is a tap."""

    def __init__(self, host: Host, bridge: str, uplink: str) -> None:
        self.host, self.bridge, self.uplink = host, bridge, host.taps[uplink]
        self.numbers = count(1)

    def plug(self, guest: str, plugged: Callable[[str], None]) -> None:
        """What libvirt does to a new tap, and our hook."""
        tap = self.host.taps[guest] = Tap(guest)
        plugged(guest)
        assert self.host.domain(guest, "start", self.bridge) == ""
        # Or a frame that claims a neighbour's MAC would turn that one's frames away.
        subprocess.run(["bridge", "link", "set", "dev", tap.name, "learning", "off"], capture_output=True)

    def arrivals(self, corpus: Mapping[str, bytes]) -> tuple[set[str], set[str]]:
        """What arrives at the neighbour and, tagged, at the uplink. No time decides: a sentinel ends each batch."""
        near, far = set[bytes](), set[bytes]()
        for batch in _batches(list(corpus.values())):
            end = self._sentinel()
            for frame in (*batch, end):
                self.host.taps["me"].send(frame)
            near.update(map(_bare, _until(self.host.taps["them"], end)))
            far.update(map(_bare, map(_untagged, _until(self.uplink, end[:12] + TAG + end[12:]))))
        there, beyond = ({name for name, frame in corpus.items() if _bare(frame) in place} for place in (near, far))
        return there, beyond

    def _sentinel(self) -> bytes:
        """To a MAC that nobody has: Open vSwitch handles it behind all that it has not handled yet."""
        number = next(self.numbers)
        return struct.pack("!HI", 0x0200, number) + frames.sentinel(number)[6:]


def _batches(corpus: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(corpus), _BATCH):
        yield corpus[start : start + _BATCH]


def _until(ear: Tap, last: bytes, seconds: float = 60.0) -> list[bytes]:
    heard: list[bytes] = []
    end = time.monotonic() + seconds
    while not heard or heard[-1] != last:
        assert select.select([ear.fd], [], [], max(0, end - time.monotonic()))[0], f"no sentinel at {ear.name}: {heard}"
        heard.append(os.read(ear.fd, 65536))
    return heard


def _untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:] if frame[12:16] == TAG else b"not tagged: " + frame


def _bare(frame: bytes) -> bytes:
    return frame.rstrip(b"\0")  # bridges cut padding


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Open vSwitch handles packets in the order in which they came only where they came on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(params=["vlan-aware bridge", "subinterface", "open vswitch"])
def made(request: pytest.FixtureRequest, namespace: None, one_processor: None, tmp_path: Path) -> Iterator[Stage]:
    # It drops what is malformed and keeps lonely fragments, which is no merit of ours.
    for family in ("ip", "ip6", "arp"):
        Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}tables").write_text("0")
    with ExitStack() as stack:
        yield _CARRIERS[request.param](tmp_path, stack)


def _aware(root: Path, _stack: ExitStack) -> Stage:
    ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 vlan_filtering 1")
    ip("link set br0 up")
    host = Host(root, FOUND, {"lan": "br0/out0"})
    host.taps["out0"] = Tap("out0", "br0")
    return _started(Stage(host, "br0", "out0"), lambda tap: ip(f"link set {tap} master br0"))


def _subinterface(root: Path, _stack: ExitStack) -> Stage:
    host = Host(root, FOUND, {"lan": "nic"})
    host.taps["nic"] = Tap("nic")
    return _started(Stage(host, "gn-lan.100", "nic"), lambda tap: ip(f"link set {tap} master gn-lan.100"))


def _open_vswitch(root: Path, stack: ExitStack) -> Stage:
    ovs.start(_run)
    stack.callback(ovs.stop, _run)
    host = Host(root, FOUND, {"lan": "ovs:br0"})
    host.taps["out0"] = Tap("out0")
    # Or it would keep switches' control frames to itself, whoever sends them.
    bridge = ["add-br", "br0", "--", "set", "bridge", "br0", "other-config:forward-bpdu=true"]
    _run(["ovs-vsctl", *bridge, "--", "add-port", "br0", "out0"])
    return _started(Stage(host, "br0", "out0"), lambda tap: _run(["ovs-vsctl", "add-port", "br0", tap, "tag=100"]))


def _started(stage: Stage, plugged: Callable[[str], None]) -> Stage:
    assert stage.host.network("red", "start", "started") == ""
    for guest in ("me", "them"):
        stage.plug(guest, plugged)
    return stage


def _run(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, timeout=240)


_CARRIERS: dict[str, Callable[[Path, ExitStack], Stage]] = {
    "vlan-aware bridge": _aware,
    "subinterface": _subinterface,
    "open vswitch": _open_vswitch,
}


@pytest.mark.only("bookworm", "trixie")
def test_attacks_arrive_nowhere_and_honest_frames_everywhere(made: Stage) -> None:
    assert made.arrivals(frames.FORGED) == (set(), set())
    near, far = made.arrivals(frames.HONEST)
    assert (set(frames.HONEST) - near, set(frames.HONEST) - far) == (set(), set())
    # It was the guard that stopped them.
    made.host.found = BARE
    assert made.host.domain("me", "start", made.bridge) == ""
    # Those that claim a neighbour's MAC last: Open vSwitch learns from them, and turns that one's frames away.
    near, far = made.arrivals(dict(sorted(UNTAGGED.items(), key=lambda named: named[1][6:12].hex(":") != frames.ME)))
    assert set(UNTAGGED) - (near & far) - frames.UNCARRIED == set()

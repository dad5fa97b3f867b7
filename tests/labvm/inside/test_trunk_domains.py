"""A real domain's guarded trunk on a VLAN-aware bridge: the frame corpus of an access port inside one of its tags.

::

    [domain `me`, a trunk]──┐             ┌──near, in VLAN 100
                           br0, VLAN-aware├──far, in VLAN 300
                            └──out0       (taps, and what is read from them is the frame on the wire)
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import frames
import pytest
from support.labvm_host import ACCESS, DOT1AD, DOT1Q, Tap, ip, vlans
from support.labvm_real import Real
from support.stage import inside

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

TOPOLOGY = f"""
name: t
physical-networks: {{ lan: {{}} }}
networks:
  net: {{ mode: bridge, physical-network: lan, vlan: 300, subnets: [10.61.1.0/24, "fd61:1::/64"] }}
guests:
  me:
    ports:
      - network: net
        tap: me
        mac: "{frames.ME}"
        addresses: [{frames.ME4}, "{frames.ME6}"]
        trunk: [100-110, 200]
        native-vlan: 7
"""
HONEST, FORGED = frames.HONEST, frames.FORGED
_BATCH = 24


class Bridge:
    """The bridge, the domain on it, and who listens. `kind` is the EtherType of its tags."""

    def __init__(self, sandbox: Sandbox, kind: int) -> None:
        self.sandbox, self.kind, self.numbers = sandbox, kind, count(1)
        key, protocol = ("vlan", "802.1Q") if kind == DOT1Q else ("service-vlan", "802.1ad")
        self.text = TOPOLOGY.replace("vlan: 300", f"{key}: 300")
        # It drops what is malformed and keeps lonely fragments, which is no merit of ours.
        for switch in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*tables"):
            switch.write_text("0")
        ip(f"link add br0 type bridge stp_state 0 mcast_snooping 0 vlan_filtering 1 vlan_protocol {protocol}")
        Path("/proc/sys/net/ipv6/conf/br0/disable_ipv6").write_text("1")
        ip("link set br0 up")
        self.out, self.near, self.far = (Tap(name, "br0") for name in ("out0", "near", "far"))
        for name, vlan in (("near", 100), ("far", 300)):
            subprocess.run(["bridge", "vlan", "del", "vid", "1", "dev", name], check=True)
            subprocess.run(["bridge", "vlan", "add", "vid", str(vlan), "dev", name, "pvid", "untagged"], check=True)

    def close(self) -> None:
        for tap in (self.out, self.near, self.far):
            os.close(tap.fd)
        ip("link del br0")

    @contextmanager
    def running(self) -> Iterator[None]:
        with Real(self.sandbox, loads(self.text, "test"), {"lan": "br0/out0"}) as real:
            real.start_networks()
            real.create("me")
            ip("link set me type bridge_slave learning off")
            self.wire = real.wires["net"]
            yield
            real.virsh("destroy", "me")
            real.virsh("net-destroy", "net")

    def tag(self, vlan: int) -> tuple[int, int]:
        return self.kind, vlan

    def judge(self, corpus: Mapping[str, bytes], vlan: int) -> dict[str, set[str]]:
        """What of a corpus does not arrive, sent in a tag or, if the VLAN is the native one, without: at `out` with the
        tag, and at `near` without it. Fails when anything arrives at `far`, or anything else than the corpus anywhere.
        """
        tags = [] if vlan == 7 else [self.tag(vlan)]
        out, near = set[bytes](), set[bytes]()
        for batch in _batches(list(corpus.values())):
            end = frames.sentinel(next(self.numbers))
            self.wire.send(*(frames.inside(frame, *tags) for frame in (*batch, end)))
            heard = _until(self.out, frames.inside(end, self.tag(vlan)))
            assert {frame[12:16] for frame in heard} == {struct.pack("!HH", *self.tag(vlan))}
            out |= {_bare(frame[:12] + frame[16:]) for frame in heard[:-1]}
            near |= {_bare(frame) for frame in _until(self.near, end)[:-1]} if vlan == 100 else set()
        assert _rest(self.far) == _rest(self.near) == []
        assert (out | near) - set(map(_bare, corpus.values())) == set()
        missing = {"out": out, "near": near} if vlan == 100 else {"out": out}
        return {place: {n for n, f in corpus.items() if _bare(f) not in heard} for place, heard in missing.items()}


def _batches(corpus: list[bytes]) -> Iterator[list[bytes]]:
    return (corpus[start : start + _BATCH] for start in range(0, len(corpus), _BATCH))


def _bare(frame: bytes) -> bytes:
    return frame.rstrip(b"\0")  # bridges cut padding


def _until(ear: Tap, last: bytes, seconds: float = 10.0) -> list[bytes]:
    heard: list[bytes] = []
    end = time.monotonic() + seconds
    while not heard or heard[-1] != last:
        assert select.select([ear.fd], [], [], max(0, end - time.monotonic()))[0], f"no sentinel at {ear.name}: {heard}"
        heard.append(os.read(ear.fd, 65536))
    return heard


def _rest(ear: Tap) -> list[bytes]:
    heard = []
    while select.select([ear.fd], [], [], 0)[0]:
        heard.append(os.read(ear.fd, 65536))
    return heard


@pytest.fixture(
    params=[
        pytest.param(DOT1Q, id="802.1Q"),
        pytest.param(DOT1AD, id="802.1ad", marks=pytest.mark.only("trixie")),
    ],
    scope="module",
)
def guarded(hooked_sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Bridge]:
    with inside(hooked_sandbox.first.pid):
        made = Bridge(hooked_sandbox, request.param)
        with made.running():
            assert vlans("me") == {7: ACCESS, 200: set(), **{vlan: set() for vlan in range(100, 111)}}
            yield made
        made.close()


def test_honest_frames_leave_in_their_vlan_octet_for_octet(guarded: Bridge) -> None:
    assert guarded.judge(HONEST, 100) == {"out": set(), "near": set()}
    assert guarded.judge(HONEST, 200) == {"out": set()}
    assert guarded.judge(HONEST, 7) == {"out": set()}


def test_attacks_leave_in_no_vlan(guarded: Bridge) -> None:
    assert guarded.judge(FORGED, 100) == {"out": set(FORGED), "near": set(FORGED)}
    if guarded.kind == DOT1Q:  # for a trunk of service tags, what has one is no attack
        assert guarded.judge(FORGED, 7) == {"out": set(FORGED)}


def test_no_other_tag_leaves(guarded: Bridge) -> None:
    """Foreign, stacked and priority tags, and the other kind's, around what is honest in a tag of the trunk's."""
    other = DOT1AD if guarded.kind == DOT1Q else DOT1Q
    own, far, native = guarded.tag(100), guarded.tag(300), guarded.tag(7)
    stacks = [[far], [native], [guarded.tag(0)], [own, own], [own, far], [own, (other, 300)], [native, far]]
    stacks += [[(other, 100)], [(other, 100), own], [(0x9100, 100)]]
    some = [HONEST[name] for name in ("ARP announcement (RFC 5227)", "IPv4 UDP", "IPv6 TCP")]
    foreign = {f"{tags} {n}": frames.inside(f, *tags) for tags in stacks for n, f in enumerate(some)}
    assert guarded.judge(foreign, 7) == {"out": set(foreign)}


def test_without_its_filter_attacks_leave(guarded: Bridge) -> None:
    """One of each kind. It comes last: nobody puts the filter back."""
    kinds = {name.partition(":")[0]: name for name in FORGED if name not in frames.UNCARRIED}
    nft(filters.remove())
    assert guarded.judge({name: FORGED[name] for name in kinds.values()}, 100) == {"out": set(), "near": set()}

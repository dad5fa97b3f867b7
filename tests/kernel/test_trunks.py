"""A guarded trunk against real frames: one of its tags may be around what an access port may send, and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_network
from itertools import groupby

import frames
import pytest
from make import VIRTUAL
from support.taps import Wire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, port_facts
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk

DOT1Q, DOT1AD = 0x8100, 0x88A8
VLANS = [(100, 110), (200, 200)]
NATIVE, TAGGED, SERVICE = Trunk(VLANS, native=True), Trunk(VLANS), Trunk(VLANS, service=True)
OWN = PortGuard("", frames.ME, (ip_network(frames.ME4), ip_network(frames.ME6)))
HONEST, FORGED = frames.HONEST, frames.FORGED
SOME = {
    name: HONEST[name] for name in ("ARP probe (RFC 5227)", "IPv4 UDP", "IPv6 TCP", "DAD for own address (RFC 4862)")
}


def _guard(wire: Wire, trunk: Trunk | None, **policy: object) -> None:
    kernel.nft(filters.guard(OWN._replace(tap=wire.tap, trunk=trunk, **policy)))  # type: ignore[arg-type]


def _inside(corpus: Mapping[str, bytes], *tags: tuple[int, int]) -> dict[str, bytes]:
    return {name: frames.inside(frame, *tags) for name, frame in corpus.items()}


def test_every_frame_in_a_tag_is_delivered_without_a_guard(wire: Wire) -> None:
    """The corpus is only worth something if nothing but the filter stops it."""
    wire.tags = [(DOT1Q, 100)]
    corpus = {**HONEST, **FORGED}
    # Behind another tag, half a tag is a frame.
    assert {name for name in set(corpus) - wire.judge(corpus) if "of a tag" not in name} == {
        name for name in frames.UNCARRIED if "of a tag" not in name
    }


@pytest.mark.parametrize(
    ("trunk", "kind"),
    [(TAGGED, DOT1Q), (NATIVE, DOT1Q), (SERVICE, DOT1AD)],
    ids=["tagged", "native", "service"],
)
def test_in_its_tag_a_trunk_sends_what_an_access_port_may(wire: Wire, trunk: Trunk, kind: int) -> None:
    _guard(wire, trunk)
    wire.tags = [(kind, 100)]
    assert set(HONEST) - wire.judge(HONEST) == set()
    assert wire.judge(FORGED) == set()


def test_every_vlan_of_a_trunk_passes_with_every_priority(wire: Wire) -> None:
    for trunk, kind in ((TAGGED, DOT1Q), (SERVICE, DOT1AD)):
        _guard(wire, trunk)
        for vlan in (100, 105, 110, 200, 0xE000 | 100, 0x1000 | 200):
            wire.tags = [(kind, vlan)]
            assert wire.judge(SOME) == set(SOME)


def test_with_a_native_vlan_a_trunk_sends_untagged_frames_too(wire: Wire) -> None:
    _guard(wire, NATIVE)
    assert set(HONEST) - wire.judge(HONEST) == set()
    assert wire.judge(FORGED) == set()


DROPPED = [
    (NATIVE, [(DOT1Q, 99)], "VLAN"),
    (NATIVE, [(DOT1Q, 0)], "VLAN"),
    (NATIVE, [(DOT1Q, 7), (DOT1Q, 100)], "VLAN"),
    (NATIVE, [(DOT1Q, 100), (DOT1Q, 100)], "VLAN tag"),
    (NATIVE, [(DOT1Q, 100), (DOT1Q, 0)], "VLAN tag"),
    (NATIVE, [(DOT1Q, 100), (DOT1AD, 100)], "VLAN tag"),
    (NATIVE, [(DOT1AD, 100)], "VLAN tag"),
    (NATIVE, [(0x9100, 100)], "VLAN tag"),
    (TAGGED, [(DOT1Q, 111)], "VLAN"),
    (TAGGED, [(0x9100, 100)], "VLAN tag"),
    (TAGGED, [], "untagged"),
    (SERVICE, [(DOT1Q, 100)], "VLAN tag"),
    (SERVICE, [(DOT1AD, 99)], "VLAN"),
    (SERVICE, [(DOT1AD, 0)], "VLAN"),
    (SERVICE, [(DOT1AD, 100), (DOT1Q, 100)], "VLAN tag"),
    (SERVICE, [(DOT1AD, 100), (DOT1AD, 100)], "VLAN tag"),
    (SERVICE, [], "untagged"),
    (None, [(DOT1Q, 100)], "VLAN tag"),
]


def test_other_tags_are_dropped_and_counted(wire: Wire) -> None:
    for trunk, rows in groupby(DROPPED, lambda row: row[0]):
        _guard(wire, trunk)
        counted = Counter[str]()
        for _, tags, reason in rows:
            arrived = [wire.delivered(frame, within=0.03) for frame in _inside(SOME, *tags).values()]
            counted[reason] += len(SOME)
            assert (arrived, kernel.drops_by_reason()) == ([False] * len(SOME), {wire.tap: counted}), tags


def test_what_is_in_a_tag_is_dropped_with_its_own_reason(wire: Wire) -> None:
    _guard(wire, TAGGED)
    wire.tags = [(DOT1Q, 100)]
    names = ["arp: another's address", "mac: another's source MAC", "nd: redirect", "llc: CDP (Cisco)"]
    assert wire.judge({name: FORGED[name] for name in [*names, "ethertype: unknown"]}) == set()
    assert kernel.drops_by_reason()[wire.tap] == {"ARP": 1, "source MAC": 1, "ND": 1, "EtherType": 2}


def test_policies_hold_in_a_tag(wire: Wire) -> None:
    """Pairs, roles and the log make the same rules."""
    pairs = ((VIRTUAL, ip_network("10.61.1.100")),)
    _guard(wire, TAGGED, roles=(port_facts.DHCP_SERVER, port_facts.RA_SENDER), log=True, pairs=pairs)
    tagged = wire.tags = [(DOT1Q, 100)]
    passes = wire.judge(FORGED)
    _guard(wire, None, roles=(port_facts.DHCP_SERVER, port_facts.RA_SENDER), log=True, pairs=pairs)
    wire.tags = []
    assert passes == wire.judge(FORGED)
    assert len(passes) > 8
    assert not wire.delivered(frames.inside(SOME["IPv4 UDP"], *tagged), within=0.05)


def test_a_trunk_that_becomes_an_access_port_leaves_no_chain(wire: Wire) -> None:
    _guard(wire, TAGGED)
    assert f"vlan-{wire.tap}" in _chains()
    _guard(wire, None)
    assert f"vlan-{wire.tap}" not in _chains()
    assert wire.judge(SOME) == set(SOME)
    assert wire.judge(_inside(SOME, (DOT1Q, 100))) == set()
    _guard(wire, TAGGED)
    kernel.nft(filters.release([wire.tap]))
    assert _chains() == set()


def _chains() -> set[str]:
    listed = subprocess.run(["nft", "-j", "list", "chains"], check=True, capture_output=True, timeout=120).stdout
    names = {item["chain"]["name"] for item in json.loads(listed)["nftables"] if "chain" in item}
    return names - {"asks6", "finds6", "tells6", "plain4", "plain6", "rest4", "rest6", "nowhere4", "nowhere6"}

"""Roles open no way around the checksum guard: what the host would write into a frame of a switch's is not written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import offload
import pytest
from make import ME, THEM, THEM4, arp
from offload import Header, Offered, rewritten
from roles import HONEST_AS
from scapy.all import Ether  # type: ignore[attr-defined]
from support.offload_guarded import plain_offers, put_filter, put_guard
from support.offload_wire import NEWEST, OLDEST, OffloadWire

ROLES = ("mpls", "pppoe", "isis")
PLAIN = {name: frame for role in ROLES for name, frame in HONEST_AS[role].items()}
ARP = bytes(Ether(src=ME, dst=THEM) / arp(THEM4, op=2, hwdst=THEM))
_OFFER = HONEST_AS["pppoe-server"]["PPPoE offer (RFC 2516)"]
LATE = {
    "a packet's source in MPLS": rewritten(HONEST_AS["mpls"]["MPLS (RFC 3032)"], 36, b"\x0b\x0b"),
    "an octet of PPPoE's payload": rewritten(HONEST_AS["pppoe"]["PPPoE session"], 40, b"\x0b\x0b"),
    "an octet of IS-IS": rewritten(HONEST_AS["isis"]["IS-IS level 1 (ISO 10589)"], 40, b"\x0b\x0b"),
}
# Linux 6.12 and later take no sum that begins so early.
EARLY = {
    "another's ARP that was MPLS": rewritten(ARP, 12, b"\x88\x47"),
    "a PPPoE offer that was a termination": rewritten(_OFFER, 14, b"\x11\xa7"),
}


@pytest.fixture
def wire(namespace: None) -> Iterator[OffloadWire]:
    wire = OffloadWire("vme0000000a")
    yield wire
    wire.close()


def _asked(**fields: Any) -> dict[str, Offered]:
    return {name: Offered(Header(**fields), frame, (frame,)) for name, frame in PLAIN.items()}


def test_without_the_checksum_guard_forgeries_leave(wire: OffloadWire) -> None:
    """They are only worth something if nothing else stops them."""
    put_filter(wire, roles=ROLES)
    assert set(LATE) - wire.delivered(LATE) == set()
    put_filter(wire)
    assert wire.delivered({**LATE, **EARLY}) == set()


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_the_checksum_guard_judges_frames_of_roles_as_all_others(wire: OffloadWire, way: str) -> None:
    put_guard(wire, way, roles=ROLES)
    assert wire.delivered(plain_offers(PLAIN)) == set(PLAIN)
    assert [name for name, offered in {**LATE, **EARLY}.items() if wire.heard(offered)] == []
    for kind in (offload.TCPV4, offload.TCPV6, offload.UDP_L4):
        cut = _asked(gso=kind, segment=16, header_length=34)
        altered = {n: heard for n, o in cut.items() if set(offload.bare(heard := wire.heard(o))) - {o.frame}}
        assert altered == {}

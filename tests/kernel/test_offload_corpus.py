"""The checksum guard against what guests ask for in virtio-net headers, judged at a NIC without offload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network

import frames
import offload
import pytest
from offload import Offered
from offload_attacks import ATTACKS, EARLY, MISFITS, PLAIN
from offload_honest import FORWARDED, HONEST
from support.offload_guarded import plain_offers, put_filter, put_guard
from support.offload_wire import NEWEST, OLDEST, OffloadWire, takes

from libvirt_guestnet.datapath.port.port_facts import Trunk

TAG = bytes.fromhex("81000064")


@pytest.fixture
def wire(namespace: None) -> Iterator[OffloadWire]:
    wire = OffloadWire("vme0000000a")
    yield wire
    wire.close()


def _arriving(wire: OffloadWire, corpus: Mapping[str, Offered]) -> set[str]:
    """The names of those of which anything at all leaves the NIC."""
    return {name for name, offered in corpus.items() if wire.heard(offered)}


def _altered(wire: OffloadWire, corpus: Mapping[str, Offered]) -> set[str]:
    """The names of those of which something else leaves than the filter saw. Linux 6.1 itself
    forgets a sum that begins before a tag that it takes out (skb_postpull_rcsum)."""
    return {name for name, o in corpus.items() if set(offload.bare(wire.heard(o))) - set(offload.bare([o.frame]))}


def _possible(wire: OffloadWire, corpus: Mapping[str, Offered] = HONEST) -> dict[str, Offered]:
    """What this kernel's taps take at all: USO since Linux 6.2; before, no guest is offered it."""
    uso = takes(wire, HONEST["USO over IPv4"])
    return {name: offered for name, offered in corpus.items() if uso or offered.header.gso != offload.UDP_L4}


def test_the_corpus_is_honest_where_filters_see_it_and_forged_where_they_do_not(wire: OffloadWire) -> None:
    put_filter(wire)
    assert _arriving(wire, plain_offers(PLAIN)) == set()
    seen = plain_offers({name: offered.frame for name, offered in ATTACKS.items() if not offered.header.gso})
    assert set(seen) - wire.delivered(seen) == set()


def test_the_address_filter_alone_lets_every_forgery_out(wire: OffloadWire) -> None:
    """The corpus is only worth something if nothing but the checksum guard stops it."""
    put_filter(wire)
    attacks = _possible(wire, ATTACKS)
    assert set(attacks) - wire.delivered(attacks) <= EARLY
    assert set(_possible(wire)) - wire.delivered(_possible(wire)) == set()


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_no_forgery_leaves_the_host(wire: OffloadWire, way: str) -> None:
    put_guard(wire, way)
    assert _arriving(wire, ATTACKS) == set()
    assert _arriving(wire, MISFITS) == set()


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_honest_offload_leaves_the_host_whole(wire: OffloadWire, way: str) -> None:
    possible = _possible(wire)
    put_guard(wire, way)
    assert set(possible) - wire.delivered(possible) == set()
    assert set(frames.HONEST) - wire.delivered(plain_offers(frames.HONEST)) == set()


def test_a_router_passes_on_what_others_left_unfinished(wire: OffloadWire) -> None:
    put_guard(wire, routed=tuple(map(ip_network, ("0.0.0.0/0", "::/0"))))
    assert wire.delivered(FORWARDED) == set(FORWARDED)


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_the_same_holds_inside_a_trunks_tag(wire: OffloadWire, way: str) -> None:
    def tagged(corpus: Mapping[str, Offered]) -> dict[str, Offered]:
        return {name: offload.in_tag(offered, TAG) for name, offered in corpus.items()}

    possible = tagged(_possible(wire))
    wire.tag = TAG
    put_filter(wire, trunk=Trunk([(100, 100)]))
    attacks = tagged(_possible(wire, ATTACKS))
    assert set(attacks) - wire.delivered(attacks) <= EARLY
    put_guard(wire, way, trunk=Trunk([(100, 100)]))
    assert _altered(wire, tagged(ATTACKS)) == set()
    assert _arriving(wire, tagged(MISFITS)) == set()
    assert set(possible) - wire.delivered(possible) == set()


def test_every_queue_of_a_tap_is_guarded(namespace: None) -> None:
    wire = OffloadWire("vme0000000a", queues=2)
    try:
        put_guard(wire)
        for queue in (0, 1):
            some = dict(list(ATTACKS.items())[::5])
            assert {name for name, offered in some.items() if wire.heard(offered, queue)} == set()
            assert set(_possible(wire)) - wire.delivered(_possible(wire), queue) == set()
    finally:
        wire.close()


def test_what_it_drops_is_counted(wire: OffloadWire) -> None:
    put_filter(wire)
    guard = wire.guard()
    wire.delivered(_possible(wire))
    assert guard.drops() == {wire.ifindex: 0}
    late = {name: offered for name, offered in _possible(wire, ATTACKS).items() if name not in EARLY}
    wire.delivered(late)
    assert guard.drops() == {wire.ifindex: len(late)}

"""Frames and virtio-net headers by chance: whatever leaves the host was the port's to send.

`pytest tests/kernel/test_offload_fuzz.py --fuzz 3600 [--fuzz-seed N]` runs for an hour of a processor. Each seed
makes the same thousand frames everywhere; a failure prints its seed and the frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import frames
import offload
import pytest
from offload import Header, Offered
from offload_attacks import ATTACKS, MISFITS, PLAIN
from offload_honest import HONEST
from support.offload_guarded import plain_offers, put_filter, put_guard
from support.offload_oracle import wrong
from support.offload_wire import OffloadWire
from support.taps import ip

FRAMES = 1000
_ASKING = list({**ATTACKS, **MISFITS, **HONEST}.values())
_HONEST = [*frames.HONEST.values(), *(offered.frame for offered in HONEST.values())]
_FORGED = [*frames.FORGED.values(), *PLAIN.values()]
_WORDS = (
    "0000",
    "0001",
    "0002",
    "000a",
    "000b",
    "0045",
    "0101",
    "0222",
    "0800",
    "0806",
    "1600",
    "2000",
    "4500",
    "8000",
    "86dd",
)
_STARTS = (0, 12, 14, 20, 22, 26, 34, 38, 42, 54, 62, 70, 78, 84, 104)


@pytest.fixture
def wire(namespace: None) -> Iterator[OffloadWire]:
    wire = OffloadWire("vme0000000a")
    ip("link set nic0 txqueuelen 70000")  # into so many a frame may ask to be cut
    yield wire
    wire.close()


def offered_by(chance: Random) -> Offered:
    """A frame and its header: changed from an honest one, rewritten into a forged one, or out of the corpus."""
    return chance.choice((_changed, _rewritten, _redirected))(chance)


def _changed(chance: Random) -> Offered:
    """An honest frame with any header."""
    frame = bytearray(chance.choice(_HONEST))
    for _ in range(chance.choice((0, 0, 1, 2))):
        frame[chance.randrange(12, min(len(frame), 110))] = chance.randrange(256)
    return Offered(_header(chance), bytes(frame), ())


def _rewritten(chance: Random) -> Offered:
    """A forged frame in which two octets look different to the filter, and are written by the sum."""
    forged = chance.choice(_FORGED)
    at = chance.randrange(12, min(len(forged) - 1, 90))
    honest = chance.choice(_HONEST)[at : at + 2] if chance.random() < 0.7 else bytes.fromhex(chance.choice(_WORDS))
    offset = chance.choice((0, 6, 16, chance.randrange(20)))
    try:
        made = offload.rewritten(forged, at, honest, min(offset, at))
    except AssertionError:
        return Offered(Header(), forged, ())
    gso = chance.choice((offload.NONE, offload.NONE, *offload.GSO.values()))
    return made._replace(header=made.header._replace(gso=gso, segment=chance.choice((8, 500, 1448)) if gso else 0))


def _redirected(chance: Random) -> Offered:
    """A frame of the corpus with one field of its header changed."""
    offered = chance.choice(_ASKING)
    field = chance.choice(Header._fields)
    return offered._replace(header=offered.header._replace(**{field: getattr(_header(chance), field)}))


def _header(chance: Random) -> Header:
    gso = chance.choice((offload.NONE, offload.NONE, *offload.GSO.values(), chance.randrange(256)))
    return Header(
        flags=chance.choice((offload.NEEDS_CSUM,) * 4 + (0, offload.DATA_VALID, 3, 5)),
        gso=gso,
        header_length=chance.choice((0, 54, 66, 90, chance.randrange(2000))),
        segment=chance.choice((0, 1, 8, 500, 1448, chance.randrange(65536))),
        start=chance.choice((*_STARTS, chance.randrange(160), chance.randrange(65536))),
        offset=chance.choice((0, 6, 16, chance.randrange(40), chance.randrange(65536))),
    )


def _sent_wrongly(wire: OffloadWire, seed: int) -> list[str]:
    chance, found = Random(seed), []
    for number in range(FRAMES):
        offered = offered_by(chance)
        for heard in wire.heard(offered):
            if fault := wrong(heard):
                found.append(f"seed {seed}, frame {number}: {fault}: {offered.header} {offered.frame[:120].hex()}")
    return found


def test_by_chance_nothing_leaves_that_is_not_the_ports(wire: OffloadWire, request: pytest.FixtureRequest) -> None:
    put_guard(wire)
    first = seed = int(request.config.getoption("--fuzz-seed"))
    end = time.process_time() + request.config.getoption("--fuzz")
    while True:
        assert _sent_wrongly(wire, seed) == []
        seed += 1
        if time.process_time() >= end:
            break
    print(f"{(seed - first) * FRAMES} frames")


def test_chance_finds_forgeries_where_only_addresses_are_filtered(wire: OffloadWire) -> None:
    """The search is only worth something if it finds what is there."""
    put_filter(wire)
    found = {line.split(": ")[1] for seed in range(1, 6) for line in _sent_wrongly(wire, seed)}
    assert len(found) >= 8, found


def test_what_is_wrong_is_told_and_what_is_right_is_not(wire: OffloadWire) -> None:
    assert {name for name, frame in frames.HONEST.items() if wrong(frame)} == set()
    assert {name for name, frame in PLAIN.items() if not wrong(frame)} == set()
    assert {name for name, offered in HONEST.items() for frame in offered.seen if wrong(frame)} == set()
    assert wire.delivered(plain_offers(frames.HONEST))

"""IPv6 addresses that guests form themselves: whoever claims one first has it (RFC 6620)."""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_network

import frames
import pytest
from make import GATEWAY6, ME, ME6, THEIR_LL, THEM, THEM6, na, tll
from scapy.all import Ether  # type: ignore[attr-defined]
from support.claiming import (
    FREE,
    FREE_LL,
    OTHER,
    THEIRS,
    UNCLAIMED,
    Neighbours,
    dad_for,
    guarded_port,
    uses_by,
)

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, learning, savi
from libvirt_guestnet.datapath.run.nft import nft, numbers

_NONCE = b"\x0e\x01\1\2\3\4\5\6"


@pytest.mark.parametrize("address", [FREE, FREE_LL])
@pytest.mark.parametrize("nonce", [(), (_NONCE,)], ids=["plain", "nonce (RFC 7527)"])
def test_what_a_guest_asked_for_is_its_own(both: Neighbours, address: str, nonce: tuple[object, ...]) -> None:
    both.guard()
    assert both.none(uses_by(address))
    asked = {"dad": dad_for(address, *nonce)}
    assert both.passing(asked) == set(asked)
    assert both.passing(uses_by(address), asked) == {*uses_by(address), "dad"}
    assert both.none(uses_by(OTHER))
    assert numbers(f"claimed6-{both.wire.tap}") == numbers("held6-br0") == [int(IPv6Address(address))]
    assert kernel.guarded_ports()[both.wire.tap].claimed == (IPv6Address(address),)


def test_the_first_has_it(both: Neighbours) -> None:
    """Who asks for a neighbour's claim later is not heard by anybody, and may not use it."""
    both.guard()
    both.they_claim(FREE)
    assert both.none({"dad": dad_for(FREE)}, uses_by(FREE))
    for address in (THEM6, THEIR_LL, GATEWAY6, "fe80::1", "fd61:2::9", "2001:db8::9", "::1", "ff02::1"):
        assert both.none({"dad": dad_for(address)}, uses_by(address)), address


def test_what_a_neighbour_has_by_policy_is_his_whoever_claimed_it(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}, uses_by(FREE)) == {"dad", *uses_by(FREE)}
    nft(filters.guard(guarded_port(THEIRS, THEM, FREE)))
    assert both.none({"dad": dad_for(FREE)}, uses_by(FREE))


def test_who_answers_keeps_it(both: Neighbours) -> None:
    """A host of the LAN's says that it has the address already: the guest, and its neighbours, let go of it."""
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    answer = bytes(
        Ether(src="52:54:00:00:00:77", dst="33:33:00:00:00:01") / na(FREE, tll("52:54:00:00:00:77"), src=FREE)
    )
    both.wire.ear.send(answer)
    while os.read(both.wire.fd, 4096) != answer:
        pass
    assert both.none({"dad": dad_for(FREE)}, uses_by(FREE))
    os.write(both.theirs, dad_for(FREE, mac=THEM))
    assert numbers(f"claimed6-{THEIRS}") == []


def test_what_a_port_with_any_address_uses_nobody_claims_if_it_answers(both: Neighbours) -> None:
    """Nobody knows what such a port uses until somebody asks for it: it may say so then, and goes on using it."""
    both.guard()
    nft(filters.guard(guarded_port(THEIRS, THEM, "fd61:1::/64", claims=(), excluded=UNCLAIMED)))
    assert both.they_send(uses_by(FREE, THEM)) == set(uses_by(FREE, THEM))
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    answers = {name: frame for name, frame in uses_by(FREE, THEM).items() if "NA" in name}
    assert both.they_send(answers) == set(answers)
    assert both.none({"dad": dad_for(FREE)}, uses_by(FREE))
    assert both.they_send(uses_by(FREE, THEM)) == set(uses_by(FREE, THEM))
    # What it does not answer for is another's.
    assert both.passing({"dad": dad_for(OTHER)}, uses_by(OTHER)) == {"dad", *uses_by(OTHER)}
    nft("flush set netdev guestnet tried6-br0\n")
    assert both.they_send(uses_by(OTHER, THEM)) == set()


def test_an_answer_that_comes_out_of_the_blue_takes_nothing(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    nft("flush set netdev guestnet tried6-br0\n")  # its two seconds are over
    answer = bytes(
        Ether(src="52:54:00:00:00:77", dst="33:33:00:00:00:01") / na(FREE, tll("52:54:00:00:00:77"), src=FREE)
    )
    both.wire.ear.send(answer)
    while os.read(both.wire.fd, 4096) != answer:
        pass
    assert both.passing(uses_by(FREE)) == set(uses_by(FREE))


def test_nobody_claims_more_than_so_many(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savi, "MOST", 3)
    both.guard()
    asked = {str(number): dad_for(f"fd61:1::9:{number:x}") for number in range(1, 6)}
    assert both.passing(asked) == {"1", "2", "3"}
    assert both.none(uses_by("fd61:1::9:4"))
    both.they_claim("fd61:1::9:4")


def test_nothing_is_claimed_of_which_nobody_could_say_that_he_has_it(
    both: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that asks for so many that the set of what was asked for is full."""
    room = {"tried6-br0": 1}

    def declared(name: str, version: int, size: int = 65535) -> str:
        return learning.declared(name, version, room.get(name, size))

    monkeypatch.setattr(savi, "declared", declared)
    both.guard()
    assert both.passing({"1": dad_for(FREE), "2": dad_for(OTHER)}) == {"1"}
    assert numbers(f"claimed6-{both.wire.tap}") == [int(IPv6Address(FREE))]


def test_what_is_claimed_lasts_while_it_is_used(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is put back keeps it; a binding ends when nothing has come from it for so long."""
    monkeypatch.setattr(savi, "SAMPLE", "numgen random mod 1 0")
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    nft(filters.guard(guarded_port(both.wire.tap, ME, ME6, is_new=False)))
    for name in ("claimed6-" + both.wire.tap, "held6-br0"):
        element = f"element netdev guestnet {name} {{ {int(IPv6Address(FREE)):#x} }}\n"
        nft(f"delete {element}add {element.replace(' }', ' timeout 60s }')}")
    assert both.passing(uses_by(FREE)) == set(uses_by(FREE))
    assert all(left > 80000 for name in ("claimed6-" + both.wire.tap, "held6-br0") for left in _expiring(name))
    nft(filters.guard(guarded_port(both.wire.tap, ME, ME6, is_new=True)))
    assert both.none(uses_by(FREE))


def _expiring(name: str) -> list[int]:
    import json
    import subprocess

    argv = ["nft", "-j", "list", "set", "netdev", "guestnet", name]
    listed = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)["nftables"]
    return [e["elem"]["expires"] for item in listed for e in item.get("set", {}).get("elem", ())]


def test_use_binds_where_nobody_has_to_ask(both: Neighbours) -> None:
    both.guard(by_use=True)
    for name, frame in uses_by(FREE).items():
        if "asking" not in name:
            assert both.passing({name: frame}) == {name}
            assert numbers(f"claimed6-{both.wire.tap}") == [int(IPv6Address(FREE))], name
            nft(f"flush set netdev guestnet claimed6-{both.wire.tap}\nflush set netdev guestnet held6-br0\n")
    both.they_claim(FREE)
    assert both.none(uses_by(FREE), {"dad": dad_for(FREE)})


def test_without_claims_nothing_but_what_is_known_passes(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    both.guard(claims=())
    assert both.none({"dad": dad_for(OTHER)}, uses_by(FREE), uses_by(OTHER))
    nft(filters.release([both.wire.tap, THEIRS]))


def test_no_forged_frame_passes_for_claims(both: Neighbours) -> None:
    """But what asks for an address that nobody has: that is a claim."""
    both.guard(owned=(ip_network("10.61.1.10"), ip_network(ME6)))
    assert both.wire.judge(frames.FORGED) == set()
    assert both.wire.judge(frames.HONEST) == set(frames.HONEST)

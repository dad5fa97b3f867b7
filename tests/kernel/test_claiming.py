"""IPv6 addresses that guests form themselves: whoever claims one first has it (RFC 6620)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_network

import frames
import pytest
from make import GATEWAY6, ME, ME6, MY_LL, THEIR_LL, THEM, THEM6, from_ll, marked, na, ns, tll
from scapy.all import UDP, Ether  # type: ignore[attr-defined]
from support.taps import Wire, ip, open_tap

from libvirt_guestnet.datapath.port import filters, learning, savi
from libvirt_guestnet.datapath.port.port_facts import PortGuard
from libvirt_guestnet.datapath.run.nft import nft, numbers

THEIRS = "vme0000000b"
FREE, OTHER, FREE_LL = "fd61:1::4c1f:9d2e:77aa:1", "fd61:1::77aa:2", "fe80::4c1f:9d2e:77aa:2"
CLAIMS = tuple(map(ip_network, ("fd61:1::/64", "fe80::/64")))
UNCLAIMED = tuple(map(ip_network, (GATEWAY6, "fe80::1")))
_NONCE = b"\x0e\x01\1\2\3\4\5\6"


def _port(tap: str, mac: str, own: str, **policy: object) -> PortGuard:
    facts = {"owned": (ip_network(own),), "claims": CLAIMS, "unclaimed": UNCLAIMED, "segment": "br0"}
    return PortGuard(tap=tap, mac=mac, **{**facts, **policy})  # type: ignore[arg-type]


def _group(address: str) -> str:
    digits = f"{int(IPv6Address(address)) & 0xFFFFFF:06x}"
    return f"ff02::1:ff{digits[:2]}:{digits[2:]}"


def _dad(address: str, *options: object, mac: str = ME) -> bytes:
    group = int(IPv6Address(address)) & 0xFFFFFF
    to = f"33:33:ff:{group >> 16:02x}:{group >> 8 & 0xFF:02x}:{group & 0xFF:02x}"
    return bytes(Ether(src=mac, dst=to) / ns(address, *options, src="::", dst=_group(address)))


def _uses(address: str, mac: str = ME) -> dict[str, bytes]:
    def sent(payload: object) -> bytes:
        return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / payload)

    link_local = MY_LL if mac == ME else THEIR_LL
    return {
        f"{address} as source": sent(from_ll(UDP(sport=9, dport=9), marked(), src=address)),
        f"{address} in an NA": sent(na(address, tll(mac), src=address)),
        f"{address} in an NA from the link-local address": sent(na(address, tll(mac), src=link_local)),
        f"{address} asking": sent(ns(THEM6 if mac == ME else ME6, src=address)),
    }


class Neighbours:
    """Mine, whose frames the wire judges, and theirs on the same bridge, whose frames come out of their tap."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.theirs = wire, open_tap(THEIRS)
        ip(f"link set {THEIRS} master br0 up")
        ip(f"link set {THEIRS} type bridge_slave learning off")

    def guard(self, **policy: object) -> None:
        nft(filters.guard(_port(self.wire.tap, ME, ME6, **policy)))
        nft(filters.guard(_port(THEIRS, THEM, THEM6)))

    def passing(self, *frames_: dict[str, bytes]) -> set[str]:
        return self.wire.passing({name: frame for each in frames_ for name, frame in each.items()}, _last())

    def none(self, *frames_: dict[str, bytes]) -> bool:
        return self.wire.silent({name: frame for each in frames_ for name, frame in each.items()}, _last())

    def they_send(self, frames_: dict[str, bytes]) -> set[str]:
        """What passes of what the neighbour sends."""
        for frame in frames_.values():
            os.write(self.theirs, frame)
        heard = list(self.wire._until(_last()))
        return {name for name, frame in frames_.items() if any(frames.is_same(each, frame) for each in heard)}

    def they_claim(self, address: str) -> None:
        frame = _dad(address, mac=THEM)
        os.write(self.theirs, frame)
        assert any(frames.is_same(each, frame) for each in self.wire._until(_last()))


def _last() -> bytes:
    return frames.HONEST["RARP: QEMU's announcement after a migration"]


@pytest.fixture
def both(wire: Wire) -> Iterator[Neighbours]:
    found = Neighbours(wire)
    yield found
    os.close(found.theirs)


@pytest.mark.parametrize("address", [FREE, FREE_LL])
@pytest.mark.parametrize("nonce", [(), (_NONCE,)], ids=["plain", "nonce (RFC 7527)"])
def test_what_a_guest_asked_for_is_its_own(both: Neighbours, address: str, nonce: tuple[object, ...]) -> None:
    both.guard()
    assert both.none(_uses(address))
    asked = {"dad": _dad(address, *nonce)}
    assert both.passing(asked) == set(asked)
    assert both.passing(_uses(address), asked) == {*_uses(address), "dad"}
    assert both.none(_uses(OTHER))
    assert numbers(f"claimed6-{both.wire.tap}") == numbers("held6-br0") == [int(IPv6Address(address))]


def test_the_first_has_it(both: Neighbours) -> None:
    """Who asks for a neighbour's claim later is not heard by anybody, and may not use it."""
    both.guard()
    both.they_claim(FREE)
    assert both.none({"dad": _dad(FREE)}, _uses(FREE))
    for address in (THEM6, THEIR_LL, GATEWAY6, "fe80::1", "fd61:2::9", "2001:db8::9", "::1", "ff02::1"):
        assert both.none({"dad": _dad(address)}, _uses(address)), address


def test_what_a_neighbour_has_by_policy_is_his_whoever_claimed_it(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": _dad(FREE)}, _uses(FREE)) == {"dad", *_uses(FREE)}
    nft(filters.guard(_port(THEIRS, THEM, FREE)))
    assert both.none({"dad": _dad(FREE)}, _uses(FREE))


def test_who_answers_keeps_it(both: Neighbours) -> None:
    """A host of the LAN's says that it has the address already: the guest, and its neighbours, let go of it."""
    both.guard()
    assert both.passing({"dad": _dad(FREE)}) == {"dad"}
    answer = bytes(
        Ether(src="52:54:00:00:00:77", dst="33:33:00:00:00:01") / na(FREE, tll("52:54:00:00:00:77"), src=FREE)
    )
    both.wire.ear.send(answer)
    while os.read(both.wire.fd, 4096) != answer:
        pass
    assert both.none({"dad": _dad(FREE)}, _uses(FREE))
    os.write(both.theirs, _dad(FREE, mac=THEM))
    assert numbers(f"claimed6-{THEIRS}") == []


def test_what_a_port_with_any_address_uses_nobody_claims_if_it_answers(both: Neighbours) -> None:
    """Nobody knows what such a port uses until somebody asks for it: it may say so then, and goes on using it."""
    both.guard()
    nft(filters.guard(_port(THEIRS, THEM, "fd61:1::/64", claims=(), excluded=UNCLAIMED)))
    assert both.they_send(_uses(FREE, THEM)) == set(_uses(FREE, THEM))
    assert both.passing({"dad": _dad(FREE)}) == {"dad"}
    answers = {name: frame for name, frame in _uses(FREE, THEM).items() if "NA" in name}
    assert both.they_send(answers) == set(answers)
    assert both.none({"dad": _dad(FREE)}, _uses(FREE))
    assert both.they_send(_uses(FREE, THEM)) == set(_uses(FREE, THEM))
    # What it does not answer for is another's.
    assert both.passing({"dad": _dad(OTHER)}, _uses(OTHER)) == {"dad", *_uses(OTHER)}
    nft("flush set netdev guestnet tried6-br0\n")
    assert both.they_send(_uses(OTHER, THEM)) == set()


def test_an_answer_that_comes_out_of_the_blue_takes_nothing(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": _dad(FREE)}) == {"dad"}
    nft("flush set netdev guestnet tried6-br0\n")  # its two seconds are over
    answer = bytes(
        Ether(src="52:54:00:00:00:77", dst="33:33:00:00:00:01") / na(FREE, tll("52:54:00:00:00:77"), src=FREE)
    )
    both.wire.ear.send(answer)
    while os.read(both.wire.fd, 4096) != answer:
        pass
    assert both.passing(_uses(FREE)) == set(_uses(FREE))


def test_nobody_claims_more_than_so_many(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savi, "MOST", 3)
    both.guard()
    asked = {str(number): _dad(f"fd61:1::9:{number:x}") for number in range(1, 6)}
    assert both.passing(asked) == {"1", "2", "3"}
    assert both.none(_uses("fd61:1::9:4"))
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
    assert both.passing({"1": _dad(FREE), "2": _dad(OTHER)}) == {"1"}
    assert numbers(f"claimed6-{both.wire.tap}") == [int(IPv6Address(FREE))]


def test_what_is_claimed_lasts_while_it_is_used(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is put back keeps it; a binding ends when nothing has come from it for so long."""
    monkeypatch.setattr(savi, "SAMPLE", "numgen random mod 1 0")
    both.guard()
    assert both.passing({"dad": _dad(FREE)}) == {"dad"}
    nft(filters.guard(_port(both.wire.tap, ME, ME6, is_new=False)))
    for name in ("claimed6-" + both.wire.tap, "held6-br0"):
        element = f"element netdev guestnet {name} {{ {int(IPv6Address(FREE)):#x} }}\n"
        nft(f"delete {element}add {element.replace(' }', ' timeout 60s }')}")
    assert both.passing(_uses(FREE)) == set(_uses(FREE))
    assert all(left > 80000 for name in ("claimed6-" + both.wire.tap, "held6-br0") for left in _expiring(name))
    nft(filters.guard(_port(both.wire.tap, ME, ME6, is_new=True)))
    assert both.none(_uses(FREE))


def _expiring(name: str) -> list[int]:
    import json
    import subprocess

    argv = ["nft", "-j", "list", "set", "netdev", "guestnet", name]
    listed = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)["nftables"]
    return [e["elem"]["expires"] for item in listed for e in item.get("set", {}).get("elem", ())]


def test_use_binds_where_nobody_has_to_ask(both: Neighbours) -> None:
    both.guard(by_use=True)
    for name, frame in _uses(FREE).items():
        if "asking" not in name:
            assert both.passing({name: frame}) == {name}
            assert numbers(f"claimed6-{both.wire.tap}") == [int(IPv6Address(FREE))], name
            nft(f"flush set netdev guestnet claimed6-{both.wire.tap}\nflush set netdev guestnet held6-br0\n")
    both.they_claim(FREE)
    assert both.none(_uses(FREE), {"dad": _dad(FREE)})


def test_without_claims_nothing_but_what_is_known_passes(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": _dad(FREE)}) == {"dad"}
    both.guard(claims=())
    assert both.none({"dad": _dad(OTHER)}, _uses(FREE), _uses(OTHER))
    nft(filters.release([both.wire.tap, THEIRS]))


def test_no_forged_frame_passes_for_claims(both: Neighbours) -> None:
    """But what asks for an address that nobody has: that is a claim."""
    both.guard(owned=(ip_network("10.61.1.10"), ip_network(ME6)))
    assert both.wire.judge(frames.FORGED) == set()
    assert both.wire.judge(frames.HONEST) == set(frames.HONEST)

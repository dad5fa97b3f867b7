"""Guests that ask for an address so that nobody hears it, undo others' claims, or use up what all share."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address, ip_network

import pytest
from make import ME, ME6, MY_LL, NONCE, THEM, THEM4, na, tll
from scapy.all import (  # type: ignore[attr-defined]
    Ether,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from support.claiming import FREE, OTHER, Neighbours, dad_for, group_of, uses_by
from support.held import NETWORK, Lab, guest_domain, last_frame, uses_of
from support.offload_wire import NEWEST, OLDEST, loaded

from libvirt_guestnet.datapath.port import filters, learning, savi
from libvirt_guestnet.datapath.run.nft import nft, numbers
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.enforce import bridge_guard, tagging

FAR = "52:54:00:00:00:77"
GROUP_MAC = "33:33:ff:aa:00:01"  # of FREE


def _question(
    to: str = "", group: str = "", hops: int = 255, code: int = 0, checksum: int | None = None, target: str = FREE
) -> bytes:
    packet = IPv6(src="::", dst=group or group_of(target), hlim=hops) / ICMPv6ND_NS(
        tgt=target, code=code, cksum=checksum
    )
    return bytes(Ether(src=ME, dst=to or GROUP_MAC) / packet)


UNHEARD = {
    "hop limit 1": _question(hops=1),
    "hop limit 254": _question(hops=254),
    "code 1": _question(code=1),
    "another group": _question(group="ff02::1:ff00:2"),
    "its own MAC": _question(to=ME),
    "a neighbour's MAC": _question(to=THEM),
    "another group's MAC": _question(to="33:33:ff:00:00:02"),
}


@pytest.mark.parametrize("how", UNHEARD)
@pytest.mark.parametrize("by_use", [False, True])
def test_a_question_that_nobody_hears_is_none(both: Neighbours, how: str, by_use: bool) -> None:
    """A silent host of the LAN, or its router, would lose its address to it: who has it drops such a question."""
    both.guard(by_use=by_use)
    assert both.none({how: UNHEARD[how]})
    assert numbers(f"claimed6-{both.wire.tap}") == []


@pytest.mark.parametrize("way", [NEWEST, OLDEST])
def test_a_question_with_a_wrong_checksum_is_none(both: Neighbours, way: str) -> None:
    """nft reads no checksums; the checksum guard does."""
    both.guard()
    guard = loaded(way)
    guard.attach(socket.if_nametoindex(both.wire.tap))
    right = {"plain": _question(), "with a nonce": dad_for(FREE, NONCE), "asks": uses_by(ME6)[f"{ME6} asking"]}
    wrong = {name: frame[:56] + bytes([frame[56] ^ 1]) + frame[57:] for name, frame in right.items()}
    wrong |= {f"{name}, padded": frame + b"\0" * 1000 for name, frame in wrong.items()}
    assert both.none(wrong)
    assert numbers(f"claimed6-{both.wire.tap}") == []
    assert both.passing(right) == set(right)
    guard.close()


@pytest.mark.parametrize("end", ["", "fdff:ffff:ffff:ff80", "fdff:ffff:ffff:ffff"])
@pytest.mark.parametrize("by_use", [False, True])
def test_nobody_claims_what_is_everybodys(both: Neighbours, end: str, by_use: bool) -> None:
    """Such as the anycast address of a subnet's routers: what others send there would come to the guest."""
    both.guard(by_use=by_use)
    address = f"fd61:1::{end}"
    assert both.none({"dad": dad_for(address)}, uses_by(address))
    assert numbers(f"claimed6-{both.wire.tap}") == []
    assert both.passing({"dad": dad_for("fd61:1::fdff:ffff:ffff:ff7f")}) == {"dad"}


def _veto(both: Neighbours, frame: bytes) -> None:
    both.wire.ear.send(frame)
    while os.read(both.wire.fd, 4096) != frame:
        pass


def test_nobody_beyond_a_router_undoes_a_claim(both: Neighbours) -> None:
    both.guard()
    assert both.passing({"dad": dad_for(FREE)}) == {"dad"}
    answer = na(FREE, tll(FAR), src="2001:db8::66")
    answer.hlim, answer.dst = 63, ME6
    _veto(both, bytes(Ether(src=FAR, dst=ME) / answer))
    assert both.passing(uses_by(FREE)) == set(uses_by(FREE))


def test_a_flood_of_questions_keeps_no_other_from_asking(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"tried6-br0": 80}

    def declared(name: str, version: int, size: int = 65535) -> str:
        return learning.declared(name, version, room.get(name, size))

    monkeypatch.setattr(savi, "declared", declared)
    both.guard()
    for number in range(200):
        both.wire.send(_question(target=f"fd61:1::9:{number:x}", to=f"33:33:ff:09:00:{number:02x}"))
    both.they_claim(OTHER)


def test_claims_that_somebody_undoes_are_not_without_end(both: Neighbours) -> None:
    """A guest and a friend of its behind the uplink: what one asks for the other has, again and again."""
    both.guard()
    for number in range(200):
        address = f"fd61:1::9:{number:x}"
        both.wire.send(_question(target=address, to=f"33:33:ff:09:00:{number:02x}"))
        _veto(both, bytes(Ether(src=FAR, dst="33:33:00:00:00:01") / na(address, tll(FAR), src=address)))
    assert len(numbers("held6-br0")) <= 100
    both.they_claim(OTHER)


ANYWHERE = (ip_network("2000::/3"), ip_network("fc00::/7"), ip_network("fe80::/64"))
ANNOUNCED = ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)


def _router(*options: object, hops: int = 255, src: str = "fe80::77") -> bytes:
    """Its advertisement, as a port hears it."""
    packet = IPv6(src=src, dst="ff02::1", hlim=hops) / ICMPv6ND_RA()
    for option in options:
        packet = packet / option
    return bytes(Ether(src=FAR, dst="33:33:00:00:00:01") / packet)


BEFORE = {
    "first": (),
    "its MAC": (ICMPv6NDOptSrcLLAddr(lladdr=FAR),),
    "its MAC, MTU": (ICMPv6NDOptSrcLLAddr(lladdr=FAR), ICMPv6NDOptMTU(mtu=1500)),
    "its MAC, MTU, another prefix": (
        ICMPv6NDOptSrcLLAddr(lladdr=FAR),
        ICMPv6NDOptMTU(mtu=1500),
        ICMPv6NDOptPrefixInfo(prefix="fd00:9::", prefixlen=64),
    ),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("by_use", [False, True])
def test_on_a_lan_that_nobody_knows_guests_form_what_a_router_announces(
    both: Neighbours, before: str, by_use: bool
) -> None:
    """Anything else is somebody's elsewhere, who hears no question: its claimer could send in that one's name."""
    both.guard(claims=ANYWHERE, by_use=by_use)
    mine, elsewhere = "2001:db8::4c1f:9d2e:77aa:1", "2001:4860:4860::8888"
    assert both.none({"dad": dad_for(mine)}, uses_by(mine))
    _veto(both, _router(*BEFORE[before], ANNOUNCED))
    assert both.passing({"dad": dad_for(mine)}, uses_by(mine)) == {"dad", *uses_by(mine)}
    assert both.none({"dad": dad_for(elsewhere)}, uses_by(elsewhere))


NO_ANNOUNCEMENTS = {
    "without the flag A": _router(ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64, A=0)),
    "of 48 bits": _router(ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=48)),
    "from beyond a router": _router(ANNOUNCED, hops=64),
    "from a global address": _router(ANNOUNCED, src="2001:db8::1"),
    "of a guest's": None,
}


@pytest.mark.parametrize("what", NO_ANNOUNCEMENTS)
def test_what_announces_no_prefix(both: Neighbours, what: str) -> None:
    both.guard(claims=ANYWHERE)
    if (frame := NO_ANNOUNCEMENTS[what]) is not None:
        _veto(both, frame)
    else:
        both.wire.send(_router(ANNOUNCED, src=MY_LL).replace(bytes.fromhex(FAR.replace(":", "")), _octets_of(ME)))
    address = "2001:db8::4c1f:9d2e:77aa:1"
    assert both.none({"dad": dad_for(address)}, uses_by(address))


def _octets_of(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def test_what_follows_from_anothers_mac_is_not_claimed(both: Neighbours) -> None:
    """Whoever has that MAC forms it, perhaps later, or on the LAN, where it is a router's as a rule."""
    both.guard(claims=ANYWHERE, by_use=True)
    _veto(both, _router(ANNOUNCED))
    for address in ("2001:db8::5054:ff:fe00:77", "fe80::5054:ff:fe00:77"):
        assert both.none({"dad": dad_for(address)}, uses_by(address)), address
    own = "2001:db8::5054:ff:fe00:a"
    assert both.passing({"dad": dad_for(own)}, uses_by(own)) == {"dad", *uses_by(own)}


def test_on_a_lan_nobody_is_by_use_what_might_be_anybodys(lab: Lab) -> None:
    """After a flush nobody knows what guests asked for, nor which hosts there are."""
    lab.put_network(NETWORK._replace(strict=False, hosts=(), reservations=(), mac=""))
    lab.me()
    nft(filters.remove())
    domain_calls.guard_all(
        [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)],
        lab.state,
        rewrite=True,
        late=True,
    )
    assert lab.wire.silent({name: frame for name, frame in uses_of(FREE).items() if "DAD" not in name}, last_frame())


def test_who_has_claimed_nothing_is_no_guest_whose_claims_are_forgotten(lab: Lab) -> None:
    """At a restart of libvirt's daemon it would take what a silent host of the LAN has, without a question."""
    lab.put_network(NETWORK._replace(strict=False))
    lab.me()
    domain_calls.guard_all(
        [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)],
        lab.state,
        rewrite=True,
        late=True,
    )
    assert lab.wire.silent({name: frame for name, frame in uses_of(FREE).items() if "DAD" not in name}, last_frame())


@pytest.mark.parametrize("had", ["a claim", "a lease"])
def test_what_a_port_had_in_one_vlan_it_has_not_in_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, had: str
) -> None:
    """There it may be somebody's. Its network, and its tap, stay the same."""
    monkeypatch.setattr(tagging, "tag", lambda *_: None)  # not every kernel's bridge can
    network = NETWORK._replace(strict=False, dynamic=(("10.61.1.10", "10.61.1.200"),), lease=3600)
    uses = {name: frame for name, frame in uses_of(FREE if had == "a claim" else THEM4).items() if "DAD" not in name}
    lab.put_network(network._replace(vlan=10))
    lab.me()
    name, address = ("claimed6", FREE) if had == "a claim" else ("learnt4", THEM4)
    nft(f"add element netdev guestnet {name}-{lab.wire.tap} {{ {int(ip_address(address)):#x} timeout 60s }}\n")
    assert lab.passing(uses) == set(uses)
    lab.put_network(network._replace(vlan=20))
    lab.me()
    assert lab.wire.silent(uses, last_frame())

"""A guest inside a guest (nested, macvlan): its own MAC address and address are a pair of the outer one's port. It asks
the host's DHCP server for that address as any guest does, in nobody else's name."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from ipaddress import ip_network
from os import read
from typing import Any

import frames
import pytest
from make import GATEWAY4, ME, ME4, ME6, THEM, THEM4, VIRTUAL, arp, dhcp, marked, mine
from scapy.all import BOOTP, DHCP, IP, UDP, Ether  # type: ignore[attr-defined]
from support.server import RANGES, Dnsmasq, server
from support.taps import Wire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.run.nft import nft

LENT, LENT4 = "52:54:00:00:99:0a", "10.61.1.60"
OWN = (ip_network(ME4), ip_network(ME6))
PAIRS = ((LENT, ip_network(LENT4)),)


@pytest.fixture
def dnsmasq(wire: Wire, request: pytest.FixtureRequest) -> Iterator[Dnsmasq]:
    more: list[str] = getattr(request, "param", [f"--dhcp-host={LENT},{LENT4}"])
    running = Dnsmasq(wire, "--dhcp-range=10.61.1.151,10.61.1.250,255.255.255.0,1h", *more)
    yield running
    running.close()


def _guard(wire: Wire, **more: Any) -> None:
    nft(filters.guard(filters.PortGuard(**{"tap": wire.tap, "mac": ME, "owned": OWN, "pairs": PAIRS, **more})))


def _from(mac: str, payload: Any) -> bytes:
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / payload)


HONEST = {
    "discover": _from(LENT, dhcp("discover", LENT)),
    "request": _from(LENT, dhcp("request", LENT)),
    "decline": _from(LENT, dhcp("decline", LENT)),
    "renewal": _from(LENT, dhcp("request", LENT, src=LENT4, dst=GATEWAY4, ciaddr=LENT4)),
    "rebinding": _from(LENT, dhcp("request", LENT, src=LENT4, ciaddr=LENT4)),
    "release": _from(LENT, dhcp("release", LENT, src=LENT4, dst=GATEWAY4, ciaddr=LENT4)),
    "probe": _from(LENT, arp("0.0.0.0", hw=LENT, target=LENT4)),
    "announcement": _from(LENT, arp(LENT4, hw=LENT, target=LENT4)),
    "traffic": _from(LENT, IP(src=LENT4, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
}
FORGED = {
    "another's hardware address (starvation)": _from(LENT, dhcp("discover", THEM)),
    "another's hardware address in a release": _from(LENT, dhcp("release", THEM, src=LENT4, dst=GATEWAY4)),
    "the lent hardware address from the own MAC": mine(dhcp("discover", LENT)),
    "a MAC that nobody lent": _from(LENT[:-1] + "b", dhcp("discover", LENT[:-1] + "b")),
    "another's address to release": _from(LENT, dhcp("release", LENT, src=LENT4, dst=GATEWAY4, ciaddr=THEM4)),
    "the outer guest's address to release": _from(LENT, dhcp("release", LENT, src=LENT4, dst=GATEWAY4, ciaddr=ME4)),
    "by unicast": _from(LENT, dhcp("discover", LENT, dst=THEM4)),
    "by way of a relay": _from(LENT, dhcp("discover", LENT, giaddr=ME4)),
    "an offer": _from(LENT, dhcp("offer", LENT, op=2, sport=67, dport=68, src=LENT4)),
    "from another's address": _from(LENT, dhcp("request", LENT, src=THEM4)),
    "another's address in a probe": _from(LENT, arp("0.0.0.0", hw=LENT, target=THEM4)),
}


def test_a_guest_inside_asks_for_its_own_address_and_for_nobody_elses(wire: Wire) -> None:
    _guard(wire, pairs=())
    assert wire.judge({**HONEST, **FORGED}) == set()
    _guard(wire)
    assert wire.judge(HONEST) == set(HONEST)
    assert wire.judge({**FORGED, **frames.FORGED}) == set()
    assert wire.judge(frames.HONEST) == set(frames.HONEST)


def test_a_port_without_an_address_of_its_own_still_asks_for_guests_inside(wire: Wire) -> None:
    _guard(wire, owned=(), bare=True)
    last = HONEST["traffic"]
    asked = {name: frame for name, frame in HONEST.items() if name != "traffic"}
    assert wire.passing(asked, last) == set(asked)
    own = {"own": mine(dhcp("discover"))}
    assert wire.silent({**own, **FORGED}, last)


def test_a_virtual_router_never_asks(wire: Wire) -> None:
    _guard(wire, pairs=((VIRTUAL, ip_network("10.61.1.100")),))
    assert wire.judge({"asks": _from(VIRTUAL, dhcp("discover", VIRTUAL))}) == set()


def _request(address: str, client: bytes = b"", mac: str = LENT) -> bytes:
    named = [("client_id", client)] if client else []
    options = [("message-type", "request"), ("requested_addr", address), *named, "end"]
    header = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return _from(mac, header / BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=7) / DHCP(options=options))


def _acknowledged(wire: Wire, seconds: float) -> set[str]:
    found = set()
    while select.select([wire.fd], [], [], seconds)[0]:
        packet = Ether(read(wire.fd, 4096))
        if BOOTP in packet and ("message-type", 5) in packet[DHCP].options:
            found.add(str(packet[BOOTP].yiaddr))
    return found


def test_the_hosts_server_gives_it_what_is_reserved_for_it(wire: Wire, dnsmasq: Dnsmasq) -> None:
    _guard(wire, server=server()._replace(mac=dnsmasq.mac, served=((4, 1),), dynamic=()))
    wire.send(_request(LENT4))
    assert _acknowledged(wire, 2) == {LENT4}
    assert wire.judge(HONEST) == set(HONEST)
    assert kernel.drops_by_reason()[wire.tap] == {}


@pytest.mark.parametrize("dnsmasq", [[]], indirect=True, ids=["unreserved"])
@pytest.mark.parametrize("learns", [False, True])
def test_what_else_it_is_given_is_not_its_own_and_is_counted(wire: Wire, dnsmasq: Dnsmasq, learns: bool) -> None:
    owned, dynamic = ((ip_network(ME6),), RANGES) if learns else (OWN, ())
    _guard(wire, owned=owned, server=server()._replace(mac=dnsmasq.mac, served=((4, 1),), dynamic=dynamic))
    taken = set()
    for host in range(151, 231):
        wire.send(_request(f"10.61.1.{host}", b"\xff" + host.to_bytes(8, "big")))
        time.sleep(0.06)
        taken |= _acknowledged(wire, 0.002)
    taken |= _acknowledged(wire, 0.3)
    assert 0 < len(taken) <= 8 + 40
    assert kernel.drops_by_reason()[wire.tap]["DHCP leases"] > 20
    given = {address: _from(LENT, IP(src=address, dst=THEM4) / UDP(sport=9, dport=9) / marked()) for address in taken}
    assert wire.passing(given, HONEST["traffic"]) == set()


INSIDE = "52:54:00:00:99:0b"
ASKS = _from(INSIDE, dhcp("discover", INSIDE))


def _speaks(mac: str, address: str) -> dict[str, bytes]:
    return {
        "traffic": _from(mac, IP(src=address, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "announcement": _from(mac, arp(address, hw=mac, target=address)),
        "probe": _from(mac, arp("0.0.0.0", hw=mac, target=address)),
        "renewal": _from(mac, dhcp("request", mac, src=address, dst=GATEWAY4, ciaddr=address)),
    }


@pytest.mark.parametrize("dnsmasq", [[]], indirect=True, ids=["unreserved"])
@pytest.mark.parametrize("owned", [OWN, (ip_network(ME6),)], ids=["fixed outside", "learns outside"])
def test_a_guest_inside_for_which_nothing_is_listed_has_what_the_hosts_server_gives_it(
    wire: Wire, dnsmasq: Dnsmasq, owned: Any
) -> None:
    served = server()._replace(mac=dnsmasq.mac, served=((4, 1),), dynamic=RANGES)
    _guard(wire, owned=owned, pairs=(), lent=(INSIDE,), server=served)
    speaks, last = _speaks(INSIDE, "10.61.1.171"), _from(INSIDE, arp("10.61.1.171", hw=INSIDE, target=GATEWAY4))
    assert wire.passing(speaks, ASKS) == set()
    wire.send(_request("10.61.1.171", mac=INSIDE))
    assert _acknowledged(wire, 2) == {"10.61.1.171"}
    assert wire.passing(speaks, last) == set(speaks)
    forged = {
        "another address": _from(INSIDE, IP(src="10.61.1.172", dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "another's announcement": _from(INSIDE, arp(THEM4, hw=INSIDE, target=THEM4)),
        "the outer guest's, if it is listed": _from(INSIDE, arp(ME4, hw=INSIDE, target=ME4)),
        "another address to release": _from(
            INSIDE, dhcp("release", INSIDE, src="10.61.1.171", dst=GATEWAY4, ciaddr=THEM4)
        ),
        "another's hardware address": _from(INSIDE, dhcp("discover", THEM)),
    }
    assert wire.passing(forged, last) == set()
    assert wire.passing(frames.FORGED, last) == set()


@pytest.mark.parametrize("dnsmasq", [[]], indirect=True, ids=["unreserved"])
def test_the_outer_guest_with_a_fixed_address_still_learns_none(wire: Wire, dnsmasq: Dnsmasq) -> None:
    served = server()._replace(mac=dnsmasq.mac, served=((4, 1),), dynamic=RANGES)
    _guard(wire, pairs=(), lent=(INSIDE,), server=served)
    wire.send(_request("10.61.1.173", mac=ME))
    assert _acknowledged(wire, 2) == {"10.61.1.173"}
    speaks = _speaks(ME, "10.61.1.173")
    assert wire.passing(speaks, mine(arp(ME4))) == set()

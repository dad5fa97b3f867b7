"""A guest that makes up identities gets a few of the addresses that the host's DHCP server has for all, and no more."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_network
from itertools import count
from typing import Any

import pytest
from dhcp6 import DUIDS, address_of, association, server_of
from make import GATEWAY4, ME, ME4, ME6, MY_LL, THEM, THEM4, THEM6, dhcp, mine
from scapy.all import (  # type: ignore[attr-defined]
    BOOTP,
    DHCP,
    DUID_EN,
    DUID_UUID,
    IP,
    UDP,
    DHCP6_Rebind,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptRelayMsg,
    DHCP6OptVendorClass,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
)
from support.server import LEASED6, Dnsmasq, server
from support.taps import Wire, ip, open_tap

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import dhcp_requests, filters
from libvirt_guestnet.datapath.run.nft import nft

OTHER = "vme0000000b"
FIRST6 = int(IPv6Address(LEASED6))
_numbers = count(1)


@pytest.fixture
def dnsmasq(wire: Wire) -> Iterator[Dnsmasq]:
    running = Dnsmasq(wire, "--dhcp-range=10.61.1.151,10.61.1.250,255.255.255.0,1h", "--dhcp-lease-max=2000")
    yield running
    running.close()


@pytest.fixture
def other(wire: Wire) -> Iterator[int]:
    """A neighbour's port."""
    fd = open_tap(OTHER)
    ip(f"link set {OTHER} master br0")
    ip(f"link set {OTHER} up")
    yield fd
    os.close(fd)


def _guard(running: Dnsmasq, tap: str, mac: str = ME, owned: tuple[str, ...] = (), known: bool = False) -> None:
    """A port that learns its addresses, or one whose addresses are known."""
    served = server()._replace(mac=running.mac, served=((4, 1), (6, 1)))
    if known:
        served = served._replace(dynamic=())
    nft(filters.guard(filters.PortGuard(tap, mac, tuple(map(ip_network, owned)), server=served)))


def _drain(fd: int, seconds: float) -> list[Any]:
    """Every DHCP answer that the guest gets until none has come for so long."""
    heard = []
    while select.select([fd], [], [], seconds)[0]:
        packet = Ether(os.read(fd, 4096))
        if UDP in packet and packet[UDP].sport in (67, 547):
            heard.append(packet)
    return heard


def _duid() -> Any:
    return DUID_UUID(uuid=f"63000000-0000-4000-8000-{next(_numbers):012x}")


def _odd_duid() -> Any:
    return DUID_EN(enterprisenum=1, id=next(_numbers).to_bytes(9, "big"))


def _rapid(duid: Any, *options: Any, first: tuple[Any, ...] = (), ias: int = 1) -> bytes:
    """A Solicit that is answered with leases at once; `first` are options before the client's identifier."""
    packet: Any = DHCP6_Solicit(trid=next(_numbers))
    listed = [DHCP6OptIA_NA(iaid=n) for n in range(1, ias + 1)]
    for option in (*first, DHCP6OptClientId(duid=duid), DHCP6OptRapidCommit(), *(options or listed)):
        packet = packet / option
    return mine(_to_servers(packet))


def _to_servers(packet: Any, src: str = MY_LL) -> Any:
    return IPv6(src=src, dst="ff02::1:2", hlim=255) / UDP(sport=546, dport=547) / packet


def _moved(duid: Any) -> bytes:
    """The identifier stands behind another option, which looks like one."""
    lure = b"\0\1\0\x12" + bytes(DUIDS["UUID (RFC 6355)"])
    vendor = DHCP6OptVendorClass(enterprisenum=1, vcdata=[]) / lure
    vendor = DHCP6OptVendorClass(optlen=4 + len(lure), enterprisenum=1) / lure
    return _rapid(duid, first=(vendor,))


def _at_once(addresses: int) -> Callable[[], bytes]:
    """A Rebind of so many addresses in one association, which dnsmasq as libvirt runs it grants to anybody."""

    def ask() -> bytes:
        base = FIRST6 + next(_numbers) % 10 * 10
        claims = [DHCP6OptIAAddress(addr=str(IPv6Address(base + n))) for n in range(addresses)]
        packet = DHCP6_Rebind(trid=next(_numbers)) / DHCP6OptClientId(duid=_duid())
        return mine(_to_servers(packet / DHCP6OptIA_NA(iaid=1, ianaopts=claims)))

    return ask


ATTACKS: dict[str, Callable[[], bytes]] = {
    "random DUIDs": lambda: _rapid(_duid()),
    "random associations": lambda: _rapid(DUIDS["link-layer"], DHCP6OptIA_NA(iaid=next(_numbers))),
    "DUIDs of a length that is not read": lambda: _rapid(_odd_duid()),
    "behind another option": lambda: _moved(_duid()),
    "behind the association (systemd)": lambda: _rapid(_duid(), DHCP6OptOptReq(), first=(DHCP6OptIA_NA(iaid=1),)),
    "two associations in one": lambda: _rapid(_duid(), ias=2),
    "twenty associations in one": lambda: _rapid(_duid(), ias=20),
    "more options than a mark can count": lambda: _rapid(
        _duid(), *(DHCP6OptIA_TA(iaid=n) for n in range(36)), DHCP6OptIA_NA(iaid=1)
    ),
    "temporary addresses": lambda: _rapid(_duid(), DHCP6OptIA_TA(iaid=next(_numbers))),
    "three addresses in one": _at_once(3),
    "nine addresses in one": _at_once(9),
}
# What it learns, what it cannot, what is asked before the first answer is back, of three addresses each at most.
BOUND = 16 + 3 * 8 + 3 * 4


def _given(heard: list[Any]) -> set[str]:
    """The addresses in answers that lease them."""
    found = set()
    for packet in heard:
        octets = bytes(packet[UDP].payload)
        for at in range(4, len(octets) - 28):
            if octets[:1] == b"\7" and octets[at : at + 4] == b"\0\5\0\x18" and octets[at + 24 : at + 28] != bytes(4):
                found.add(str(IPv6Address(octets[at + 4 : at + 20])))
    return found


def _attack(wire: Wire, ask: Callable[[], bytes], times: int) -> set[str]:
    taken: set[str] = set()
    for _ in range(times):
        wire.send(ask())
        taken |= _given(_drain(wire.fd, 0.002))
    return taken | _given(_drain(wire.fd, 0.3))


@pytest.mark.parametrize("known", [False, True], ids=["learns", "known"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_takes_the_addresses_of_all(
    wire: Wire, other: int, dnsmasq: Dnsmasq, attack: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time is what an attacker has most of; that the rate is bounded has a test of its own.
    monkeypatch.setattr(dhcp_requests, "_RATE6", "1000/second burst 4 packets")
    _guard(dnsmasq, wire.tap, owned=(ME4, ME6) if known else (), known=known)
    _guard(dnsmasq, OTHER, THEM, (THEM4, THEM6), known=True)
    taken = _attack(wire, ATTACKS[attack], 100)
    assert len(taken) <= BOUND, f"one guest took {len(taken)} addresses"
    if attack == "random DUIDs":
        assert len(taken) <= (8 if known else 16) + 8 + 4
    # A neighbour is served.
    offer = dnsmasq.ask(other, DHCP6_Solicit(), DHCP6OptRapidCommit(), association(), client=DUIDS["UUID (RFC 6355)"],
                        mac=THEM)  # fmt: skip
    assert address_of(offer)


def _guarded(tap: str, **more: Any) -> None:
    nft(filters.guard(filters.PortGuard(tap, ME, (ip_network(ME4), ip_network(ME6)), **more)))


def _mail(packet: Any, **ipv6: Any) -> bytes:
    return mine(IPv6(src=MY_LL, dst="ff02::1:2", **ipv6) / packet)


UDP6 = UDP(sport=546, dport=547)
UNREADABLE = {
    "in a first fragment": _mail(IPv6ExtHdrFragment(m=1, id=7) / UDP6 / DHCP6_Solicit(trid=1) / Raw(bytes(600))),
    "behind an extension header": _mail(IPv6ExtHdrDestOpt() / UDP6 / DHCP6_Solicit(trid=2)),
    "longer than any honest one": _mail(
        UDP6 / DHCP6_Solicit(trid=3) / DHCP6OptClientId(duid=DUIDS["link-layer"]) / Raw(bytes(600))
    ),
    "of no length (a jumbogram's)": _mail(UDP(sport=546, dport=547, len=0) / DHCP6_Solicit(trid=4)),
    "a relay's": _mail(
        UDP(sport=547, dport=547)
        / DHCP6_RelayForward(linkaddr=ME6, peeraddr=MY_LL)
        / DHCP6OptRelayMsg(message=DHCP6_Solicit(trid=5))
    ),
    "another's address given back": mine(dhcp("release", src=ME4, dst=GATEWAY4, ciaddr=THEM4)),
}


def test_what_cannot_be_read_is_dropped_with_its_reason(wire: Wire) -> None:
    _guarded(wire.tap)
    assert wire.judge(UNREADABLE) == set()
    assert kernel.drops_by_reason()[wire.tap] == {
        "DHCPv6 client": 2, "DHCPv6 message": 2, "DHCPv6 relay": 1, "DHCP client": 1
    }  # fmt: skip
    _guarded(wire.tap, roles=("dhcp-server",))
    assert wire.judge(UNREADABLE) == set()
    _guarded(wire.tap, roles=("dhcp-relay",))
    assert wire.judge(UNREADABLE) == {"a relay's"}


# What they send, in their order: dhcpcd, systemd-networkd and NetworkManager, Windows.
def _clients(duid: Any) -> dict[str, Any]:
    me, elapsed, wanted = DHCP6OptClientId(duid=duid), DHCP6OptElapsedTime(elapsedtime=1), DHCP6OptOptReq()
    return {
        "dhclient": me / wanted / elapsed / DHCP6OptIA_NA(iaid=1),
        "systemd-networkd": DHCP6OptRapidCommit() / DHCP6OptIA_NA(iaid=1) / wanted / me / elapsed,
        "Windows": elapsed / me / DHCP6OptIA_NA(iaid=1) / DHCP6OptVendorClass(enterprisenum=311) / wanted,
        "with a prefix, too": me / DHCP6OptIA_NA(iaid=1) / DHCP6OptIA_PD(iaid=1) / elapsed / wanted,
    }


def test_honest_clients_of_any_order_pass(wire: Wire) -> None:
    for duid in DUIDS.values():
        _guarded(wire.tap)  # a new limit
        asked = {name: mine(_to_servers(DHCP6_Solicit(trid=9) / options)) for name, options in _clients(duid).items()}
        assert wire.judge(asked) == set(asked)
        assert kernel.drops_by_reason()[wire.tap] == {}


def test_a_port_asks_so_often_and_no_more(wire: Wire) -> None:
    _guarded(wire.tap)
    asked = {str(n): mine(_to_servers(DHCP6_Solicit(trid=n) / DHCP6OptIA_NA(iaid=1))) for n in range(40)}
    begin = time.monotonic()
    passed = wire.judge(asked)
    seconds = time.monotonic() - begin
    assert set("0123") <= passed
    assert len(passed) <= 4 + 4 * seconds + 1
    assert kernel.drops_by_reason()[wire.tap] == {"DHCP rate": 40 - len(passed)}
    # What leases nothing is not counted.
    assert wire.delivered(mine(_to_servers(DHCP6_Release(trid=1) / DHCP6OptIA_NA(iaid=1))))


def test_the_same_identity_again_and_again_costs_nothing(
    wire: Wire, other: int, dnsmasq: Dnsmasq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that boots every few minutes for a day, by network, an installer, and its system; and gives back."""
    monkeypatch.setattr(dhcp_requests, "_RATE6", "1000/second burst 1000 packets")
    for known in (False, True):
        _guard(dnsmasq, wire.tap, owned=(ME4, ME6) if known else (), known=known)
        for _ in range(30):
            for duid in list(DUIDS.values())[:3]:
                offer = dnsmasq.ask(wire.fd, DHCP6_Solicit(), association(), client=duid)
                named, address = server_of(offer), address_of(offer)
                for message in (DHCP6_Request(), DHCP6_Renew(), DHCP6_Release()):
                    answer = dnsmasq.ask(wire.fd, message, named, association(address), client=duid)
                    assert isinstance(message, DHCP6_Release) or address_of(answer) == address
        assert kernel.drops_by_reason()[wire.tap] == {}


def _acknowledged(heard: list[Any]) -> set[str]:
    return {p[BOOTP].yiaddr for p in heard if DHCP in p and ("message-type", 5) in p[DHCP].options}


def _request4(client: bytes, address: str) -> bytes:
    options = [("message-type", "request"), ("requested_addr", address), ("client_id", client), "end"]
    header = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return mine(header / BOOTP(chaddr=bytes.fromhex(ME.replace(":", "")), xid=7) / DHCP(options=options))


@pytest.mark.parametrize("known", [False, True], ids=["learns", "known"])
def test_client_identifiers_do_not_take_the_addresses_of_all(
    wire: Wire, other: int, dnsmasq: Dnsmasq, known: bool
) -> None:
    """On a network without dhcp-ignore-clid; libvirt's servers are authoritative, and grant what nobody has."""
    _guard(dnsmasq, wire.tap, owned=(ME4, ME6) if known else (), known=known)
    taken = set()
    for host in range(151, 251):
        wire.send(_request4(b"\xff" + host.to_bytes(8, "big"), f"10.61.1.{host}"))
        time.sleep(0.02)
        taken |= {
            p[BOOTP].yiaddr for p in _drain(wire.fd, 0.002) if BOOTP in p and ("message-type", 5) in p[DHCP].options
        }
    taken |= {p[BOOTP].yiaddr for p in _drain(wire.fd, 0.3) if BOOTP in p and ("message-type", 5) in p[DHCP].options}
    assert 2 < len(taken) <= (8 if known else 16) + 40
    assert kernel.drops_by_reason()[wire.tap]["DHCP leases"] > 20


def test_who_was_given_too_much_asks_again_a_leases_time_later(
    wire: Wire, other: int, dnsmasq: Dnsmasq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dhcp_requests, "_RATE6", "1000/second burst 4 packets")
    served = server()._replace(mac=dnsmasq.mac, served=((6, 1),), dynamic=(), seconds=((4, 15), (6, 15)))
    nft(filters.guard(filters.PortGuard(wire.tap, ME, (ip_network(ME6),), server=served)))
    _attack(wire, ATTACKS["random DUIDs"], 40)
    assert kernel.drops_by_reason()[wire.tap]["DHCP leases"] > 0
    assert _attack(wire, ATTACKS["random DUIDs"], 2) == set()
    time.sleep(16)
    assert len(_attack(wire, ATTACKS["random DUIDs"], 2)) == 2

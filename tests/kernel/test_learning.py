"""Addresses that a port learns from the host's DHCP server: from nothing but its answers, and never another port's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from ipaddress import IPv4Address, IPv6Address, ip_network

import frames
import pytest
from dhcp6 import DUIDS, address_of, association, server_of
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    arp,
    dhcp,
    from_ll,
    marked,
    mine,
    na,
    ns,
    tll,
)
from scapy.all import (  # type: ignore[attr-defined]
    BOOTP,
    DHCP,
    DUID_EN,
    DUID_LL,
    DUID_LLT,
    DUID_UUID,
    IP,
    UDP,
    DHCP6_Advertise,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
    Ether,
    IPv6,
)
from support.server import LEASED, LEASED6, RANGES, SERVER_LL, SERVER_MAC, Dnsmasq, server
from support.taps import Wire, ip, open_tap

from libvirt_guestnet.datapath.port import filters, held_sets, learning
from libvirt_guestnet.datapath.run.nft import nft, numbers

OWNED = (ip_network(ME4), ip_network(ME6))
OTHER = "vme0000000b"

SERVER_DUID = DUID_LLT(timeval=700000000, lladdr=SERVER_MAC)


def _guard(tap: str, mac: str = ME, **policy: object) -> None:
    own = OWNED if mac == ME else (ip_network(THEM4), ip_network(THEM6))
    facts = {"tap": tap, "mac": mac, "owned": own, "server": server(), **policy}
    nft(filters.guard(filters.PortGuard(**facts)))  # type: ignore[arg-type]


def _traffic4() -> Mapping[str, bytes]:
    return {
        "ipv4": mine(IP(src=LEASED, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "arp": mine(arp(LEASED)),
        "arp probe": mine(arp("0.0.0.0", target=LEASED)),
    }


def _traffic6(address: str = LEASED6) -> Mapping[str, bytes]:
    return {
        "ipv6": mine(from_ll(UDP(sport=9, dport=9), marked(), src=address)),
        "dad": mine(ns(address, src="::", dst="ff02::1:ff00:150")),
        "na": mine(na(address, tll(ME), src=address)),
        "na from the link-local address": mine(na(address)),
        "ns": mine(ns(THEM6, src=address)),
    }


def _passing(wire: Wire) -> set[str]:
    """What of the leased addresses' traffic passes; the sentinel's own address must."""
    return wire.judge({**_traffic4(), **_traffic6()})


def _answer(kind: str, mac: str = ME, yiaddr: str = LEASED, src: str = GATEWAY4, frm: str = SERVER_MAC) -> bytes:
    message = dhcp(kind, mac=mac, op=2, sport=67, dport=68, src=src)
    message[BOOTP].yiaddr = yiaddr
    return bytes(Ether(src=frm, dst="ff:ff:ff:ff:ff:ff") / message)


def _ia(address: str = LEASED6, valid: int = 3600, *before: object) -> object:
    return DHCP6OptIA_NA(iaid=1, T1=1800, T2=2700, ianaopts=[*before, _in_ia(address, valid)])


def _in_ia(address: str, valid: int) -> object:
    return DHCP6OptIAAddress(addr=address, preflft=valid, validlft=valid)


def _reply(
    *options: object,
    kind: object = None,
    client: object = DUIDS["link-layer"],
    server: object = SERVER_DUID,
    frm: str = SERVER_MAC,
    to: str = ME,
    ports: tuple[int, int] = (547, 546),
    src: str = SERVER_LL,
) -> bytes:
    message = kind or DHCP6_Reply(trid=7)
    for option in (DHCP6OptClientId(duid=client), DHCP6OptServerId(duid=server), *(options or (_ia(),))):
        message = message / option
    header = IPv6(src=src, dst=MY_LL) / UDP(sport=ports[0], dport=ports[1])
    return bytes(Ether(src=frm, dst=to) / header / message)


def test_an_address_is_learnt_from_the_servers_acknowledgement_alone(wire: Wire) -> None:
    _guard(wire.tap, excluded=(ip_network("10.61.1.151"),))
    assert wire.delivered(frames.HONEST["DHCP discover"])
    for lie in (
        _answer("offer"),
        _answer("nak"),
        _answer("ack", mac=THEM),
        _answer("ack", src=THEM4),
        _answer("ack", frm=THEM),
        _answer("ack", yiaddr="0.0.0.0"),
        _answer("ack", yiaddr=THEM4),
    ):
        wire.ear.send(lie)
        assert _passing(wire) == set()
    # What the guest says to itself counts nothing.
    wire.send(_answer("ack"))
    assert _passing(wire) == set()
    wire.ear.send(_answer("ack"))
    assert _passing(wire) == set(_traffic4())
    # An address that is reserved for somebody is not learnt, whatever makes the server say so.
    wire.ear.send(_answer("ack", yiaddr="10.61.1.151"))
    reserved = {"arp": mine(arp("10.61.1.151"))}
    assert wire.judge({**frames.FORGED, **reserved}) == set()


LIES = {
    "an advertisement": _reply(kind=DHCP6_Advertise(trid=7)),
    "from another port": _reply(frm=THEM, src=THEIR_LL),
    "from a global address": _reply(src=GATEWAY6),
    "from another UDP port": _reply(ports=(546, 546)),
    "to another UDP port": _reply(ports=(547, 547)),
    "to another guest": _reply(to="52:54:00:00:00:0c"),
    "no lease (the answer to a release of what nobody has)": _reply(_ia(LEASED6, 0)),
    "a status before the address": _reply(_ia(LEASED6, 3600, DHCP6OptStatusCode(statuscode=0))),
    "temporary addresses": _reply(DHCP6OptIA_TA(iaid=1, iataopts=[_in_ia(LEASED6, 3600)])),
    "an address without association": _reply(_in_ia(LEASED6, 3600)),
    "outside the range": _reply(_ia("fd61:1::2")),
    "the host's own address": _reply(_ia(GATEWAY6)),
    "a reserved address": _reply(_ia("fd61:1::151")),
    # The client says its identifier, and the server repeats it.
    "an answer inside the client's identifier": _reply(
        DHCP6OptStatusCode(statuscode=2),
        client=DUID_EN(enterprisenum=1, id=bytes(_reply())[14 + 40 + 8 + 4 + 4 + 10 :]),
    ),
    "a client's identifier of another length": _reply(client=DUID_EN(enterprisenum=1, id=b"x" * 20)),
    "another server's identifier": _reply(server=DUID_UUID(uuid="62000000-0000-4000-8000-000000000002")),
}


def test_dhcpv6_is_believed_word_by_word(wire: Wire) -> None:
    _guard(wire.tap, excluded=(ip_network("fd61:1::151"), ip_network(GATEWAY6)))
    assert wire.judge({"solicit": frames.HONEST["DHCPv6 solicit"]}) == {"solicit"}
    for name, lie in LIES.items():
        wire.ear.send(lie)
        assert (name, _passing(wire), numbers(f"learnt6-{wire.tap}")) == (name, set(), [])
    wire.send(_reply())
    assert _passing(wire) == set()


@pytest.mark.parametrize("client", DUIDS)
@pytest.mark.parametrize("rapid", [False, True])
def test_every_usual_client_is_understood(wire: Wire, client: str, rapid: bool) -> None:
    _guard(wire.tap)
    options = [DHCP6OptRapidCommit(), _ia()] if rapid else [_ia()]
    wire.ear.send(_reply(*options, client=DUIDS[client]))
    assert _passing(wire) == set(_traffic6())


@pytest.fixture
def other(wire: Wire) -> Iterator[int]:
    """A second guarded port on the same bridge."""
    fd = open_tap(OTHER)
    ip(f"link set {OTHER} master br0")
    ip(f"link set {OTHER} up")
    _guard(OTHER, THEM)
    yield fd
    os.close(fd)


def _stolen(wire: Wire, version: int, thief: str = THEM) -> None:
    """The server gives the thief an address of mine."""
    stolen = _answer("ack", mac=thief) if version == 4 else _reply(to=thief)
    wire.ear.send(stolen)


@pytest.mark.parametrize("version", [4, 6])
def test_what_one_port_holds_is_not_given_to_another(wire: Wire, other: int, version: int) -> None:
    _guard(wire.tap)
    wire.ear.send(_answer("ack") if version == 4 else _reply())
    mine_now = _passing(wire)
    assert mine_now == set(_traffic4() if version == 4 else _traffic6())
    _stolen(wire, version)
    assert _passing(wire) == mine_now
    assert numbers(f"learnt{version}-{OTHER}") == []
    listed = subprocess.run(["nft", "list", "chain", "netdev", "guestnet", f"leases-{OTHER}"], capture_output=True)
    assert listed.stdout.count(b"packets 1 bytes") == 1
    assert b'drop comment "another\'s lease"' in listed.stdout
    # It may be renewed meanwhile, and somebody else's as soon as its holder is gone.
    wire.ear.send(_answer("ack") if version == 4 else _reply())
    assert _passing(wire) == mine_now
    nft(learning.give_back("br0", [IPv4Address(LEASED), IPv6Address(LEASED6)]) + filters.release([wire.tap]))
    _stolen(wire, version)
    _guard(wire.tap, owned=OWNED)
    assert _passing(wire) == set()
    assert numbers(f"learnt{version}-{OTHER}") == [int(IPv4Address(LEASED) if version == 4 else IPv6Address(LEASED6))]


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_port_holds_by_its_policy_is_not_given_to_another(wire: Wire, version: int) -> None:
    holder = filters.PortGuard("holder", THEM, (ip_network(LEASED), ip_network(LEASED6)), segment="br0")
    nft("\n".join(["add table netdev guestnet", *held_sets.add(holder), ""]))
    _guard(wire.tap, segment="br0")
    wire.ear.send(_answer("ack") if version == 4 else _reply())
    assert _passing(wire) == set()
    assert numbers(f"learnt{version}-{wire.tap}") == numbers(f"held{version}-br0") == []
    nft("\n".join(held_sets.give_up(held_sets.held(holder))) + "\n")
    wire.ear.send(_answer("ack") if version == 4 else _reply())
    assert _passing(wire) == set(_traffic4() if version == 4 else _traffic6())


def test_no_port_holds_all_of_a_range(wire: Wire) -> None:
    _guard(wire.tap)
    for host in range(0x100, 0x140):
        wire.ear.send(_reply(_ia(f"fd61:1::{host:x}")))
    assert _passing(wire) == set()
    assert len(numbers(f"learnt6-{wire.tap}")) == len(numbers("held6-br0")) == 16


def test_what_is_learnt_survives_a_new_guard_and_ends_with_the_port(wire: Wire) -> None:
    everything = {*_traffic4(), *_traffic6()}
    _guard(wire.tap)
    wire.ear.send(_answer("ack"))
    wire.ear.send(_reply())
    assert _passing(wire) == everything
    _guard(wire.tap)
    assert _passing(wire) == everything
    nft(filters.release([wire.tap]))
    _guard(wire.tap)
    assert _passing(wire) == set()
    # The lease file of the server may say anything: what is not in its range is not believed.
    leases = tuple((address, 60) for address in (IPv4Address(LEASED), IPv6Address(LEASED6), IPv6Address(THEM6)))
    _guard(wire.tap, server=server()._replace(leases=leases))
    assert _passing(wire) == everything
    assert wire.judge(frames.FORGED) == set()
    _guard(wire.tap, server=server()._replace(dynamic=RANGES[:1]))
    assert _passing(wire) == set(_traffic4())
    _guard(wire.tap, server=None)
    assert _passing(wire) == set()
    nft(filters.release([wire.tap]) + learning.forget_network("br0"))
    listed = subprocess.run(["nft", "list", "table", "netdev", "guestnet"], capture_output=True, text=True, check=True)
    # What is left are the sets and chains that all ports share.
    assert not any(word in listed.stdout for word in (wire.tap, "chain tap-", "br0"))


def test_a_learnt_address_is_forgotten_with_its_lease(wire: Wire) -> None:
    _guard(wire.tap, server=server()._replace(seconds=((4, 1), (6, 1))))
    wire.ear.send(_answer("ack"))
    wire.ear.send(_reply())
    assert _passing(wire) == {*_traffic4(), *_traffic6()}
    time.sleep(1.3)
    assert _passing(wire) == set()


@pytest.fixture
def dnsmasq(wire: Wire) -> Iterator[Dnsmasq]:
    running = Dnsmasq(wire)
    _guard(wire.tap, server=server()._replace(mac=running.mac))
    yield running
    running.close()


def test_an_address_is_learnt_from_the_real_server(wire: Wire, dnsmasq: Dnsmasq) -> None:
    wire.send(mine(dhcp("discover")))
    time.sleep(0.2)
    assert _passing(wire) == set()
    wire.send(mine(_request()))
    end = time.monotonic() + 240
    while _passing(wire) != set(_traffic4()):
        assert time.monotonic() < end, "not learnt from dnsmasq's acknowledgement"


def _request() -> object:
    options = [("message-type", "request"), ("requested_addr", LEASED), ("server_id", GATEWAY4), "end"]
    header = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return header / BOOTP(chaddr=bytes.fromhex(ME.replace(":", "")), xid=7) / DHCP(options=options)


@pytest.mark.parametrize("client", DUIDS)
def test_a_dhcpv6_address_is_learnt_from_the_real_server(wire: Wire, dnsmasq: Dnsmasq, client: str) -> None:
    address, named = dnsmasq.leased(DUIDS[client])
    learnt = [int(IPv6Address(address))]
    assert numbers(f"learnt6-{wire.tap}") == learnt
    assert wire.judge(_traffic6(address)) == set(_traffic6())
    mine_now = association(address)
    for message, more in ((DHCP6_Renew(), [named]), (DHCP6_Rebind(), [])):
        nft(f"flush set netdev guestnet learnt6-{wire.tap}\nflush set netdev guestnet held6-br0\n")
        dnsmasq.ask(wire.fd, message, *more, mine_now, client=DUIDS[client])
        assert numbers(f"learnt6-{wire.tap}") == learnt


@pytest.mark.parametrize("client", DUIDS)
def test_a_rapid_commit_is_learnt_too(wire: Wire, dnsmasq: Dnsmasq, client: str) -> None:
    options = [DHCP6OptRapidCommit(), association()]
    reply = dnsmasq.ask(wire.fd, DHCP6_Solicit(), *options, client=DUIDS[client])
    assert numbers(f"learnt6-{wire.tap}") == [int(IPv6Address(address_of(reply)))]


def test_answers_without_a_lease_teach_nothing(wire: Wire, dnsmasq: Dnsmasq) -> None:
    client = DUIDS["link-layer"]
    offer = dnsmasq.ask(wire.fd, DHCP6_Solicit(), association(), client=client)
    never = association("fd61:1::1aa", valid=3600)
    dnsmasq.ask(wire.fd, DHCP6_InfoRequest(), client=client)
    dnsmasq.ask(wire.fd, DHCP6_Renew(), server_of(offer), never, client=client)
    released = dnsmasq.ask(wire.fd, DHCP6_Release(), server_of(offer), never, client=client)
    # dnsmasq repeats any address that is released; it must not become the port's.
    assert address_of(released) == "fd61:1::1aa"
    assert numbers(f"learnt6-{wire.tap}") == []


def test_nobody_rebinds_to_anothers_address(wire: Wire, other: int, dnsmasq: Dnsmasq) -> None:
    """dnsmasq, authoritative, lets him: an address that is leased, and one that is not in its range."""
    _guard(OTHER, THEM, server=server()._replace(mac=dnsmasq.mac))
    address, _ = dnsmasq.leased(DUIDS["link-layer"])
    thief = DUID_LL(lladdr=THEM)
    for wanted in (address, ME6):
        claim = association(wanted, valid=3600, iaid=9)
        with pytest.raises(AssertionError, match="no answer") if wanted == address else nullcontext():
            dnsmasq.ask(other, DHCP6_Rebind(), claim, client=thief, mac=THEM)
    # Nor does a copied identifier help.
    copied = association()
    offered = dnsmasq.ask(other, DHCP6_Solicit(), copied, client=DUIDS["link-layer"], mac=THEM)
    assert address_of(offered) == address
    assert numbers(f"learnt6-{OTHER}") == []
    assert wire.judge(_traffic6(address)) == set(_traffic6())

"""What a port's policy adds to its filter: address pairs, roles, privacy addresses, learnt addresses, the drop log."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, ip_network

import frames
import pytest
from conftest import Wire, ip
from forged import RA
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    VIRTUAL,
    arp,
    dhcp,
    from_ll,
    marked,
    mine,
    na,
    ns,
    sll,
    tll,
)
from scapy.all import IP, UDP, Ether  # type: ignore[attr-defined]

from libvirt_guestnet.datapath import filters, kernel
from libvirt_guestnet.datapath.nft import nft

SERVER_MAC = "52:54:00:00:00:01"
LEASED = "10.61.1.150"
OWNED = (ip_network(ME4), ip_network(ME6))


def _guard(wire: Wire, **policy: object) -> None:
    port = filters.PortGuard(**{"tap": wire.tap, "mac": ME, "owned": OWNED, **policy})  # type: ignore[arg-type]
    nft(filters.guard(port))


def _named(*names: str) -> dict[str, bytes]:
    return {name: frames.FORGED[name] for name in names}


def test_an_address_pair_is_owned_by_the_own_mac(wire: Wire) -> None:
    _guard(wire, pairs=(("", ip_network("10.61.1.96/28")), ("", ip_network("fd61:1::100/120"))))
    shared = {
        "arp": mine(arp("10.61.1.100")),
        "ipv4": mine(IP(src="10.61.1.100", dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "na": mine(na("fd61:1::101", tll(ME))),
        "ipv6": mine(from_ll(UDP(sport=9, dport=9), marked(), src="fd61:1::101")),
    }
    assert wire.judge(shared) == set(shared)
    assert wire.judge(frames.FORGED) == set()
    assert wire.judge(frames.HONEST) == set(frames.HONEST)


def test_a_vrrp_mac_announces_its_address_and_nothing_else(wire: Wire) -> None:
    _guard(wire, pairs=((VIRTUAL, ip_network("10.61.1.100")), (VIRTUAL, ip_network("fd61:1::100"))))

    def virtual(payload: object) -> bytes:
        return bytes(Ether(src=VIRTUAL, dst="ff:ff:ff:ff:ff:ff") / payload)

    honest = {
        "advertisement": virtual(IP(src=ME4, dst="224.0.0.18", proto=112, ttl=255) / marked()),
        "announcement": virtual(arp("10.61.1.100", hw=VIRTUAL, target="10.61.1.100")),
        "traffic": virtual(IP(src="10.61.1.100", dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "na": virtual(na("fd61:1::100", tll(VIRTUAL))),
        "ns": virtual(ns(THEM6, sll(VIRTUAL))),
    }
    forged = {
        "another's address with the virtual MAC": virtual(arp(THEM4, hw=VIRTUAL)),
        "own address with the virtual MAC in ARP": virtual(arp(ME4, hw=VIRTUAL)),
        "own address with the virtual MAC in ND": virtual(na(ME6, tll(VIRTUAL))),
        "another's source": virtual(IP(src=THEM4, dst=ME4) / UDP() / marked()),
        "another virtual MAC": bytes(Ether(src=VIRTUAL[:-1] + "6", dst=THEM) / IP(src=ME4, dst=THEM4) / marked()),
    }
    assert wire.judge(honest) == set(honest)
    assert wire.judge(forged) == set()
    passes = wire.judge(frames.FORGED)
    assert passes == {"mac: a VRRP router's (RFC 5798)"}


def test_a_dhcp_server_may_answer_and_nothing_else(wire: Wire) -> None:
    _guard(wire, roles=(filters.DHCP_SERVER,))
    answers = {name for name in frames.FORGED if name.startswith("dhcp-offer: ")} & wire.judge(frames.FORGED)
    assert (
        answers
        == wire.judge(frames.FORGED)
        == {
            "dhcp-offer: from port 67",
            "dhcp-offer: an acknowledgement",
            "dhcp-offer: a NAK (denial of service)",
            "dhcp-offer: by unicast",
            "dhcp-offer: behind IPv4 options",
            "dhcp-offer: in a first fragment",
            "dhcp-offer: DHCPv6 advertise",
            "dhcp-offer: DHCPv6 from a global address",
        }
    )


def test_an_ra_sender_announces_from_its_own_address(wire: Wire) -> None:
    _guard(wire, roles=(filters.RA_SENDER,))
    passes = wire.judge(frames.FORGED)
    assert passes == {"ra: router advertisement", "ra: by unicast", "ra: without options"}
    assert not wire.delivered(mine(from_ll(RA, src=THEIR_LL)), within=0.2)


def test_privacy_addresses_are_any_but_those_of_others(wire: Wire) -> None:
    subnets = tuple(map(ip_network, ("fd61:1::/64", "fe80::/64")))
    others = tuple(map(ip_network, (THEM6, THEIR_LL, GATEWAY6, "fe80::1")))
    _guard(wire, owned=(*OWNED, *subnets), excluded=others)
    private = "fd61:1::4c1f:9d2e:77aa:1"
    honest = {
        "traffic": mine(from_ll(UDP(sport=9, dport=9), marked(), src=private)),
        "dad": mine(ns(private, src="::", dst="ff02::1:ffaa:1")),
        "na": mine(na(private, tll(ME), src=private)),
        "link-local (RFC 7217; Windows)": mine(na("fe80::4c1f:9d2e:77aa:2", tll(ME), src="fe80::4c1f:9d2e:77aa:2")),
    }
    assert wire.judge(honest) == set(honest)
    assert wire.judge(frames.FORGED) == {"ipv6: another of the subnet's addresses"}


def _server() -> filters.Server:
    return filters.Server((ip_network(GATEWAY4),), (ip_network("10.61.1.128/25"),), SERVER_MAC, 3600)


def _traffic() -> Mapping[str, bytes]:
    return {
        "ipv4": mine(IP(src=LEASED, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "arp": mine(arp(LEASED)),
        "arp probe": mine(arp("0.0.0.0", target=LEASED)),
    }


def _answer(kind: str, mac: str = ME, yiaddr: str = LEASED, src: str = GATEWAY4, frm: str = SERVER_MAC) -> bytes:
    message = dhcp(kind, mac=mac, op=2, sport=67, dport=68, src=src)
    message["BOOTP"].yiaddr = yiaddr  # type: ignore[index]
    return bytes(Ether(src=frm, dst="ff:ff:ff:ff:ff:ff") / message)


def _passing(wire: Wire) -> set[str]:
    """What of a leased address's traffic passes; the sentinel's own address must."""
    return wire.judge(_traffic())


def test_an_address_is_learnt_from_the_servers_acknowledgement_alone(wire: Wire) -> None:
    _guard(wire, server=_server(), excluded=(ip_network("10.61.1.151"),))
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
    assert _passing(wire) == set(_traffic())
    # An address that is reserved for somebody is not learnt, whatever makes the server say so.
    wire.ear.send(_answer("ack", yiaddr="10.61.1.151"))
    reserved = {"arp": mine(arp("10.61.1.151"))}
    assert wire.judge({**frames.FORGED, **reserved}) == set()


def test_what_is_learnt_survives_a_new_guard_and_ends_with_the_port(wire: Wire) -> None:
    _guard(wire, server=_server())
    wire.ear.send(_answer("ack"))
    _guard(wire, server=_server())
    assert _passing(wire) == set(_traffic())
    nft(filters.release([wire.tap]))
    _guard(wire, server=_server())
    assert _passing(wire) == set()
    _guard(wire, server=_server()._replace(leases=((IPv4Address(LEASED), 60),)))
    assert _passing(wire) == set(_traffic())
    _guard(wire)
    assert _passing(wire) == set()
    nft(filters.release([wire.tap]))
    listed = subprocess.run(["nft", "list", "table", "netdev", "guestnet"], capture_output=True, text=True, check=True)
    # What is left are the sets that all ports share.
    assert wire.tap not in listed.stdout
    assert "chain" not in listed.stdout


def test_a_learnt_address_is_forgotten_with_its_lease(wire: Wire) -> None:
    _guard(wire, server=_server()._replace(lease_seconds=1))
    wire.ear.send(_answer("ack"))
    assert _passing(wire) == set(_traffic())
    time.sleep(1.3)
    assert _passing(wire) == set()


@pytest.fixture
def dnsmasq(wire: Wire) -> Iterator[str]:
    """The server that libvirt runs, on the bridge: its MAC address."""
    ip(f"addr add {GATEWAY4}/24 dev br0")
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    assert program, "these tests need dnsmasq: scripts/setup"
    options = [
        "--conf-file=/dev/null",
        "--no-daemon",
        "--port=0",
        "--user=root",
        "--interface=br0",
        "--bind-interfaces",
    ]
    options += [
        "--dhcp-range=10.61.1.150,10.61.1.150,255.255.255.0,1h",
        "--leasefile-ro",
        "--no-ping",
        "--dhcp-authoritative",
    ]
    running = subprocess.Popen([program, *options, "--pid-file="], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        while "DHCP" not in (line := running.stderr.readline()):
            assert line, "dnsmasq did not start"
        yield _mac_of("br0")
    finally:
        running.kill()
        running.wait()


def _mac_of(device: str) -> str:
    return ip(f"-br link show {device}").split()[2]


def test_an_address_is_learnt_from_the_real_server(wire: Wire, dnsmasq: str) -> None:
    _guard(wire, server=_server()._replace(mac=dnsmasq))
    wire.send(mine(dhcp("discover")))
    time.sleep(0.2)
    assert _passing(wire) == set()
    wire.send(mine(_request()))
    end = time.monotonic() + 3
    while _passing(wire) != set(_traffic()):
        assert time.monotonic() < end, "not learnt from dnsmasq's acknowledgement"


def _request() -> object:
    from scapy.all import BOOTP, DHCP  # type: ignore[attr-defined]

    options = [("message-type", "request"), ("requested_addr", LEASED), ("server_id", GATEWAY4), "end"]
    header = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return header / BOOTP(chaddr=bytes.fromhex(ME.replace(":", "")), xid=7) / DHCP(options=options)


def test_drops_are_counted_by_reason(wire: Wire) -> None:
    _guard(wire)
    wire.judge(_named("arp: another's address", "ra: router advertisement", "vlan: another's ARP in 802.1ad"))
    wire.judge(_named("nd: redirect", "mac: another's source MAC", "llc: CDP (Cisco)"))
    assert kernel.drops_by_reason() == {
        wire.tap: {"ARP": 1, "ND": 2, "VLAN tag": 1, "source MAC": 1, "EtherType": 1},
    }
    assert kernel.dropped_frames() == {wire.tap: 6}


def test_the_log_can_be_asked_for(wire: Wire) -> None:
    _guard(wire, log=True)
    assert wire.judge(frames.FORGED) == set()
    assert wire.judge(frames.HONEST) == set(frames.HONEST)
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert f'log prefix "guestnet {wire.tap} source MAC: "' in listed
    assert max(len(line.split('prefix "')[1].split('"')[0]) for line in listed.splitlines() if "prefix" in line) < 64

"""What a port's policy adds to its filter: address pairs, roles, privacy addresses, the drop log."""

from __future__ import annotations

import subprocess
from ipaddress import ip_network

import frames
from conftest import Wire
from forged import RA
from make import (
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

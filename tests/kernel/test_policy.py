"""What a port's policy adds to its filter: address pairs, roles, privacy addresses, the drop log."""

from __future__ import annotations

import subprocess
from ipaddress import ip_network

import frames
from forged import RA
from make import (
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
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
    sentinel,
    sll,
    tll,
    vrrp,
)
from scapy.all import IP, UDP, Ether, IPv6  # type: ignore[attr-defined]
from support.taps import Wire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, port_facts
from libvirt_guestnet.datapath.run.nft import nft


def _needs_no_global_address(frame: bytes) -> bool:
    packet = Ether(frame).payload
    if not isinstance(packet, IPv6) or ME6 in (packet.src, getattr(packet.payload, "tgt", "")):
        return False
    return packet.src in (MY_LL, "::")


_LINK_LOCAL = {name for name, frame in frames.HONEST.items() if _needs_no_global_address(frame)}
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
        "advertisement": virtual(IP(src=ME4, dst="224.0.0.18", proto=112, ttl=255) / vrrp(5)),
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
    # It is a virtual router now, and may say so: that one, from any of its MACs, to the group or its peer alone.
    assert wire.judge(frames.FORGED) == {
        "mac: a VRRP router's (RFC 5798)",
        "routing: VRRP from the own MAC (RFC 9568)",
        "routing: VRRP by unicast (keepalived)",
        "routing: VRRP over IPv6 from the own MAC (RFC 9568)",
    }
    carp = virtual(IPv6(src=MY_LL, dst="ff02::12", nh=112, hlim=255) / vrrp(5))
    assert wire.delivered(carp)
    for other in (
        virtual(IP(src=ME4, dst="224.0.0.18", proto=112, ttl=255) / vrrp(6)),
        virtual(IPv6(src=MY_LL, dst="ff02::12", nh=112, hlim=255) / vrrp(6)),
    ):
        assert not wire.delivered(other, within=0.05)


def test_macs_and_addresses_of_pairs_are_not_crossed(wire: Wire) -> None:
    """Each virtual MAC announces its own pair only; the port's own MAC announces all that the port has."""
    other, pairs = VIRTUAL[:-1] + "6", (("10.61.1.100", "fd61:1::100"), ("10.61.1.101", "fd61:1::101"))
    named = zip((VIRTUAL, other), pairs, strict=True)
    _guard(wire, pairs=tuple((mac, ip_network(address)) for mac, lent in named for address in lent))

    def announced(mac: str, addresses: tuple[str, str], frm: str) -> dict[str, bytes]:
        four, six = addresses
        return {
            f"{frm} arp {mac} {four}": bytes(Ether(src=frm, dst="ff:ff:ff:ff:ff:ff") / arp(four, hw=mac)),
            f"{frm} na {mac} {six}": bytes(Ether(src=frm, dst="ff:ff:ff:ff:ff:ff") / na(six, tll(mac))),
        }

    first, second = pairs
    honest = {
        **announced(VIRTUAL, first, VIRTUAL),
        **announced(other, second, other),
        **announced(ME, first, ME),
        # The pair's option under the own source MAC, as keepalived sends with `vmac_xmit_base`.
        **announced(VIRTUAL, first, ME),
    }
    crossed = {
        **announced(VIRTUAL, second, VIRTUAL),
        **announced(other, first, other),
        **announced(VIRTUAL, (ME4, ME6), VIRTUAL),
        **announced(THEM, first, ME),
        **announced(ME, (THEM4, THEM6), VIRTUAL),
    }
    assert wire.judge(honest) == set(honest)
    assert wire.judge(crossed) == set()


def test_pairs_alone_are_all_that_a_bare_port_has(wire: Wire) -> None:
    _guard(wire, owned=(), bare=True, pairs=(("", ip_network("10.61.1.100")), ("", ip_network("fd61:1::100"))))
    honest = {
        "arp": mine(arp("10.61.1.100")),
        "probe": mine(arp("0.0.0.0", target="10.61.1.100")),
        "ipv4": mine(IP(src="10.61.1.100", dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "na": mine(na("fd61:1::100", tll(ME))),
        "dad": mine(ns("fd61:1::100", src="::", dst="ff02::1:ff00:100")),
        "ipv6": mine(from_ll(UDP(sport=9, dport=9), marked(), src="fd61:1::100")),
        "last": sentinel(0, "10.61.1.100"),
    }
    assert [name for name, frame in honest.items() if not wire.delivered(frame)] == []
    # What needs IPv4, or a global address, is another's or nobody's.
    judged = {name: f for name, f in frames.HONEST.items() if name not in _LINK_LOCAL and not name.startswith("RARP")}
    assert wire.silent({**judged, **frames.FORGED}, sentinel(1, "10.61.1.100"))


def test_a_bare_port_sends_no_ip_at_all(wire: Wire) -> None:
    _guard(wire, owned=(), bare=True)
    announcement = frames.HONEST["RARP: QEMU's announcement after a migration"]
    judged = {name: frame for name, frame in frames.HONEST.items() if frame != announcement}
    assert wire.silent({**judged, **frames.FORGED}, announcement)


def test_a_port_whose_address_is_not_known_asks_and_has_its_link_local(wire: Wire) -> None:
    _guard(wire, owned=())
    expected = {"DHCP discover", "DHCP request", "DHCP decline", *_LINK_LOCAL}
    expected |= {name for name in frames.HONEST if name.startswith("IGMP") and "without" in name}
    for name, frame in frames.HONEST.items():
        if name in expected or name.startswith("RARP"):
            assert wire.delivered(frame), name
    refused = {name: f for name, f in frames.HONEST.items() if name not in expected and not name.startswith("RARP")}
    assert wire.silent({**refused, **frames.FORGED}, frames.HONEST["DHCP discover"])


def test_routing_protocols_are_a_role(wire: Wire) -> None:
    _guard(wire, roles=(port_facts.ROUTER_PROTOCOLS,))
    routing = {name for name in frames.FORGED if name.startswith("routing: ")}
    queries = {
        *(name for name in frames.FORGED if name.startswith("ipv4: IGMP") and "query" in name and "AH" not in name),
        *(f"ipv6: {name}" for name in ("MLDv1 query", "MLDv2 query", "MLD query without router alert", "PIM hello")),
        *(f"ipv4: multicast router {what} (RFC 4286)" for what in ("advertisement", "termination")),
        *(f"ipv6: multicast router {w} (RFC 4286)" for w in ("advertisement", "solicitation", "termination")),
        "ipv4: DVMRP probe (RFC 1075)",
        "ipv4: PIMv1",
        "ipv4: PIM hello (makes a snooping bridge's router port)",
    } - {"ipv4: IGMP query from 0.0.0.0", "ipv4: IGMP query in a first fragment"}
    passes = wire.judge(frames.FORGED)
    hidden = {name for name in passes if name.startswith("ipv6: MLD query behind ")}
    assert passes - hidden == routing | queries
    assert wire.judge(frames.HONEST) == set(frames.HONEST)


def test_drops_of_routing_protocols_are_named(wire: Wire) -> None:
    _guard(wire)
    wire.judge({name: frame for name, frame in frames.FORGED.items() if name.startswith("routing: ")})
    reasons = kernel.drops_by_reason()[wire.tap]
    assert reasons.pop("routing protocol") > 35
    assert reasons == {"IPv4 header": 1, "IPv6 header": 1}  # behind AH


def test_a_guest_with_an_address_of_its_sources_asks_from_it_if_it_may(wire: Wire) -> None:
    """A service address on lo: Linux asks for its neighbours from it (arp_announce 0)."""
    service4, service6 = "198.18.5.1", "fd61:5::1"
    routed = (ip_network("198.18.5.0/24"), ip_network("fd61:5::/64"))
    sends = {
        "ipv4": mine(IP(src=service4, dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "ipv6": mine(from_ll(UDP(sport=9, dport=9), marked(), src=service6)),
    }
    asks = {
        "arp": mine(arp(service4)),
        "ns": mine(ns(THEM6, sll(ME), src=service6)),
        "nud": mine(ns(THEM6, src=service6, dst=THEM6)),
    }
    claims = {
        "arp reply": mine(arp(service4, op=2, hwdst=THEM)),
        "arp announcement": mine(arp(service4, target=service4)),
        "arp announcement of another": mine(arp(service4, target="198.18.5.2")),
        "arp probe": mine(arp("0.0.0.0", target=service4)),
        "arp with another's MAC": mine(arp(service4, hw=THEM)),
        "na": mine(na(service6, tll(ME), src=service6)),
        "ns with another's MAC": mine(ns(THEM6, sll(THEM), src=service6)),
        "dad": mine(ns(service6, src="::", dst="ff02::1:ff00:1")),
    }
    _guard(wire, routed=routed)
    assert wire.judge({**sends, **asks, **claims}) == set(sends)
    _guard(wire, routed=routed, roles=(port_facts.OWN_SOURCES,))
    assert wire.judge({**sends, **asks, **claims}) == {*sends, *asks}
    assert wire.judge(frames.FORGED) == set()


def test_a_dhcp_server_may_answer_and_nothing_else(wire: Wire) -> None:
    _guard(wire, roles=(port_facts.DHCP_SERVER,))
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
            "dhcp-offer: DHCPv6 leasequery's end (RFC 5460)",
        }
    )


def test_an_ra_sender_announces_from_its_own_address(wire: Wire) -> None:
    _guard(wire, roles=(port_facts.RA_SENDER,))
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

"""What a port sends in one of its roles, and what such a port may still not send.

`HONEST_AS` is, by role, what a port without it may not send; `FORGED_AS` what stays forged although the port has it.
"""

from __future__ import annotations

from typing import Any

from forged import FORGED
from make import (
    ALL,
    GATEWAY4,
    ME,
    ME4,
    ME6,
    MY_LL,
    NODES,
    ROUTER_ALERT,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    dhcp,
    from_ll,
    igmp,
    marked,
    mine,
    typed,
    vrrp,
)
from scapy.all import (  # type: ignore[attr-defined]
    IP,
    LLC,
    UDP,
    DHCP6_Advertise,
    DHCP6_Reconf,
    DHCP6_RelayForward,
    DHCP6_RelayReply,
    DHCP6_Reply,
    DHCP6_Solicit,
    DHCP6OptRelayMsg,
    Dot3,
    ICMPv6MLQuery2,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
)

# What a relay has in its `sources`: the subnet of the clients for which it asks on this port.
CLIENTS4 = "10.61.9.0/24"
_RELAY4, _BEHIND4, _SERVER4 = "10.61.1.2", "10.61.9.1", "10.61.1.3"


def _relayed(op: int, src: str, dst: str, giaddr: str, dport: int = 67, sport: int = 67) -> bytes:
    message = dhcp("offer" if op == 2 else "discover", THEM, op, sport, dport, src, dst, giaddr)
    return mine(message, ALL if dst == "255.255.255.255" else THEM)


def _dhcp6(message: Any, src: str, dst: str, dport: int = 547, sport: int = 547) -> bytes:
    return mine(from_ll(UDP(sport=sport, dport=dport), message, src=src, dst=dst, hlim=64), THEM)


def _forward(inside: Any = None) -> Any:
    return DHCP6_RelayForward(linkaddr=ME6, peeraddr=THEIR_LL) / DHCP6OptRelayMsg(message=inside or DHCP6_Solicit())


def _reply() -> Any:
    return DHCP6_RelayReply(linkaddr=THEM6, peeraddr=THEIR_LL) / DHCP6OptRelayMsg(message=DHCP6_Reply())


def _llc(to: str, head: bytes, src: str = ME) -> bytes:
    return bytes(Dot3(src=src, dst=to) / LLC(dsap=head[0], ssap=head[1], ctrl=head[2]) / Raw(head[3:]) / marked(48))


def _pppoe(kind: int, code: int, to: str = THEM, begin: int = 0x11) -> bytes:
    return typed(kind, Raw(bytes([begin, code, 0, 0, 0, 32])) / marked(48), to)


def _slow(subtype: int, to: str = "01:80:c2:00:00:02") -> bytes:
    return typed(0x8809, Raw(bytes([subtype, 1])) / marked(104), to)


def _v4(payload: Any, dst: str, src: str = ME4, **fields: Any) -> bytes:
    return mine(IP(src=src, dst=dst, ttl=1, **fields) / payload)


def _known(*beginnings: str, besides: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Frames that are forged from any other port."""
    return {name: frame for name, frame in FORGED.items() if name.startswith(beginnings) and name not in besides}


_BPDU, _ISIS = bytes.fromhex("4242030000020278"), bytes.fromhex("fefe03831b0100")
_TO_NODES = "routing: OSPFv3 in a later fragment"
_ALL_ISS = "09:00:2b:00:00:05"

_DHCP = {
    "dhcp-server": {
        **_known(
            "dhcp-offer: from port 67",
            "dhcp-offer: an acknowledgement",
            "dhcp-offer: a NAK",
            "dhcp-offer: by unicast",
            "dhcp-offer: behind IPv4 options",
            "dhcp-offer: in a first fragment",
            "dhcp-offer: DHCPv6 advertise",
            "dhcp-offer: DHCPv6 from a global address",
            "dhcp-offer: DHCPv6 leasequery's end",
        ),
        "an answer to a relay (RFC 2131)": _relayed(2, ME4, _RELAY4, _RELAY4),
        "an answer to a relay elsewhere": _relayed(2, ME4, "10.77.0.1", "10.77.0.1"),
        "a relay-reply (RFC 8415)": _dhcp6(_reply(), ME6, THEM6),
        "a relay-reply from the link-local address": _dhcp6(_reply(), MY_LL, THEIR_LL),
    },
    "dhcp-relay": {
        "a relayed request (RFC 1542)": _relayed(1, ME4, _SERVER4, ME4),
        "a relayed request to a server elsewhere": _relayed(1, ME4, "10.77.0.3", ME4),
        "an answer handed to a client": _relayed(2, ME4, "255.255.255.255", ME4, dport=68),
        "an answer handed to a client by unicast": _relayed(2, ME4, THEM4, ME4, dport=68),
        "a relay-forward (RFC 8415)": _dhcp6(_forward(), ME6, "ff05::1:3"),
        "a relay-forward of a relay's (RFC 8415)": _dhcp6(_forward(_forward()), ME6, THEM6),
        "a relay-reply to a relay": _dhcp6(_reply(), ME6, THEM6),
        "a relayed DHCPv6 advertise": _dhcp6(DHCP6_Advertise(), MY_LL, THEIR_LL, dport=546),
        "a relayed DHCPv6 reply": _dhcp6(DHCP6_Reply(), MY_LL, THEIR_LL, dport=546),
        "a relayed DHCPv6 reconfigure": _dhcp6(DHCP6_Reconf(), MY_LL, THEIR_LL, dport=546),
    },
}
_ROUTING = {
    "ospf": {
        **_known("routing: OSPF", besides=(_TO_NODES,)),
        "OSPFv3 in a later fragment": mine(
            from_ll(IPv6ExtHdrFragment(nh=89, offset=101, id=5), marked(80), dst="ff02::5")
        ),
    },
    "vrrp": _known("routing: VRRP"),
    "eigrp": _known("routing: EIGRP"),
    "rip": _known("routing: RIP", besides=("routing: RIP from another port",)),
    "babel": _known("routing: Babel"),
    "ldp": _known("routing: LDP"),
    "multicast-router": {
        **_known("ipv4: IGMPv", besides=tuple(name for name in FORGED if "query" not in name)),
        **_known("ipv4: multicast router ", "ipv4: PIM hello (", "ipv6: PIM hello"),
        **_known("ipv6: MLDv1 query", "ipv6: MLDv2 query", "ipv6: MLD query behind a hop-by-hop option"),
        **{
            f"multicast router {what} over IPv6 (RFC 4286)": mine(
                from_ll(ROUTER_ALERT, ICMPv6Unknown(type=kind), marked(24), dst="ff02::6a", hlim=1)
            )
            for what, kind in (("advertisement", 151), ("solicitation", 152), ("termination", 153))
        },
        "PIM register by unicast (RFC 7761)": mine(IP(src=ME4, dst=GATEWAY4, proto=103) / marked(80)),
        "IGMPv3 query of a group": _v4(igmp(0x11, "239.1.2.3", b"\x02\x7d\0\0"), "239.1.2.3", proto=2),
    },
}
_LINK = {
    "lldp": {
        "LLDP to the nearest bridge (802.1AB)": FORGED["ethertype: LLDP (802.1AB)"],
        "LLDP to the nearest bridge that is no relay": typed(0x88CC, to="01:80:c2:00:00:03"),
        "LLDP to the nearest customer bridge": typed(0x88CC, to="01:80:c2:00:00:00"),
    },
    "lacp": {"LACP (802.1AX)": _slow(1), "LACP's marker": _slow(2)},
    "stp": {"rapid spanning tree (802.1Q)": _llc("01:80:c2:00:00:00", _BPDU)},
    "isis": {
        "IS-IS level 1 (ISO 10589)": _llc("01:80:c2:00:00:14", _ISIS),
        "IS-IS level 2": _llc("01:80:c2:00:00:15", _ISIS),
        "IS-IS to all systems": _llc(_ALL_ISS, _ISIS),
        "IS-IS in a long frame": typed(0x8870, Raw(_ISIS) / marked(64), _ALL_ISS),
    },
    "mpls": {
        "MPLS (RFC 3032)": typed(0x8847, Raw(b"\0\x06\x41\x40" + bytes(IP(src=THEM4, dst=ME4) / marked())), THEM),
        "MPLS to a group (RFC 5332)": typed(0x8848, Raw(b"\0\x06\x41\x40") / marked(48), "01:00:5e:80:00:01"),
    },
    "pppoe": {
        "PPPoE initiation (RFC 2516)": _pppoe(0x8863, 0x09, ALL),
        "PPPoE request": _pppoe(0x8863, 0x19),
        "PPPoE termination": _pppoe(0x8863, 0xA7),
        "PPPoE session": _pppoe(0x8864, 0),
    },
    "pppoe-server": {
        "PPPoE offer (RFC 2516)": _pppoe(0x8863, 0x07),
        "PPPoE confirmation": _pppoe(0x8863, 0x65),
        "PPPoE termination": _pppoe(0x8863, 0xA7),
        "PPPoE session": _pppoe(0x8864, 0),
    },
    "eapol": {
        "EAPOL (802.1X)": FORGED["ethertype: EAPOL (802.1X)"],
        "EAPOL by unicast (hostapd)": typed(0x888E, to=THEM),
    },
}
HONEST_AS: dict[str, dict[str, bytes]] = {**_DHCP, **_ROUTING, **_LINK}


def _from_them(frame: bytes) -> bytes:
    """The same from a neighbour's MAC address."""
    return frame[:6] + bytes.fromhex(THEM.replace(":", "")) + frame[12:]


FORGED_AS: dict[str, dict[str, bytes]] = {
    "dhcp-server": {
        "an answer to a relay from another's address": _relayed(2, THEM4, _RELAY4, _RELAY4),
        "an answer to a relay from its sources": _relayed(2, _BEHIND4, _RELAY4, _RELAY4),
        "an answer to a relay by broadcast": _relayed(2, ME4, "255.255.255.255", _RELAY4),
        "an answer to no relay": _relayed(2, ME4, _RELAY4, "0.0.0.0"),
        "a relay-forward": _dhcp6(_forward(), ME6, THEM6),
        "a relay-reply from another's address": _dhcp6(_reply(), THEM6, ME6),
        "a relay-reply from another port": _dhcp6(_reply(), ME6, THEM6, sport=9),
    },
    "dhcp-relay": {
        "a request in another relay's name": _relayed(1, ME4, _SERVER4, THEM4),
        "a request in the gateway's name": _relayed(1, ME4, _SERVER4, GATEWAY4),
        "a request in nobody's name": _relayed(1, ME4, _SERVER4, "0.0.0.0"),
        "a request by broadcast": _relayed(1, ME4, "255.255.255.255", ME4),
        "a request from another's address": _relayed(1, THEM4, _SERVER4, ME4),
        "a request in a first fragment": mine(
            IP(src=ME4, dst=_SERVER4, flags="MF", proto=17)
            / Raw(bytes(dhcp("discover", THEM, 1, 67, 67, giaddr=ME4))[20:268])
        ),
        "an answer to a client in another's name": _relayed(2, ME4, "255.255.255.255", THEM4, dport=68),
        "an answer to a client for which it asked elsewhere": _relayed(2, ME4, "255.255.255.255", _BEHIND4, dport=68),
        "an answer of its own": _relayed(2, ME4, "255.255.255.255", "0.0.0.0", dport=68),
        "an answer to a client from another port": _relayed(2, ME4, "255.255.255.255", ME4, dport=68, sport=9),
        "an answer to a relay": _relayed(2, ME4, _RELAY4, _RELAY4),
        "a relay-forward from another's address": _dhcp6(_forward(), THEM6, ME6),
        "a DHCPv6 solicit to a client": _dhcp6(DHCP6_Solicit(), MY_LL, THEIR_LL, dport=546),
    },
    "ospf": {
        "OSPF to all hosts": _v4(marked(), "224.0.0.1", proto=89),
        "OSPF by broadcast": _v4(marked(), "255.255.255.255", proto=89),
        "OSPF from another's address": _v4(marked(), "224.0.0.5", THEM4, proto=89),
        "OSPFv3 in a later fragment to all nodes": FORGED[_TO_NODES],
        "OSPFv3 to all nodes": mine(IPv6(src=MY_LL, dst=NODES, nh=89) / marked()),
        "EIGRP in AH": mine(IP(src=ME4, dst="224.0.0.10", proto=51) / Raw(b"\x58\4\0\0" + b"guestnet" * 6)),
    },
    "vrrp": {
        "VRRP to OSPF's routers": _v4(vrrp(5), "224.0.0.5", proto=112),
        "VRRP from another's address": _v4(vrrp(5), "224.0.0.18", THEM4, proto=112),
    },
    "eigrp": {"EIGRP to all hosts": _v4(marked(), "224.0.0.1", proto=88)},
    "rip": {
        "RIP to all hosts": _v4(UDP(sport=520, dport=520) / marked(), "224.0.0.1"),
        "RIP from another's address": _v4(UDP(sport=520, dport=520) / marked(), "224.0.0.9", GATEWAY4),
        "RIPng from another port": mine(from_ll(UDP(sport=9, dport=521), marked(), dst="ff02::9")),
    },
    "babel": {"Babel to all hosts": _v4(UDP(sport=6696, dport=6696) / marked(), "224.0.0.1")},
    "ldp": {"LDP discovery to all hosts": _v4(UDP(sport=646, dport=646) / marked(), "224.0.0.1")},
    "multicast-router": {
        "an IGMP query to one host": _v4(igmp(0x11), THEM4, proto=2),
        "an IGMP query that leaves the link": mine(IP(src=ME4, dst="224.0.0.1", ttl=9, proto=2) / igmp(0x11)),
        "an IGMP query from another's address": _v4(igmp(0x11), "224.0.0.1", THEM4, proto=2),
        "PIM to all hosts": _v4(marked(), "224.0.0.1", proto=103),
        "an MLD query from a global address": mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery2(), src=ME6, hlim=1)),
        "an MLD query to one host": mine(from_ll(ROUTER_ALERT, ICMPv6MLQuery2(), dst=THEIR_LL, hlim=1)),
        "an MLD query behind two headers": mine(from_ll(ROUTER_ALERT, IPv6ExtHdrDestOpt(), ICMPv6MLQuery2(), hlim=1)),
    },
    "lldp": {"LLDP to a group of others": typed(0x88CC, to="01:80:c2:00:00:02")},
    "lacp": {
        "LACP to all": _slow(1, ALL),
        "LACP to one": _slow(1, THEM),
        "Ethernet OAM (802.3ah)": _slow(3),
        "synchronous Ethernet (G.8264)": _slow(10),
    },
    "stp": {
        "spanning tree to one": _llc(THEM, _BPDU),
        "spanning tree's group with IS-IS": _llc("01:80:c2:00:00:00", _ISIS),
        "GARP to spanning tree's group": _llc("01:80:c2:00:00:00", bytes.fromhex("4242030001")),
        "spanning tree of a provider bridge": _llc("01:80:c2:00:00:08", _BPDU),
    },
    "isis": {
        "IS-IS to all": _llc(ALL, _ISIS),
        "IS-IS to one": _llc(THEM, _ISIS),
        "ES-IS (ISO 9542)": _llc(_ALL_ISS, bytes.fromhex("fefe0382")),
        "CLNP": _llc(_ALL_ISS, bytes.fromhex("fefe0381")),
    },
    "mpls": {
        "MPLS to a group of IPv4": typed(0x8848, to="01:00:5e:00:00:05"),
        "MPLS to a group with the type for one": typed(0x8847, to="01:00:5e:80:00:01"),
    },
    "pppoe": {
        "PPPoE initiation to one": _pppoe(0x8863, 0x09),
        "PPPoE request to all": _pppoe(0x8863, 0x19, ALL),
        "PPPoE session to all": _pppoe(0x8864, 0, ALL),
        "PPPoE of version 2": _pppoe(0x8864, 0, begin=0x21),
        "PPPoE session with a code": _pppoe(0x8864, 7),
    },
    "pppoe-server": {
        "PPPoE offer to all": _pppoe(0x8863, 0x07, ALL),
        "PPPoE session to all": _pppoe(0x8864, 0, ALL),
    },
    "eapol": {"EAPOL to another group": typed(0x888E, to="01:80:c2:00:00:0e")},
}
for _role, _frames in _LINK.items():
    FORGED_AS[_role] |= {f"{name} from another's MAC": _from_them(frame) for name, frame in _frames.items()}

"""What roles let a port send besides, as matches in nft text. Pure. Hooks import this only for ports that have one.

Each match names all that tells the protocol's frames from others: where they go, and the octets that begin them. That
is where a role ends: what a routing protocol, or a packet in PPPoE or MPLS, then says is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from libvirt_guestnet.datapath.port.port_facts import DHCP_RELAY, DHCP_SERVER, MULTICAST_ROUTER
from libvirt_guestnet.datapath.run.names import check_mac
from libvirt_guestnet.light_typing import NamedTuple

# To one host; nft cannot compare with a subnet's broadcast address, which is one of these, too.
_HOSTS = {4: "0.0.0.0-223.255.255.255", 6: "::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
_PIM = "meta l4proto 103"


def _from_port(port: int) -> str:
    return f"udp sport {port} udp dport {port}"


# What begins a routing protocol's packets, and the groups that they go to beside single hosts, by IP version.
_SPOKEN = {
    "ospf": {4: ("meta l4proto 89", "224.0.0.5-224.0.0.6"), 6: ("meta l4proto 89", "ff02::5-ff02::6")},
    "vrrp": {4: ("meta l4proto 112", "224.0.0.18"), 6: ("meta l4proto 112", "ff02::12")},  # and CARP (RFC 9568)
    "eigrp": {4: ("meta l4proto 88", "224.0.0.10"), 6: ("meta l4proto 88", "ff02::a")},
    "rip": {4: (_from_port(520), "224.0.0.9, 255.255.255.255"), 6: (_from_port(521), "ff02::9")},
    "babel": {4: (_from_port(6696), "224.0.0.111"), 6: (_from_port(6696), "ff02::1:6")},
    "ldp": {4: (_from_port(646), "224.0.0.2"), 6: (_from_port(646), "ff02::2")},  # its sessions are TCP
    MULTICAST_ROUTER: {4: (_PIM, "224.0.0.13"), 6: (_PIM, "ff02::d")},
}
# Queries and MRD (RFC 3376, 3810, 4286): they never leave the link, and MLD has a router alert.
_QUERIES = {
    4: "ip ttl 1 ip daddr 224.0.0.0/4 ip frag-off & 0x3fff == 0 igmp type { 0x11, 0x30, 0x31, 0x32 }",
    6: "ip6 saddr fe80::/10 ip6 daddr ff00::/8 ip6 hoplimit 1 ip6 nexthdr 0 hbh nexthdr 58 "
    "icmpv6 type { 130, 151, 152, 153 }",
}
_OSPF_IN_AH = "meta l4proto ah @th,0,8 89"  # RFC 4552


def routing(role: str, version: int) -> list[str]:
    """Matches for a routing protocol's packets, or a multicast router's; none for other roles."""
    if role not in _SPOKEN:
        return []
    begins, groups = _SPOKEN[role][version]
    to = f"{'ip' if version == 4 else 'ip6'} daddr {{ {_HOSTS[version]}, {groups} }}"
    extra = {"ospf": [f"{to} {_OSPF_IN_AH}"], MULTICAST_ROUTER: [_QUERIES[version]]}
    return [f"{to} {begins}", *extra.get(role, [])]


# A DHCP message's operation and giaddr, behind the UDP header (RFC 2131).
_ASKS, _ANSWERS = "@th,64,8 1", "@th,64,8 2"
GIADDR = "@th,256,32"
_WHOLE = "ip frag-off & 0x3fff == 0"  # an overlapping fragment could change what was judged
_BETWEEN = f"udp sport 67 udp dport 67 ip daddr != 224.0.0.0/3 {_WHOLE}"


def relayed4(role: str, own: Iterable[str], own_giaddr: Iterable[str], giaddr: Iterable[str]) -> Iterator[str]:
    """Matches for DHCPv4 by way of relays. `own` are matches for the port's own source addresses, the other two for a
    giaddr that is one of these, or one from which the port may send."""
    if role == DHCP_SERVER:
        yield from (f"{source} {_BETWEEN} {_ANSWERS} {GIADDR} != 0" for source in own)
    if role == DHCP_RELAY:
        yield from (f"{_BETWEEN} {_ASKS} {relay}" for relay in giaddr)
        to_client = f"udp sport 67 udp dport 68 {_WHOLE} {_ANSWERS}"
        yield from (f"{source} {to_client} {relay}" for source in own for relay in own_giaddr)


_FROM6 = "ip6 nexthdr udp udp sport 547 udp dport"
_BETWEEN6 = {DHCP_SERVER: [f"{_FROM6} 547 @th,64,8 13"], DHCP_RELAY: [f"{_FROM6} 547 @th,64,8 12-13"]}
_TO_CLIENTS6 = {DHCP_RELAY: [f"{_FROM6} 546 @th,64,8 {{ 2, 7, 10 }}"]}


def relayed6(role: str) -> list[str]:
    """The same for DHCPv6 from the port's own addresses: relay-forward and relay-reply, and what relays hand to clients
    (RFC 8415: advertise, reply, reconfigure)."""
    return [*_BETWEEN6.get(role, ()), *_TO_CLIENTS6.get(role, ())]


_HOST = "ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00"
_LLC = "0x0003-0x05dc"  # a length in the place of a type: LLC follows (IEEE 802.3)
_ISIS = "ether daddr { 01:80:c2:00:00:14, 01:80:c2:00:00:15, 09:00:2b:00:00:05 } @nh,0,32 0xfefe0383"
_IN_LABELS = ["0x8847 " + _HOST, "0x8848 ether daddr & ff:ff:ff:f0:00:00 == 01:00:5e:80:00:00"]  # RFC 5332
_IN_PPPOE = [f"0x8864 {_HOST} @nh,0,16 0x1100", f"0x8863 {_HOST} @nh,0,16 0x11a7"]  # sessions, and their end: PADT

# EtherType (or length), destination and first octets of each protocol's frames.
_FRAMES = {
    "lldp": ["0x88cc ether daddr { 01:80:c2:00:00:00, 01:80:c2:00:00:03, 01:80:c2:00:00:0e }"],  # IEEE 802.1AB, 7.1
    "lacp": ["0x8809 ether daddr 01:80:c2:00:00:02 @nh,0,8 1-2"],  # LACP and its markers: IEEE 802.1AX
    "stp": [f"{_LLC} ether daddr 01:80:c2:00:00:00 @nh,0,40 0x4242030000"],  # STP, RSTP, MSTP: IEEE 802.1D, 802.1Q
    "isis": [f"{_LLC} {_ISIS}", f"0x8870 {_ISIS}"],  # ISO 10589; longer than 1500 octets with EtherType 0x8870
    "mpls": _IN_LABELS,
    # RFC 2516: PADI (0x09) to all; PADR (0x19) to one.
    "pppoe": [
        "0x8863 ether daddr ff:ff:ff:ff:ff:ff @nh,0,16 0x1109",
        f"0x8863 {_HOST} @nh,0,16 0x1119",
        *_IN_PPPOE,
    ],
    "pppoe-server": [f"0x8863 {_HOST} @nh,0,16 {{ 0x1107, 0x1165 }}", *_IN_PPPOE],  # PADO, PADS
    # IEEE 802.1X; an authenticator may answer by unicast, as hostapd does.
    "eapol": ["0x888e ether daddr 01:80:c2:00:00:03", f"0x888e {_HOST}"],
}


def frames(role: str, mac: str, of_type: str) -> list[str]:
    """Matches for a link-layer protocol's frames from the port's own MAC address; none for other roles. `of_type` is
    nft's word for the frame's EtherType, in its tag if it has one."""
    own = f"ether saddr {check_mac(mac)} {of_type}"
    return [f"{own} {each}" for each in _FRAMES.get(role, ())]


class RoleRules(NamedTuple):
    """Rules for what some roles would let pass, each with a role's `verdict`, or with the `shared` one if two of them
    would ("": there is no such rule). `mac` is the port's; `own`, `own_giaddr` and `giaddr` are as in `relayed4`."""

    roles: tuple[str, ...]
    mac: str
    own: list[str]
    own_giaddr: list[str]
    giaddr: list[str]
    verdict: Callable[[str], str] = lambda _role: "accept"
    shared: str = "accept"

    def link(self, of_type: str) -> list[str]:
        """For link-layer protocols."""
        return self._rules(lambda role: frames(role, self.mac, of_type))

    def routing(self, version: int) -> list[str]:
        """For routing protocols."""
        return self._rules(lambda role: routing(role, version))

    def relayed4(self) -> list[str]:
        """For DHCPv4."""
        return self._rules(lambda role: relayed4(role, self.own, self.own_giaddr, self.giaddr))

    def relayed6(self) -> list[str]:
        """For DHCPv6, in the port's own name."""
        return self._rules(relayed6)

    def between6(self) -> list[str]:
        """The part of it that no client gets."""
        return self._rules(lambda role: _BETWEEN6.get(role, ()))

    def _rules(self, matches: Callable[[str], Iterable[str]]) -> list[str]:
        found: dict[str, list[str]] = {}
        for role in self.roles:
            for match in matches(role):
                found.setdefault(match, []).append(role)
        ends = ((match, self.verdict(roles[0]) if len(roles) == 1 else self.shared) for match, roles in found.items())
        return [f"{match} {end}" for match, end in ends if end]

"""The rules of one port's chains, as nft text. Pure."""

from __future__ import annotations

from libvirt_guestnet.datapath.port import dhcp_requests, held_sets, learning, port_facts, savi
from libvirt_guestnet.datapath.port.dhcp_requests import CLIENT, request4
from libvirt_guestnet.datapath.port.learning import SOURCE
from libvirt_guestnet.datapath.port.own_addresses import ARP_SENDER, ARP_TARGET, OwnAddresses, each_within
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk
from libvirt_guestnet.datapath.port.ranges import as_set, merge, ranges
from libvirt_guestnet.datapath.port.shared import (
    EXTENSIONS,
    ICMPV6,
    IGMP_ROUTERS,
    ND,
    NOWHERE4,
    NOWHERE6,
    PLAIN4,
    PLAIN6,
    REST4,
    REST6,
    ROUTERS,
    ROUTING,
    ROUTING_PORTS,
    TAGS,
)
from libvirt_guestnet.datapath.run.names import TABLE, check_mac, digits
from libvirt_guestnet.light_typing import TYPE_CHECKING
from libvirt_guestnet.model.slaac import VIRTUAL_ROUTERS

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.port.observing import Notes
    from libvirt_guestnet.datapath.port.role_rules import RoleRules

_ND_TARGET = "@th,64,128"


def _tag(trunk: Trunk) -> str:
    return "8021ad" if trunk.service else "8021q"


def _vlans(trunk: Trunk) -> str:
    return "{ " + ", ".join(f"{first:d}-{last:d}" for first, last in merge(trunk.vlans)) + " }"


class Rules:
    """The rules of one port. `fresh`: the kernel has none of this port yet."""

    def __init__(self, port: PortGuard, fresh: bool) -> None:
        self.port, self.tap, self.mac, self.fresh = port, port.tap, check_mac(port.mac), fresh
        self.own = OwnAddresses(port, held_sets.looked_into(port.segment, port.trunk is not None))
        self.macs, self.learner, self.claimer = self.own.macs, self.own.learner, self.own.claimer
        self.roles = self._role_rules(port.roles) if port.roles else None
        self.notes = self._noting() if port.observed else None

    def all(self) -> list[str]:
        """The lines that fill the port's chains, and the sets that they look into."""
        chains = {
            "tap": self._ethernet(),
            "vlan": self._inside(self.port.trunk) if self.port.trunk else [],
            "arp": self._arp(),
            "ip4": self._ip4(),
            "ip4sent": self._ip4_sent(),
            "ip6": self._ip6(),
            "ip6own": self._ip6_own(),
            "ip6sent": self._ip6_sent(),
        }
        listed = [f"add rule {TABLE} {chain}-{self.tap} {rule}" for chain, rules in chains.items() for rule in rules]
        return [*self._learning(), *self._claiming(), *self._others(), *self._observing(), *listed]

    def _role_rules(self, roles: tuple[str, ...]) -> RoleRules:
        from libvirt_guestnet.datapath.port import role_rules  # few have a role, and hooks start often

        giaddr = role_rules.GIADDR
        own = self.own.matches
        sendable = self.own.sendable(giaddr)
        return role_rules.RoleRules(roles, self.mac, own(4, SOURCE[4]), own(4, giaddr), sendable)

    def _noting(self) -> Notes:
        from libvirt_guestnet.datapath.port import observing  # few are observed

        rest = self._role_rules(tuple(role for role in port_facts.ROLES if not self._has(role)))
        tag = _tag(self.port.trunk) if self.port.trunk else ""
        return observing.Notes(self.tap, rest._replace(verdict=observing.told, shared=""), tag)

    def _observing(self) -> list[str]:
        return self.notes.declared(self.port.is_new) if self.notes else []

    def _learning(self) -> list[str]:
        if self.learner and (self._counted(4) or self._counted(6)):
            return self.learner.lines(self._drop_marked, self.fresh)
        return [] if self.fresh else learning.forget(self.tap)

    def _claiming(self) -> list[str]:
        if self.claimer is None:
            return [] if self.fresh else savi.forgotten(self.tap)
        rules = [f"add rule {TABLE} heard-{self.tap} {rule}" for rule in self.claimer.heard()]
        return [*self.claimer.sets(self.port.is_new and not self.fresh), *savi.hearing(self.tap), *rules]

    def _used(self, field: str) -> list[str]:
        return self.claimer.used(field) if self.claimer else []

    def _may_use(self) -> str:
        """A match for frames that may claim an address without having asked for it."""
        late = "" if self.port.by_use else f"iif @{savi.LATE} "
        return f"{late}ether saddr {self.mac}"

    def _counted(self, version: int) -> int:
        return self.learner.counted(version) if self.learner else 0

    def _others(self) -> list[str]:
        """Declares the sets of leases and claims into which an open range looks, as they may not exist yet."""
        link = self.port.segment
        opened = [version for version in (4, 6) if link and self.own.opened[version]]
        held = [learning.declared(learning.held_set(version, link), version) for version in opened]
        return [*held, *([learning.declared(savi.tried_set(link), 6)] if 6 in opened else [])]

    def _drop(self, reason: str, match: str = "", marked: bool = False) -> list[str]:
        """Rules that drop what matches, or of an observed port let it pass, and count it. The log's prefix is the port
        and the reason; headers follow it. `marked`: the frame may have a count in its mark, which nobody else is to
        see."""
        verdict, said = "drop", reason
        if self.notes:
            verdict, said = "meta mark set 0 accept" if marked else "accept", f"would drop {reason}"
        log = f'limit rate 5/second log prefix "guestnet {self.tap} {said}: "'
        rules = [*([log] if self.port.log else []), f'counter {verdict} comment "{reason}"']
        noted = self.notes.of(reason, match) if self.notes else []
        return [*noted, *(f"{match} {rule}".strip() for rule in rules)]

    def _drop_marked(self, reason: str, match: str = "") -> list[str]:
        return self._drop(reason, match, marked=True)

    def _has(self, role: str) -> bool:
        return role in self.port.roles

    def _ethernet(self) -> list[str]:
        # `ether type` reads the frame itself: it sees a VLAN tag that the kernel has already moved out of the way, and
        # a length field (LLC/SNAP) is no type, so tagged and 802.3 frames match none of the three.
        macs, trunk = self.macs[0] if len(self.macs) == 1 else f"{{ {', '.join(self.macs)} }}", self.port.trunk
        untagged = trunk is None or trunk.native
        return [
            *(self._common("ether type") if untagged else []),
            *self._drop("source MAC", f"ether saddr != {macs}"),
            *([f"ether type {_tag(trunk)} vlan id {_vlans(trunk)} goto vlan-{self.tap}"] if trunk else []),
            *(self._packets("ether type") if untagged else []),
            *(self._drop("VLAN", f"ether type {_tag(trunk)}") if trunk else []),
            *self._drop("VLAN tag", f"ether type {TAGS}"),
            *self._drop("EtherType" if untagged else "untagged"),
        ]

    def _inside(self, trunk: Trunk) -> list[str]:
        """The rules for frames with a tag that the port may use. Before the ingress hook the kernel moves the outermost
        tag out of the frame. So the rules read a frame with one tag like one without, and find no packet behind two."""
        of_type = f"ether type {_tag(trunk)} vlan type"
        return [
            *self._common(of_type),
            *self._packets(of_type),
            *self._drop("VLAN tag", f"{of_type} {TAGS}"),
            *self._drop("EtherType"),
        ]

    def _packets(self, of_type: str) -> list[str]:
        own = f"0x{digits(self.mac)}00000000"
        return [
            # Not a verdict map: a hash lookup costs a frame 20 ns, a comparison 4.
            f"{of_type} arp goto arp-{self.tap}",
            f"{of_type} ip goto ip4-{self.tap}",
            f"{of_type} ip6 goto ip6-{self.tap}",
            # QEMU's announcement after a migration: RARP that asks for its own MAC and names no address.
            f"{of_type} 0x8035 @nh,0,64 0x0001080006040003 @nh,64,80 {own} @nh,144,80 {own} accept",
            *(self.roles.link(of_type) if self.roles else []),
        ]

    def _common(self, of_type: str) -> list[str]:
        """The rules for most frames, one for each kind: nft compares MAC address and EtherType in one step."""
        own = f"ether saddr {self.mac} {of_type}"
        # Without the link-local address: few frames come from it, and each comparison takes all others time.
        given = ranges(6, [p for p in port_facts.certain(self.port, 6) if not p.is_link_local])
        return [
            *(f"{own} ip {source} {PLAIN4}" for source in self.own.sources()),
            *(f"{own} ip6 {source} {PLAIN6}" for source in each_within(6, SOURCE[6], given)),
            *([self.claimer.refreshed(f"{savi.SAMPLE} {own} ip6")] if self.claimer else []),
            *(f"{own} ip6 {source} {PLAIN6}" for source in self.own.unheld(6, SOURCE[6])),
        ]

    def _arp(self) -> list[str]:
        header, rules = "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether", []
        for mac, sender in self.own.announcers(4, ARP_SENDER):
            rules.append(f"{header} {mac} arp operation 1-2 {sender} accept")
        for mac, target in self.own.announcers(4, ARP_TARGET):
            # An ARP probe asks from 0.0.0.0 for the address that the sender is about to use (RFC 5227).
            rules.append(f"{header} {mac} arp operation request arp saddr ip 0.0.0.0 {target} accept")
        routed = self.own.routed(4) if self._has(port_facts.OWN_SOURCES) else []
        if routed:  # it may ask from these addresses, but not announce them
            asks = f"arp operation request arp saddr ip {as_set(4, routed)} arp daddr ip != {as_set(4, routed)}"
            rules.append(f"{header} {self.mac} {asks} accept")
        return [*rules, *self._drop("ARP")]

    def _ip4(self) -> list[str]:
        asks = [*([] if self.port.bare else self._asks()), *self._lent_asks()]
        asked = self._questions4(asks, "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 ") if asks else []
        return [
            *(f"{source} goto ip4sent-{self.tap}" for source in self.own.sources()),
            *asked,
            *([] if self.port.bare else [f"ip saddr 0.0.0.0 {NOWHERE4}"]),
            *self._drop("IPv4 source"),
        ]

    def _questions4(self, asks: list[str], before: str = "") -> list[str]:
        matches = (f"{before}{each}" for each in asks)
        return dhcp_requests.questions4(matches, self.tap, self._drop, self._counted(4) > 0)

    def _asks(self) -> list[str]:
        """Matches for the port's own DHCP requests. The client's address in one is none, or one from which the port may
        send, as else it could release any lease."""
        return [f"{request4(self.mac)} {client}" for client in self.own.sendable(CLIENT, (0, 0))]

    def _lent_asks(self) -> list[str]:
        """Matches for those of guests inside this one, each from its own MAC address, for its own."""
        clients = self.own.lent_clients(CLIENT)
        return [f"ether saddr {mac} {request4(mac)} {client}" for mac, client in clients]

    def _ip4_sent(self) -> list[str]:
        server = ["udp sport 67 udp dport 68 accept"] if self._has(port_facts.DHCP_SERVER) else []
        return [
            PLAIN4,
            # A first fragment must have at least eight octets of payload, or nft would read padding in their place. No
            # honest one is shorter: every link carries 68 octets, and a header has 60 at most (RFC 791).
            *self._drop("IPv4 fragment", "ip frag-off & 0x3fff == 0x2000 ip length < 68"),
            *self._routes(4, f"igmp type {IGMP_ROUTERS} accept"),
            REST4,
            *self._relayed(4),
            *(self.roles.relayed4() if self.roles else []),
            *self._questions4([*self._asks(), *self._lent_asks()]),
            *server,
            *self._drop("DHCP server", "udp dport 68"),
            *self._drop("DHCP client", "udp dport 67"),
            *self._drop("ICMP type", "meta l4proto icmp"),
            *self._drop("multicast router", "meta l4proto igmp"),
            *self._unrouted(),
            *self._drop("IPv4 header"),
        ]

    def _relayed(self, version: int) -> list[str]:
        return dhcp_requests.relayed(version, self._drop) if self._has(port_facts.DHCP_RELAY) else []

    def _routes(self, version: int, queries: str) -> list[str]:
        """The rules for routing protocols: a port with the role of all may send all of them, one with others what they
        name, and one with a virtual router's MAC address VRRP or CARP for that router."""
        if self._has(port_facts.ROUTER_PROTOCOLS):
            ospf = "meta l4proto ah @th,0,8 89 accept"  # as it is authenticated in IPv6 (RFC 4552)
            return [f"meta l4proto {ROUTING} accept", f"udp dport {ROUTING_PORTS} accept", queries, ospf]
        numbers = sorted({int(mac[-2:], 16) for mac in self.own.virtual if mac.startswith(VIRTUAL_ROUTERS)})
        named = self.roles.routing(version) if self.roles else []
        return [*named, *(f"meta l4proto vrrp @th,8,8 {number} accept" for number in numbers)]

    def _unrouted(self) -> list[str]:
        return [
            *self._drop("routing protocol", f"meta l4proto {ROUTING}"),
            *self._drop("routing protocol", f"udp dport {ROUTING_PORTS}"),
        ]

    def _ip6(self) -> list[str]:
        certain, routed = self.own.certain(6), self.own.routed(6)
        dad = "ip6 saddr :: ip6 daddr ff02::1:ff00:0/104 ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-solicit"
        targets = [*each_within(6, _ND_TARGET, certain), *self.own.given(6, _ND_TARGET)]
        claims = self.claimer.claims(dad, self._drop) if self.claimer else []
        # A guest that has an address of its `sources` itself also asks for neighbours from that address.
        sent = "ip6own" if self._has(port_facts.OWN_SOURCES) else "ip6sent"
        return [
            *(f"{match} goto ip6own-{self.tap}" for match in each_within(6, SOURCE[6], certain)),
            *(f"ether saddr {self.mac} {source} goto ip6own-{self.tap}" for source in self.own.unheld(6, SOURCE[6])),
            *(f"{match} goto {sent}-{self.tap}" for match in each_within(6, SOURCE[6], routed)),
            *(f"{self._may_use()} {used} goto ip6own-{self.tap}" for used in self._used(SOURCE[6])),
            # Duplicate address detection (RFC 4862): without an option, or with a nonce (RFC 7527).
            *(f"{dad} ip6 length 24 {target} accept" for target in targets),
            *(f"{dad} ip6 length 32 @th,192,16 0x0e01 {target} accept" for target in targets),
            *claims,
            *([f"ip6 saddr :: {NOWHERE6}"] if targets or claims else []),
            *self._drop("IPv6 source"),
        ]

    def _ip6_own(self) -> list[str]:
        # An honest ND message has no extension header and one option, the sender's own link-layer address, or none:
        # anything longer could carry a second option that a receiver believes instead (RFC 4861, RFC 6980).
        nd = "ip6 nexthdr icmpv6 icmpv6 type"
        source = f"{{ {', '.join(f'0x0101{digits(mac)}' for mac in self.macs)} }}"
        advertised = [
            f"{nd} nd-neighbor-advert ip6 length 32 {target} @th,192,64 0x0201{digits(mac)} accept"
            for mac, target in self.own.announcers(6, _ND_TARGET)
        ]
        announces = (
            [f"{nd} nd-router-advert ip6 saddr fe80::/10 ip6 hoplimit 255 accept"]
            if self._has(port_facts.RA_SENDER)
            else []
        )
        return [
            PLAIN6,
            *(f"{self._may_use()} {nd} nd-neighbor-advert {used}" for used in self._used(_ND_TARGET)),
            *([self.claimer.refreshed(f"{nd} 135-136")] if self.claimer else []),
            f"{nd} nd-neighbor-solicit ip6 length 24 accept",
            f"{nd} nd-neighbor-solicit ip6 length 32 @th,192,64 {source} accept",
            *(f"{nd} nd-neighbor-advert ip6 length 24 {target} accept" for target in self.own.matches(6, _ND_TARGET)),
            *advertised,
            f"{nd} nd-router-solicit ip6 length 8 accept",
            f"{nd} nd-router-solicit ip6 length 16 @th,64,64 {source} accept",
            *announces,
            *self._relayed(6),
            *(self.roles.relayed6() if self.roles else []),
            f"goto ip6sent-{self.tap}",
        ]

    def _ip6_sent(self) -> list[str]:
        server = ["ip6 nexthdr udp udp sport 547 udp dport 546 accept"] if self._has(port_facts.DHCP_SERVER) else []
        return [
            PLAIN6,
            *dhcp_requests.questions6(self.tap, self._drop_marked, self._counted(6)),
            f"ip6 nexthdr icmpv6 icmpv6 type {ICMPV6} accept",
            *server,
            *self._drop("IPv6 fragment", f"frag nexthdr {EXTENSIONS}"),
            # With other headers before it, nft may take padding for a first fragment's payload.
            *self._drop("IPv6 fragment", "exthdr frag exists ip6 nexthdr != ipv6-frag"),
            *self._drop("IPv6 fragment", "frag frag-off 0 ip6 length < 16"),
            *self._routes(6, f"icmpv6 type {ROUTERS} accept"),
            REST6,
            *self._drop("DHCPv6 server", "udp dport 546"),
            *self._drop("DHCPv6 client", "udp dport 547"),
            *self._drop("ND", f"icmpv6 type {ND}"),
            *self._drop("multicast router", f"icmpv6 type {ROUTERS}"),
            *self._drop("ICMPv6 type", "meta l4proto icmpv6"),
            *self._unrouted(),
            *self._drop("IPv6 header"),
        ]

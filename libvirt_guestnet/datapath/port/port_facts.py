"""What one port may send, as facts. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.ranges import Ranges
from libvirt_guestnet.datapath.run.names import check_mac
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.parse import Prefix

DHCP_SERVER, RA_SENDER, ROUTER_PROTOCOLS, OWN_SOURCES = "dhcp-server", "ra-sender", "router-protocols", "own-sources"
ROLES = (DHCP_SERVER, RA_SENDER, ROUTER_PROTOCOLS, OWN_SOURCES)


class Trunk(NamedTuple):
    """The tags of a port that sends tagged frames: one each, of a VLAN in `vlans` (first and last of each range).

    `service`: they are 802.1ad service tags instead of 802.1Q's. `native`: a frame may be untagged as well.
    """

    vlans: Ranges
    service: bool = False
    native: bool = False


class PortGuard(NamedTuple):
    """What one port may send.

    `owned`: its addresses, as IP source and in ARP and ND. A prefix among them is open: any of its addresses but those
    that somebody else holds. `pairs`: more that it owns, each with the MAC address that may announce it beside the
    port's own (VRRP, CARP) or "". `routed`: prefixes it may use as IP source only. `excluded`: carved out of every open
    or routed prefix; a single owned address is never excluded, nor is a pair. `reserved`: the link of whose
    reservations none is in an open prefix, or learnt; they are too many to be among `excluded`. `bare`: it is to have
    no address of its own at all, so it asks for none either. `roles`: of ROLES. `log`: the kernel log tells of drops,
    at a limited rate. `trunk`: what holds for the port holds inside these tags; without it, it sends none. `segment`:
    the link on which its addresses are held against others, "" if nobody keeps account (see `held_sets`);
    `beside` are addresses that it holds on other links, where the host answers for them. `claims`: where it may bind
    IPv6 addresses that it forms itself (see `savi`), but for those `unclaimed`; `by_use`: whether it asked
    for them or not; `late`: for a while so, by the index that the tap has. `observed`: what would be
    dropped is counted, and passes.
    """

    tap: str
    mac: str
    owned: tuple[Prefix, ...] = ()
    routed: tuple[Prefix, ...] = ()
    excluded: tuple[Prefix, ...] = ()
    pairs: tuple[tuple[str, Prefix], ...] = ()
    roles: tuple[str, ...] = ()
    server: DhcpServer | None = None
    log: bool = False
    trunk: Trunk | None = None
    bare: bool = False
    segment: str = ""
    beside: tuple[tuple[str, Prefix], ...] = ()
    claims: tuple[Prefix, ...] = ()
    unclaimed: tuple[Prefix, ...] = ()
    by_use: bool = False
    is_new: bool = True
    late: int = 0
    reserved: str = ""
    observed: bool = False


def link_local(mac: str) -> IPv6Address:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    return eui64(IPv6Network("fe80::/64"), check_mac(mac))


def certain(port: PortGuard, version: int) -> list[Prefix]:
    """What is the port's own whatever others do: single addresses, pairs, and its link-local address, which follows
    from its MAC; a bare port needs that one for ND beside IPv6 pairs and sources only."""
    pairs = [prefix for _, prefix in port.pairs if prefix.version == version]
    single = [prefix for prefix in port.owned if prefix.version == version and prefix.num_addresses == 1]
    own: list[Prefix] = []
    if version == 6 and not (port.bare and not pairs and not any(p.version == 6 for p in port.routed)):
        own = [IPv6Network(link_local(port.mac))]
    return [*own, *single, *pairs]


def open_prefixes(port: PortGuard, version: int) -> list[Prefix]:
    """The prefixes of which a port may use whatever nobody holds."""
    return [prefix for prefix in port.owned if prefix.version == version and prefix.num_addresses > 1]

"""What one port may send, as facts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.ranges import Ranges
from libvirt_guestnet.datapath.run.names import check_mac
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.parse import Prefix

DHCP_SERVER, DHCP_RELAY, RA_SENDER, OWN_SOURCES = "dhcp-server", "dhcp-relay", "ra-sender", "own-sources"
ROUTER_PROTOCOLS, MULTICAST_ROUTER = "router-protocols", "multicast-router"
# Routing protocols by name, and protocols of the link layer; `role_rules` has their frames.
SPOKEN = ("ospf", "vrrp", "rip", "babel", "eigrp", "ldp")
LINK_LAYER = ("lldp", "lacp", "stp", "isis", "mpls", "pppoe", "pppoe-server", "eapol")
ROLES = (DHCP_SERVER, DHCP_RELAY, RA_SENDER, OWN_SOURCES, ROUTER_PROTOCOLS, MULTICAST_ROUTER, *SPOKEN, *LINK_LAYER)

# What a Linux bridge keeps to the link by itself (01:80:c2:00:00:0X), by role: bits of a port's group_fwd_mask.
_LINK_LOCAL_GROUPS = {"stp": 1 << 0, "lacp": 1 << 2, "eapol": 1 << 3, "lldp": 1 << 0 | 1 << 3 | 1 << 14}


def forwarded_groups(roles: Iterable[str]) -> int:
    """Which of these groups the bridge is to forward from a port with such roles: its group_fwd_mask (Linux 4.15)."""
    mask = 0
    for role in roles:
        mask |= _LINK_LOCAL_GROUPS.get(role, 0)
    return mask


class Trunk(NamedTuple):
    """What a trunk may send: frames with one tag, of a VLAN in `vlans` (first and last of each range).

    With `service`, the tags are 802.1ad service tags, not 802.1Q ones. With `native`, a frame may also be untagged.
    """

    vlans: Ranges
    service: bool = False
    native: bool = False


class PortGuard(NamedTuple):
    """What one port may send.

    - `owned`: its addresses, as IP source and in ARP and ND. A prefix among them is open: the port may use any of its
      addresses that nobody else holds.
    - `pairs`: more addresses that it owns, each with the MAC address that may announce it beside the port's own (VRRP,
      CARP), or "".
    - `lent`: MAC addresses of guests inside it, for which no address is listed: each has what the host's DHCP server
      gives it.
    - `routed`: prefixes that it may use as IP source only.
    - `excluded`: what it may not use of open or routed prefixes. Single owned addresses and pairs are never excluded.
    - `reserved`: the link whose reservations it may neither use of an open prefix nor learn ("": none). That is for
      networks with too many to list them in `excluded`.
    - `bare`: it has no address of its own, and may not ask for one. `roles`: those of ROLES that it has.
    - `log`: the kernel logs drops. `trunk`: the tags in which all this holds; without, it sends no tags.
    - `segment`: the link on which no other port may use its addresses (see `held_sets`); "" for none.
    - `beside`: addresses that it holds on other links, because the host answers for them there.
    - `claims`: prefixes in which it may claim addresses that it forms itself (see `savi`), except those in `unclaimed`.
      `by_use`: it may claim by using an address, without asking first; `late`: only for a while, as its guest ran
      before it was guarded (the tap's index).
    - `observed`: what would be dropped is counted, and passes.
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
    lent: tuple[str, ...] = ()


def link_local(mac: str) -> IPv6Address:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    return eui64(IPv6Network("fe80::/64"), check_mac(mac))


def certain(port: PortGuard, version: int) -> list[Prefix]:
    """What is the port's own whatever others hold: single addresses, pairs, and the link-local address that follows
    from its MAC address. A bare port has that one only if it needs it for ND, because it has IPv6 pairs or sources."""
    pairs = [prefix for _, prefix in port.pairs if prefix.version == version]
    single = [prefix for prefix in port.owned if prefix.version == version and prefix.num_addresses == 1]
    own: list[Prefix] = []
    if version == 6 and not (port.bare and not pairs and not any(p.version == 6 for p in port.routed)):
        own = [IPv6Network(link_local(port.mac))]
    return [*own, *single, *pairs]


def open_prefixes(port: PortGuard, version: int) -> list[Prefix]:
    """The prefixes in which a port may use every address that no other port holds."""
    return [prefix for prefix in port.owned if prefix.version == version and prefix.num_addresses > 1]

"""The networks of a topology as facts: within the host, and outside. What `model` says of facts holds here, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.errors import Where
from libvirt_guestnet.model.services import NO_DHCP, NO_DNS, Dhcp, Dns

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Mode(StrEnum):
    """How a network reaches beyond its host: libvirt's forward modes (absent element = isolated), and host-routed, of
    which libvirt knows nothing. External is that of a network of which only its host knows, until that was asked."""

    NAT = "nat"
    ISOLATED = "isolated"
    BRIDGE = "bridge"
    ROUTE = "route"
    OPEN = "open"
    HOST_ROUTED = "host-routed"
    EXTERNAL = "external"


class Traffic(StrEnum):
    """What a physical network is for."""

    GUEST = "guest"
    PUBLIC = "public"
    MANAGEMENT = "management"
    STORAGE = "storage"


HOSTS_OWN = (Traffic.MANAGEMENT, Traffic.STORAGE)
"""The traffic of hosts themselves, with which guests share no bridge."""


class Offload(StrEnum):
    """Whether guests may start on a host whose kernel lacks what the checksum guard needs."""

    ALLOW = "allow"
    REFUSE = "refuse"


@dataclass(frozen=True)
class PhysicalNetwork:
    """A label for a network outside the host. Each host maps the label to one of its NICs or bridges.

    `subnets` are what is known to live there; in a lab, `stand_in` are the addresses of the one host that
    stands for the whole LAN (first address of each subnet unless given) and `host` the addresses this host
    gets on it (second address of each subnet; none when the label only carries bridged networks). `mtu` is the
    largest IP packet there, where the file says so. `traffic` is what it is for (none: whatever), `zone` the zone that
    all of it is in, if it is in one.
    """

    label: str
    subnets: tuple[IPNetwork, ...] = ()
    stand_in: tuple[IPAddress, ...] = ()
    host: tuple[IPAddress, ...] = ()
    mtu: int | None = None
    traffic: tuple[Traffic, ...] = ()
    zone: str | None = None


@dataclass(frozen=True)
class DhcpRange:
    """First and last address the host's DHCP server hands out to guests without a reservation."""

    start: IPv4Address
    end: IPv4Address


@dataclass(frozen=True)
class DhcpRange6:
    """The same of DHCPv6."""

    start: IPv6Address
    end: IPv6Address


@dataclass(frozen=True)
class Subnet:
    """One prefix of a network.

    `gateway` is the address guests use as default gateway (the host's own address when the host is the gateway,
    a guest's address when a guest is, None when there is none). `host` is the host's address in the subnet, or
    None when the host has none. `dhcp` is IPv4 only. An IPv6 subnet with a host address is announced by RA; with
    `dhcp6` its guests are told addresses by DHCPv6, those that the file does not have from `range6`, if there is one.
    """

    prefix: IPNetwork
    gateway: IPAddress | None = None
    host: IPAddress | None = None
    dhcp: DhcpRange | None = None
    dhcp6: bool = False
    range6: DhcpRange6 | None = None


@dataclass(frozen=True)
class Rate:
    """One direction of libvirt's <bandwidth>: average and peak in KiB/s, burst in KiB."""

    average: int
    peak: int | None = None
    burst: int | None = None


@dataclass(frozen=True)
class Bandwidth:
    """Traffic limits, seen from the guest: `inbound` is what it receives (libvirt's convention)."""

    inbound: Rate | None = None
    outbound: Rate | None = None


@dataclass(frozen=True)
class DnsHost:
    """An extra name that the network's DNS server answers."""

    address: IPAddress
    names: tuple[str, ...]


@dataclass(frozen=True)
class Vxlan:
    """The overlay that joins a network's bridges on several hosts (RFC 7348).

    `underlay` is the label of the physical network that carries it, from UDP `port` to UDP `port`, either to the
    multicast address `group` or to each of the unicast `remotes` (the other hosts); all of one family.
    """

    vni: int
    underlay: str
    group: IPAddress | None = None
    remotes: tuple[IPAddress, ...] = ()
    port: int = 4789

    @property
    def device(self) -> str:
        """The VXLAN device, the same on every host."""
        return f"vx{self.vni}"

    @property
    def overhead(self) -> int:
        """How many bytes smaller than on the underlay a guest's IP packet is: IPv4 or IPv6, UDP, VXLAN, Ethernet."""
        return vxlan_overhead(self.group or self.remotes[0])


@dataclass(frozen=True)
class StaticRoute:
    """While the network is active, the host reaches `prefix` through `gateway`, a router there; among several ways it
    takes the one of the lowest `metric` (None: 1, which is libvirt's default)."""

    prefix: IPNetwork
    gateway: IPAddress
    metric: int | None = None


@dataclass(frozen=True)
class HostRouted:
    """Mode host-routed: each port is a link of its own to the host, whose address there is `gateway` (IPv6: fe80::1).

    `publish`: the host answers ARP and ND for the guests' addresses on the LAN that they are of; false where the
    provider routes them to the host. `table` is the routing table of the guests' routes, None for the main one, or for
    that of `vrf`, the host's VRF that the ports are in.
    """

    gateway: IPv4Address
    publish: bool = True
    table: int | None = None
    vrf: str | None = None


@dataclass(frozen=True)
class External:
    """The network is there without guestnet, and stays when it goes: a network of libvirt's, or with `bridge` a bridge
    of the host's. `guards_all`: guests that no topology knows are to be guarded on it, too. `where` is its place in the
    file."""

    bridge: str | None = None
    guards_all: bool = False
    where: Where | None = field(default=None, compare=False)


def vxlan_overhead(address: IPAddress) -> int:
    """What VXLAN over this address's family takes: 50 bytes over IPv4, 70 over IPv6."""
    return (20 if address.version == 4 else 40) + 8 + 8 + 14


@dataclass(frozen=True)
class Network:
    """One guest network. `name` is the libvirt network's name.

    `bridge` is the bridge device: made by libvirt for nat, route, open, isolated; for mode bridge it is the bridge
    behind `physical_network`; "" for mode host-routed, which has none, and no network of libvirt's either.
    `physical_network` is the uplink label: required for bridge, optional for nat and route (traffic then leaves only
    through that label) and host-routed (where addresses are published), else None. `gateway` is "host", a guest's name
    or None.
    `privacy_addresses`, `strict_addresses` and `log_drops` are defaults of the ports, see there; `offload`
    holds for all of them.
    `mac` is the MAC address of the host's bridge interface (None for mode bridge). `guarded` is the default for
    port security of all ports; with `guard_required` it holds for all of them, whatever a domain says; with `observed`
    it counts, and drops nothing. `vlan` (1-4094) is the access VLAN of all ports, with an 802.1ad tag if `service_vlan`
    is true. `vxlan` (mode bridge only) stands in
    the place of `physical_network`: the hook makes `bridge` and the VXLAN device in it; `mtu` is then always given.
    `drawn`: the VLAN or VNI comes from a pool, so no network of another topology may have it too.
    Of an `external` one the file says only how its ports are guarded: `plan.external` has the rest from the host.
    With `take_over` libvirt may have it already, made by nobody of ours: from then on it is guestnet's. Its guests
    reach none of another `zone`, but by public addresses; None: zones meet there.
    `router` is the virtual router that is the gateway here: it serves DHCP, DNS and what ports say of forwards and
    floating addresses, and the host nothing. `control` is the network between the host and its virtual routers, on
    which neither DHCP nor DNS is served. With a `link` it is OVN's, on a bridge that has many, and that is the name
    under which the hooks keep what its ports hold.
    """

    name: str
    mode: Mode
    bridge: str
    mac: str | None = None
    physical_network: str | None = None
    gateway: str | None = None
    subnets: tuple[Subnet, ...] = ()
    domain: str | None = None
    domain_local: bool = True
    dns_hosts: tuple[DnsHost, ...] = ()
    dns: Dns = NO_DNS
    dhcp: Dhcp = NO_DHCP
    dhcp6: Dhcp = NO_DHCP
    mtu: int | None = None
    isolated_ports: bool = False
    bandwidth: Bandwidth | None = None
    guarded: bool = True
    guard_required: bool = False
    observed: bool = False
    privacy_addresses: bool = False
    strict_addresses: bool = False
    log_drops: bool = False
    offload: Offload = Offload.ALLOW
    autostart: bool = True
    vlan: int | None = None
    vxlan: Vxlan | None = None
    service_vlan: bool = False
    drawn: bool = False
    routed: HostRouted | None = None
    routes: tuple[StaticRoute, ...] = ()
    external: External | None = None
    take_over: bool = False
    zone: str | None = None
    router: str | None = None
    control: bool = False
    link: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels for which its libvirt XML, or that of its ports, names devices."""
        own = None if self.routed and not self.routed.publish else self.physical_network
        return tuple(label for label in (own, self.vxlan.underlay if self.vxlan else None) if label)

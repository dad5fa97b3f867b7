"""What a virtual router is to do, as facts. What `model` says of facts holds here, too.

NICs are called as the appliance calls them: eth0 is the gateway of the first guest network, eth1 the control NIC, eth2
the first public one; those that follow are further public networks and further guest networks (*tiers*).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from libvirt_guestnet.model.balancing import Balancer
from libvirt_guestnet.model.dhcp_options import DhcpOption
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, DnsHost, IPAddress, IPNetwork
from libvirt_guestnet.model.services import DnsService, DnsText, Forwarder
from libvirt_guestnet.model.traffic import Protocol, Rule, Service, Verdict

ALL_PORTS = (Service(Protocol.TCP), Service(Protocol.UDP))


@dataclass(frozen=True)
class NicAddress:
    """An address of the router's own, with the length of the prefix that is on that link."""

    ip: IPAddress
    prefix_length: int

    @property
    def prefix(self) -> IPNetwork:
        kind = IPv4Network if self.ip.version == 4 else IPv6Network
        return kind((self.ip.packed, self.prefix_length), strict=False)

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix_length}"


@dataclass(frozen=True)
class TierRule:
    """What a guest network may open towards another one of the same router, both by the names of their NICs."""

    source: str
    destination: str
    rule: Rule


@dataclass(frozen=True)
class Reservation:
    """What a guest is told by DHCP, by its MAC address; `duid` where its DHCPv6 client has one that is known. Its name
    is its DNS name, too."""

    name: str
    mac: str
    addresses: tuple[IPAddress, ...]
    duid: str = ""
    options: tuple[DhcpOption, ...] = ()


@dataclass(frozen=True)
class Dhcp:
    """DHCP, DHCPv6 and router advertisements of a guest network. Without a range only reservations are served.
    `lease` and that of DHCPv6, `lease6`, are in seconds, 0 for ever. With `slaac` guests form IPv6 addresses of their
    own in prefixes of length 64."""

    reservations: tuple[Reservation, ...] = ()
    ranges: tuple[DhcpRange | DhcpRange6, ...] = ()
    lease: int = 3600
    lease6: int = 3600
    options: tuple[DhcpOption, ...] = ()
    slaac: bool = False


@dataclass(frozen=True)
class GuestNic:
    """A guest network: the router's addresses are its gateways.

    `source_nat` are public addresses, at most one of a family, that its guests go out with; of a family without one
    they go out untranslated. `egress` is what becomes of connections to the public side, but for `exceptions`, for
    which the opposite is done. Nobody else is asked for names of `domain`, if that is `domain_local`; `names` are known
    beside those of the reservations. `virtual_mac` is the MAC address that both routers of a pair have there, one at a
    time.
    """

    name: str
    mac: str
    addresses: tuple[NicAddress, ...]
    egress: Verdict
    exceptions: tuple[Rule, ...] = ()
    source_nat: tuple[IPAddress, ...] = ()
    dhcp: Dhcp = Dhcp()
    domain: str = ""
    domain_local: bool = True
    names: tuple[DnsHost, ...] = ()
    mtu: int | None = None
    virtual_mac: str = ""


@dataclass(frozen=True)
class ControlNic:
    """The NIC that only the host, which is `host`, reaches: both addresses are link-local, of IPv4."""

    mac: str
    address: NicAddress
    host: IPv4Address
    name: str = "eth1"


@dataclass(frozen=True)
class PublicNic:
    """A public network, with a default gateway of each family at most. `virtual_mac` as for guest networks."""

    name: str
    mac: str
    addresses: tuple[NicAddress, ...]
    gateways: tuple[IPAddress, ...] = ()
    mtu: int | None = None
    virtual_mac: str = ""


@dataclass(frozen=True)
class SyncNic:
    """The NIC by which the two routers of a pair tell each other their connections; nobody else is on that link. Both
    addresses are link-local, of IPv4."""

    name: str
    mac: str
    address: NicAddress
    peer: IPv4Address


@dataclass(frozen=True)
class PortForward:
    """Ports of a public address that are a guest's: as many from `guest_port` on. `sources` empty: from everywhere."""

    name: str
    public: IPAddress
    service: Service
    guest: IPAddress
    guest_port: int
    sources: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True)
class StaticNat:
    """A public address that is a guest's, in both directions; ingress rules say what may come in."""

    name: str
    public: IPAddress
    guest: IPAddress


@dataclass(frozen=True)
class GuestMetadata:
    """What the metadata service tells whoever asks from one of these addresses: texts by their paths."""

    addresses: tuple[IPAddress, ...]
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RouterConfig:
    """All that one router does. Public addresses of NAT belong to the NIC in whose prefix they are. `ingress` are
    what may be opened from the public side, beside port forwards; destinations are guests' own addresses. The
    router asks `forwarders` for names that are not its guests', and tells guests their `metadata`. `services`,
    `texts`, `wildcards` (domains in which every name has that address) and `local` domains, of which nobody else is
    asked, are the same for all its guests. Of connections that one guest opened, and of those that lead to it,
    `guest_connections` each are tracked at a time. With `sync` it is one of a pair: it waits with its links down
    until its host has it take over."""

    name: str
    guests: tuple[GuestNic, ...]
    control: ControlNic
    public: tuple[PublicNic, ...]
    forwards: tuple[PortForward, ...] = ()
    static_nat: tuple[StaticNat, ...] = ()
    ingress: tuple[Rule, ...] = ()
    tier_rules: tuple[TierRule, ...] = ()
    forwarders: tuple[Forwarder, ...] = ()
    services: tuple[DnsService, ...] = ()
    texts: tuple[DnsText, ...] = ()
    wildcards: tuple[tuple[str, IPAddress], ...] = ()
    local: tuple[str, ...] = ()
    balancers: tuple[Balancer, ...] = ()
    guest_connections: int = 4096
    sync: SyncNic | None = None
    metadata: tuple[GuestMetadata, ...] = ()

    @property
    def traffic_nics(self) -> tuple[GuestNic | PublicNic, ...]:
        """All but the control NIC."""
        return (*self.guests, *self.public)

    @property
    def own_nics(self) -> tuple[ControlNic | SyncNic, ...]:
        """Those by which nothing of guests passes."""
        return (self.control, self.sync) if self.sync else (self.control,)

    @property
    def translations(self) -> tuple[PortForward | StaticNat, ...]:
        """What is a guest's of public addresses."""
        return (*self.static_nat, *self.forwards)

    @property
    def ported(self) -> tuple[PortForward | Balancer, ...]:
        """What takes ports of public addresses."""
        return (*self.forwards, *self.balancers)

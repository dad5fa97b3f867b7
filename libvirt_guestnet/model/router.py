"""What a virtual router is to do, as facts. What `model` says of facts holds here, too.

NICs are called as the appliance calls them: eth0 is the gateway of the first guest network, eth1 the control NIC, eth2
the first public one; those that follow are further public networks and further guest networks (*tiers*).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from libvirt_guestnet.model.dhcp_options import DhcpOption
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPAddress, IPNetwork
from libvirt_guestnet.model.services import Forwarder
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
    `lease` is in seconds. With `slaac` guests form IPv6 addresses of their own."""

    reservations: tuple[Reservation, ...] = ()
    ranges: tuple[DhcpRange | DhcpRange6, ...] = ()
    lease: int = 3600
    options: tuple[DhcpOption, ...] = ()
    slaac: bool = False


@dataclass(frozen=True)
class GuestNic:
    """A guest network: the router's addresses are its gateways.

    `source_nat` are public addresses, at most one of a family, that its guests go out with; of a family without one
    they go out untranslated. `egress` is what becomes of connections to the public side, but for `exceptions`, for
    which the opposite is done.
    """

    name: str
    mac: str
    addresses: tuple[NicAddress, ...]
    egress: Verdict
    exceptions: tuple[Rule, ...] = ()
    source_nat: tuple[IPAddress, ...] = ()
    dhcp: Dhcp = Dhcp()
    domain: str = ""
    mtu: int | None = None


@dataclass(frozen=True)
class ControlNic:
    """The NIC that only the host, which is `host`, reaches: both addresses are link-local, of IPv4."""

    mac: str
    address: NicAddress
    host: IPv4Address
    name: str = "eth1"


@dataclass(frozen=True)
class PublicNic:
    """A public network, with a default gateway of each family at most."""

    name: str
    mac: str
    addresses: tuple[NicAddress, ...]
    gateways: tuple[IPAddress, ...] = ()
    mtu: int | None = None


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
    """All that one router does. Public addresses of NAT belong to the NIC in whose prefix they are. `ingress` are what
    may be opened from the public side, beside port forwards; destinations are guests' own addresses. The router asks
    `forwarders` for names that are not its guests', and tells guests their `metadata`."""

    name: str
    guests: tuple[GuestNic, ...]
    control: ControlNic
    public: tuple[PublicNic, ...]
    forwards: tuple[PortForward, ...] = ()
    static_nat: tuple[StaticNat, ...] = ()
    ingress: tuple[Rule, ...] = ()
    tier_rules: tuple[TierRule, ...] = ()
    forwarders: tuple[Forwarder, ...] = ()
    metadata: tuple[GuestMetadata, ...] = ()

    @property
    def traffic_nics(self) -> tuple[GuestNic | PublicNic, ...]:
        """All but the control NIC."""
        return (*self.guests, *self.public)

    @property
    def translations(self) -> tuple[PortForward | StaticNat, ...]:
        """What is a guest's of public addresses."""
        return (*self.static_nat, *self.forwards)

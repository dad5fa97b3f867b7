"""The topology as facts: what the user declared, with everything left out already derived.

Pure data; the networks are in `model_network`. `topology` makes it from YAML, `xmlgen` turns it into libvirt XML, `lab`
runs it. Every tuple is in file order. Nothing here is ever half-filled: an instance is a complete, checked fact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from libvirt_guestnet.errors import Where
from libvirt_guestnet.model.card import Card
from libvirt_guestnet.model.dhcp_options import DhcpOption
from libvirt_guestnet.model.disk_image import CloudInit, DiskImage, Seed
from libvirt_guestnet.model.host import BRIDGED, Fabric, Host
from libvirt_guestnet.model.impairment import Impairment
from libvirt_guestnet.model.network import Bandwidth, IPAddress, IPNetwork, Mode, Network, PhysicalNetwork
from libvirt_guestnet.model.port_address import PortAddress
from libvirt_guestnet.model.traffic import Service
from libvirt_guestnet.model.virtual_router import VirtualRouter

# What stands in the place of a topology's name in metadata that is changed without a file. No file can have this name.
DIRECT = "direct"

# What `Guest.image` is, where it is any.
TINY, DISK, ROUTER = "tiny", "disk", "router"


class AddressWord(StrEnum):
    """What is said of a port in the place of its addresses."""

    NONE = "none"
    ANY = "any"
    DHCP = "dhcp"


@dataclass(frozen=True)
class AddressPair:
    """Addresses that a port may use beside its own, and the MAC address it announces them with (None: its own).

    Several ports may have the same pair: that is what a virtual IP is.
    """

    prefix: IPNetwork
    mac: str | None = None


class Role(StrEnum):
    """What a port may be for its network beside a guest."""

    DHCP_SERVER = "dhcp-server"
    DHCP_RELAY = "dhcp-relay"
    RA_SENDER = "ra-sender"
    OWN_SOURCES = "own-sources"
    ROUTER_PROTOCOLS = "router-protocols"
    MULTICAST_ROUTER = "multicast-router"
    OSPF = "ospf"
    VRRP = "vrrp"
    RIP = "rip"
    BABEL = "babel"
    EIGRP = "eigrp"
    LDP = "ldp"
    LLDP = "lldp"
    LACP = "lacp"
    STP = "stp"
    ISIS = "isis"
    MPLS = "mpls"
    PPPOE = "pppoe"
    PPPOE_SERVER = "pppoe-server"
    EAPOL = "eapol"


class PortKind(StrEnum):
    """The libvirt <interface type=…> of a port."""

    NETWORK = "network"
    BRIDGE = "bridge"
    ETHERNET = "ethernet"


@dataclass(frozen=True)
class Forward:
    """What is asked of the host at ports `first` to `last` of `at` (None: at any of its addresses) reaches the guest at
    `address` (None: whatever IPv4 address the host's DHCP server gives it), from port `to_first` on, if the client is
    in one of the `sources` (none: whoever it is). `hide`: the guest sees the host as client, as it would not answer
    through it. Of a protocol without ports they are 0, and all of it is the guest's at `at`, in both directions."""

    protocol: str
    first: int
    last: int
    address: IPAddress | None
    to_first: int
    at: IPAddress | None = None
    hide: bool = False
    sources: tuple[IPNetwork, ...] = ()

    @property
    def version(self) -> int:
        """The IP version of what is forwarded."""
        return self.address.version if self.address else 4


@dataclass(frozen=True)
class Port:
    """One NIC of a guest. `name` is unique within the guest (the network's name unless given).

    `tap` is the host-side device (`vme` + 8 hex digits unless given). `address_word` says that the port is to have no
    address at all, may use any that nobody else holds, or has what the host's DHCP server tells, out of its range;
    without it and `addresses`, that one may tell. `sources` are prefixes the guest may use as IP source beside
    its own addresses because it routes for them; `onlink` prefixes are carved out of them (a
    router never sends from an address whose owner sits on the same link). `default_route`: the guest's default
    route leaves through this port. `isolated`, `guarded` (port security applies), `observed` (it counts, and drops
    nothing), `privacy_addresses` and `log_drops`
    are the effective values, the network's unless given. `vlan` is the port's own access VLAN, if any.
    `privacy_addresses`: of the network's IPv6 /64s, and of link-local ones, it may use any address that nobody has;
    without, any that it claimed first by duplicate address detection; with `strict_addresses` none. `log_drops`: the
    kernel log tells of dropped frames.
    `forwards`, `floating` and `untranslated` are its forwards and floating addresses; one is translated to the port's
    own address of its family, in both directions, an untranslated one is routed to that: the guest has it itself.
    `probe`: before the host answers for an address of the port's on a LAN, it asks there whether anybody has it.
    While the guest runs, the host routes the prefixes `behind` it through this port.
    A port with `trunk` (first and last VLAN of each range) sends and receives tagged frames; `native_vlan` is the VLAN
    of its untagged ones, none when there is none.
    `hostname` is what the file says that DNS calls it ("": `model.hostnames` knows), `duid` by what DHCPv6 knows it
    ("": its MAC address), `dhcp_options` what it is told beside the network's.
    `card` is what the file says of the NIC itself. `note` is the user's own.
    `lent` are MAC addresses of guests inside it that ask for their addresses by DHCP. `logical_port` is its name in OVN
    ("": it is none of OVN's). `given` are the tags of libvirt's
    <interface> that the file says outright what it wants of, be it what libvirt assumes: where it says nothing, a NIC
    that a user's own domain has keeps what it has. `where` is its place in the file.
    """

    name: str
    network: str
    kind: PortKind
    mac: str
    tap: str
    addresses: tuple[PortAddress, ...] = ()
    address_word: AddressWord | None = None
    sources: tuple[IPNetwork, ...] = ()
    onlink: tuple[IPNetwork, ...] = ()
    default_route: bool = False
    link_up: bool = True
    isolated: bool = False
    given: tuple[str, ...] = ()
    bandwidth: Bandwidth | None = None
    impairment: Impairment | None = None
    guarded: bool = True
    observed: bool = False
    pairs: tuple[AddressPair, ...] = ()
    lent: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    privacy_addresses: bool = False
    strict_addresses: bool = False
    log_drops: bool = False
    vlan: int | None = None
    trunk: tuple[tuple[int, int], ...] = ()
    native_vlan: int | None = None
    forwards: tuple[Forward, ...] = ()
    floating: tuple[IPAddress, ...] = ()
    untranslated: tuple[IPAddress, ...] = ()
    probe: bool = True
    behind: tuple[IPNetwork, ...] = ()
    hostname: str = ""
    duid: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()
    card: Card = field(default_factory=Card)
    note: str = ""
    logical_port: str = ""
    where: Where | None = field(default=None, compare=False)

    def address(self, version: int) -> IPAddress | None:
        """The port's first address of IPv4 or IPv6."""
        return next((each.ip for each in self.addresses if each.ip.version == version), None)


@dataclass(frozen=True)
class Allow:
    """One line of a router's policy: new flows from network `source` towards `destination` (network or label).

    `destination_prefixes` is the destination resolved to prefixes; replies always pass.
    """

    source: str
    destination: str
    services: tuple[Service, ...]
    destination_prefixes: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True)
class Router:
    """A guest that forwards: only what `allow` lists, masquerading towards network `masquerade` when given."""

    allow: tuple[Allow, ...] = ()
    masquerade: str | None = None


@dataclass(frozen=True)
class Guest:
    """A guest and its ports. `image` "tiny" is the project's own guest, defined and run by guestnet, "disk" one of an
    image file, which `disk` tells of, "router" its virtual router, whose `virtual_router` says what it does; None means
    the user's own libvirt domain of that name, whose NICs (and nothing else) guestnet manages. `hostname` is what the
    file says, and `cloud_init` too (None: nothing). `host` is the one of several that it is on; None: wherever its
    domain is."""

    name: str
    ports: tuple[Port, ...]
    image: str | None = None
    uuid: str | None = None
    memory_mib: int = 128
    router: Router | None = None
    virtual_router: VirtualRouter | None = None
    autostart: bool = False
    hostname: str = ""
    disk: DiskImage | None = None
    cloud_init: CloudInit | None = None
    host: str | None = None

    @property
    def routes(self) -> bool:
        """Whether it forwards, be it a lab guest or a virtual router."""
        return self.router is not None or self.virtual_router is not None


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True)
class Expect:
    """One line of `expect:`. Endpoints are a guest, a "guest.port", a physical-network label, or "host".

    `can` / `cannot` list services ("layer2" is ARP/ND resolution seen with the peer's own MAC). `via` are the hops a
    trace must show, in order, before the destination. `seen_as` is the endpoint whose address the destination sees
    as source. `at` is asked for instead of the destination's own address: an address of the host that is forwarded to
    it. `forge` lists the kinds of forged frame that must arrive nowhere. `without_forwarding` names a router guest that
    has forwarding switched off while this line is checked. `answered_by` is the endpoint whose MAC address answers ARP
    or ND for the destination's address, `gateways` are the source's default gateways, and `tables` what the host's own
    tables hold for the destination's address, of TABLES (None: whatever).
    """

    source: str
    destination: str | None = None
    can: tuple[Service | str, ...] = ()
    cannot: tuple[Service | str, ...] = ()
    via: tuple[str, ...] = ()
    seen_as: str | None = None
    at: IPAddress | None = None
    forge: tuple[str, ...] = ()
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    without_forwarding: str | None = None
    answered_by: str | None = None
    gateways: tuple[IPAddress, ...] = ()
    tables: tuple[str, ...] | None = None


TABLES = ("route", "published")
FORGERIES = ("mac", "arp", "ipv4", "ipv6", "nd", "ra", "dhcp-offer")


@dataclass(frozen=True)
class Topology:
    """A whole topology file, checked and with every default filled in. Without `hosts` it is for the one that reads
    it."""

    name: str
    file: str
    description: str = ""
    zones: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    fabric: Fabric = BRIDGED
    physical_networks: tuple[PhysicalNetwork, ...] = ()
    networks: tuple[Network, ...] = ()
    guests: tuple[Guest, ...] = ()
    expect: tuple[Expect, ...] = field(default=())

    def network(self, name: str) -> Network:
        """The network of that name; KeyError when there is none."""
        return self._networks[name]

    @property
    def libvirt_networks(self) -> tuple[Network, ...]:
        """The networks that guestnet has libvirt make."""
        return tuple(network for network in self.networks if network.routed is None and network.external is None)

    @property
    def external_networks(self) -> tuple[Network, ...]:
        """Those that are there without guestnet."""
        return tuple(network for network in self.networks if network.external is not None)

    def guest(self, name: str) -> Guest:
        """The guest of that name; KeyError when there is none."""
        return self._guests[name]

    def physical_network(self, label: str) -> PhysicalNetwork:
        """The physical network with that label; KeyError when there is none."""
        for physical in self.physical_networks:
            if physical.label == label:
                return physical
        raise KeyError(label)

    def ports_on(self, network: str) -> tuple[tuple[Guest, Port], ...]:
        """Every (guest, port) attached to a network."""
        return self._ports.get(network, ())

    def asks_router(self, guest: Guest) -> bool:
        """Whether it is virtual routers that tell a guest what it is to know: those that are its gateways."""
        has_seed = guest.disk is not None and guest.disk.seed is Seed.DISK
        says = guest.disk is not None or guest.cloud_init is not None
        if has_seed or not says or guest.virtual_router is not None:
            return False
        return any(self.network(port.network).router for port in guest.ports)

    # Indexes: a thousand networks ask these questions ten thousand times.

    @property
    def unaddressed(self) -> tuple[tuple[Guest, Port], ...]:
        """Guarded ports of which nobody says an address: they may ask by DHCP, but use no answer that is not the
        host's."""
        served = {
            n.name
            for n in self.networks
            if n.routed or n.mode is Mode.EXTERNAL or any(subnet.dhcp or subnet.range6 for subnet in n.subnets)
        }
        ports = ((guest, port) for guest in self.guests for port in guest.ports)
        return tuple(
            (guest, port)
            for guest, port in ports
            if port.guarded
            and port.network not in served
            and not (port.addresses or port.address_word or port.untranslated)
        )

    @cached_property
    def floating(self) -> tuple[IPAddress, ...]:
        """Every port's floating addresses, translated or not."""
        ports = (port for guest in self.guests for port in guest.ports)
        return tuple(address for port in ports for address in (*port.floating, *port.untranslated))

    @cached_property
    def _networks(self) -> dict[str, Network]:
        return {network.name: network for network in self.networks}

    @cached_property
    def _guests(self) -> dict[str, Guest]:
        return {guest.name: guest for guest in self.guests}

    @cached_property
    def _ports(self) -> dict[str, tuple[tuple[Guest, Port], ...]]:
        found: dict[str, list[tuple[Guest, Port]]] = {}
        for guest in self.guests:
            for port in guest.ports:
                found.setdefault(port.network, []).append((guest, port))
        return {network: tuple(ports) for network, ports in found.items()}

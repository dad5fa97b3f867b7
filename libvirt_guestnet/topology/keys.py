"""Every key of a topology file: the one source for the reader, the key checks and the JSON Schema."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Offload
from libvirt_guestnet.model.topology import FORGERIES, Family, PortKind, Role, Service

from . import kinds, service_kinds
from .kinds import Image, LinkState
from .service_keys import OPTIONS, Dhcp6Decl, DhcpDecl, DnsServiceDecl, DnsTextDecl, ForwarderDecl
from .spec import At, Decl, ListOf, MapOf, RecordKind, key


@dataclass(frozen=True, kw_only=True)
class PhysicalDecl(Decl):
    """A network outside the host. Each host maps the label to one of its NICs or bridges."""

    subnets: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.SUBNET), "The prefixes in use there, IPv4 and IPv6, at least a /30 or /126 each."
    )
    stand_in: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "In a lab, the addresses of the one host that stands for the whole network. "
        "Left out: the first address of each subnet.",
    )
    host: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "In a lab, the addresses this host has there. "
        "Left out: the second address of each subnet if a nat, route, open or host-routed network uses the label or a "
        "vxlan has it as underlay, else none.",
    )
    mtu: At[int] | None = key(
        kinds.MTU, "Largest packet that passes there, in bytes. Checked against the MTU of what it carries."
    )
    vlans: tuple[At[tuple[int, int]], ...] | None = key(
        ListOf(kinds.VLAN_RANGE),
        "The pool that `vlan: auto` and `service-vlan: auto` draw from, such as [100-199, 300].",
    )
    vnis: tuple[At[tuple[int, int]], ...] | None = key(
        ListOf(kinds.VNI_RANGE), "The pool that `vni: auto` draws from, where this is the underlay."
    )


@dataclass(frozen=True, kw_only=True)
class VxlanDecl(Decl):
    """One layer-2 network on several hosts: its frames travel in UDP packets (RFC 7348)."""

    vni: At[int] = key(
        kinds.DRAWN_VNI,
        "VXLAN network identifier: the same on every host. auto: one from the underlay's vnis.",
        required=True,
        default=kinds.AUTO,
    )
    underlay: At[str] = key(kinds.WORD, "Label of the physical network that carries it.", required=True, default="")
    group: At[IPAddress] | None = key(kinds.IP, "Multicast address that every host of the network listens to.")
    remotes: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "Addresses of the other hosts, where the underlay carries no multicast."
    )
    port: At[int] = key(kinds.UDP_PORT, "UDP port.", default=4789)


@dataclass(frozen=True, kw_only=True)
class RateDecl(Decl):
    """A limit on one direction of traffic."""

    average: At[int] = key(kinds.RATE, "Long-term rate in KiB/s.", required=True)
    peak: At[int] | None = key(kinds.RATE, "Highest rate in KiB/s while a burst lasts.")
    burst: At[int] | None = key(kinds.RATE, "Size of a burst in KiB.")


@dataclass(frozen=True, kw_only=True)
class BandwidthDecl(Decl):
    """Traffic limits, seen from the guest."""

    inbound: RateDecl | None = key(RecordKind(RateDecl), "What the guest receives.")
    outbound: RateDecl | None = key(RecordKind(RateDecl), "What the guest sends.")


@dataclass(frozen=True, kw_only=True)
class ExternalDecl(Decl):
    """A network that is there already, and is not guestnet's."""

    bridge: At[str] | None = key(
        kinds.IFNAME,
        "A bridge of the host's own that no network of libvirt's stands for: its guests have a NIC of type bridge "
        "there. Left out, or true in the place of all this: libvirt's network of this name.",
    )


@dataclass(frozen=True, kw_only=True)
class NetworkDecl(Decl):
    """A guest network; its name is the libvirt network's name."""

    mode: At[Mode] = key(
        kinds.MODE,
        "How the network reaches beyond its host, in libvirt's words for forward modes; or host-routed: no bridge, "
        "each port a link of its own to the host, which routes to the guest and answers ARP and ND for it on the LAN. "
        "Required, but for an external network, whose mode is what libvirt has.",
        required=True,
        unless="external",
        otherwise=Mode.EXTERNAL,
    )
    external: ExternalDecl | None = key(
        RecordKind(ExternalDecl, word="true"),
        "The network is there already, such as libvirt's default: guestnet reads what it is from the host, and never "
        "stops, removes or changes it, but that it adds metadata, and for ports with addresses DHCP reservations and "
        "DNS names, and takes these away again. Ports in the file are guarded, others only with guarded: true.",
    )
    physical_network: At[str] | None = key(
        kinds.WORD,
        "Label of the network outside. Required for bridge; with nat and route, traffic then leaves only through it, "
        "and networks of mode route with the same one reach each other; "
        "with host-routed, the addresses are published there (left out: where the host has an address beside them).",
    )
    subnets: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.SUBNET),
        "The network's prefixes. Left out for bridge and host-routed: those of its physical network.",
    )
    gateway: At[str] | None = key(
        kinds.OBJECT_NAME,
        "Who forwards for the guests: host, none, or the name of a guest that has an address here. "
        "Left out: host for nat, route and open, none for isolated and bridge.",
    )
    gateway_address: At[IPv4Address] | None = key(
        kinds.IPV4,
        "Mode host-routed: the host's address on each port's link. Left out: 169.255.30.1, as Virtuozzo has it; "
        "169.254.1.1 and the like are what RFC 3927 sets apart for one link. For IPv6 it is fe80::1 always.",
    )
    publish: At[bool] | None = key(
        kinds.BOOL,
        "Mode host-routed: the host answers ARP and ND for the guests' addresses on the LAN that they are of, and "
        "announces them. false where the provider routes them to the host anyway. Left out: true.",
    )
    table: At[int] | None = key(
        kinds.TABLE,
        "Mode host-routed: number of the routing table that the guests' routes go into; an `ip rule to SUBNET lookup "
        "TABLE` of the host's own must look there. Left out: the main one.",
    )
    vrf: At[str] | None = key(
        kinds.IFNAME,
        "Mode host-routed: the VRF that the ports are in, a device of the host's own; so must be the uplink where the "
        "addresses are published. Networks in different VRFs may have the same addresses. Left out: none.",
    )
    bridge: At[str] | None = key(
        kinds.IFNAME, "The bridge device. Left out: gn- and the network's name (for bridge, the label), shortened."
    )
    mac: At[str] | None = key(
        kinds.MAC, "MAC address of the host's interface on the network. Left out: derived from the names."
    )
    dhcp: DhcpDecl | None = key(RecordKind(DhcpDecl), "Have the host hand out the IPv4 addresses.")
    dhcp6: Dhcp6Decl | None = key(
        RecordKind(Dhcp6Decl),
        "Have the host tell IPv6 addresses by DHCPv6, and guests form none themselves. Left out: they form their own.",
    )
    domain: At[str] | None = key(kinds.DNS_NAME, "DNS domain of the guests.")
    domain_local: At[bool] | None = key(
        kinds.BOOL, "Nobody else is asked for names of that domain. false: what nobody here has. Left out: true."
    )
    dns: tuple[tuple[At[str], tuple[At[IPAddress], ...] | None], ...] | None = key(
        MapOf(ListOf(kinds.IP), kinds.DNS_NAME), "More names the network's DNS server answers, each with its addresses."
    )
    dns_forwarders: tuple[ForwarderDecl, ...] | None = key(
        ListOf(RecordKind(ForwarderDecl)), "DNS servers that are asked for what is not known here."
    )
    dns_services: tuple[DnsServiceDecl, ...] | None = key(ListOf(RecordKind(DnsServiceDecl)), "SRV records.")
    dns_texts: tuple[DnsTextDecl, ...] | None = key(ListOf(RecordKind(DnsTextDecl)), "TXT records.")
    dns_wildcards: tuple[tuple[At[str], tuple[At[IPAddress], ...] | None], ...] | None = key(
        MapOf(ListOf(kinds.IP, one=True), kinds.DNS_NAME), "Domains in which every name has these addresses."
    )
    dns_local: tuple[At[str], ...] | None = key(
        ListOf(kinds.DNS_NAME), "More domains whose names nobody else is asked for (dnsmasq's local=)."
    )
    mtu: At[int] | None = key(
        kinds.MTU, "Largest packet in bytes. Left out: the kernel's default, 1500, or what a vxlan leaves."
    )
    vlan: At[int] | None = key(
        kinds.DRAWN_VLAN, "Access VLAN of the network's ports. auto: one from the physical network's vlans."
    )
    service_vlan: At[int] | None = key(
        kinds.DRAWN_VLAN,
        "In place of vlan: an 802.1ad service tag, around whatever tags the guests send themselves (QinQ).",
    )
    vxlan: VxlanDecl | None = key(
        RecordKind(VxlanDecl),
        "Mode bridge, instead of physical-network: join the network's bridges on several hosts. "
        "The MTU is then 50 (IPv4) or 70 (IPv6) less than the underlay's.",
    )
    isolated_ports: At[bool] = key(kinds.BOOL, "Ports reach the host but not each other.", default=False)
    bandwidth: BandwidthDecl | None = key(RecordKind(BandwidthDecl), "Limits for all ports together.")
    guarded: At[bool | str] = key(
        kinds.GUARDED,
        "Port security: a guest can only send from its own MAC and IP addresses. observe: what it would not let pass "
        "is counted, and passes. required: of every port, whatever a domain's own metadata says; a NIC on the network "
        "that cannot be guarded does not start.",
        default=True,
    )
    privacy_addresses: At[bool | str] = key(
        kinds.PRIVACY,
        "Guests choose IPv6 addresses themselves (RFC 7217, RFC 8981; most do): of the network's /64s where the host "
        "does not serve DHCPv6, and link-local ones. What nobody has is the port's that claims it first by duplicate "
        "address detection. false does not forbid that; true: or that uses it first; strict: only what is known.",
        default=False,
    )
    log_drops: At[bool] = key(
        kinds.BOOL,
        "What port security drops appears in the kernel log, with port and reason, at most 5 per second and rule.",
        default=False,
    )
    offload: At[Offload] = key(
        kinds.OFFLOAD,
        "A guest can have the host write a checksum anywhere in its frame. Guarded ports are kept from that where the "
        "kernel has BPF and BTF; where it has not, refuse keeps their guests from starting.",
        default=Offload.ALLOW,
    )
    autostart: At[bool] = key(kinds.BOOL, "Start the network together with the host.", default=True)


@dataclass(frozen=True, kw_only=True)
class PairDecl(Decl):
    """Addresses a port may use beside its own, such as a virtual IP."""

    address: At[IPNetwork] = key(
        kinds.PAIR, "An address or a prefix, such as 10.0.0.100 or 10.0.0.96/28.", required=True
    )
    mac: At[str] | None = key(
        kinds.MAC, "The MAC address they are announced with, such as a VRRP router's. Left out: the port's own."
    )


@dataclass(frozen=True, kw_only=True)
class ForwardDecl(Decl):
    """What is asked of the host reaches the guest, while it runs."""

    services: tuple[At[Service], ...] = key(
        ListOf(kinds.SERVICE), "What is asked for: tcp/8080, udp/53, tcp/8000-8010 …", required=True, default=()
    )
    addresses: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "Where it is asked for. Left out: at every address of the host but loopback.", name="at"
    )
    to: At[int] | None = key(
        kinds.UDP_PORT, "The guest's port; for a range its first one. Left out: the one that was asked for."
    )


@dataclass(frozen=True, kw_only=True)
class PortDecl(Decl):
    """A NIC of a guest."""

    network: At[str] = key(kinds.OBJECT_NAME, "The network it is on.", required=True)
    name: At[str] | None = key(
        kinds.OBJECT_NAME, "Its name, once per guest; GUEST.PORT names it elsewhere. Left out: the network's name."
    )
    kind: At[PortKind] = key(
        kinds.PORT_KIND, "Type of the libvirt interface: network, bridge or ethernet.", default=PortKind.NETWORK
    )
    mac: At[str] | None = key(kinds.MAC, "MAC address. Left out: derived from the names.")
    tap: At[str] | None = key(
        kinds.TAP, "The host-side device. Left out: vme and 8 hex digits, derived from the names."
    )
    vlan: At[int] | None = key(kinds.VLAN, "Access VLAN. Left out: the network's.")
    trunk: tuple[At[tuple[int, int]], ...] | None = key(
        ListOf(kinds.VLAN_RANGE),
        "VLANs that the guest sends and receives tagged, such as [100-110, 200]; its addresses hold in all of them. "
        "On a network with a service-vlan they are 802.1ad's.",
    )
    native_vlan: At[int] | None = key(
        kinds.VLAN, "VLAN of a trunk's untagged frames. Left out: untagged frames are dropped."
    )
    addresses: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP, all_word="any", other_word="dhcp"),
        "Its addresses, without prefix length; each must be in a subnet of the network. Subnets without one get an "
        "address derived from the names, except on bridge networks: there a guest of your own may only ask by DHCP "
        "until they are listed. [] means none at all; any lets it use every address of the network that nobody else "
        "holds, and status says so; dhcp leaves it to the host's DHCP server, out of its range (for guests of your "
        "own).",
    )
    hostname: At[str] | None = key(
        service_kinds.HOST_NAME, "What the network's DHCP and DNS server calls it. Left out: see the guest's hostname."
    )
    duid: At[str] | None = key(
        service_kinds.BYTES,
        "On a network with dhcp6: the guest's DUID (RFC 8415). Left out: it is known by its MAC address.",
    )
    dhcp_options: OPTIONS | None = key(
        MapOf(ListOf(service_kinds.OPTION_VALUE, one=True), service_kinds.OPTION4),
        "DHCPv4 options for this port alone, before those of the network's dhcp.",
    )
    default_route: At[bool] | None = key(
        kinds.BOOL, "The guest's default route leaves here. Left out: true for the first port that has a gateway."
    )
    link: At[LinkState] | None = key(
        kinds.LINK, "Whether the cable is plugged in. Left out: up; a NIC that your own domain has stays as it is."
    )
    isolated: At[bool] | None = key(
        kinds.BOOL, "Cannot reach other isolated ports. Left out: the network's isolated-ports."
    )
    bandwidth: BandwidthDecl | None = key(RecordKind(BandwidthDecl), "Limits for this port.")
    guarded: At[bool | str] | None = key(
        kinds.PORT_GUARDED,
        "Port security; observe counts what it would not let pass, and lets it pass; false trusts the guest with "
        "everything, and status says so. Left out: the network's.",
    )
    allowed_pairs: tuple[PairDecl, ...] | None = key(
        ListOf(RecordKind(PairDecl)), "Addresses it may use beside its own; several ports may share them."
    )
    roles: tuple[At[Role], ...] | None = key(
        ListOf(kinds.ROLE),
        "dhcp-server: it may answer DHCP; ra-sender: it may announce itself as IPv6 router; router-protocols: it may "
        "speak OSPF, RIP, VRRP and the like, and query multicast listeners; own-sources: it has addresses of its "
        "`sources` itself, such as a service address on lo, and asks for its neighbours from them.",
    )
    privacy_addresses: At[bool | str] | None = key(
        kinds.PRIVACY, "How the guest may choose IPv6 addresses itself. Left out: the network's."
    )
    log_drops: At[bool] | None = key(kinds.BOOL, "Log what port security drops. Left out: the network's.")
    sources: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.PREFIX),
        "Prefixes the guest forwards for: it may send from them. Left out: derived from `router`.",
    )
    forwards: tuple[ForwardDecl, ...] | None = key(
        ListOf(RecordKind(ForwardDecl)), "Port forwards, on a network behind the host: ports of the host for the guest."
    )
    floating: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "Addresses outside that are the guest's while it runs, on a nat, route or open network: what is sent to one "
        "reaches the guest, and what the guest sends outside comes from the first of each family.",
    )
    untranslated: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "Floating addresses that the host routes to the port's own, without translation: the guest has them itself, "
        "with prefix length 32 or 128, and may send from them. Modes nat and route need a physical-network for that.",
        name="floating-untranslated",
    )
    note: At[str] | None = key(kinds.NOTE, "One line of your own for people and programs: `status --json` prints it.")
    probe: At[bool] = key(
        kinds.BOOL,
        "Before the host answers for an address of the port's on a LAN, that LAN is asked whether anybody has it: who "
        "answers refuses the guest's start. false for one that is about to move here.",
        default=True,
    )
    next_hop: At[bool] = key(
        kinds.BOOL,
        "On a network of mode route or open: while the guest runs, the host routes its `sources` to it, and they pass "
        "where the network's own subnets do.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class AllowDecl(Decl):
    """New flows a router lets through. Replies always pass."""

    source: At[str] = key(
        kinds.OBJECT_NAME, "Network the flow comes from; the router is on it.", required=True, name="from"
    )
    destination: At[str] = key(kinds.OBJECT_NAME, "Network or label the flow goes to.", required=True, name="to")
    services: tuple[At[Service], ...] = key(
        ListOf(kinds.SERVICE), "icmp, tcp, udp, tcp/80, tcp/8000-8010, udp/53 …", required=True, default=()
    )


@dataclass(frozen=True, kw_only=True)
class RouterDecl(Decl):
    """The guest forwards, and only what is allowed."""

    masquerade: At[str] | None = key(
        kinds.OBJECT_NAME, "Network towards which the router hides everybody behind its own address."
    )
    allow: tuple[AllowDecl, ...] | None = key(ListOf(RecordKind(AllowDecl)), "What may pass. Left out: nothing.")


@dataclass(frozen=True, kw_only=True)
class GuestDecl(Decl):
    """A guest; its name is the libvirt domain's name."""

    ports: tuple[PortDecl, ...] = key(ListOf(RecordKind(PortDecl)), "Its NICs, in order.", required=True, default=())
    image: At[Image] | None = key(
        kinds.IMAGE,
        "tiny: the project's own small guest, defined and run by guestnet. "
        "Left out: your own domain of that name, of which guestnet manages only the NICs.",
    )
    uuid: At[str] | None = key(
        kinds.UUID_TEXT, "UUID of the domain. Left out: derived from the names for a guest with an image."
    )
    hostname: At[str] | None = key(
        service_kinds.HOST_NAME,
        "What DNS calls it on its first port on each network; further ones have their port's name behind that. Left "
        "out: its name, with what DNS cannot have replaced.",
    )
    memory: At[int] | None = key(kinds.MEMORY, "Memory of a guest with an image, in MiB. Left out: 128.")
    router: RouterDecl | None = key(RecordKind(RouterDecl), "The guest forwards between its ports.")
    autostart: At[bool] = key(kinds.BOOL, "Start a guest with an image together with the host.", default=False)


@dataclass(frozen=True, kw_only=True)
class ExpectDecl(Decl):
    """One thing `verify` checks. An endpoint is a guest, GUEST.PORT, a label or host."""

    source: At[str] = key(kinds.OBJECT_NAME, "Endpoint that sends.", required=True, name="from")
    destination: At[str] | None = key(kinds.OBJECT_NAME, "Endpoint it sends to; none with forge alone.", name="to")
    can: tuple[At[Service | str], ...] | None = key(ListOf(kinds.PROBE), "Services that work; also layer2.")
    cannot: tuple[At[Service | str], ...] | None = key(ListOf(kinds.PROBE), "Services that do not; also layer2.")
    via: tuple[At[str], ...] | None = key(
        ListOf(kinds.OBJECT_NAME), "The hops in between that a trace shows, in order: guests or host."
    )
    address: At[IPAddress] | None = key(
        kinds.IP, "Ask for this address, which forwards or floating translate to the guest's, not its own.", name="at"
    )
    seen_as: At[str] | None = key(kinds.OBJECT_NAME, "Endpoint whose address the destination sees as source.")
    answered_by: At[str] | None = key(
        kinds.OBJECT_NAME, "Endpoint whose MAC address answers ARP and ND for the destination on the link."
    )
    gateways: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "The source's default gateways, one for each family checked."
    )
    tables: tuple[At[str], ...] | None = key(
        ListOf(kinds.HOST_TABLE),
        "What the host's tables hold for each address of the destination: route (to a port), published (the "
        "host answers ARP or ND for it: flags MP in `arp -n`); [] when nothing.",
    )
    forge: tuple[At[str], ...] | None = key(
        ListOf(kinds.FORGERY, all_word="all", all_items=FORGERIES),
        "Kinds of forged frame that must arrive nowhere, or all.",
    )
    families: tuple[At[Family], ...] | None = key(
        ListOf(kinds.FAMILY), "Check only these. Left out: those that both ends have."
    )
    without_forwarding: At[str] | None = key(
        kinds.OBJECT_NAME, "Router guest that has forwarding switched off while this is checked."
    )


@dataclass(frozen=True, kw_only=True)
class TopologyDecl(Decl):
    """Guest networks of one host, and what must and must not be reachable in them."""

    name: At[str] = key(
        kinds.WORD, "Name of the topology: it marks everything guestnet makes for it.", required=True, default="unnamed"
    )
    description: At[str] | None = key(kinds.TEXT, "One sentence for people.")
    physical_networks: tuple[tuple[At[str], PhysicalDecl | None], ...] | None = key(
        MapOf(RecordKind(PhysicalDecl), kinds.WORD), "Labels for the networks outside the host."
    )
    networks: tuple[tuple[At[str], NetworkDecl | None], ...] | None = key(
        MapOf(RecordKind(NetworkDecl)), "The guest networks."
    )
    guests: tuple[tuple[At[str], GuestDecl | None], ...] | None = key(
        MapOf(RecordKind(GuestDecl)), "The guests and their ports."
    )
    expect: tuple[ExpectDecl, ...] | None = key(ListOf(RecordKind(ExpectDecl)), "What `verify` checks.")

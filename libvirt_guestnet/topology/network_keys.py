"""The keys of a network, and of what is outside the host."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Offload, Traffic

from . import address_kinds, kinds
from .service_keys import Dhcp6Decl, DhcpDecl, DnsServiceDecl, DnsTextDecl, ForwarderDecl
from .spec import At, Decl, ListOf, MapOf, RecordKind, key


@dataclass(frozen=True, kw_only=True)
class PhysicalDecl(Decl):
    """A network outside the host. Each host maps the label to one of its NICs or bridges."""

    subnets: tuple[At[IPNetwork], ...] | None = key(
        ListOf(address_kinds.SUBNET), "The prefixes in use there, IPv4 and IPv6, at least a /31 or /127 each."
    )
    stand_in: tuple[At[IPAddress], ...] | None = key(
        ListOf(address_kinds.IP),
        "In a lab, the addresses of the one host that stands for the whole network. "
        "Left out: the first address of each subnet.",
    )
    host: tuple[At[IPAddress], ...] | None = key(
        ListOf(address_kinds.IP),
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
    traffic: tuple[At[Traffic], ...] | None = key(
        ListOf(kinds.TRAFFIC),
        "What it is for. Guests' networks need guest or public; management and storage are the hosts' own, on a label "
        "of their own, with whose device no guest shares a bridge. Left out: whatever.",
    )
    zone: At[str] | None = key(
        kinds.WORD, "The zone that everything on it is in. Left out: each network says its own, in a VLAN of its own."
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
    group: At[IPAddress] | None = key(address_kinds.IP, "Multicast address that every host of the network listens to.")
    remotes: tuple[At[IPAddress], ...] | None = key(
        ListOf(address_kinds.IP), "Addresses of the other hosts, where the underlay carries no multicast."
    )
    port: At[int] = key(kinds.UDP_PORT, "UDP port.", default=4789)


@dataclass(frozen=True, kw_only=True)
class RouteDecl(Decl):
    """What the host reaches through a router on the network."""

    prefix: At[IPNetwork] = key(address_kinds.PREFIX, "The prefix there.", name="to", required=True)
    gateway: At[IPAddress] = key(
        address_kinds.IP,
        "The router's address, in one of the network's subnets. For a guest of this file say next-hop on its port.",
        name="via",
        required=True,
    )
    metric: At[int] | None = key(
        kinds.METRIC,
        "Of several routes to a prefix, the host takes that of the lowest. Left out: 1.",
    )


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
    take_over: At[bool] = key(
        kinds.BOOL,
        "libvirt has the network already, as the file says it: from apply on it is guestnet's own, without being "
        "stopped where nothing of it changes, and destroy removes it. Its UUID, its bridge's MAC address and STP stay, "
        "and so do NICs on it of domains whose ports say their mac.",
        default=False,
    )
    physical_network: At[str] | None = key(
        kinds.WORD,
        "Label of the network outside. Required for bridge; with nat and route, traffic then leaves only through it, "
        "and networks of mode route with the same one reach each other; "
        "with host-routed, the addresses are published there (left out: where the host has an address beside them).",
    )
    subnets: tuple[At[IPNetwork], ...] | None = key(
        ListOf(address_kinds.SUBNET),
        "The network's prefixes; a /31 or /127 is a link of two, of which the host has the upper address. Left out for "
        "bridge and host-routed: those of its physical network. Isolated networks where the host has no address, and "
        "those with vxlan, may have the same ones. Host-routed ones may have single addresses, /32 and /128.",
    )
    gateway: At[str] | None = key(
        kinds.OBJECT_NAME,
        "Who forwards for the guests: host, none, or the name of a guest that has an address here, or of a router. "
        "Left out: host for nat, route and open, none for isolated and bridge.",
    )
    routes: tuple[RouteDecl, ...] | None = key(
        ListOf(RecordKind(RouteDecl)),
        "What the host reaches through routers on the network, while that is active. On networks of mode nat, route, "
        "open and isolated where the host has an address.",
    )
    gateway_address: At[IPv4Address] | None = key(
        address_kinds.IPV4,
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
        address_kinds.MAC, "MAC address of the host's interface on the network. Left out: derived from the names."
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
        MapOf(ListOf(address_kinds.IP), kinds.DNS_NAME),
        "More names the network's DNS server answers, each with its addresses.",
    )
    dns_forwarders: tuple[ForwarderDecl, ...] | None = key(
        ListOf(RecordKind(ForwarderDecl)), "DNS servers that are asked for what is not known here."
    )
    dns_services: tuple[DnsServiceDecl, ...] | None = key(ListOf(RecordKind(DnsServiceDecl)), "SRV records.")
    dns_texts: tuple[DnsTextDecl, ...] | None = key(ListOf(RecordKind(DnsTextDecl)), "TXT records.")
    dns_wildcards: tuple[tuple[At[str], tuple[At[IPAddress], ...] | None], ...] | None = key(
        MapOf(ListOf(address_kinds.IP, one=True), kinds.DNS_NAME), "Domains in which every name has these addresses."
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
    zone: At[str] | None = key(
        kinds.WORD,
        "The zone that it is in, or public where zones meet. Left out: that of its physical network. External and "
        "host-routed networks are public.",
    )
    autostart: At[bool] = key(kinds.BOOL, "Start the network together with the host.", default=True)

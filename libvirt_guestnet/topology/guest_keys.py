"""The keys of a guest and its ports."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.topology import PortKind, Role
from libvirt_guestnet.model.traffic import Service

from . import card_kinds, kinds, service_kinds
from .card_kinds import LinkState
from .kinds import Image
from .network_keys import BandwidthDecl
from .service_keys import OPTIONS
from .spec import At, Decl, ListOf, MapOf, RecordKind, key


@dataclass(frozen=True, kw_only=True)
class PairDecl(Decl):
    """Addresses a port may use beside its own, such as a virtual IP, or a guest inside the guest."""

    address: At[tuple[IPNetwork, ...]] | None = key(
        kinds.PAIR,
        "An address, a prefix or a range, such as 10.0.0.100, 10.0.0.96/28 or 10.0.0.240-10.0.0.250. Left out: what "
        "the host's DHCP server gives to `mac`, a guest inside this one.",
    )
    mac: At[str] | None = key(
        kinds.MAC, "The MAC address they are announced with, such as a VRRP router's. Left out: the port's own."
    )


@dataclass(frozen=True, kw_only=True)
class ForwardDecl(Decl):
    """What is asked of the host, or of the network's virtual router, reaches the guest, while it runs."""

    services: tuple[At[Service], ...] = key(
        ListOf(kinds.FORWARDED),
        "What is asked for: tcp/8080, udp/53, sctp/36412, tcp/8000-8010 …; or, at an address, all of a protocol "
        "without ports: gre, esp, ipip, 6in4, or by number in IP, proto/115.",
        required=True,
        default=(),
    )
    addresses: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "Where it is asked for; behind a virtual router, addresses of its public networks. Left out: at every address "
        "of the host but loopback. Required for a protocol without ports, of which tunnels of the host's own may be at "
        "the others.",
        name="at",
    )
    to: At[int] | None = key(
        kinds.UDP_PORT, "The guest's port; for a range its first one. Left out: the one that was asked for."
    )
    sources: tuple[At[IPNetwork], ...] | None = key(
        ListOf(kinds.CLIENT),
        'Who may ask, by address or prefix, such as [192.0.2.0/24, "2001:db8::7"]. Left out: whoever reaches the '
        "host; where only one family is listed, nobody in the other one.",
        name="from",
    )


@dataclass(frozen=True, kw_only=True)
class ImpairmentDecl(Decl):
    """A bad link, for labs: what happens to packets on their way to the guest."""

    delay: At[int] | None = key(kinds.DURATION, "How long each packet takes: 20ms, 1.5ms, 500us, 2s …")
    jitter: At[int] | None = key(
        kinds.DURATION, "By how much the delay differs from packet to packet, at most; those that differ may overtake."
    )
    loss: At[int] | None = key(kinds.SHARE, "The share of packets that is lost: 1%, 0.1% …")
    duplicate: At[int] | None = key(kinds.SHARE, "The share of packets that arrives twice.")
    reorder: At[int] | None = key(kinds.SHARE, "The share of packets that is not delayed, and so overtakes others.")
    rate: At[int] | None = key(kinds.BIT_RATE, "How much passes in a second: 512kbit, 10mbit, 1.5gbit …")


@dataclass(frozen=True, kw_only=True)
class DriverDecl(Decl):
    """Options of a virtio NIC's driver."""

    name: At[card_kinds.DriverName] | None = key(
        card_kinds.DRIVER_NAME,
        "What moves the frames: vhost (the host's kernel) or qemu. Left out: vhost where it is there.",
    )
    rx_queue_size: At[int] | None = key(
        card_kinds.RING, "How many packets wait for the guest in each queue: 256, 512, 1024."
    )
    packed: At[bool] | None = key(kinds.BOOL, "Whether the packed ring format may be used.")
    iommu: At[bool] | None = key(
        kinds.BOOL, "Whether the device goes through the guest's IOMMU: the domain needs one, and a PCI Express slot."
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
        "address derived from the names, except on bridge networks, where a guest of your own may only ask by DHCP "
        "until they are listed, and for a host-routed port that lists some. [] means none at all; any lets it use "
        "every address of the network that nobody else holds, and status says so; dhcp leaves it to the host's DHCP "
        "server, out of its range (for guests of your own).",
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
    model: At[str] | None = key(
        card_kinds.MODEL,
        "The model of the NIC that the guest sees: virtio, e1000e, rtl8139 … Left out: virtio; a NIC that your own "
        "domain has keeps its own, and with this key and the next ones all that is not said.",
    )
    queues: At[int] | None = key(
        card_kinds.QUEUES,
        "Queues of a virtio NIC, such as one for each of the guest's processors; the tap has as many.",
    )
    driver: DriverDecl | None = key(RecordKind(DriverDecl), "Options of a virtio NIC's driver.")
    mtu: At[int] | None = key(
        kinds.MTU,
        "Largest packet of this port alone, which virtio tells the guest; at most what its network carries. Left out: "
        "the network's.",
    )
    boot_order: At[int] | None = key(
        card_kinds.BOOT_ORDER,
        "At what turn the domain boots from this NIC; its disks need <boot order=…/> of their own.",
    )
    pci_slot: At[str] | None = key(
        card_kinds.PCI_SLOT,
        "Where the guest sees the NIC: BUS:SLOT or BUS:SLOT.FUNCTION, such as 00:0a, as lspci has it.",
    )
    alias: At[str] | None = key(card_kinds.ALIAS, "libvirt's alias of the NIC, such as ua-wan: once per guest.")
    teaming: At[card_kinds.Teaming] | None = key(
        card_kinds.TEAMING,
        "persistent: this NIC of a net_failover pair stays when the guest migrates. The other one, of the same MAC "
        "address, is yours to plug in, with <teaming type='transient' persistent='ALIAS'/>.",
    )
    default_route: At[bool] | None = key(
        kinds.BOOL, "The guest's default route leaves here. Left out: true for the first port that has a gateway."
    )
    link: At[LinkState] | None = key(
        card_kinds.LINK, "Whether the cable is plugged in. Left out: up; a NIC that your own domain has stays as it is."
    )
    isolated: At[bool] | None = key(
        kinds.BOOL, "Cannot reach other isolated ports. Left out: the network's isolated-ports."
    )
    bandwidth: BandwidthDecl | None = key(RecordKind(BandwidthDecl), "Limits for this port.")
    impairment: ImpairmentDecl | None = key(
        RecordKind(ImpairmentDecl), "A bad link, for labs: what happens to packets on their way to the guest."
    )
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
        "dhcp-server: it may answer DHCP clients and relays; dhcp-relay: it may relay DHCP between them; ra-sender: it "
        "may announce itself as IPv6 router; own-sources: it has addresses of its `sources` itself, such as a service "
        "address on lo, and asks for its neighbours from them; ospf, vrrp, rip, babel, eigrp, ldp: it may speak that "
        "routing protocol; multicast-router: it may query multicast listeners and speak PIM; router-protocols: all of "
        "these and others; lldp, lacp, stp, isis, mpls, pppoe, pppoe-server, eapol: it may send that protocol.",
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
        ListOf(RecordKind(ForwardDecl)),
        "Port forwards, on a network behind the host or a router: ports of that for the guest.",
    )
    floating: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP),
        "Addresses outside that are the guest's while it runs, on a nat, route or open network or behind a router: "
        "what is sent to one reaches the guest, and what the guest sends outside comes from the first of each family.",
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
        "On a network of mode nat, route, open or isolated where the host has an address: while the guest runs, the "
        "host routes its `sources` to it, and they pass where the network's own subnets do.",
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
    host: At[str] | None = key(
        kinds.WORD,
        "Of several hosts, the one that it is on. Required with image; left out, every one that has its domain.",
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

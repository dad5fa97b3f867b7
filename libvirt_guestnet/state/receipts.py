"""What a receipt of each kind says; `folder` says where it is kept, `serialiser` reads it. On the hook path."""

from __future__ import annotations

from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.state import serialiser

ISOLATED = "isolated"
"""The mode of a network that libvirt has no forward mode for."""


class PortReceipt(NamedTuple):
    """One guarded tap. Addresses and prefixes are text as in `ipaddress`; `portid` is libvirt's network port UUID;
    `ifindex` is the tap's in the kernel; `own` says that the policy is the port's own, not its network's default.

    `pairs` are (MAC or "", prefix). `dhcp` are the addresses of the DHCP server, the host's or a virtual router's, if
    the port's own address is what that one acknowledges of its `dynamic` ones; `dhcp_mac` and `bridge` are its MAC and
    bridge, `lease` and `lease6` how long an answer holds, in seconds; `served` says by IP version how many addresses an
    answer of that server has, whether the port learns or not. A port with VLANs in `trunk` tags its frames (with
    802.1ad's tags if `service`), but those of its `native` VLAN, if there is one. A `trusted` port has no chains: it is
    only let through the bridge guard. `offload` is "refuse" if the port must not be on a host without the checksum
    guard. A `bare` port is to have no address of its own. `segment` names the link on which what the port holds is kept
    from others: its bridge, with its VLAN on one that tells VLANs apart (a trunk has none), "" where unknown. `reached`
    are the addresses for which the host answers elsewhere, in its `vrf` if there is one: floating and published ones;
    `beside` are the other links on which it holds them, for that. `claims` are where it may have IPv6 addresses that it
    forms itself, but for those `unclaimed`; with `privacy` also if it has not asked whether anybody has them.
    `reserved` is the link whose set of reservations its chains look into, instead of having them among the `excluded`.
    Of an `observed` port everything is judged and counted, and passes. `by_host`: nobody asks for its guard but this
    host's default. `lent` are MAC addresses of guests inside it that learn what the DHCP server acknowledges to them.
    Where that is a virtual router's, `dhcp_routers` are the domains on whose disks its leases are.
    """

    tap: serialiser.Device
    mac: serialiser.Mac
    domain: str
    uuid: str
    network: str = ""
    portid: str = ""
    owned: serialiser.Prefixes = ()
    routed: serialiser.Prefixes = ()
    excluded: serialiser.Prefixes = ()
    ifindex: serialiser.Index = 0
    own: bool = False
    pairs: serialiser.MacAndPrefixes = ()
    roles: tuple[str, ...] = ()
    privacy: bool = False
    log: bool = False
    dhcp: serialiser.Addresses = ()
    dynamic: serialiser.Prefixes = ()
    dhcp_mac: serialiser.MaybeMac = ""
    bridge: serialiser.MaybeDevice = ""
    lease: int = 0
    lease6: int = 0
    trunk: serialiser.Vlans = ()
    service: bool = False
    native: bool = False
    trusted: bool = False
    offload: str = ""
    served: serialiser.Counts = ()
    bare: bool = False
    segment: serialiser.MaybeLink = ""
    reached: serialiser.Prefixes = ()
    vrf: serialiser.MaybeDevice = ""
    beside: serialiser.LinkAndPrefixes = ()
    claims: serialiser.Prefixes = ()
    unclaimed: serialiser.Prefixes = ()
    reserved: serialiser.MaybeLink = ""
    observed: bool = False
    by_host: bool = False
    lent: serialiser.Macs = ()
    dhcp_routers: tuple[str, ...] = ()


class NetworkReceipt(NamedTuple):
    """One active network that carries our metadata, or that this host's default for guests covers.

    `reservations` are pairs of a MAC (or "") and its address; `dynamic` are the first and last address of each DHCP
    range; `hosts` are the host's own addresses in it, `mac` its MAC, `lease` and `lease6` its DHCP server's longest
    lease in seconds, by IP version; `privacy`, `strict` (no address that the guest forms) and `log` are defaults for
    ports, `offload` holds for all of them as in PortReceipt; `made_bridge` says that our hook made the bridge, and
    `overlay` names the VXLAN device or VLAN subinterface that it made for it. On a VLAN-aware bridge `vlan` is the
    access VLAN of its ports (0: none), `vlan_uplink` the bridge's port to the outside, and `service` says that its tags
    are 802.1ad's. `outside` is the device that a routed network's traffic leaves through ("": any), and `nat_outside`
    that of a nat network, which translates what leaves in the IP versions `translates`. `mode` is libvirt's forward
    mode, isolated where there is none.

    `libvirt_fdb` says that libvirt itself tells the bridge which MAC address is behind which port.

    `managed` says that the bridge is libvirt's own or ours, so that all its ports are to be guarded; `uplink` is the
    port to the outside that our hook put into it. `required`: its ports are guarded whatever a domain says, and one
    that cannot be is refused. `observed`: by default they are not kept from anything. `isolated`: its ports are kept
    from each other. `announced` are the prefixes of which libvirt tells guests to form addresses. An `external` network
    is somebody else's: its XML may say nothing of us while it runs. An `undeclared` one is so too, and nobody has said
    anything of it. `zone` is the zone of its topology that it is in ("": none). `link` is the name of its link where
    the bridge has others, too, and keeps them apart by itself ("": none). Of a bridge over a VLAN of a NIC
    `carried_vlan` is that VLAN, of one with a VXLAN device `vni` its number. Where a virtual router serves DHCP, and
    not the host, `dhcp_hosts` and `dhcp_mac` are its addresses and MAC address, and `dhcp_routers` the domains on whose
    disks its leases are.
    """

    name: str
    topology: str
    guarded: bool
    bridge: serialiser.MaybeDevice
    subnets: serialiser.Prefixes = ()
    hosts: serialiser.Addresses = ()
    reservations: serialiser.MacAndAddresses = ()
    dynamic: serialiser.AddressPairs = ()
    made_bridge: bool = False
    mac: serialiser.MaybeMac = ""
    lease: int = 0
    lease6: int = 0
    privacy: bool = False
    log: bool = False
    overlay: serialiser.MaybeDevice = ""
    vlan: serialiser.Vlan = 0
    vlan_uplink: serialiser.MaybeDevice = ""
    service: bool = False
    outside: serialiser.MaybeDevice = ""
    managed: bool = False
    uplink: serialiser.MaybeDevice = ""
    nat_outside: serialiser.MaybeDevice = ""
    libvirt_fdb: bool = False
    required: bool = False
    offload: str = ""
    announced: serialiser.Prefixes = ()
    strict: bool = False
    isolated: bool = False
    observed: bool = False
    external: bool = False
    undeclared: bool = False
    mode: str = ""
    translates: serialiser.Numbers = ()
    zone: str = ""
    link: serialiser.MaybeDevice = ""
    carried_vlan: serialiser.Vlan = 0
    carried_service: bool = False
    vni: serialiser.Index = 0
    dhcp_hosts: serialiser.Addresses = ()
    dhcp_mac: serialiser.MaybeMac = ""
    dhcp_routers: tuple[str, ...] = ()


class Bridges(NamedTuple):
    """The managed bridges, each with the network whose defaults hold on it; `settled` once the kernel has it so.

    `cannot` is what the kernel said if it cannot keep unguarded ports silent.
    """

    networks: dict[str, str]
    settled: bool = False
    cannot: str = ""


class Plugging(NamedTuple):
    """A NIC being plugged in: libvirt's port UUID, and its domain, MAC address and network. `alone`: its helper has
    given up waiting for the tap."""

    portid: str
    uuid: str
    mac: str
    domain: str = ""
    network: str = ""
    alone: bool = False


class TapVlans(NamedTuple):
    """One tap's VLANs: `pvid` for its untagged frames (0: it may send none), and the tagged ones as ranges.

    `uplink` is the bridge port that leads outside, "" when there is none; `uuid` and `domain` are the domain's UUID and
    name, `ifindex` is the tap's in the kernel.
    """

    tap: serialiser.Device
    uuid: str
    bridge: serialiser.Device
    uplink: serialiser.MaybeDevice = ""
    pvid: serialiser.Vlan = 0
    tagged: serialiser.Vlans = ()
    domain: str = ""
    ifindex: int = 0


class ImpairedTap(NamedTuple):
    """What one tap is to do to packets on their way to its guest: the fields of `model.impairment.Impairment`.

    `before` is the root qdisc that libvirt had given it ("": the kernel had), `refused` why it does none of this.
    """

    tap: serialiser.Device
    uuid: str
    domain: str
    ifindex: serialiser.Index = 0
    delay: serialiser.Microseconds = 0
    jitter: serialiser.Microseconds = 0
    loss: serialiser.Millionths = 0
    duplicate: serialiser.Millionths = 0
    reorder: serialiser.Millionths = 0
    rate: serialiser.Kilobits = 0
    before: str = ""
    refused: str = ""


class Route(NamedTuple):
    """A route to `prefix` (text as in `ipaddress`) through a device, by way of the address `via` ("": on the link)."""

    prefix: serialiser.Prefix
    device: serialiser.Device
    via: serialiser.MaybeAddress = ""
    table: int = 254  # rtnl.MAIN_TABLE, which is no receipt's matter


class ProxyEntry(NamedTuple):
    """An address for which the host answers ARP or ND on a device."""

    address: serialiser.Address
    device: serialiser.Device


class HostRoutes(NamedTuple):
    """The routes to one tap of a domain, and its published addresses. `gateway` is the host's IPv4 address on a tap
    that is in no bridge, else ""; `vrf` is the VRF of such a tap, if any; `ifindex` is the tap's index; `behind` are
    the prefixes that are not the guest's own, but reached through it."""

    tap: serialiser.Device
    uuid: str
    domain: str
    routes: tuple[Route, ...] = ()
    published: tuple[ProxyEntry, ...] = ()
    gateway: serialiser.MaybeAddress = ""
    vrf: serialiser.MaybeDevice = ""
    ifindex: int = 0
    behind: serialiser.Prefixes = ()


class ForwardRule(NamedTuple):
    """Packets to ports `first` to `last` of `at` ("": any address of the host) are translated to `to`, from port
    `to_first` on. `to` is an address, or a word for one leased by DHCP, which `with_leases` replaces. `hide`: the guest
    sees the host as client. With `sources`, only clients with an address in one of them are translated. Of a protocol
    that has no ports these are 0, and what the guest sends of it comes from `at`."""

    protocol: serialiser.Protocol
    first: serialiser.MaybePort
    last: serialiser.MaybePort
    to: serialiser.Target
    to_first: serialiser.MaybePort
    at: serialiser.MaybeAddress = ""
    hide: bool = False
    sources: serialiser.Prefixes = ()


class Floating(NamedTuple):
    """An address that is translated to and from the guest's address `to`; or with `via`, one that the guest has itself,
    and to which the host routes by way of that address of the guest."""

    ip: serialiser.Address
    to: serialiser.Address
    via: serialiser.MaybeAddress = ""


class PortForwards(NamedTuple):
    """All forwards and floating addresses of one port, as in its receipt: `active` once its guest is there. `bridge` is
    the tap itself if that is in none, as the host routes to it."""

    tap: serialiser.Device
    mac: serialiser.Mac
    uuid: str
    domain: str
    bridge: serialiser.Device
    ifindex: int = 0
    active: bool = False
    forwards: tuple[ForwardRule, ...] = ()
    floating: tuple[Floating, ...] = ()


class ForwardsInKernel(NamedTuple):
    """The forwards that the kernel has, with the prefixes `sources` that other firewalls were given for them.

    `through` is the rest that those accept, as text, to be compared with what is wanted; `masqueraded` are the
    `accepts.Masqueraded` of it. While it is `changing`, the kernel may have anything, and everything of these that is
    not wanted must be removed.
    """

    forwards: tuple[PortForwards, ...] = ()
    through: serialiser.Texts = ()
    sources: serialiser.Prefixes = ()
    changing: bool = False
    masqueraded: serialiser.Texts = ()


class Checksum(NamedTuple):
    """The checksum guard as it was loaded: the fields of `datapath.port.checksum.Loaded`. If this host lacks something
    for it, `cannot` says what, and `guard` is 0."""

    guard: int = 0
    drops: int = 0
    object: str = ""
    earlier: serialiser.Numbers = ()
    cannot: str = ""


class Shared(NamedTuple):
    """The part of the nft table that is the same for all ports, as the batch that was last written."""

    batch: str


class DomainTaps(NamedTuple):
    """The guarded taps of one running domain."""

    taps: serialiser.Devices


class Insisting(NamedTuple):
    """The network on one bridge that requires guarded ports."""

    network: str


class UplinkVlans(NamedTuple):
    """The VLANs of which we made one uplink a member."""

    vlans: serialiser.VlanNumbers


class Incoming(NamedTuple):
    """A domain that migrates to this host; `waiting` if a process should wait for it."""

    uuid: str
    waiting: bool = False


class Owner(NamedTuple):
    """The domain, by UUID and name, to which a tap belongs by one of its receipts, while the tap has that index."""

    uuid: str = ""
    domain: str = ""
    ifindex: int = 0

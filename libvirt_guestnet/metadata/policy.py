"""What our <metadata> in libvirt's XML says, as facts: of a network, and of each NIC of a domain. On the hook path.

One top-level element per object, since libvirt keeps one per namespace::

    <guestnet:network xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"
                      topology="archnetwork" name="vlan1" guarded="yes">   <!-- or no, observe, required -->
      <guestnet:subnet prefix="10.61.1.0/24" host="10.61.1.1"/>
      <guestnet:uplink label="lan1" device="eth1"/>          <!-- mode bridge only: the NIC behind the bridge -->
                                       <!-- with vlan="100" the bridge is over eth1.100; service="yes": 802.1ad -->
      <guestnet:vlan tag="100" label="lan2" uplink="eth2"/>  <!-- the bridge is VLAN-aware: the hook tags the taps -->
      <guestnet:vxlan vni="5001" port="4789" label="lan1" device="eth1" group="239.1.1.1" mtu="1450"/>
                       <!-- mode bridge only, instead of an uplink; without group, <guestnet:remote ip=…/> inside -->
      <guestnet:reservation mac="52:54:00:61:0b:02" ip="10.61.1.7" name="b"/> <guestnet:dns ip="10.61.1.8" name="c"/>
      <guestnet:dhcp mac="52:54:00:61:0c:01" routers="edge" lease="3600">
        <guestnet:server ip="10.61.1.1"/>
      </guestnet:dhcp>
                       <!-- a virtual router gives addresses of the subnets, from that MAC address and these addresses,
                                  for so long; lease6="86400" for IPv6 -->
                       <!-- with zone="blue" above the network is in that zone of its topology -->
                       <!-- with link="gnl-1f0c2a77" above others on its bridge are links of their own -->
                       <!-- with external="yes" above: the network is not ours, and this is what we added to it -->
    </guestnet:network>

    <guestnet:domain xmlns:guestnet="…" topology="archnetwork" guest="b" image="tiny">
      <guestnet:port mac="52:54:00:61:0b:02" name="vlan2" network="vlan2" guarded="yes">   <!-- or no, or observe -->
                       <!-- instead of any address: addresses="none" or addresses="any" -->
        <guestnet:address ip="10.61.2.1"/>                    <!-- the port's own: as source, in ARP and ND -->
        <guestnet:source prefix="0.0.0.0/0"/>                 <!-- routed: as IP source only -->
        <guestnet:onlink prefix="10.61.2.0/24"/>              <!-- carved out of the routed sources -->
        <guestnet:behind prefix="10.61.3.0/24"/>              <!-- the host routes it to this port -->
        <guestnet:pair prefix="10.61.2.100/32" mac="00:00:5e:00:01:05"/>  <!-- more of its own; the MAC is optional -->
        <guestnet:lent mac="52:54:00:00:99:0a"/>       <!-- a guest inside it, which asks for its address by DHCP -->
        <guestnet:role name="dhcp-server"/>            <!-- or another of model.topology.Role -->
        <guestnet:forward at="198.18.1.1" protocol="tcp" ports="8080" to="10.61.2.1" first="80"/>  <!-- a forward; with
                                  hide="yes" the guest sees the host as client; without at: any address of the host;
                                  to="lease4": what the guest has by DHCP; from="198.18.0.0/16": only these clients -->
        <guestnet:floating ip="198.18.1.50" to="10.61.2.1"/>  <!-- all of an address, in both directions;
                                  with via="10.61.2.1" in the place of to= untranslated: the guest has it itself -->
        <guestnet:vlan trunk="100-110,200" native="1"/>       <!-- or tag="100": its own, not the network's -->
        <guestnet:routed gateway="169.255.30.1" publish="yes" label="lan1" device="eth1"/>
                       <!-- in no bridge: the host routes to it and answers for it on a LAN; table="100", vrf="red" -->
        <guestnet:impairment delay="20ms" jitter="5ms" loss="1%"/>  <!-- of what it receives; and duplicate, reorder,
                                  rate="10mbit" -->
                                       <!-- with probe="no" on the port no LAN is asked for its addresses before -->
      </guestnet:port>
    </guestnet:domain>
"""

from __future__ import annotations

from ipaddress import IPv4Address

from libvirt_guestnet.light_typing import TYPE_CHECKING, NamedTuple
from libvirt_guestnet.parse import Address, Prefix

if TYPE_CHECKING:  # few ports have one, and hooks start often
    from libvirt_guestnet.model.impairment import Impairment

NAMESPACE = "https://libvirt-guestnet.org/xmlns/1"
PREFIX = "guestnet"
# guarded= of a network, beside yes and no: no domain's own metadata lowers it.
REQUIRED = "required"
# guarded= of a network or a port: all is judged and counted, and passes.
OBSERVE = "observe"
# privacy= beside yes and no: a guest has no IPv6 address but those that are known.
STRICT = "strict"
# to= of a forward: whatever IPv4 address the host's DHCP server gives the guest.
LEASE = "lease4"
LEASE6 = "lease6"
# addresses= of a port: none at all, or any that nobody else holds.
NONE, ANY = "none", "any"
REFUSE = "refuse"  # offload=

Span = tuple[int, int]


class Subnet(NamedTuple):
    """A prefix whose addresses live on the network; `host` is the host's own there, if it has one."""

    prefix: Prefix
    host: Address | None = None


class Uplink(NamedTuple):
    """The NIC that the hook puts under the network's bridge, or, with `vlan`, a VLAN of it."""

    label: str
    device: str
    vlan: int = 0
    service: bool = False


class VlanBridge(NamedTuple):
    """The network's bridge is VLAN-aware: `tag` is its ports' access VLAN (0: none). With a `label` it exists anyway,
    and `uplink` is its port that leads outside ("": none known)."""

    tag: int = 0
    service: bool = False
    label: str = ""
    uplink: str = ""


class Vxlan(NamedTuple):
    """The VXLAN device that the hook puts under the network's bridge."""

    vni: int
    port: int
    label: str
    device: str
    mtu: int
    group: Address | None = None
    remotes: tuple[Address, ...] = ()


class Added(NamedTuple):
    """What guestnet added to a network that is not its own: a DHCP reservation for `mac`, or without one a DNS name. A
    reservation without a `name` has none."""

    ip: Address
    mac: str = ""
    name: str = ""


class RouterDhcp(NamedTuple):
    """The DHCP server of a virtual router: `mac` is that of all its answers, `addresses` are the router's on the
    network. `lease` and `lease6` say for how many seconds it gives an address of that IP version, 0 for ever, None if
    to nobody but those whose address is fixed. `routers` are the domains on whose disks the leases are, of a pair both.
    """

    mac: str
    addresses: tuple[Address, ...]
    lease: int | None = None
    lease6: int | None = None
    routers: tuple[str, ...] = ()


class NetworkPolicy(NamedTuple):
    """<guestnet:network>. Of `guarded`, `privacy` ("": not said) and `offload` the words above; `log`: None is not
    said. An `external` network is there without guestnet: nothing is its but what it `added`, which no hook reads.
    Guests of one `zone` ("": none) of a topology do not reach those of another by their own addresses. `dhcp` where a
    virtual router serves it, and not the host. Where several networks share a bridge that keeps them apart by itself,
    `link` names this one's link ("": it is the bridge)."""

    topology: str
    name: str
    guarded: str = "yes"
    privacy: str = ""
    log: bool | None = None
    offload: str = ""
    subnets: tuple[Subnet, ...] = ()
    carrier: Uplink | VlanBridge | Vxlan | None = None
    external: bool = False
    added: tuple[Added, ...] = ()
    zone: str = ""
    dhcp: RouterDhcp | None = None
    link: str = ""


class Pair(NamedTuple):
    """More addresses of a port's own, which a further `mac` may announce ("": none but its own)."""

    prefix: Prefix
    mac: str = ""


class Forward(NamedTuple):
    """Ports `first` to `last` of the host's address `at` ("": any) go to `to_first` and on at the guest's `to`, an
    address or one of LEASE and LEASE6, for clients of the prefixes `sources` (none: for all). Addresses are text as
    `parse` writes it. Of a protocol that has no ports, these are 0."""

    protocol: str
    first: int
    last: int
    to: str
    to_first: int
    at: str = ""
    hide: bool = False
    sources: tuple[Prefix, ...] = ()


class FloatingAddress(NamedTuple):
    """An address outside that is the port's: translated to its own address `to`, or routed by its own address `via`."""

    ip: Address
    to: Address | None = None
    via: Address | None = None


class Vlans(NamedTuple):
    """VLANs of a port's own: of its untagged frames (0: none), and the ranges of its tagged ones."""

    untagged: int = 0
    tagged: tuple[Span, ...] = ()


class HostRouted(NamedTuple):
    """The port is in no bridge: the host is its `gateway`, and with `publish` answers for its addresses on `device`
    ("": on whichever LAN they are). `table` 0 is the main routing table."""

    gateway: IPv4Address
    publish: bool
    label: str = ""
    device: str = ""
    table: int = 0
    vrf: str = ""


class PortPolicy(NamedTuple):
    """<guestnet:port>: what one NIC may send, and its forwards and routes.

    `addressing` is NONE, ANY or "" (what `addresses` says; or, without any, what the network's host says). `privacy`,
    `log` and `offload` as of a network; an `observed` port is a guarded one whose guard lets everything pass. `note` is
    the user's own, `was` XML of a user's own NIC: no hook reads these two. `lent` are MAC addresses of guests inside it
    that ask for their addresses by DHCP.
    """

    mac: str
    name: str
    network: str
    guarded: bool = True
    privacy: str = ""
    log: bool | None = None
    offload: str = ""
    probe: bool = True
    note: str = ""
    was: str = ""
    addressing: str = ""
    addresses: tuple[Address, ...] = ()
    sources: tuple[Prefix, ...] = ()
    onlink: tuple[Prefix, ...] = ()
    behind: tuple[Prefix, ...] = ()
    pairs: tuple[Pair, ...] = ()
    roles: tuple[str, ...] = ()
    forwards: tuple[Forward, ...] = ()
    floating: tuple[FloatingAddress, ...] = ()
    vlans: Vlans | None = None
    routed: HostRouted | None = None
    observed: bool = False
    impairment: Impairment | None = None
    lent: tuple[str, ...] = ()


class DomainPolicy(NamedTuple):
    """<guestnet:domain>"""

    topology: str
    guest: str
    image: str = ""
    ports: tuple[PortPolicy, ...] = ()

"""What the parts of a file's check hand to each other: every name there is; networks and ports with their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from libvirt_guestnet.model.host import FabricKind
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import Port

from .guest_keys import GuestDecl, PortDecl
from .host_keys import HostDecl
from .keys import TopologyDecl
from .network_keys import NetworkDecl, PhysicalDecl
from .router_keys import VirtualRouterDecl
from .spec import At, values

IPNetwork = IPv4Network | IPv6Network
HOST, NONE = "host", "none"
OUTSIDE = (Mode.BRIDGE, Mode.HOST_ROUTED, Mode.EXTERNAL)


@dataclass(frozen=True)
class Scope:
    """Every name of the file. A value of None is something declared that could not be read: it exists, and that is all
    we know. `routers` are the virtual ones, which are among the guests, too; `tiers` their networks, with their
    names, and `control` the one between the host and them, "" where there are none. `hosts` are None where the file is
    for the one that reads it, `fabric` what joins them."""

    topology: str
    physicals: Mapping[str, PhysicalDecl | None]
    networks: Mapping[str, NetworkDecl | None]
    guests: Mapping[str, GuestDecl | None]
    routers: Mapping[str, VirtualRouterDecl | None]
    tiers: Mapping[str, str]
    control: str
    zones: tuple[str, ...] = ()
    hosts: Mapping[str, HostDecl | None] | None = None
    fabric: FabricKind = FabricKind.BRIDGE

    @classmethod
    def of(cls, decl: TopologyDecl) -> Scope:
        physicals = {name.value: value for name, value in decl.physical_networks or ()}
        networks = {name.value: value for name, value in decl.networks or ()}
        guests = {name.value: value for name, value in decl.guests or ()}
        routers = {name.value: router for name, router in decl.routers or ()}
        tiers = {tier.value: name for name, router in routers.items() for tier, _ in (router.tiers if router else ())}
        control = control_name(decl.name.value) if routers else ""
        hosts = None if decl.hosts is None else {name.value: host for name, host in decl.hosts}
        fabric = decl.fabric.kind.value if decl.fabric else FabricKind.BRIDGE
        zones = values(decl.zones)
        return cls(decl.name.value, physicals, networks, guests, routers, tiers, control, zones, hosts, fabric)


def control_name(topology: str) -> str:
    """The libvirt network between the host and a topology's virtual routers."""
    return f"{topology}-control"


@dataclass(frozen=True)
class Segment:
    """A network as the checks see it. `prefixes` are where its ports' addresses lie; `sure` is false when some of that
    could not be read. `wire` is the layer-2 network: bridge networks of one label and VLAN share theirs."""

    at: At[str]
    decl: NetworkDecl
    network: Network
    prefixes: tuple[IPNetwork, ...]
    sure: bool

    @property
    def derives(self) -> bool:
        """Whether ports get addresses derived from their names: not where others may have them too."""
        return self.network.mode not in OUTSIDE or (self.network.routed is not None and self.decl.subnets is not None)

    @property
    def wire(self) -> str:
        label = self.network.physical_network if self.network.mode is Mode.BRIDGE else None
        vlan = f" VLAN {self.network.vlan}" if self.network.vlan else ""
        return f"label {label}{vlan}" if label else self.network.name

    @property
    def vrf(self) -> str:
        """The VRF that the network is in; in each, addresses are its own. "" where the host's other networks are."""
        return (self.network.routed.vrf if self.network.routed else None) or ""

    @property
    def space(self) -> str:
        """Within what its addresses must be unique: its VRF, or the network itself where the host has no part, neither
        an address nor a route: in an overlay, and on an isolated network where it has no address."""
        is_alone = self.network.mode is Mode.ISOLATED and not any(each.host for each in self.network.subnets)
        return f"network {self.network.name}" if is_alone or self.network.vxlan else self.vrf


@dataclass(frozen=True)
class Placed:
    """A port with its place in the file, for the checks that compare ports."""

    guest: str
    decl: PortDecl
    port: Port

    @property
    def title(self) -> str:
        return f"{self.guest}.{self.port.name}"

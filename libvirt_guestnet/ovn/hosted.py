"""What libvirt and the hooks have of a topology whose networks are OVN's: ports of one bridge on every host. Pure.

Everything else that the file says of such a network OVN does: so the host is to do nothing of it. What a port may send
stays the guard's on its tap, under OVN's own port security (decision 126).
"""

from __future__ import annotations

from dataclasses import replace

from libvirt_guestnet.model.host import Encapsulation, FabricKind
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.services import NO_DHCP, NO_DNS
from libvirt_guestnet.model.topology import Guest, Port, PortKind, Topology
from libvirt_guestnet.ovn import names

LOGICAL_MODES = (Mode.NAT, Mode.ISOLATED, Mode.ROUTE, Mode.BRIDGE)
_UNDERLAY_MTU = 1500
# UDP, the encapsulation's header (Geneve's with the option that OVN puts into each packet), and the Ethernet inside.
_OVERHEAD = {Encapsulation.GENEVE: 8 + 16 + 14, Encapsulation.VXLAN: 8 + 8 + 14}


def is_logical(topology: Topology, network: Network) -> bool:
    """Whether the network is OVN's."""
    return topology.fabric.kind is FabricKind.OVN and network.mode in LOGICAL_MODES


def overhead(topology: Topology) -> int:
    """How many bytes smaller than on the underlay a guest's packet is that goes to another host."""
    families = {host.underlay.version for host in topology.hosts if host.underlay}
    return _OVERHEAD[topology.fabric.encapsulation] + (40 if 6 in families else 20)


def mtu(topology: Topology, network: Network) -> int | None:
    """The largest packet of its guests: what the encapsulation leaves, but in mode bridge, where none is needed between
    a guest and its physical network."""
    if network.mtu or network.mode is Mode.BRIDGE:
        return network.mtu
    return _UNDERLAY_MTU - overhead(topology)


def hosted(topology: Topology) -> Topology:
    """The topology as its hosts have it; itself where no network is OVN's."""
    logical = {each.name for each in topology.networks if is_logical(topology, each)}
    if not logical:
        return topology
    networks = tuple(_network(topology, n) if n.name in logical else n for n in topology.networks)
    guests = tuple(_guest(topology, guest, logical) for guest in topology.guests)
    return replace(topology, networks=networks, guests=guests)


def _network(topology: Topology, network: Network) -> Network:
    return replace(
        network,
        mode=Mode.BRIDGE,
        bridge=names.BRIDGE,
        link=names.link(topology.name, network.name),
        mtu=mtu(topology, network),
        physical_network=None,
        mac=None,
        vlan=None,
        service_vlan=False,
        drawn=False,
        gateway=None,
        domain=None,
        dns_hosts=(),
        dns=NO_DNS,
        dhcp=NO_DHCP,
        dhcp6=NO_DHCP,
        routes=(),
        isolated_ports=False,
        zone=None,
        subnets=tuple(
            replace(s, gateway=None, host=None, dhcp=None, dhcp6=False, range6=None) for s in network.subnets
        ),
    )


def _guest(topology: Topology, guest: Guest, logical: set[str]) -> Guest:
    ports = (_port(topology, guest, p) if p.network in logical else p for p in guest.ports)
    return replace(guest, ports=tuple(ports))


def _port(topology: Topology, guest: Guest, port: Port) -> Port:
    return replace(
        port,
        kind=PortKind.NETWORK,
        logical_port=names.logical_port(topology.name, guest.name, port.name),
        isolated=False,
        forwards=(),
        floating=(),
        behind=(),
        hostname="",
        dhcp_options=(),
    )

"""What a topology says of networks and ports, as the policies that the hooks enforce."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata import policy, writer
from libvirt_guestnet.metadata.policy import LEASE, OBSERVE, REQUIRED, STRICT, DomainPolicy, NetworkPolicy, PortPolicy
from libvirt_guestnet.model.network import Network, Offload
from libvirt_guestnet.model.topology import AddressWord, Forward, Guest, Port, Topology
from libvirt_guestnet.router import tier
from libvirt_guestnet.xmlgen.element import Element
from libvirt_guestnet.xmlgen.vlan import has_vlans


def network_metadata(topology: Topology, network: Network, hostmap: HostMap) -> Element:
    """<guestnet:network>. Raises GuestnetError when the network needs a physical network that the host does not map."""
    return writer.network_element(network_policy(topology, network, hostmap))


def domain_metadata(topology: Topology, guest: Guest, hostmap: HostMap) -> Element:
    """<guestnet:domain>. Set on users' own domains too.

    Raises GuestnetError when a host-routed port needs a physical network that the host does not map.
    """
    return writer.domain_element(domain_policy(topology, guest, hostmap))


def network_policy(topology: Topology, network: Network, hostmap: HostMap) -> NetworkPolicy:
    """Whose network this is, its subnets, and what the hook puts under its bridge. Raises GuestnetError."""
    uplink, vlan = _uplink(network, hostmap), _vlan(topology, network, hostmap)
    return _guarding(topology, network, everybody=network.guarded)._replace(
        subnets=tuple(policy.Subnet(subnet.prefix, subnet.host) for subnet in network.subnets),
        carrier=uplink or vlan or _vxlan(network, hostmap),
        zone=network.zone or "",
        dhcp=_router_dhcp(topology, network) if network.router else None,
        link=network.link,
    )


def _router_dhcp(topology: Topology, network: Network) -> policy.RouterDhcp | None:
    """None where nobody's address is to be known by what the router says: the file's guests have theirs in their own
    policies. What is said changes seldom, as an older libvirt restarts a network for that."""
    said, server = tier.dhcp(topology, network), tier.server(topology, network)
    versions = {each.start.version for each in said.ranges}
    if server is None or not versions:
        return None
    lease, lease6 = said.lease if 4 in versions else None, said.lease6 if 6 in versions else None
    return policy.RouterDhcp(server.mac, server.addresses, lease, lease6, server.routers)


def external_policy(topology: Topology, network: Network, added: Iterable[policy.Added]) -> NetworkPolicy:
    """The same of a network that is there without us; only what the file says outright holds for guests that it does
    not know."""
    everybody = network.external is not None and network.external.guards_all
    return _guarding(topology, network, everybody=everybody)._replace(external=True, added=tuple(added))


def _guarding(topology: Topology, network: Network, *, everybody: bool) -> NetworkPolicy:
    """How the ports on it are guarded; `everybody`: also those of guests without metadata."""
    guarded = OBSERVE if network.observed else "yes" if everybody else "no"
    return NetworkPolicy(
        topology=topology.name,
        name=network.name,
        guarded=REQUIRED if network.guard_required else guarded,
        privacy=_privacy(network) if _privacy(network) != "no" else "",
        log=network.log_drops or None,
        offload=_offload(network),
    )


def domain_policy(topology: Topology, guest: Guest, hostmap: HostMap) -> DomainPolicy:
    """What each of the guest's ports may send. Raises GuestnetError."""
    ports = (_port(port, topology.network(port.network), hostmap) for port in guest.ports)
    return DomainPolicy(topology.name, guest.name, guest.image or "", tuple(ports))


def _port(port: Port, network: Network, hostmap: HostMap) -> PortPolicy:
    return PortPolicy(
        mac=port.mac,
        name=port.name,
        network=port.network,
        guarded=port.guarded,
        observed=port.observed,
        privacy="" if _privacy(port) == (_privacy(network) if _has_metadata(network) else "no") else _privacy(port),
        log=None if port.log_drops == (network.log_drops and _has_metadata(network)) else port.log_drops,
        offload=_offload(network),
        probe=port.probe,
        note=port.note,
        addressing=_addressing(port),
        addresses=(*(address.ip for address in port.addresses), *port.untranslated),
        sources=tuple(port.sources),
        onlink=tuple(port.onlink),
        behind=tuple(port.behind),
        pairs=tuple(policy.Pair(pair.prefix, pair.mac or "") for pair in port.pairs),
        lent=port.lent,
        roles=tuple(str(role) for role in port.roles),
        forwards=() if network.router else tuple(map(_forward, port.forwards)),
        floating=()
        if network.router
        else (
            *(policy.FloatingAddress(ip, to=port.address(ip.version)) for ip in port.floating),
            *(policy.FloatingAddress(ip, via=port.address(ip.version)) for ip in port.untranslated),
        ),
        vlans=policy.Vlans(port.vlan or port.native_vlan or 0, port.trunk) if has_vlans(port) else None,
        routed=_routed(network, hostmap),
        impairment=port.impairment,
    )


def _has_metadata(network: Network) -> bool:
    """Whether a network of libvirt's says it for its ports: not of a host-routed one, nor of a bridge of the host's."""
    return network.routed is None and not (network.external and network.external.bridge)


def _privacy(of: Network | Port) -> str:
    if of.strict_addresses:
        return STRICT
    return "yes" if of.privacy_addresses else "no"


def _addressing(port: Port) -> str:
    left_out = (AddressWord.NONE,) if port.untranslated else ()
    said = port.address_word
    return "" if said is None or said in (AddressWord.DHCP, *left_out) else str(said)


def _offload(network: Network) -> str:
    return "" if network.offload is Offload.ALLOW else str(network.offload)


def _forward(forward: Forward) -> policy.Forward:
    return policy.Forward(
        protocol=str(forward.protocol),
        first=forward.first,
        last=forward.last,
        to=str(forward.address or LEASE),
        to_first=forward.to_first,
        at=str(forward.at or ""),
        hide=forward.hide,
        sources=forward.sources,
    )


def _uplink(network: Network, hostmap: HostMap) -> policy.Uplink | None:
    device = hostmap.uplink(network)
    if device is None:
        return None
    return policy.Uplink(network.physical_network or "", device, network.vlan or 0, network.service_vlan)


def _vlan(topology: Topology, network: Network, hostmap: HostMap) -> policy.VlanBridge | None:
    wanted = registry.wanted(topology, network, hostmap)
    return registry.of(wanted).declares(wanted)


def _vxlan(network: Network, hostmap: HostMap) -> policy.Vxlan | None:
    overlay = network.vxlan
    if overlay is None:
        return None
    return policy.Vxlan(
        vni=overlay.vni,
        port=overlay.port,
        label=overlay.underlay,
        device=hostmap.device(overlay.underlay, f"network {network.name!r}"),
        mtu=network.mtu or 0,
        group=overlay.group,
        remotes=tuple(overlay.remotes),
    )


def _routed(network: Network, hostmap: HostMap) -> policy.HostRouted | None:
    routed, label = network.routed, network.physical_network
    if routed is None:
        return None
    where = label if routed.publish else None
    return policy.HostRouted(
        gateway=routed.gateway,
        publish=routed.publish,
        label=where or "",
        device=hostmap.device(where, f"network {network.name!r}") if where else "",
        table=routed.table or 0,
        vrf=routed.vrf or "",
    )

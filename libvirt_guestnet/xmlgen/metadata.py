"""Our own elements in <metadata>: what the hooks enforce. The schema is `xml/metadata.rng`."""

from __future__ import annotations

from lxml import etree

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.metadata import LEASE, NAMESPACE, PREFIX, REQUIRED, STRICT
from libvirt_guestnet.model.network import Network, Offload
from libvirt_guestnet.model.topology import AddressWord, Forward, Guest, Port, Topology
from libvirt_guestnet.xmlgen.element import Child, Element, Value, fill
from libvirt_guestnet.xmlgen.vlan import has_vlans, ranges


def network_metadata(topology: Topology, network: Network, hostmap: HostMap) -> Element:
    """<guestnet:network>: whose network this is, its subnets, and the NIC or overlay the hook puts under its bridge.

    Raises GuestnetError when the network needs a physical network that the host does not map.
    """
    return _ours(
        "network",
        [_ours("subnet", prefix=subnet.prefix, host=subnet.host) for subnet in network.subnets],
        _uplink(network, hostmap),
        _vlan(topology, network, hostmap),
        _vxlan(network, hostmap),
        topology=topology.name,
        name=network.name,
        guarded=REQUIRED if network.guard_required else network.guarded,
        privacy=_privacy(network) or None,
        log=network.log_drops or None,
        offload=_offload(network),
    )


def domain_metadata(topology: Topology, guest: Guest, hostmap: HostMap) -> Element:
    """<guestnet:domain>: what each of the guest's ports may send. Set on users' own domains too.

    Raises GuestnetError when a host-routed port needs a physical network that the host does not map.
    """
    return _ours(
        "domain",
        (_port(port, topology.network(port.network), hostmap) for port in guest.ports),
        topology=topology.name,
        guest=guest.name,
        image=guest.image,
    )


def _privacy(of: Network | Port) -> bool | str:
    return STRICT if of.strict_addresses else of.privacy_addresses


def _unless_default(wanted: bool, default: bool) -> bool | None:
    return None if wanted == default else wanted


def _word(port: Port) -> AddressWord | None:
    left_out = (AddressWord.NONE,) if port.untranslated else ()
    return None if port.address_word in (AddressWord.DHCP, *left_out) else port.address_word


def _port(port: Port, network: Network, hostmap: HostMap) -> Element:
    return _ours(
        "port",
        [_ours("address", ip=ip) for ip in (*(address.ip for address in port.addresses), *port.untranslated)],
        [_ours("source", prefix=prefix) for prefix in port.sources],
        [_ours("onlink", prefix=prefix) for prefix in port.onlink],
        [_ours("behind", prefix=prefix) for prefix in port.behind],
        [_ours("pair", prefix=pair.prefix, mac=pair.mac) for pair in port.pairs],
        [_ours("role", name=role) for role in port.roles],
        [_forward(forward) for forward in port.forwards],
        [_ours("floating", ip=ip, to=port.address(ip.version)) for ip in port.floating],
        [_ours("floating", ip=ip, via=port.address(ip.version)) for ip in port.untranslated],
        _port_vlan(port),
        _routed(network, hostmap),
        mac=port.mac,
        name=port.name,
        network=port.network,
        guarded=port.guarded,
        addresses=_word(port),
        privacy=None if _privacy(port) == _privacy(network) else _privacy(port),
        # A host-routed network has no metadata to say it.
        log=_unless_default(port.log_drops, network.log_drops and network.routed is None),
        probe=_unless_default(port.probe, True),
        offload=_offload(network),
    )


def _offload(network: Network) -> str | None:
    return None if network.offload is Offload.ALLOW else network.offload


def _forward(forward: Forward) -> Element:
    ports = str(forward.first) if forward.first == forward.last else f"{forward.first}-{forward.last}"
    return _ours(
        "forward",
        at=forward.at,
        protocol=forward.protocol,
        ports=ports,
        to=forward.address or LEASE,
        first=forward.to_first if forward.to_first != forward.first else None,
        hide=True if forward.hide else None,
    )


def _uplink(network: Network, hostmap: HostMap) -> Element | None:
    device = hostmap.uplink(network)
    if device is None:
        return None
    return _ours("uplink", label=network.physical_network, device=device, vlan=network.vlan, service=_service(network))


def _service(network: Network) -> bool | None:
    return True if network.service_vlan else None


def _vlan(topology: Topology, network: Network, hostmap: HostMap) -> Element | None:
    wanted = registry.wanted(topology, network, hostmap)
    tag = registry.of(wanted).declares(wanted)
    return None if tag is None else _ours(tag.name, **tag.attributes)


def _port_vlan(port: Port) -> Element | None:
    if not has_vlans(port):
        return None
    return _ours("vlan", tag=port.vlan, trunk=ranges(port.trunk), native=port.native_vlan)


def _routed(network: Network, hostmap: HostMap) -> Element | None:
    routed, label = network.routed, network.physical_network
    if routed is None:
        return None
    where = label if routed.publish else None
    return _ours(
        "routed",
        gateway=routed.gateway,
        publish=routed.publish,
        label=where,
        device=hostmap.device(where, f"network {network.name!r}") if where else None,
        table=routed.table,
        vrf=routed.vrf,
    )


def _vxlan(network: Network, hostmap: HostMap) -> Element | None:
    overlay = network.vxlan
    if overlay is None:
        return None
    return _ours(
        "vxlan",
        [_ours("remote", ip=remote) for remote in overlay.remotes],
        vni=overlay.vni,
        port=overlay.port,
        label=overlay.underlay,
        device=hostmap.device(overlay.underlay, f"network {network.name!r}"),
        group=overlay.group,
        mtu=network.mtu,
    )


def _ours(tag: str, /, *children: Child, **attributes: Value) -> Element:
    element = etree.Element(etree.QName(NAMESPACE, tag), nsmap={PREFIX: NAMESPACE})
    fill(element, *children, **attributes)
    return element

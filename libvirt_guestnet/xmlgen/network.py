"""<network>."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network
from uuid import UUID, uuid5

from lxml import etree

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.xmlgen import dnsmasq, services
from libvirt_guestnet.xmlgen.bandwidth import bandwidth
from libvirt_guestnet.xmlgen.element import Element, fill, maybe, node
from libvirt_guestnet.xmlgen.policy import network_metadata
from libvirt_guestnet.xmlgen.vlan import elements

UUID_ROOT = UUID("b0a4d7c9-5a0e-5a55-9f53-0c7d9c0b5f55")


def network(topology: Topology, network: Network, hostmap: HostMap) -> Element:
    """The complete <network>, in the order in which libvirt prints it.

    Raises GuestnetError when the network needs a physical network that the host does not map, or asks for what
    libvirt does not offer in its mode.
    """
    _refuse_what_libvirt_ignores(network)
    made_by_libvirt = network.mode is not Mode.BRIDGE
    options = dnsmasq.options(topology, network) if made_by_libvirt and network.router is None else None
    element = etree.Element("network", nsmap={"dnsmasq": dnsmasq.DNSMASQ} if options is not None else None)
    fill(
        element,
        node("name", text=network.name),
        node("uuid", text=str(network_uuid(topology, network))),
        node("metadata", network_metadata(topology, network, hostmap)),
        _forward(network, hostmap),
        _libvirts_bridge(network) if made_by_libvirt else node("bridge", name=hostmap.bridge(network)),
        _services(topology, network) if made_by_libvirt else (),
        elements(registry.plugged_into(network, hostmap).libvirt_network(network)),
        maybe(network.isolated_ports, "port", isolated=True),
        _addresses(topology, network) if made_by_libvirt else (),
        _routes(network),
        options,
        ipv6=_ipv6_between_guests(network),
    )
    dnsmasq.check(element, network.name)
    return element


def _refuse_what_libvirt_ignores(network: Network) -> None:
    if network.bandwidth and network.mode is Mode.BRIDGE:
        raise GuestnetError(
            f"network {network.name!r}: libvirt limits the bandwidth of a whole network only on a bridge it makes "
            f"itself, not in mode bridge; set bandwidth on the ports instead"
        )


def network_uuid(topology: Topology, network: Network) -> UUID:
    """The same for the same names on every host, so that `virsh net-define` of a changed file is a redefinition."""
    return uuid5(UUID_ROOT, f"{NAMESPACE} {topology.name} {network.name}")


def _ipv6_between_guests(network: Network) -> bool | None:
    """Whether to allow IPv6 between guests: libvirt drops it by default, unless the host has an IPv6 address there."""
    ipv6 = [subnet for subnet in network.subnets if isinstance(subnet.prefix, IPv6Network)]
    needed = network.mode is not Mode.BRIDGE and ipv6 and all(subnet.host is None for subnet in ipv6)
    return True if needed else None


def _forward(network: Network, hostmap: HostMap) -> Element | None:
    if network.mode is Mode.ISOLATED:
        return None
    leaves_through = network.physical_network if network.mode in (Mode.NAT, Mode.ROUTE) else None
    translates_ipv6 = network.mode is Mode.NAT and any(s.prefix.version == 6 for s in network.subnets)
    return node(
        "forward",
        maybe(translates_ipv6, "nat", ipv6=True),
        mode=network.mode,
        dev=hostmap.device(leaves_through, f"network {network.name!r}") if leaves_through else None,
    )


def _libvirts_bridge(network: Network) -> Iterator[Element]:
    # STP off: a bridge with it on keeps a new tap silent for 3.8 s (libvirt 9.0, even with delay 0).
    yield node("bridge", name=network.bridge, stp="off", delay=0)
    if network.mtu:
        yield node("mtu", size=network.mtu)
    if network.mac:
        yield node("mac", address=network.mac)


def _services(topology: Topology, network: Network) -> Iterator[Element]:
    if network.domain and network.router is None:
        yield node("domain", name=network.domain, localOnly=network.domain_local or None)
    if network.control or not _has_host_address(network):
        yield node("dns", enable=False)
    elif answers := list(services.dns(topology, network)):
        yield node("dns", answers)
    limits = bandwidth(network.bandwidth)
    if limits is not None:
        yield limits


def _has_host_address(network: Network) -> bool:
    return any(subnet.host is not None for subnet in network.subnets)


def _addresses(topology: Topology, network: Network) -> Iterator[Element]:
    for subnet in network.subnets:
        if subnet.host is not None:
            yield node(
                "ip",
                services.tftp(network, subnet),
                services.dhcp(topology, network, subnet),
                family="ipv6" if subnet.host.version == 6 else None,
                address=subnet.host,
                prefix=subnet.prefix.prefixlen,
            )


def _routes(network: Network) -> Iterator[Element]:
    for route in network.routes:
        yield node(
            "route",
            family="ipv6" if route.prefix.version == 6 else None,
            address=route.prefix.network_address,
            prefix=route.prefix.prefixlen,
            gateway=route.gateway,
            metric=route.metric,
        )

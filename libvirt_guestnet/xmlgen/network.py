"""<network>."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network
from uuid import UUID, uuid5

from lxml import etree

from libvirt_guestnet.carriers import registry
from libvirt_guestnet.datapath.port.ranges import span, without
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Network, Subnet
from libvirt_guestnet.model.topology import Assignment, Guest, Port, PortAddress, Topology
from libvirt_guestnet.xmlgen.bandwidth import bandwidth
from libvirt_guestnet.xmlgen.element import Element, fill, maybe, node
from libvirt_guestnet.xmlgen.policy import network_metadata
from libvirt_guestnet.xmlgen.vlan import elements

UUID_ROOT = UUID("b0a4d7c9-5a0e-5a55-9f53-0c7d9c0b5f55")
DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"


def network(topology: Topology, network: Network, hostmap: HostMap) -> Element:
    """The complete <network>, in the order in which libvirt prints it.

    Raises GuestnetError when the network needs a physical network that the host does not map, or asks for what
    libvirt does not offer in its mode.
    """
    _refuse_what_libvirt_ignores(network)
    made_by_libvirt = network.mode is not Mode.BRIDGE
    options = _dnsmasq_options(topology, network)
    element = etree.Element("network", nsmap={"dnsmasq": DNSMASQ} if options is not None else None)
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
        options,
        ipv6=_ipv6_between_guests(network),
    )
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
    if network.domain:
        yield node("domain", name=network.domain, localOnly=True)
    if not _has_host_address(network):
        yield node("dns", enable=False)
    elif hosts := _dns_hosts(topology, network):
        yield node("dns", hosts)
    limits = bandwidth(network.bandwidth)
    if limits is not None:
        yield limits


def _has_host_address(network: Network) -> bool:
    return any(subnet.host is not None for subnet in network.subnets)


def _dns_hosts(topology: Topology, network: Network) -> list[Element]:
    """One <host> per address: libvirt refuses a second one for the same address."""
    names: dict[IPAddress, list[str]] = {}
    for host in network.dns_hosts:
        names.setdefault(host.address, []).extend(host.names)
    for guest, port, address in port_addresses(topology, network):
        if address.assignment is not Assignment.DHCP:
            names.setdefault(address.ip, []).append(dns_name(guest, port))
    return [_dns_host(address, dict.fromkeys(wanted)) for address, wanted in names.items()]


def _dns_host(address: IPAddress, names: dict[str, None]) -> Element:
    return node("host", [node("hostname", text=name) for name in names], ip=address)


def port_addresses(topology: Topology, network: Network) -> Iterator[tuple[Guest, Port, PortAddress]]:
    for guest, port in topology.ports_on(network.name):
        for address in port.addresses:
            yield guest, port, address


def dns_name(guest: Guest, port: Port) -> str:
    """The guest's name, except for its further ports on one network: two reservations cannot share a name."""
    first = next(p for p in guest.ports if p.network == port.network)
    name = guest.name if port.name == first.name else f"{guest.name}-{port.name}"
    return name.replace("_", "-")  # an underscore is no part of a host name, and libvirt's schema refuses it


def _addresses(topology: Topology, network: Network) -> Iterator[Element]:
    for subnet in network.subnets:
        if subnet.host is not None:
            yield node(
                "ip",
                _dhcp(topology, network, subnet),
                family="ipv6" if subnet.host.version == 6 else None,
                address=subnet.host,
                prefix=subnet.prefix.prefixlen,
            )


def _dhcp(topology: Topology, network: Network, subnet: Subnet) -> Element | None:
    reserved = [
        node("host", mac=port.mac, name=dns_name(guest, port), ip=address.ip)
        for guest, port, address in port_addresses(topology, network)
        if address.assignment is Assignment.DHCP and address.ip in subnet.prefix
    ]
    pools = [node("range", start=start, end=end) for start, end in _ranges(topology, network, subnet)]
    return maybe(bool(pools or reserved), "dhcp", pools, reserved)


def _ranges(topology: Topology, network: Network, subnet: Subnet) -> Iterator[tuple[IPv4Address, IPv4Address]]:
    """The DHCP range without what the file says is somebody's: its server asks nobody whether an address is in use. A
    reservation it knows of."""
    if subnet.dhcp:
        start, end = subnet.dhcp.start, subnet.dhcp.end
        declared = (span(prefix) for prefix in _declared(topology, network) if prefix.version == 4)
        for first, last in without([(int(start), int(end))], declared):
            yield start + (first - int(start)), start + (last - int(start))


def _declared(topology: Topology, network: Network) -> Iterator[IPNetwork]:
    for _, port in topology.ports_on(network.name):
        yield from (single(a.ip) for a in port.addresses if a.assignment is not Assignment.DHCP)
        yield from (pair.prefix for pair in port.pairs)
    for port in (port for guest in topology.guests for port in guest.ports):
        yield from map(single, (*port.floating, *port.untranslated))
    yield from (single(host.address) for host in network.dns_hosts)
    yield from (single(s.gateway) for s in network.subnets if s.gateway)


def _dnsmasq_options(topology: Topology, network: Network) -> Element | None:
    """<dnsmasq:options> for what libvirt's own elements cannot say: that the host is not the default gateway, and that
    a lease belongs to a MAC address, which port security knows, and not to the client identifier that a guest claims.

    Its DHCP server and router advertisements offer the host, except in mode isolated where they offer nobody (rightly
    even when the host is called the gateway: it forwards nothing).
    """
    values = [value for subnet in network.subnets for value in _gateway_options(topology, network, subnet)]
    if any(_dhcp(topology, network, subnet) is not None for subnet in network.subnets if subnet.prefix.version == 4):
        values.append("dhcp-ignore-clid")
    if network.mode is Mode.BRIDGE or not values:
        return None
    options = etree.Element(etree.QName(DNSMASQ, "options"), nsmap={"dnsmasq": DNSMASQ})
    for value in dict.fromkeys(values):
        etree.SubElement(options, etree.QName(DNSMASQ, "option")).set("value", value)
    return options


def _gateway_options(topology: Topology, network: Network, subnet: Subnet) -> Iterator[str]:
    isolated = network.mode is Mode.ISOLATED
    if subnet.host is None or subnet.gateway == subnet.host or (isolated and subnet.gateway is None):
        return
    if subnet.prefix.version == 4 and _dhcp(topology, network, subnet) is not None:
        # Stands after libvirt's own "dhcp-option=3" of mode isolated, and the last one wins (tried with dnsmasq 2.90).
        yield f"dhcp-option=option:router,{subnet.gateway}" if subnet.gateway else "dhcp-option=option:router"
    if subnet.prefix.version == 6 and not isolated:
        # Router lifetime 0: the prefixes are announced, nobody is offered as default router (RFC 4861, 6.2.3).
        yield "ra-param=*,0,0"

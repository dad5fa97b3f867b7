"""<dns>, <tftp> and <dhcp> of a <network>."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.datapath.port.ranges import span, without
from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.hostnames import host_name
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Network, Subnet
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.services import Dhcp
from libvirt_guestnet.model.topology import Guest, Port, Topology
from libvirt_guestnet.xmlgen.element import Element, maybe, node


def dns(topology: Topology, network: Network) -> Iterator[Element]:
    """What is in <dns>, in the order in which libvirt prints it."""
    for each in network.dns.forwarders:
        yield node("forwarder", domain=each.domain, addr=each.address)
    for text in network.dns.texts:
        yield node("txt", name=text.name, value=text.text)
    for srv in network.dns.services:
        yield node(
            "srv",
            service=srv.service,
            protocol=srv.protocol,
            domain=srv.domain,
            target=srv.target,
            port=srv.port,
            priority=srv.priority,
            weight=srv.weight,
        )
    yield from _dns_hosts(topology, network)


def _dns_hosts(topology: Topology, network: Network) -> Iterator[Element]:
    """One <host> per address: libvirt refuses a second one for the same address."""
    names: dict[IPAddress, list[str]] = {}
    for host in network.dns_hosts:
        names.setdefault(host.address, []).extend(host.names)
    for guest, port, address in port_addresses(topology, network):
        if address.assignment is not Assignment.DHCP or address.ip.version == 6:
            names.setdefault(address.ip, []).append(host_name(guest, port))
    for ip, wanted in names.items():
        yield node("host", [node("hostname", text=name) for name in dict.fromkeys(wanted)], ip=ip)


def port_addresses(topology: Topology, network: Network) -> Iterator[tuple[Guest, Port, PortAddress]]:
    for guest, port in topology.ports_on(network.name):
        for address in port.addresses:
            yield guest, port, address


def tftp(network: Network, subnet: Subnet) -> Element | None:
    """Where the host's TFTP server has its files."""
    boot = network.dhcp.boot
    return node("tftp", root=boot.tftp_root) if boot and boot.tftp_root and subnet.dhcp else None


def dhcp(topology: Topology, network: Network, subnet: Subnet) -> Element | None:
    """A subnet's <dhcp>."""
    server = network.dhcp6 if subnet.prefix.version == 6 else network.dhcp
    pools = [node("range", lease(server), start=start, end=end) for start, end in _ranges(topology, network, subnet)]
    reserved = [*_of_ports(topology, network, subnet, server), *_of_others(subnet, server)]
    boot = server.boot
    booted = maybe(boot and boot.file, "bootp", file=boot.file, server=boot.server) if boot else None
    return maybe(bool(pools or reserved), "dhcp", pools, reserved, booted)


def _of_ports(topology: Topology, network: Network, subnet: Subnet, server: Dhcp) -> Iterator[Element]:
    for guest, port, address in port_addresses(topology, network):
        if address.assignment is Assignment.DHCP and address.ip in subnet.prefix:
            six = address.ip.version == 6
            known = {"id": port.duid or duid_of(port.mac)} if six else {"mac": port.mac}
            yield node("host", lease(server), **known, name=host_name(guest, port), ip=address.ip)


def _of_others(subnet: Subnet, server: Dhcp) -> Iterator[Element]:
    """But for client identifiers, which libvirt has no word for."""
    for each in server.reservations if subnet.dhcp or subnet.dhcp6 else ():
        if each.address in subnet.prefix and not each.client_id:
            six = each.address.version == 6
            known = {"id": each.duid or duid_of(each.mac)} if six else {"mac": each.mac}
            yield node("host", lease(server), **known, name=each.hostname or None, ip=each.address)


def duid_of(mac: str) -> str:
    """The DUID that is made of a MAC address alone (RFC 8415, 11.4). Others have to be said, or go by the MAC address
    by a line of dnsmasq's, as libvirt knows none for DHCPv6."""
    return f"00:03:00:01:{mac}"


def lease(server: Dhcp) -> Element | None:
    """<lease> in the largest unit that fits."""
    if server.lease is None:
        return None
    units = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
    size, unit = next((size, unit) for size, unit in units if server.lease % size == 0)
    return node("lease", expiry=server.lease // size, unit=unit if server.lease else None)


def _ranges(topology: Topology, network: Network, subnet: Subnet) -> Iterator[tuple[IPAddress, IPAddress]]:
    """The DHCP range without what the file says is somebody's: its server asks nobody whether an address is in use. A
    reservation it knows of."""
    pool = subnet.dhcp or subnet.range6
    if pool:
        start, version = pool.start, pool.start.version
        declared = (span(prefix) for prefix in _declared(topology, network) if prefix.version == version)
        for first, last in without([(int(start), int(pool.end))], declared):
            yield start + (first - int(start)), start + (last - int(start))


def _declared(topology: Topology, network: Network) -> Iterator[IPNetwork]:
    for _, port in topology.ports_on(network.name):
        yield from (single(a.ip) for a in port.addresses if a.assignment is not Assignment.DHCP)
        yield from (pair.prefix for pair in port.pairs)
    yield from map(single, topology.floating)
    reserved = {each.address for each in (*network.dhcp.reservations, *network.dhcp6.reservations)}
    yield from (single(host.address) for host in network.dns_hosts if host.address not in reserved)
    yield from (single(s.gateway) for s in network.subnets if s.gateway)

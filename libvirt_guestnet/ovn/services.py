"""Rows of DHCP and DNS, which OVN answers on every chassis itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.hostnames import host_name
from libvirt_guestnet.model.network import IPAddress, Network, Subnet
from libvirt_guestnet.model.topology import Port, Topology
from libvirt_guestnet.ovn.hosted import mtu
from libvirt_guestnet.ovn.options import said
from libvirt_guestnet.ovn.rows import DHCP, DNS, Ref, Row, pairs, row

_LEASE, _FOR_EVER = 3600, 0xFFFFFFFF
_DHCP, _DHCP6 = "dhcpv4_options", "dhcpv6_options"


def dhcp(topology: Topology, network: Network) -> Iterator[Row]:
    """A row for each subnet with DHCP, and one for each port with options of its own."""
    for subnet in network.subnets:
        if subnet.host is None or not (subnet.dhcp or subnet.dhcp6):
            continue
        for key, port in _told(topology, network, subnet):
            options = _options(topology, network, subnet) | _own(subnet, port)
            yield row(Ref(DHCP, key), cidr=str(subnet.prefix), options=pairs(options))


def told(network: Network, title: str, port: Port) -> dict[str, tuple[Ref, ...]]:
    """The columns of a port's row that say which of these it is told."""
    found: dict[str, tuple[Ref, ...]] = {_DHCP: (), _DHCP6: ()}
    for subnet in network.subnets:
        served = subnet.host is not None and (subnet.dhcp or subnet.dhcp6)
        if served and any(each.ip in subnet.prefix for each in port.addresses):
            key = _own_key(network, subnet, title) if _own(subnet, port) else _key(network, subnet)
            found[_DHCP if subnet.prefix.version == 4 else _DHCP6] = (Ref(DHCP, key),)
    return found


def _told(topology: Topology, network: Network, subnet: Subnet) -> Iterator[tuple[str, Port | None]]:
    yield _key(network, subnet), None
    for guest, port in topology.ports_on(network.name):
        if _own(subnet, port) and any(each.ip in subnet.prefix for each in port.addresses):
            yield _own_key(network, subnet, f"{guest.name}/{port.name}"), port


def _key(network: Network, subnet: Subnet) -> str:
    return f"{network.name}/{subnet.prefix}"


def _own_key(network: Network, subnet: Subnet, title: str) -> str:
    return f"{network.name}/{subnet.prefix}/{title}"


def _own(subnet: Subnet, port: Port | None) -> dict[str, str]:
    mine = () if port is None else port.dhcp_options
    return said(tuple(each for each in mine if each.version == subnet.prefix.version))


def _options(topology: Topology, network: Network, subnet: Subnet) -> dict[str, object]:
    servers = _servers(network, subnet)
    if subnet.prefix.version == 6:
        domain = f'"{network.domain}"' if network.domain else None
        six = {"server_id": network.mac, "dns_server": servers, "domain_search": domain}
        return {**six, **said(network.dhcp6.options)}
    lease = _LEASE if network.dhcp.lease is None else network.dhcp.lease
    four = {
        "server_id": subnet.host,
        "server_mac": network.mac,
        "lease_time": lease or _FOR_EVER,
        "router": subnet.gateway,
        "dns_server": servers,
        "domain_name": f'"{network.domain}"' if network.domain else None,
        "mtu": mtu(topology, network),
    }
    return {**four, **said(network.dhcp.options)}


def _servers(network: Network, subnet: Subnet) -> str:
    """Whom guests ask for names: OVN answers in the place of whoever that is what it knows itself."""
    version = subnet.prefix.version
    asked = [f.address for f in network.dns.forwarders if f.address and not f.domain and f.address.version == version]
    said_ = [str(each) for each in asked] or [str(subnet.host)]
    return said_[0] if len(said_) == 1 else "{" + ", ".join(said_) + "}"


def dns(topology: Topology, network: Network) -> Iterator[Row]:
    """What OVN answers on the network: guests' names there, and those that the file has."""
    if not any(subnet.host for subnet in network.subnets):
        return
    names: dict[str, list[IPAddress]] = {}
    for guest, port in topology.ports_on(network.name):
        short = host_name(guest, port).lower()
        addresses = [each.ip for each in port.addresses]
        for name in (short, f"{short}.{network.domain}".lower()) if network.domain else (short,):
            names.setdefault(name, []).extend(addresses)
    for host in network.dns_hosts:
        for name in host.names:
            names.setdefault(name.lower(), []).append(host.address)
    records = pairs({name: " ".join(map(str, found)) for name, found in names.items()})
    if records:
        yield row(Ref(DNS, network.name), records=records)

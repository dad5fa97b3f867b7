"""The names that DNS has for guests and their ports, and what DHCP knows of one: each once on a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from libvirt_guestnet.model.hostnames import host_name, is_too_long
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import AddressWord, Guest, Port

from ..errors import Where
from .dhcp import duid_mac
from .guest_keys import GuestDecl, PortDecl
from .report import Report, shown
from .scope import Segment
from .spec import At


class Names:
    """All names on each network, with whose they are."""

    def __init__(self, segments: Mapping[str, Segment], report: Report) -> None:
        self._segments = segments
        self._report = report
        reserved = [(name, *each) for name, seg in segments.items() for each in _reserved(seg)]
        self._owners = {(name, given): whose for name, given, _, whose in reserved}
        self._macs = {(name, given): mac for name, given, mac, _ in reserved if mac}

    def check(self, at: At[str], decl: GuestDecl, guest: Guest) -> None:
        """Report names that somebody else on the network has, and those that nobody would know."""
        known = [(d, p) for d, p in zip(decl.ports, guest.ports, strict=True) if self._is_named(p)]
        if decl.hostname and not guest.image and not known:
            self._report.add(decl.hostname.where, "the guest is on no network whose DNS server would know its hostname")
        for port_decl, port in known:
            name = host_name(guest, port)
            title = f"port '{guest.name}.{port.name}'"
            if is_too_long(name):
                message = f"{title} would be {shown(name)} for network '{port.network}', which is too long for DNS"
                self._report.add(_place(port_decl, decl, at), f"{message}; give it hostname:")
            owner = self._owners.setdefault((port.network, name.lower()), title)
            if owner != title and self._macs.get((port.network, name.lower())) != port.mac:
                where = _place(port_decl, decl, at)
                message = f"{title} would be {shown(name)} for network '{port.network}', which is the name of {owner}"
                self._report.add(where, f"{message}; give one of them hostname:")

    def _is_named(self, port: Port) -> bool:
        seg = self._segments.get(port.network)
        return seg is not None and _has_dns(seg)


def _has_dns(seg: Segment) -> bool:
    """Of libvirt's network that is there already, its host knows."""
    external = seg.network.external
    if seg.network.router or seg.network.control:
        return not seg.network.control
    return any(subnet.host for subnet in seg.network.subnets) if external is None else external.bridge is None


def _place(port: PortDecl, guest: GuestDecl, name: At[str]) -> Where:
    return port.hostname.where if port.hostname else guest.hostname.where if guest.hostname else name.where


def _reserved(seg: Segment) -> Iterator[tuple[str, str, str]]:
    """Names, the MAC addresses that they are for, and whose they are."""
    for server in (seg.network.dhcp, seg.network.dhcp6):
        for each in server.reservations:
            yield each.hostname.lower(), each.mac, f"a reservation of the network for {each.address}"


def check_port(decl: PortDecl, port: Port, seg: Segment, report: Report) -> None:
    """What is said of a port to a server that the network does not have, or twice."""
    network = seg.network
    served = [subnet.dhcp is not None for subnet in network.subnets]
    if decl.dhcp_options and not any(served) and not network.router and "dhcp" not in seg.decl.bad:
        where = decl.dhcp_options[0][0].where
        message = f"dhcp-options need a DHCP server of guestnet's on network '{network.name}'"
        report.add(where, f"{message}: give it dhcp: {{}}")
    if decl.duid and not any(a.ip.version == 6 for a in port.addresses if _by_dhcp6(a.ip, seg)):
        report.add(decl.duid.where, f"duid: network '{network.name}' tells the port no address by DHCPv6")
    if decl.hostname and not _has_dns(seg):
        report.add(decl.hostname.where, f"network '{network.name}' has no DNS server that would know the hostname")
    told = port.address_word is AddressWord.DHCP  # so it has what is reserved for it
    for server in () if told else (network.dhcp, network.dhcp6):
        for each in server.reservations:
            if port.mac in (each.mac, duid_mac(each.duid)) or (each.duid and each.duid == port.duid):
                message = f"network '{network.name}' has a reservation for {port.mac}, which is this port's"
                report.add(
                    decl.at,
                    f"{message}: say addresses: dhcp, or take it out and give the port addresses: [{each.address}]",
                )


def _by_dhcp6(ip: IPAddress, seg: Segment) -> bool:
    return any(subnet.dhcp6 and ip in subnet.prefix for subnet in seg.network.subnets)

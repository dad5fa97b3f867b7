"""What a network says that its virtual router cannot serve."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

from libvirt_guestnet.model.network import Network

from ..errors import Where
from .network_keys import NetworkDecl
from .report import Report
from .spec import At

_RA_LENGTH = 64


def check(at: At[str], decl: NetworkDecl, network: Network, report: Report) -> None:
    """Report each such key, with what to do instead."""
    for where, problem in (*_dhcp(decl), *_dns(decl), *_subnets(decl)):
        report.add(where, f"network '{at.value}' is served by router '{network.router}': {problem}")


def _dhcp(decl: NetworkDecl) -> Iterator[tuple[Where, str]]:
    if decl.dhcp and decl.dhcp.boot:
        instead = "say in options which tftp-server and bootfile-name another machine has"
        yield decl.dhcp.boot.at, f"it has no files to boot from; {instead}"
    for server in (decl.dhcp, decl.dhcp6):
        for each in server.reservations or () if server else ():
            if each.mac is None and not each.bad:
                yield each.at, "it knows a machine by its MAC address: say mac"


def _dns(decl: NetworkDecl) -> Iterator[tuple[Where, str]]:
    for each in decl.dns_forwarders or ():
        if each.address is None and not each.bad:
            yield each.at, "it cannot ask whoever the host asks: say the address of a DNS server"


def _subnets(decl: NetworkDecl) -> Iterator[tuple[Where, str]]:
    for each in decl.subnets or ():
        if isinstance(each.value, IPv6Network) and each.value.prefixlen < _RA_LENGTH:
            yield each.where, f"an IPv6 subnet there is a /{_RA_LENGTH} or smaller, and {each.value} is larger"

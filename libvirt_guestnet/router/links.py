"""A router's NICs, addresses and routes as lines for the appliance. Pure.

nic NAME MAC MTU|- IP-VERSIONS [VIRTUAL-MAC]    one with a virtual MAC address is down until the router takes over
address NIC ADDRESS/LENGTH                      lo where guests ask for metadata
route PREFIX GATEWAY NIC TABLE
rule IP-VERSION from PREFIX TABLE           of what the router itself sends
rule IP-VERSION mark NUMBER TABLE
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.router import PublicNic, RouterConfig
from libvirt_guestnet.router import metadata, parts

MAIN_TABLE = 254
_ANY = {4: "0.0.0.0/0", 6: "::/0"}


def lines(config: RouterConfig) -> Iterator[str]:
    for nic in config.traffic_nics:
        yield f"nic {nic.name} {nic.mac} {nic.mtu or '-'} 46 {nic.virtual_mac}".rstrip()
    for own in config.own_nics:
        yield f"nic {own.name} {own.mac} - 4"
        yield f"address {own.name} {own.address}"
    for nic in config.traffic_nics:
        yield from (f"address {nic.name} {own}" for own in nic.addresses)
    if config.metadata:
        yield from (f"address lo {each}/{parse.address(each).max_prefixlen}" for each in metadata.ADDRESSES)
    yield from _translated(config)
    yield from _default_routes(config)
    if len(config.public) > 1:
        for public in config.public:
            yield from _own_table(public)


def _translated(config: RouterConfig) -> Iterator[str]:
    """The router has them, so that it answers for them on the link."""
    own = {own.ip for nic in config.public for own in nic.addresses}
    for address in parts.translated(config):
        nic = parts.public_nic(config, address)
        if nic is not None and address not in own:
            yield f"address {nic.name} {address}/{address.max_prefixlen}"


def _default_routes(config: RouterConfig) -> Iterator[str]:
    """What the router itself says, and all where there is one public network, leaves by the first gateways."""
    first: dict[int, tuple[IPAddress, PublicNic]] = {}
    for nic in config.public:
        for gateway in nic.gateways:
            first.setdefault(gateway.version, (gateway, nic))
    for version, (gateway, nic) in first.items():
        yield f"route {_ANY[version]} {gateway} {nic.name} {MAIN_TABLE}"


def _own_table(nic: PublicNic) -> Iterator[str]:
    """What came in by a public NIC is answered there, also by the router, and who goes out with an address of it leaves
    there."""
    table = parts.mark(nic)
    for gateway in nic.gateways:
        yield f"route {_ANY[gateway.version]} {gateway} {nic.name} {table}"
        yield f"rule {gateway.version} mark {table} {table}"
    for own in nic.addresses:
        if own.ip.version in {gateway.version for gateway in nic.gateways}:
            yield f"rule {own.ip.version} from {own.prefix} {table}"

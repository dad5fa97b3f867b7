"""Which of a router's NICs a public address or a mark belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import IPAddress, IPNetwork
from libvirt_guestnet.model.router import GuestNic, PublicNic, RouterConfig

FORWARDED = 0x100
"""In a connection's mark: a port forward or a balancer let it in. The bits below are the number of its public NIC."""
BALANCED = 0x200
"""It is a balancer's: the agent asks the kernel for such connections alone."""
NIC_BITS = 0xFF


def public_nic(config: RouterConfig, address: IPAddress) -> PublicNic | None:
    """The public NIC in whose prefixes an address is."""
    return next((nic for nic in config.public if any(address in own.prefix for own in nic.addresses)), None)


def mark(nic: PublicNic) -> int:
    """Its number in connections' marks, in rules and of its routing table: 2 for eth2."""
    return int(nic.name.removeprefix("eth"))


def translated(config: RouterConfig) -> Iterator[IPAddress]:
    """The public addresses that NAT uses, each once."""
    used = [address for nic in config.guests for address in nic.source_nat]
    used += [each.public for each in (*config.translations, *config.balancers)]
    yield from dict.fromkeys(used)


def prefixes(nic: GuestNic, version: int) -> list[IPNetwork]:
    """A guest network's prefixes of an IP version."""
    return [own.prefix for own in nic.addresses if own.ip.version == version]


def address_of(nic: GuestNic | PublicNic, version: int) -> IPAddress | None:
    """The router's first address of an IP version there: for guests their gateway."""
    return next((own.ip for own in nic.addresses if own.ip.version == version), None)

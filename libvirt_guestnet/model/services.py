"""What a network's DHCP and DNS server says beside addresses, as facts. What `model` says of facts holds here, too."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.model.dhcp_options import DhcpOption

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Boot:
    """What machines that boot from the network are told: `file` by TFTP from `server` (None: the host, which serves
    `tftp_root`); UEFI firmware of an architecture another file, or a URL."""

    file: str | None = None
    server: IPv4Address | None = None
    tftp_root: str | None = None
    uefi: tuple[tuple[str, str], ...] = ()
    http: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reservation:
    """An address that the DHCP server keeps for a machine that the topology does not have, which is known by one of
    `mac`, `duid` (DHCPv6) and `client_id` (DHCPv4)."""

    address: _Address
    mac: str = ""
    duid: str = ""
    client_id: str = ""
    hostname: str = ""
    options: tuple[DhcpOption, ...] = ()


@dataclass(frozen=True)
class Dhcp:
    """DHCP of one IP version. `lease` is in seconds, 0 for ever, None what dnsmasq takes."""

    lease: int | None = None
    options: tuple[DhcpOption, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    boot: Boot | None = None


@dataclass(frozen=True)
class Forwarder:
    """Who is asked for names of `domain` (None: for all that nobody else is asked for); without an address whoever the
    host asks."""

    address: _Address | None = None
    domain: str | None = None


@dataclass(frozen=True)
class DnsService:
    """A SRV record (RFC 2782)."""

    service: str
    protocol: str
    domain: str | None = None
    target: str | None = None
    port: int | None = None
    priority: int | None = None
    weight: int | None = None


@dataclass(frozen=True)
class DnsText:
    """A TXT record."""

    name: str
    text: str


@dataclass(frozen=True)
class Dns:
    """`wildcards` are domains in which every name has that address; names of the `local` domains are asked of nobody
    else."""

    forwarders: tuple[Forwarder, ...] = ()
    services: tuple[DnsService, ...] = ()
    texts: tuple[DnsText, ...] = ()
    wildcards: tuple[tuple[str, _Address], ...] = ()
    local: tuple[str, ...] = ()


NO_DHCP, NO_DNS = Dhcp(), Dns()

"""The keys of what a network's DHCP and DNS server says; `keys` has all others."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from libvirt_guestnet.model.network import IPAddress

from . import address_kinds, kinds, service_kinds
from .spec import At, Decl, ListOf, MapOf, RecordKind, key

OPTIONS = tuple[tuple[At[str], tuple[At[str], ...] | None], ...]
_VALUES = ListOf(service_kinds.OPTION_VALUE, one=True)


@dataclass(frozen=True, kw_only=True)
class BootFilesDecl(Decl):
    """What UEFI firmware is to boot, by its architecture."""

    x86_64: At[str] | None = key(service_kinds.BOOT_FILE, "The file for x86-64.", name="x86-64")
    arm64: At[str] | None = key(service_kinds.BOOT_FILE, "The file for 64-bit Arm.")


@dataclass(frozen=True, kw_only=True)
class BootUrlsDecl(Decl):
    """Where UEFI firmware gets what it is to boot by HTTP, by its architecture."""

    x86_64: At[str] | None = key(service_kinds.URL, "The URL for x86-64.", name="x86-64")
    arm64: At[str] | None = key(service_kinds.URL, "The URL for 64-bit Arm.")


@dataclass(frozen=True, kw_only=True)
class BootDecl(Decl):
    """What machines that boot from the network are told."""

    file: At[str] | None = key(service_kinds.BOOT_FILE, "The file that a BIOS's PXE loads by TFTP.")
    server: At[IPv4Address] | None = key(address_kinds.IPV4, "The TFTP server. Left out: the host.")
    tftp_root: At[str] | None = key(
        service_kinds.FOLDER, "A folder of the host's whose files it serves there by TFTP, to all guests."
    )
    uefi: BootFilesDecl | None = key(RecordKind(BootFilesDecl), "The files that UEFI's PXE loads by TFTP instead.")
    http: BootUrlsDecl | None = key(RecordKind(BootUrlsDecl), "UEFI HTTP boot: the URLs.")


@dataclass(frozen=True, kw_only=True)
class ReservationDecl(Decl):
    """An address that is kept for a machine which is not in this file."""

    address: At[IPAddress] = key(address_kinds.IP, "The address, also one inside of `range`.", required=True)
    mac: At[str] | None = key(address_kinds.MAC, "The machine's MAC address.")
    duid: At[str] | None = key(service_kinds.BYTES, "DHCPv6: the machine's DUID (RFC 8415), in the place of mac.")
    client_id: At[str] | None = key(
        service_kinds.BYTES,
        "DHCPv4: the machine's client identifier, in the place of mac. Any guest can claim it, also those of the "
        "others then: without one on the network, only MAC addresses count.",
    )
    hostname: At[str] | None = key(service_kinds.HOST_NAME, "The name that the network's DNS server has for it.")
    options: OPTIONS | None = key(
        MapOf(_VALUES, service_kinds.OPTION4), "DHCPv4 options for it alone. Needs mac: what is asked from there."
    )


@dataclass(frozen=True, kw_only=True)
class DhcpDecl(Decl):
    """IPv4 addresses handed out by the host. `{}` takes the default range."""

    range: tuple[At[IPv4Address], ...] | None = key(
        ListOf(address_kinds.IPV4, length=2),
        "First and last address for guests without an address of their own. Left out: the upper half of the subnet.",
    )
    lease: At[int] | None = key(
        service_kinds.LEASE, "How long an address is given for: 3600s, 45m, 12h, 7d or infinite. Left out: an hour."
    )
    options: OPTIONS | None = key(
        MapOf(_VALUES, service_kinds.OPTION4),
        "More that guests are told, by dnsmasq's name (`dnsmasq --help dhcp`) or number: a value or a list.",
    )
    boot: BootDecl | None = key(RecordKind(BootDecl), "What guests that boot from the network are told.")
    reservations: tuple[ReservationDecl, ...] | None = key(
        ListOf(RecordKind(ReservationDecl)), "Addresses kept for machines that are not in this file."
    )


@dataclass(frozen=True, kw_only=True)
class Dhcp6Decl(Decl):
    """IPv6 addresses told by DHCPv6, in the first IPv6 subnet, in the place of those that guests form themselves."""

    range: tuple[At[IPAddress], ...] | None = key(
        ListOf(address_kinds.IP, length=2),
        "First and last address for guests without an address of their own. Left out: only what the file says of its "
        "guests and reservations is told.",
    )
    lease: At[int] | None = key(service_kinds.LEASE, "How long an address is given for. Left out: a day.")
    options: OPTIONS | None = key(
        MapOf(_VALUES, service_kinds.OPTION6),
        "More that guests are told, by dnsmasq's name (`dnsmasq --help dhcp6`) or number: a value or a list.",
    )
    reservations: tuple[ReservationDecl, ...] | None = key(
        ListOf(RecordKind(ReservationDecl)), "Addresses kept for machines that are not in this file."
    )


@dataclass(frozen=True, kw_only=True)
class ForwarderDecl(Decl):
    """A DNS server that is asked for names."""

    address: At[IPAddress] | None = key(address_kinds.IP, "Its address. Left out: whoever the host asks itself.")
    domain: At[str] | None = key(
        kinds.DNS_NAME, "It is asked for names of this domain only. Left out: for all that no other line is about."
    )


@dataclass(frozen=True, kw_only=True)
class DnsServiceDecl(Decl):
    """A SRV record (RFC 2782)."""

    service: At[str] = key(service_kinds.SERVICE, "The service, such as ldap.", required=True, default="x")
    protocol: At[str] = key(service_kinds.PROTOCOL, "tcp or udp.", required=True, default="tcp")
    domain: At[str] | None = key(kinds.DNS_NAME, "The domain that has the service. Left out: the network's.")
    target: At[str] | None = key(kinds.DNS_NAME, "The host that serves it. Left out: nobody does.")
    port: At[int] | None = key(kinds.UDP_PORT, "Its port. Left out: 1. Needs target.")
    priority: At[int] | None = key(service_kinds.SRV_NUMBER, "The lowest is asked first. Left out: 0. Needs target.")
    weight: At[int] | None = key(
        service_kinds.SRV_NUMBER, "Its share among those of one priority. Left out: 0. Needs target."
    )


@dataclass(frozen=True, kw_only=True)
class DnsTextDecl(Decl):
    """A TXT record."""

    name: At[str] = key(kinds.DNS_NAME, "Its name.", required=True, default="x")
    text: At[str] = key(
        service_kinds.DNS_TEXT,
        "Printable ASCII without quotes, commas, # and backslashes.",
        required=True,
        default="x",
    )

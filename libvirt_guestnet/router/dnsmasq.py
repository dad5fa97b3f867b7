"""A router's DHCP, DNS and router advertisements as dnsmasq's files. Pure.

dnsmasq has to be restarted for a change of its own configuration. What changes often is in files that it reads again at
SIGHUP: the guests' addresses, their options, their names, and whom to forward to. A tag of one guest is not in those
files: dnsmasq 2.90 links such a tag to others when the guest asks, frees them all at SIGHUP, and aborts.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPNetwork
from libvirt_guestnet.model.router import GuestNic, Reservation, RouterConfig
from libvirt_guestnet.model.services import Forwarder
from libvirt_guestnet.router import parts

_FILES = "/run/router"
MOST_LEASES = 4096
_RA_SECONDS = 60  # between two router advertisements that nobody asked for, and how long one holds
_RA_LIFETIME = 600
_SLAAC = 64  # no other prefix has room for what a guest makes of its MAC address

_FIXED = (
    "user=dnsmasq",
    "group=dnsmasq",
    "no-resolv",
    "no-hosts",
    "no-ping",
    "bind-dynamic",
    "domain-needed",
    "bogus-priv",
    "quiet-dhcp",
    "quiet-dhcp6",
    "quiet-ra",
    "dhcp-authoritative",
    "dhcp-ignore-clid",
    f"dhcp-lease-max={MOST_LEASES}",
    "dhcp-leasefile=/run/dnsmasq/leases",
    f"dhcp-hostsfile={_FILES}/hosts",
    f"dhcp-optsfile={_FILES}/options",
    f"addn-hosts={_FILES}/names",
    f"servers-file={_FILES}/servers",
)


def main(config: RouterConfig) -> Iterator[str]:
    """dnsmasq's own configuration."""
    yield from _FIXED
    if any(parts.prefixes(nic, 6) for nic in config.guests):
        yield "enable-ra"
    for nic in config.guests:
        yield f"interface={nic.name}"
        yield from _domain(nic)
        for own in nic.addresses:
            yield from _ranges(nic, own.prefix)
        tagged = (each for each in nic.dhcp.reservations if each.options)
        yield from (f"dhcp-mac=set:{_tag_name(nic, each)},{each.mac}" for each in tagged)
        if parts.prefixes(nic, 6):
            yield f"ra-param={nic.name},{_RA_SECONDS},{_RA_LIFETIME}"
    yield from dict.fromkeys(_records(config))


def _records(config: RouterConfig) -> Iterator[str]:
    yield from (f"local=/{name}/" for name in config.local)
    yield from (f"address=/{name}/{address}" for name, address in config.wildcards)
    yield from (f'txt-record={each.name},"{each.text}"' for each in config.texts)
    for each in config.services:
        name = f"_{each.service}._{each.protocol}" + (f".{each.domain}" if each.domain else "")
        where = (each.target, each.port or 1, each.priority or 0, each.weight or 0) if each.target else ()
        yield "srv-host=" + ",".join(map(str, (name, *where)))


def _domain(nic: GuestNic) -> Iterator[str]:
    if nic.domain:
        if nic.domain_local:
            yield f"local=/{nic.domain}/"
        yield from (f"domain={nic.domain},{own.prefix}" for own in nic.addresses)


def _ranges(nic: GuestNic, prefix: IPNetwork) -> Iterator[str]:
    dynamic = [each for each in nic.dhcp.ranges if each.start in prefix]
    tail = str(prefix.netmask) if prefix.version == 4 else str(prefix.prefixlen)
    slaac = ",slaac" if prefix.version == 6 and prefix.prefixlen == _SLAAC and nic.dhcp.slaac else ""
    lease = (nic.dhcp.lease if prefix.version == 4 else nic.dhcp.lease6) or "infinite"
    for each in dynamic:
        yield f"dhcp-range=set:{nic.name},{_span(each)}{slaac},{tail},{lease}"
    if not dynamic:
        yield f"dhcp-range=set:{nic.name},{prefix.network_address},static{slaac},{tail},{lease}"


def _span(known: DhcpRange | DhcpRange6) -> str:
    return f"{known.start},{known.end}"


def hosts(config: RouterConfig) -> Iterator[str]:
    """A line for each guest: by MAC address, which port security knows, and by DUID for DHCPv6 where that is known."""
    for nic in config.guests:
        for each in nic.dhcp.reservations:
            # dnsmasq tells a machine one IPv4 address; of several it would take the last one.
            four = [str(address) for address in each.addresses if address.version == 4][:1]
            six = [f"[{address}]" for address in each.addresses if address.version == 6]
            by_mac = four if each.duid else four + six
            yield ",".join((each.mac, *by_mac, each.name))
            if each.duid and six:
                yield ",".join((f"id:{each.duid}", *six, each.name))


def _tag_name(nic: GuestNic, each: Reservation) -> str:
    """Only a guest with options of its own has a tag."""
    return f"{nic.name}-{each.mac.replace(':', '')}"


def options(config: RouterConfig) -> Iterator[str]:
    """The network's options, then those of single guests: of two, the last one counts."""
    for nic in config.guests:
        if four := parts.address_of(nic, 4):
            yield f"tag:{nic.name},option:router,{four}"
            yield f"tag:{nic.name},option:dns-server,{four}"
        if six := parts.address_of(nic, 6):
            yield f"tag:{nic.name},option6:dns-server,[{six}]"
        yield from (f"tag:{nic.name},{each.dnsmasq}" for each in nic.dhcp.options)
        for guest in nic.dhcp.reservations:
            yield from (f"tag:{_tag_name(nic, guest)},{each.dnsmasq}" for each in guest.options)


def names(config: RouterConfig) -> Iterator[str]:
    """A hosts file: guests by their names, and the router by its own at its gateways."""
    for nic in config.guests:
        known = [(config.name, own.ip) for own in nic.addresses]
        known += [(each.name, address) for each in nic.dhcp.reservations for address in each.addresses]
        for name, address in known:
            yield f"{address} {name}.{nic.domain} {name}" if nic.domain else f"{address} {name}"
        yield from (f"{host.address} {name}" for host in nic.names for name in host.names)


def servers(config: RouterConfig) -> Iterator[str]:
    """Whom dnsmasq asks."""
    for each in config.forwarders:
        yield f"server={_of_domain(each)}{each.address}"


def _of_domain(each: Forwarder) -> str:
    return f"/{each.domain}/" if each.domain else ""

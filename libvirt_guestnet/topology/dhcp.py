"""What a network's DHCP server says: ranges, options, what is booted, and reservations for others than the guests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from libvirt_guestnet.model import dhcp_options
from libvirt_guestnet.model.dhcp_options import DhcpOption
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPAddress, IPNetwork, Mode
from libvirt_guestnet.model.services import Boot, Dhcp, Reservation

from .addressing import is_of_two
from .network_keys import NetworkDecl
from .report import Report
from .service_keys import OPTIONS, BootDecl, BootFilesDecl, BootUrlsDecl, Dhcp6Decl, DhcpDecl, ReservationDecl
from .spec import At, value

T = TypeVar("T", bound=IPAddress)
_MAX_DHCP = 65535  # virSocketAddrGetRange, libvirt 9.0 and 11.3: "range … is too large (> 65535)"


def why_unusable(prefix: IPNetwork, address: IPAddress) -> str | None:
    """Why a host cannot have an address in `prefix`; None when it can."""
    if address not in prefix:
        return f"{address} is outside {prefix}"
    if is_of_two(prefix):
        return None
    if address == prefix.network_address:
        kind = "network" if isinstance(prefix, IPv4Network) else "subnet-router anycast"
        return f"{address} is the {kind} address of {prefix}"
    if isinstance(prefix, IPv4Network) and address == prefix.broadcast_address:
        return f"{address} is the broadcast address of {prefix}"
    return None


def ranges(decl: NetworkDecl, report: Report, *, by_host: bool) -> dict[IPNetwork, DhcpRange]:
    """The subnet with DHCP, if any, and its range; `by_host`: the host has an address there, and serves it."""
    if decl.dhcp is None or decl.mode.value is Mode.BRIDGE:
        return {}
    subnets = [p.value for p in decl.subnets or () if isinstance(p.value, IPv4Network)]
    prefixes = [prefix for prefix in subnets if not is_of_two(prefix)]
    if not prefixes:
        if "subnets" not in decl.bad:
            report.add(decl.dhcp.at, f"dhcp needs an IPv4 subnet on the network{_no_room(subnets)}")
        return {}
    if "range" in decl.dhcp.bad:
        return {}
    if decl.dhcp.range is None:
        return {prefixes[0]: _upper_half(prefixes[0])}
    return _given_range(decl.dhcp, prefixes, report, by_host=by_host)


def _no_room(subnets: Collection[IPNetwork]) -> str:
    return f" with room for a range, and {next(iter(subnets))} has none" if subnets else ""


def _upper_half(prefix: IPv4Network) -> DhcpRange:
    half, last = prefix.num_addresses // 2, prefix.num_addresses - 2
    return DhcpRange(prefix[max(half, last - _MAX_DHCP + 1)], prefix[last])


def _given_range(
    decl: DhcpDecl, prefixes: list[IPv4Network], report: Report, *, by_host: bool
) -> dict[IPNetwork, DhcpRange]:
    start, end = decl.range or ()
    prefix = next((p for p in prefixes if start.value in p), None)
    if prefix is None:
        report.add(start.where, f"DHCP range: {start.value} is outside {', '.join(map(str, prefixes))}")
        return {}
    bad = _unfit(prefix, start, end, report, by_host=by_host)
    if int(end.value) - int(start.value) >= _MAX_DHCP:
        report.add(end.where, f"DHCP range: more than {_MAX_DHCP} addresses, libvirt's limit")
    return {prefix: DhcpRange(start.value, end.value)} if start.value <= end.value and not bad else {}


def _unfit(prefix: IPNetwork, start: At[T], end: At[T], report: Report, *, by_host: bool) -> bool:
    bad = [(at, why) for at in (start, end) if (why := why_unusable(prefix, at.value))]
    for at, why in bad:
        report.add(at.where, f"DHCP range: {why}")
    low, high = int(start.value), int(end.value)
    if high < low:
        report.add(end.where, f"DHCP range: it ends at {end.value}, before its start {start.value}")
    elif by_host and not bad and low <= int(prefix[1]) <= high:
        report.add(start.where, f"DHCP range: it holds {prefix[1]}, the host's own address; start at {prefix[2]}")
    return bool(bad)


def served6(decl: NetworkDecl, report: Report, *, by_host: bool) -> tuple[IPNetwork | None, DhcpRange6 | None]:
    """The subnet with DHCPv6, and its range; None where there is none."""
    if decl.dhcp6 is None or decl.mode.value is Mode.BRIDGE:
        return None, None
    subnets = [p.value for p in decl.subnets or () if isinstance(p.value, IPv6Network)]
    prefix = next((each for each in subnets if not is_of_two(each)), None)
    if prefix is None:
        if "subnets" not in decl.bad:
            report.add(decl.dhcp6.at, f"dhcp6 needs an IPv6 subnet on the network{_no_room(subnets)}")
        return None, None
    if prefix.prefixlen < 64:  # dnsmasq: "prefix length must be at least 64"
        report.add(decl.dhcp6.at, f"dhcp6 needs a subnet of at least a /64, and {prefix} is larger")
    return prefix, _range6(decl.dhcp6, prefix, report, by_host=by_host)


def _range6(decl: Dhcp6Decl, prefix: IPv6Network, report: Report, *, by_host: bool) -> DhcpRange6 | None:
    if decl.range is None:
        return None
    start, end = decl.range
    if _unfit(prefix, start, end, report, by_host=by_host):
        return None
    first, last = start.value, end.value
    assert isinstance(first, IPv6Address) and isinstance(last, IPv6Address)  # they are in the prefix
    if int(first) >> 16 != int(last) >> 16:
        report.add(end.where, f"DHCP range: {first} and {last} differ in more than 16 bits, libvirt's limit")
    return DhcpRange6(first, last)


def dhcp(decl: DhcpDecl | Dhcp6Decl | None, version: int, report: Report) -> Dhcp:
    """All of it but the range."""
    if decl is None:
        return Dhcp()
    found = (_reservation(each, version, report) for each in decl.reservations or ())
    return Dhcp(
        lease=value(decl.lease),
        options=options(decl.options, version, report),
        reservations=tuple(each for each in found if each),
        boot=_boot(decl.boot, report) if isinstance(decl, DhcpDecl) and decl.boot else None,
    )


def options(decl: OPTIONS | None, version: int, report: Report) -> tuple[DhcpOption, ...]:
    """Options with their values checked, each once."""
    found: dict[str, DhcpOption] = {}
    for name, values in decl or ():
        if values is None or not _is_option(version, name.value):
            continue  # reported
        try:
            made = dhcp_options.option(version, name.value, (each.value for each in values))
        except dhcp_options.OptionError as error:
            report.add(values[0].where if values else name.where, str(error))
            continue
        if made.name in found:
            report.add(name.where, f"DHCP option {made.name} is there already")
        found[made.name] = made
    return tuple(found.values())


def _is_option(version: int, name: str) -> bool:
    try:
        return bool(dhcp_options.option_name(version, name))
    except dhcp_options.OptionError:
        return False


def _boot(decl: BootDecl, report: Report) -> Boot:
    if decl.server and not (decl.file or decl.uefi):
        report.add(decl.server.where, "server: of what file? say file or uefi")
    if decl.server and decl.tftp_root:
        report.add(decl.tftp_root.where, "tftp-root is for what the host serves itself, and server is another")
    if not (decl.file or decl.tftp_root or decl.uefi or decl.http or decl.bad):
        report.add(decl.at, "boot says nothing: say file, uefi, http or tftp-root")
    return Boot(value(decl.file), value(decl.server), value(decl.tftp_root), _of_arch(decl.uefi), _of_arch(decl.http))


def _of_arch(decl: BootFilesDecl | BootUrlsDecl | None) -> tuple[tuple[str, str], ...]:
    said = (("x86-64", decl.x86_64), ("arm64", decl.arm64)) if decl else ()
    return tuple((arch, at.value) for arch, at in said if at)


def _reservation(decl: ReservationDecl, version: int, report: Report) -> Reservation | None:
    by = [("mac", decl.mac), ("duid", decl.duid) if version == 6 else ("client-id", decl.client_id)]
    for other, name in ((decl.client_id, "client-id"), (decl.duid, "duid")):
        if other and (name == "duid") == (version == 4):
            report.add(other.where, f"{name} is not for {'dhcp' if version == 4 else 'dhcp6'}")
    if sum(1 for _, at in by if at) != 1 and not decl.bad:
        report.add(decl.at, f"a reservation says who it is for by one of {' and '.join(name for name, _ in by)}")
    if decl.address.value.version != version:
        report.add(decl.address.where, f"{decl.address.value} is not an IPv{version} address")
        return None
    if decl.options and (version == 6 or not decl.mac):
        report.add(decl.options[0][0].where if decl.options else decl.at, "options need mac, in a network's dhcp")
    return Reservation(
        address=decl.address.value,
        mac=value(decl.mac) or "",
        duid=(value(decl.duid) or "") if version == 6 else "",
        client_id=(value(decl.client_id) or "") if version == 4 else "",
        hostname=value(decl.hostname) or "",
        options=options(decl.options, 4, report) if version == 4 else (),
    )


def reserved(decl: NetworkDecl) -> Iterator[At[IPAddress]]:
    """The addresses of its reservations, with their places."""
    for server in (decl.dhcp, decl.dhcp6):
        yield from (each.address for each in (server.reservations or () if server else ()))


def duid_mac(duid: str) -> str:
    """The MAC address that a DUID is made of (RFC 8415, 11.2 and 11.4); "" if there is none in it."""
    octets = duid.lower().split(":")
    for start, length in ((["00", "01", "00", "01"], 14), (["00", "03", "00", "01"], 10)):
        if octets[:4] == start and len(octets) == length:
            return ":".join(octets[-6:])
    return ""


def check_told6(decl: NetworkDecl, told: bool, report: Report) -> None:
    """What DHCPv6 says beside addresses nobody hears whom it tells none. `told`: it tells a guest one."""
    server = decl.dhcp6
    if server is None or server.range or server.reservations or server.bad or told:
        return
    for name, at in (("options", server.options and server.options[0][0]), ("lease", server.lease)):
        if at:
            message = f"{name} of dhcp6 have no effect: it tells nobody an address. Give it a range or reservations"
            report.add(at.where, f"{message}, or a guest an IPv6 address of the network")


def check_reservations(decl: NetworkDecl, prefixes: Collection[IPNetwork], report: Report) -> None:
    """A reservation is in the subnet that its server serves, and a machine has one."""
    for server, key in ((decl.dhcp, "dhcp"), (decl.dhcp6, "dhcp6")):
        seen: set[str] = set()
        for each in server.reservations or () if server else ():
            ip = each.address.value
            served = [p for p in prefixes if p.version == (6 if key == "dhcp6" else 4)]
            if served and ip.version == served[0].version and (why := why_unusable(served[0], ip)):
                report.add(each.address.where, why)
            for at in (each.mac, each.duid, each.client_id):
                if at and {at.value, duid_mac(at.value) or at.value} & seen:
                    report.add(at.where, f"{at.value} has a reservation already")
                seen |= {at.value, duid_mac(at.value) or at.value} if at else set()

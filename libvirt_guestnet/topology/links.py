"""What a line of `expect:` can ask, by who is on a link with whom: only who is on one link with an address asks there
for its MAC address, and nobody speaks to an address of another link that somebody has, too, on his own link or where
the host routes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Network
from libvirt_guestnet.model.topology import Port, Topology

from .keys import ExpectDecl
from .report import Report
from .scope import HOST
from .spec import values


class Links:
    """Who is on a link with whom, by the subnets that the file tells. What it does not tell, such as an address that a
    DHCP server gives, may be on any."""

    def __init__(self, topology: Topology) -> None:
        lans = topology.physical_networks
        self._owners = {
            (port.network, address.ip): f"{guest.name}.{port.name}"
            for guest in topology.guests
            for port in guest.ports
            for address in port.addresses
        }
        apart = {network.name for network in topology.networks if _is_apart(network)}
        self._routed = {ip: (link, owner) for (link, ip), owner in self._owners.items() if link not in apart}
        self._ports: dict[str, tuple[Port, ...]] = {guest.name: guest.ports for guest in topology.guests}
        self._ports |= {f"{guest.name}.{port.name}": (port,) for guest in topology.guests for port in guest.ports}
        self._alone = {network.name for network in topology.networks if network.mode is Mode.HOST_ROUTED}
        self._known: dict[str, tuple[IPAddress, ...]] = {each.label: each.stand_in for each in lans}
        if all(each.host or not each.subnets for each in lans):
            own = [subnet.host for network in topology.networks for subnet in network.subnets]
            own += [address for each in lans for address in each.host]
            self._known[HOST] = tuple(address for address in own if address)
        prefixes = [subnet.prefix for network in topology.networks for subnet in network.subnets]
        self._prefixes = {*prefixes, *(prefix for each in lans for prefix in each.subnets)}

    def check(self, lines: Iterable[ExpectDecl], report: Report) -> None:
        """Adds an error for each line whose source asks on no link for what is to be answered for, and for each whose
        destination's address is somebody else's where its source is."""
        for line in lines:
            self._check_meant(line, report)
            if line.answered_by and line.destination and not self._may_ask(line):
                what = line.address.value if line.address else f"'{line.destination.value}'"
                report.add(
                    line.answered_by.where,
                    f"'{line.source.value}' asks nobody for the MAC address of {what}: they are on no common link",
                )

    def _check_meant(self, line: ExpectDecl, report: Report) -> None:
        to = line.destination
        if to is None or line.address:
            return
        ports = self._ports.get(to.value, ())
        links = {port.network for port in self._ports.get(line.source.value, ())}
        meant = ((port.network, address.ip) for port in ports for address in port.addresses)
        asked = [(link, ip) for link, ip in meant if link not in links and ip in _of([ip], line)]
        found = (other for link, ip in asked for other in self._others(link, ip, links))
        if other := next(found, None):
            link, ip, owner = other
            message = f"for '{line.source.value}', {ip} is not '{to.value}' but '{owner}' on network '{link}'"
            report.add(to.where, f"{message}: give one of them another address")

    def _others(self, meant: str, ip: IPAddress, links: Collection[str]) -> Iterator[tuple[str, IPAddress, str]]:
        """Whom one who is on these links reaches by an address that somebody has on link `meant`."""
        yield from ((link, ip, self._owners[link, ip]) for link in sorted(links) if (link, ip) in self._owners)
        link, owner = self._routed.get(ip, (meant, ""))
        if link != meant:
            yield link, ip, owner

    def _may_ask(self, line: ExpectDecl) -> bool:
        own = self._addresses(line.source.value, asking=True)
        to = line.destination.value if line.destination else ""
        wanted = (line.address.value,) if line.address else self._addresses(to)
        if own is None or not wanted:
            return True
        asked = _of(wanted, line)
        return not asked or any(self._is_near(each, own) for each in asked)

    def _addresses(self, endpoint: str, asking: bool = False) -> tuple[IPAddress, ...] | None:
        """Those that it has, or asks from: a host-routed guest asks for its gateway alone. None: nobody knows."""
        ports = self._ports.get(endpoint)
        if ports is None:
            return self._known.get(endpoint) or None
        if not all(map(_is_known, ports)):
            return None
        return tuple(a.ip for port in ports if not (asking and port.network in self._alone) for a in port.addresses)

    def _is_near(self, address: IPAddress, own: tuple[IPAddress, ...]) -> bool:
        around = self._around(address)
        return not around or any(each in prefix for prefix in around for each in own)

    def _around(self, address: IPAddress) -> list[IPNetwork]:
        return [prefix for prefix in self._prefixes if address in prefix]


def _of(addresses: Iterable[IPAddress], line: ExpectDecl) -> list[IPAddress]:
    """Those of the families that the line asks of."""
    families = values(line.families)
    return [each for each in addresses if not families or f"ipv{each.version}" in families]


def _is_known(port: Port) -> bool:
    return bool(port.addresses)


def _is_apart(network: Network) -> bool:
    """Whether the host, and who reaches others through it, has no route there."""
    hosted = any(subnet.host for subnet in network.subnets)
    return bool(
        network.vxlan or (network.mode is Mode.ISOLATED and not hosted) or (network.routed and network.routed.vrf)
    )

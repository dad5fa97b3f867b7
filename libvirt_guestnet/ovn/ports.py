"""Rows of guests' ports: the addresses that OVN delivers to, and those that it lets them send from. Pure.

OVN's port security lets less pass than what it is told here says (RARP, router advertisements and DHCP answers pass in
any case): the guard on the tap is what holds a guest. So where the guard would let a guest choose, as for its IPv6
privacy addresses, OVN lets it have any address of the prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.topology import AddressWord, Port, Topology
from libvirt_guestnet.ovn.names import logical_port
from libvirt_guestnet.ovn.rows import SWITCH, SWITCH_PORT, Ref, Row, row
from libvirt_guestnet.ovn.services import told

_UNKNOWN = "unknown"
_LINK_LOCAL = "fe80::/64"


def rows(topology: Topology, network: Network) -> Iterator[Row]:
    """A row for each port on the network."""
    for guest, port in topology.ports_on(network.name):
        title = f"{guest.name}/{port.name}"
        yield row(
            ref(guest.name, port.name),
            Ref(SWITCH, network.name),
            name=logical_port(topology.name, guest.name, port.name),
            addresses=_addresses(port),
            port_security=_secured(network, port),
            **told(network, title, port),
        )


def ref(guest: str, port: str) -> Ref:
    """The row of a port."""
    return Ref(SWITCH_PORT, f"{guest}/{port}")


def _addresses(port: Port) -> tuple[str, ...]:
    known = " ".join((port.mac, *(str(each.ip) for each in port.addresses)))
    return tuple(sorted({known, *((_UNKNOWN,) if _answers_for_others(port) else ())}))


def _answers_for_others(port: Port) -> bool:
    """Whether frames may be meant for it that are not to its own MAC address."""
    return not _is_checked(port) or bool(port.lent) or any(pair.mac for pair in port.pairs)


def _is_checked(port: Port) -> bool:
    return port.guarded and not port.observed and port.address_word is not AddressWord.ANY


def _secured(network: Network, port: Port) -> tuple[str, ...]:
    """OVN's port security; () for none, where the guard is to see, or let pass, what a guest sends."""
    if not _is_checked(port):
        return ()
    mine = [str(each.ip) for each in port.addresses] + [str(prefix) for prefix in port.sources]
    mine += [str(pair.prefix) for pair in port.pairs if not pair.mac]
    if not port.strict_addresses:
        mine += [_LINK_LOCAL, *_chosen(network)]
    by_mac = {port.mac: mine}
    for pair in port.pairs:
        if pair.mac:
            by_mac.setdefault(pair.mac, []).append(str(pair.prefix))
    for mac in port.lent:
        by_mac.setdefault(mac, [])
    return tuple(sorted(" ".join((mac, *dict.fromkeys(found))) for mac, found in by_mac.items()))


def _chosen(network: Network) -> list[str]:
    """The prefixes in which guests form addresses of their own."""
    six = (s.prefix for s in network.subnets if isinstance(s.prefix, IPv6Network) and not s.dhcp6)
    return [str(prefix) for prefix in six if prefix.prefixlen == 64]

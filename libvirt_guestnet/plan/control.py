"""Networks between this host and its routers: each topology's has a number of 252 that is derived from its name, and
two topologies of one host may come to the same. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from libvirt_guestnet import parse
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState, Snapshot, Wanted
from libvirt_guestnet.model.network import IPNetwork

_LINK_LOCAL = IPv4Network("169.254.0.0/16")


def control_clashes(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A line for each. Left to libvirt it would be a failure in the middle of apply, which says of no topology."""
    names = {network.name for network in wanted.networks}
    others = [each for each in snapshot.networks if each.topology != wanted.topology and each.name not in names]
    for network in wanted.networks:
        for prefix in _link_local(network.element):
            yield from _clashes(network.name, prefix, others)


def _clashes(name: str, prefix: IPNetwork, others: list[NetworkState]) -> Iterator[str]:
    for other in others:
        if any(prefix.overlaps(each) for each in _link_local(other.current)):
            owner = "" if other.topology is None else f" of topology {other.topology!r}"
            yield (
                f"network {name!r}: its {prefix} follows from this topology's name, and libvirt network {other.name!r}"
                f"{owner} has it already: give this topology another name"
            )


def _link_local(network: Element) -> Iterator[IPNetwork]:
    """Those prefixes of the host's addresses on a network."""
    for ip in network.iterfind("ip"):
        try:
            length = parse.netmask(ip.get("netmask", "")) if ip.get("netmask") else ip.get("prefix", "16")
            prefix = parse.enclosing(f"{ip.get('address')}/{length}")
        except parse.TextError:
            continue
        if isinstance(prefix, IPv4Network) and prefix.subnet_of(_LINK_LOCAL):
            yield prefix

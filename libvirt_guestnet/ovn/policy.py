"""Rows of access control lists, each network's in port groups of its own. Pure.

Ports that are isolated do not reach each other. To guests of a network of mode nat nobody outside it opens a
connection, but by a port forward or a floating address: as on a host, where libvirt's rules see to that.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import IPAddress, IPNetwork, Mode, Network
from libvirt_guestnet.model.topology import Forward, Guest, Port, Topology
from libvirt_guestnet.ovn import names
from libvirt_guestnet.ovn.ports import ref
from libvirt_guestnet.ovn.rows import ACL, GROUP, Ref, Row, row

_DROP, _LET = 1001, 1002
_TO, _FROM = "to-lport", "from-lport"


def rows(topology: Topology, network: Network) -> Iterator[Row]:
    """The groups of a network's ports, and their rules."""
    on = topology.ports_on(network.name)
    isolated = tuple(sorted(ref(guest.name, port.name) for guest, port in on if port.isolated))
    if isolated:
        group = _group(topology, network, "isolated", isolated)
        yield group
        match = f"outport == @{group.name} && inport == @{group.name}"
        yield _rule(group, "between", _TO, 1003, match, "drop")
    if network.mode is Mode.NAT and on:
        yield from _behind_nat(topology, network, on)


def _behind_nat(topology: Topology, network: Network, on: tuple[tuple[Guest, Port], ...]) -> Iterator[Row]:
    members = tuple(sorted(ref(guest.name, port.name) for guest, port in on))
    group = _group(topology, network, "nat", members)
    yield group
    yield _rule(group, "out", _FROM, _LET, f"inport == @{group.name} && ip", "allow-related")
    # OVN makes a flow for each combination of what several prefixes are not: 82,000 of three IPv6 ones. So what may come
    # in is said, and never what may not.
    for version in (4, 6):
        inside = f"outport == @{group.name} && ip{version}.src == {{{_inside(network, version)}}}"
        yield _rule(group, f"inside/{version}", _TO, _LET, inside, "allow-related")
    yield _rule(group, "in", _TO, _DROP, f"outport == @{group.name} && ip", "drop")
    for guest, port in on:
        outport = f'outport == "{names.logical_port(topology.name, guest.name, port.name)}"'
        title = f"{guest.name}/{port.name}"
        for version in sorted({address.version for address in port.floating}):
            yield _rule(group, f"floating/{title}/{version}", _TO, _LET, f"{outport} && ip{version}", "allow-related")
        for forward in port.forwards:
            if (address := forward.address or port.address(forward.version)) is not None:
                match = f"{outport} && {_forwarded(forward, address)}"
                yield _rule(group, f"forward/{title}/{forward_key(forward)}", _TO, _LET, match, "allow-related")


def _inside(network: Network, version: int) -> str:
    """Whom its guests hear in any case: their own prefixes, who has no address yet, and the link."""
    own = [str(s.prefix) for s in network.subnets if s.prefix.version == version]
    return ", ".join([*own, *(("0.0.0.0",) if version == 4 else ("::", "fe80::/10"))])


def forward_key(forward: Forward) -> str:
    """What tells forwards of a port apart."""
    sources = ",".join(map(str, forward.sources))
    return f"{forward.protocol}/{forward.first}-{forward.last} {forward.version} {forward.at or ''} {sources}".strip()


def _forwarded(forward: Forward, address: IPAddress) -> str:
    low, high = forward.to_first, forward.to_first + forward.last - forward.first
    ports = f"{forward.protocol}.dst == {low}" if low == high else f"{low} <= {forward.protocol}.dst <= {high}"
    return f"ip{address.version}.dst == {address}{_clients(forward.sources, address.version)} && {ports}"


def _clients(sources: tuple[IPNetwork, ...], version: int) -> str:
    return f" && ip{version}.src == {{{', '.join(map(str, sources))}}}" if sources else ""


def _group(topology: Topology, network: Network, what: str, members: tuple[Ref, ...]) -> Row:
    key = f"{network.name}/{what}"
    return row(Ref(GROUP, key), name=names.group(topology.name, network.name, what), ports=members)


def _rule(group: Row, what: str, direction: str, priority: int, match: str, action: str) -> Row:
    key = f"{group.key}/{what}"
    return row(Ref(ACL, key), group.ref, direction=direction, priority=priority, match=match, action=action)

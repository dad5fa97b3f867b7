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

_DROP, _LET, _ISOLATED = 1001, 1002, 1003
_TO, _FROM = "to-lport", "from-lport"
_NEW = {4: ("0.0.0.0",), 6: ("::", "fe80::/10")}  # noqa: S104


def rows(topology: Topology, network: Network) -> Iterator[Row]:
    """The groups of a network's ports, and their rules."""
    on = topology.ports_on(network.name)
    isolated = [(guest, port) for guest, port in on if port.isolated]
    if isolated:
        members = tuple(sorted(ref(guest.name, port.name) for guest, port in isolated))
        group = _group(topology, network, "isolated", members)
        yield group
        # From which port of another host a frame is, VXLAN does not carry: only its MAC address says that.
        macs = ", ".join(sorted({mac for _, port in isolated for mac in _macs(port)}))
        yield _drop(group, "between", f"outport == @{group.name} && eth.src == {{{macs}}}", _ISOLATED)
    if network.mode is Mode.NAT and on:
        yield from _behind_nat(topology, network, on)


def _behind_nat(topology: Topology, network: Network, on: tuple[tuple[Guest, Port], ...]) -> Iterator[Row]:
    members = tuple(sorted(ref(guest.name, port.name) for guest, port in on))
    group = _group(topology, network, "nat", members)
    yield group
    yield _let(group, "out", f"inport == @{group.name} && ip", _FROM)
    # OVN makes a flow for each combination of what several prefixes are not: 82,000 of three IPv6 ones (decision 127).
    # So what may come in is said, and never what may not.
    for version in (4, 6):
        inside = f"outport == @{group.name} && ip{version}.src == {{{_inside(network, version)}}}"
        yield _let(group, f"inside/{version}", inside)
    yield _drop(group, "in", f"outport == @{group.name} && ip")
    for guest, port in on:
        outport = f'outport == "{names.logical_port(topology.name, guest.name, port.name)}"'
        title = f"{guest.name}/{port.name}"
        for version in sorted({address.version for address in port.floating}):
            yield _let(group, f"floating/{title}/{version}", f"{outport} && ip{version}")
        for forward in port.forwards:
            if (address := forward.address or port.address(forward.version)) is not None:
                match = f"{outport} && {_forwarded(forward, address)}"
                yield _let(group, f"forward/{title}/{forward_key(forward)}", match)


def _macs(port: Port) -> tuple[str, ...]:
    return (port.mac, *(pair.mac for pair in port.pairs if pair.mac), *port.lent)


def _inside(network: Network, version: int) -> str:
    """Whom its guests hear in any case: their own prefixes, who has no address yet, and the link."""
    own = [str(s.prefix) for s in network.subnets if s.prefix.version == version]
    return ", ".join([*own, *_NEW[version]])


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


def _let(group: Row, what: str, match: str, direction: str = _TO) -> Row:
    """What may begin, and all that answers it."""
    key = Ref(ACL, f"{group.key}/{what}")
    return row(key, group.ref, direction=direction, priority=_LET, match=match, action="allow-related")


def _drop(group: Row, what: str, match: str, priority: int = _DROP) -> Row:
    key = Ref(ACL, f"{group.key}/{what}")
    return row(key, group.ref, direction=_TO, priority=priority, match=match, action="drop")

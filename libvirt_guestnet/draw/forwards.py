"""How a port is reached from outside: forwards, floating and published addresses, the host's routes; for both views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Network, PhysicalNetwork
from libvirt_guestnet.model.topology import Forward, Port, Topology

from .outside import outside, uplink
from .picture import MODE_TONES, PictureRow, Tone

# Of more values than this in one row only some are shown.
_MOST = 8


def rows(row: str, port: Port, network: Network) -> Iterator[PictureRow]:
    """The rows under a port's own, whose id is `row`."""
    for number, (label, values, tone) in enumerate(_entries(port, network)):
        yield PictureRow(f"{row}w{number}", label, tuple(values), tone, below=True)


def _entries(port: Port, network: Network) -> Iterator[tuple[str, list[str], Tone]]:
    for label, addresses in _forwards(port).items():
        yield label, list(addresses), Tone.LAN
    if floating := [f"{ip} ↔ {port.address(ip.version)}" for ip in port.floating] + [*map(str, port.untranslated)]:
        yield "floating", floating, Tone.LAN
    if behind := _behind(port, network):
        yield "next hop to", [str(prefix) for prefix in behind], MODE_TONES[network.mode]


def _forwards(port: Port) -> dict[str, dict[str, None]]:
    """Each forwarded service with the addresses of the host where it is asked for."""
    found: dict[str, dict[str, None]] = {}
    for forward in port.forwards:
        moved = _target(forward)
        label = f"{_service(forward)} → {moved}" if moved else _service(forward)
        found.setdefault(label, {})[f"at {forward.at or 'any address'}{_clients(forward)}"] = None
    return found


def route_rows(ports: Iterable[tuple[Port, Network]]) -> tuple[PictureRow, ...]:
    """What the host routes to these ports while their guests run."""
    return _few("r", "routes", [route for port, network in ports for route in _routes(port, network)])


def nic_rows(topology: Topology, lan: PhysicalNetwork) -> tuple[PictureRow, ...]:
    """What the host's NIC on a LAN passes on to guests: whole addresses that it answers for there, and forwards of its
    own."""
    answers = [f"{ip} → {guest}" for ip, guest, where in _answered(topology) if where is lan]
    forwards = dict.fromkeys(text for text, where in _forwarded(topology) if where is lan)
    return (*_few("a", "answers for", answers), *_few("f", "forwards", list(forwards)))


def _few(row: str, label: str, values: list[str]) -> tuple[PictureRow, ...]:
    """One row of some of the values; none for none."""
    shown = values if len(values) <= _MOST else [*values[: _MOST - 1], f"and {len(values) - _MOST + 1} more"]
    return (PictureRow(row, label, tuple(shown), Tone.GUEST),) if values else ()


def _routes(port: Port, network: Network) -> Iterator[str]:
    if network.routed:
        yield from (str(address.ip) for address in port.addresses)
    for prefix in (*_behind(port, network), *port.untranslated):
        yield f"{prefix} via {port.address(prefix.version)}"


def _service(forward: Forward) -> str:
    return ip_protocols.service(forward.protocol, forward.first, forward.last)


def _clients(forward: Forward) -> str:
    """For whom it is, "" for everybody."""
    few = ", ".join(map(str, forward.sources[:_MOST]))
    more = f" and {len(forward.sources) - _MOST} more" if len(forward.sources) > _MOST else ""
    return f", from {few}{more}" if few else ""


def _target(forward: Forward) -> str:
    """The guest's port or ports, "" where they are those that are asked for."""
    last = forward.to_first + forward.last - forward.first
    moved = ip_protocols.service(forward.protocol, forward.to_first, last).partition("/")[2]
    return moved if forward.to_first != forward.first else ""


def _behind(port: Port, network: Network) -> tuple[IPNetwork, ...]:
    return tuple(prefix for prefix in port.sources if prefix.prefixlen) if network.routed else port.behind


def _answered(topology: Topology) -> Iterator[tuple[IPAddress, str, PhysicalNetwork | None]]:
    for guest, port, network in _ports(topology):
        if network.routed and network.routed.publish:
            for address in port.addresses:
                yield address.ip, guest, _lan(topology, network, address.ip)
        for ip in () if network.router else (*port.floating, *port.untranslated):
            lan = _lan(topology, network, ip)
            if lan is not None and (not lan.subnets or _is_on(ip, lan)) and ip not in lan.host:
                yield ip, guest, lan  # other ones are routed to the host, or its own


def _forwarded(topology: Topology) -> Iterator[tuple[str, PhysicalNetwork | None]]:
    """Each forward with the LANs where the host has an address to ask for it at."""
    anywhere: list[PhysicalNetwork | None] = [lan for lan in topology.physical_networks if lan.host]
    for guest, port, network in _ports(topology):
        for forward in () if network.router else port.forwards:
            moved = _target(forward)
            text = f"{_service(forward)} → {guest}{f':{moved}' if moved else ''}{_clients(forward)}"
            lans = [_lan(topology, network, forward.at)] if forward.at else anywhere or [_beyond(topology, network)]
            yield from ((text, lan) for lan in lans)


def _ports(topology: Topology) -> Iterator[tuple[str, Port, Network]]:
    return ((guest.name, port, topology.network(port.network)) for guest in topology.guests for port in guest.ports)


def _lan(topology: Topology, network: Network, address: IPAddress) -> PhysicalNetwork | None:
    """The LAN of an address, else the one to which the network is connected."""
    beyond = _beyond(topology, network)
    if beyond is not None and _is_on(address, beyond):
        return beyond  # another VRF may have the same addresses
    on = (lan for lan in topology.physical_networks if _is_on(address, lan))
    return next(on, None) or beyond


def _beyond(topology: Topology, network: Network) -> PhysicalNetwork | None:
    index = uplink(topology, network)
    return None if index is None else outside(topology)[index]


def _is_on(address: IPAddress, lan: PhysicalNetwork) -> bool:
    return any(address in subnet for subnet in lan.subnets)

"""What a picture says of one port: by its topology how it is to be guarded, of what runs how it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from libvirt_guestnet.model.topology import Guest, Port, PortKind, Topology

from .picture import MODE_TONES, PictureRow, Tone


@dataclass(frozen=True)
class Now:
    """A port of a running guest: its state as `status` says it, the frames that its guard dropped by reason, and what
    is otherwise than it should be with its device. `mtu` is that of a device that has another one than its bridge."""

    state: str
    tone: Tone
    reasons: Mapping[str, int] = field(default_factory=dict)
    link: str = ""
    mtu: int = 0


@dataclass(frozen=True)
class Running(Topology):
    """What runs on a host, drawn as a topology is. `now` is by guest and port."""

    now: Mapping[tuple[str, str], Now] = field(default_factory=dict)


def now(topology: Topology, guest: Guest, port: Port) -> Now | None:
    """None where the picture is of a file."""
    return topology.now.get((guest.name, port.name)) if isinstance(topology, Running) else None


def tone(topology: Topology, guest: Guest, port: Port) -> Tone:
    """That of its network or, of what runs, of its state."""
    found = now(topology, guest, port)
    return found.tone if found else MODE_TONES[topology.network(port.network).mode]


def is_sure(topology: Topology, guest: Guest, port: Port) -> bool:
    """Whether it is guarded, by what is said or by what is so."""
    found = now(topology, guest, port)
    return found.tone is Tone.GUARDED if found else port.guarded and not port.observed


def words(topology: Topology, guest: Guest, port: Port) -> Iterator[str]:
    """Its state, and what else is particular about its tap."""
    found = now(topology, guest, port)
    yield found.state if found else "observed" if port.observed else "guarded" if port.guarded else "not guarded"
    if port.isolated:
        yield "isolated"
    if port.kind == PortKind.ETHERNET:
        yield "ethernet"
    if found and found.link:
        yield f"link: {found.link}"
    elif not port.link_up:
        yield "link down"
    yield from _vlans(port)
    if found and found.mtu:
        yield f"MTU {found.mtu}"


def _vlans(port: Port) -> Iterator[str]:
    if port.vlan:
        yield f"VLAN {port.vlan}"
    if port.trunk:
        spans = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in port.trunk)
        yield f"trunk of VLANs {spans}"
    if port.native_vlan:
        yield f"native VLAN {port.native_vlan}"


def addresses(topology: Topology, guest: Guest, port: Port) -> tuple[str, ...]:
    """Its addresses, of what runs with its state."""
    listed = tuple(str(address.ip) for address in port.addresses)
    if found := now(topology, guest, port):
        state = found.state if not found.link else f"{found.state}, link: {found.link}"
        return (f"{listed[0]} · {state}", *listed[1:]) if listed else (state,)
    return listed if port.link_up else (*listed, "link down")


def drops(topology: Topology, guest: Guest, port: Port, row: str) -> Iterator[PictureRow]:
    """A row on the frames that were dropped, or would have been, where there are any."""
    found = now(topology, guest, port)
    if found and found.reasons:
        listed = tuple(f"{reason} {frames}" for reason, frames in sorted(found.reasons.items()))
        label, tone = ("would drop", found.tone) if found.tone is Tone.WATCHED else ("drops", Tone.UNGUARDED)
        yield PictureRow(f"{row}d", label, listed, tone, below=True)

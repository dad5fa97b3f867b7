"""The frames that are sent, and how a frame is known again wherever it is seen. Pure.

Who sends them is nobody: a MAC address of 52:54:03, addresses of TEST-NET-1 and of the documentation prefix. All are
broadcast, multicast or for nobody, at the discard port, so that no guest that hears one does anything about it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from libvirt_guestnet.isolation.link import DOT1AD, DOT1Q, GUARDED, Link, Sighting, Tag, Tags
from libvirt_guestnet.lab import forge

MARK = b"\x52\x54\x03"
ORDINARY, FORGED, TAGGED = "ordinary", "forged", "tagged"
_VXLAN_HEADER = 8
_TAGS = (DOT1Q, DOT1AD, 0x9100)


@dataclass(frozen=True)
class Frame:
    """A frame and its `packet`, which no other frame has. `kind` is one of those above, `what` says more; one that
    `must` be heard on its own link shows that it was sent, and that somebody listens there."""

    kind: str
    what: str
    data: bytes
    packet: bytes
    must: bool = False


class Who(NamedTuple):
    """Who sends, and for whom that one tries to pass."""

    me: forge.Identity
    them: forge.Identity


def identity(mac: str, number: int) -> forge.Identity:
    """Nobody, as number 0 to 99 on a link."""
    return forge.Identity(mac, IPv4Address(f"192.0.2.{100 + number}"), IPv6Address(f"2001:db8::{100 + number}"))


def nobody(run: int, number: int) -> str:
    """A MAC address of nobody's; `run` is below 256, `number` below 65536."""
    return bytes([*MARK, run & 0xFF, number >> 8 & 0xFF, number & 0xFF]).hex(":")


def frames(link: Link, way: str, who: Who, vlans: Iterable[int], nonces: Iterator[int]) -> list[Frame]:
    """What a port of a link sends. Somebody else's addresses and announcements are forged only where a guard is to
    drop them: elsewhere they would pass, and say nothing of other links."""
    found = list(_ordinary(who.me, who.them, nonces))
    if way == GUARDED:
        found += _forged(who.me, who.them, nonces)
    return [*found, *_tagged(link, who.me, vlans, nonces)]


def _ordinary(me: forge.Identity, them: forge.Identity, nonces: Iterator[int]) -> Iterator[Frame]:
    for what, make in (("IPv4 broadcast", forge.broadcast4), ("ARP", forge.announced), ("unicast", None)):
        frame = make(me, next(nonces)) if make else forge.unicast4(me, them, next(nonces))
        yield Frame(ORDINARY, what, frame, forge.packet(frame), must=make is not None)
    frame = forge.honest(me.mac, next(nonces))
    yield Frame(ORDINARY, "IPv6 multicast", frame, forge.packet(frame), must=True)


def _forged(me: forge.Identity, them: forge.Identity, nonces: Iterator[int]) -> Iterator[Frame]:
    for kind in ("mac", "arp", "ipv4", "ipv6", "nd", "ra", "dhcp-offer"):
        nonce = next(nonces)
        # Should it pass after all, no guest may take a prefix or a router from it.
        sent = [forge.empty_ra(me, nonce)] if kind == "ra" else forge.forged(kind, me, them, nonce)
        yield from (Frame(FORGED, kind, frame, forge.packet(frame)) for frame in sent)


def _tagged(link: Link, me: forge.Identity, vlans: Iterable[int], nonces: Iterator[int]) -> Iterator[Frame]:
    """With one tag of each VLAN, and with two, of which a switch that takes off the first leaves the other."""
    own = link.vlan or 1
    for vlan in (0, *vlans):
        stacks: list[Tags] = [(Tag(DOT1Q, vlan),)]
        stacks += [(Tag(DOT1AD, vlan),), (Tag(DOT1Q, own), Tag(DOT1Q, vlan))] if vlan else []
        for stack in stacks:
            frame = forge.broadcast4(me, next(nonces))
            yield Frame(TAGGED, f"tagged {' '.join(map(str, stack))}", with_tags(frame, stack), forge.packet(frame))


def with_tags(frame: bytes, tags: Tags) -> bytes:
    """A frame with tags behind its addresses."""
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


def seen(data: bytes, packet: bytes, device: str, outgoing: bool, offloaded: Tags) -> Sighting | None:
    """How one of our packets was seen in what a device carried: `offloaded` are tags that were not in the data itself.
    None if it is not in it."""
    place = data.find(packet)
    if place < 0:
        return None
    tags, start = _tags_of(data)
    if place == start:
        return Sighting(device, outgoing, (*offloaded, *tags))
    return _inside(data, start, place, Sighting(device, outgoing, (*offloaded, *tags)))


def _tags_of(data: bytes, start: int = 0) -> tuple[Tags, int]:
    """The tags of the frame at `start`, and where its payload begins."""
    found: list[Tag] = []
    place = start + 12
    while len(data) >= place + 4 and (kind := int.from_bytes(data[place : place + 2], "big")) in _TAGS:
        found.append(Tag(kind, int.from_bytes(data[place + 2 : place + 4], "big") & 0xFFF))
        place += 4
    return tuple(found), place + 2


def _inside(data: bytes, start: int, place: int, outer: Sighting) -> Sighting:
    """Of a packet that is in another one: the number of the VXLAN, if it is one (RFC 7348, 5), and the inner tags."""
    for inner in range(place - 14, max(start, place - 14 - 4 * len(_TAGS)) - 1, -4):
        tags, payload = _tags_of(data, inner)
        header = data[inner - _VXLAN_HEADER : inner]
        if payload == place and inner - _VXLAN_HEADER > start and header[:1] == b"\x08":
            return Sighting(outer.device, outer.outgoing, tags, vni=int.from_bytes(header[4:7], "big"))
    return Sighting(outer.device, outer.outgoing, outer.tags, wrapped=True)

"""The links of a host, as facts: what is on each, where its frames may be seen, and with which tags. Pure.

A link is what a broadcast frame reaches: a bridge, one VLAN of a bridge, or the tap of a host-routed guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

DOT1Q, DOT1AD = 0x8100, 0x88A8
GUARDED, OBSERVED, TRUSTED = "guarded", "observed", "not guarded"


class Tag(NamedTuple):
    """A VLAN tag: its Ethernet type and number."""

    protocol: int
    vlan: int

    def __str__(self) -> str:
        return f"{self.vlan}" if self.protocol == DOT1Q else f"{self.vlan} (802.1ad)"


Tags = tuple[Tag, ...]
UNTAGGED: frozenset[Tags] = frozenset({()})


@dataclass(frozen=True)
class Link:
    """One link. `ways` are the ways in which its ports are guarded, each of which is tried.

    `ports` are the taps of guests on it and `exits` the devices by which it leaves the host, each with the stacks of
    tags that its frames may have there; `vni` is the number of the VXLAN that carries it, if there is one. `isolated`:
    its ports are kept from each other. `tag` is what its frames have inside a bridge that tells VLANs apart. `alone`:
    it is a single tap, in no bridge.
    """

    bridge: str
    vlan: int
    networks: tuple[str, ...]
    topology: str = ""
    ways: tuple[str, ...] = (GUARDED,)
    ports: Mapping[str, frozenset[Tags]] = field(default_factory=dict)
    exits: Mapping[str, frozenset[Tags]] = field(default_factory=dict)
    vni: int | None = None
    isolated: bool = False
    open_vswitch: bool = False
    service: bool = False
    alone: bool = False

    @property
    def name(self) -> str:
        return f"{self.bridge}/{self.vlan}" if self.vlan else self.bridge

    @property
    def tag(self) -> Tags:
        return (Tag(DOT1AD if self.service else DOT1Q, self.vlan),) if self.vlan else ()

    def with_ports(self, taps: Mapping[str, frozenset[Tags]]) -> Link:
        return replace(self, ports={**self.ports, **taps})


@dataclass(frozen=True)
class Sighting:
    """A frame of ours, seen at a device of this host: on its way in, or, `outgoing`, out by it. `vni` is the number of
    the VXLAN packet that it was in, None for a bare frame; `wrapped`: it was in some other packet."""

    device: str
    outgoing: bool
    tags: Tags = ()
    vni: int | None = None
    wrapped: bool = False

    def __str__(self) -> str:
        inside = f" in VXLAN {self.vni}" if self.vni is not None else " in another packet" if self.wrapped else ""
        tagged = f" tagged {' '.join(map(str, self.tags))}" if self.tags else " untagged"
        return f"{self.device}{inside}{tagged}"


def vlans_beside(link: Link, links: tuple[Link, ...], most: int = 64) -> list[int]:
    """The VLANs to which somebody on a link might want to get: those of other links, and 1, the usual default."""
    return sorted({vlan for vlan in _vlans(links) if vlan != link.vlan} | {1} - {link.vlan})[:most]


def _vlans(links: tuple[Link, ...]) -> Iterator[int]:
    for link in links:
        stacks = (stack for stacks in (*link.exits.values(), *link.ports.values()) for stack in stacks)
        yield from (link.vlan,) if link.vlan else ()
        yield from (tag.vlan for stack in stacks for tag in stack)

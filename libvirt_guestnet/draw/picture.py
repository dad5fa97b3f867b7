"""What a picture consists of, however it is written. All text is as the user wrote it; writers escape.

Ids are ours (`net0`, `guest1`): user text never becomes an identifier in a dot or Mermaid file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from libvirt_guestnet.model.network import Mode


class Tone(StrEnum):
    """What a thing's colour says about it."""

    LAN = "lan"
    NAT = "nat"
    ISOLATED = "isolated"
    BRIDGE = "bridge"
    ROUTE = "route"
    GUEST = "guest"
    ROUTER = "router"
    HOST = "host"
    GUARDED = "guarded"
    WATCHED = "watched"
    UNGUARDED = "unguarded"
    NOTHING = "nothing"


class Colours(NamedTuple):
    fill: str
    stroke: str


TEXT = "#1f2937"
MUTED = "#4b5563"

# Every fill carries TEXT and MUTED, and every stroke white text, at a contrast of at least 4.5 : 1 (WCAG AA).
PALETTE = {
    Tone.LAN: Colours("#eceff3", "#566173"),
    Tone.NAT: Colours("#dfeafb", "#2f62ad"),
    Tone.ISOLATED: Colours("#fbe3e4", "#b03a45"),
    Tone.BRIDGE: Colours("#dff2e4", "#2b7a45"),
    Tone.ROUTE: Colours("#ece4f8", "#6d4aa3"),
    Tone.GUEST: Colours("#ffffff", "#566173"),
    Tone.ROUTER: Colours("#fff3d1", "#8f5f00"),
    Tone.HOST: Colours("#f8f9fb", "#566173"),
    Tone.GUARDED: Colours("#c4ead0", "#1f7a3d"),
    Tone.WATCHED: Colours("#ffe08a", "#8f5f00"),
    Tone.UNGUARDED: Colours("#ffc9c4", "#b3261e"),
    Tone.NOTHING: Colours("#e5e7eb", "#566173"),
}

MODE_TONES = {
    Mode.NAT: Tone.NAT,
    Mode.ISOLATED: Tone.ISOLATED,
    Mode.BRIDGE: Tone.BRIDGE,
    Mode.ROUTE: Tone.ROUTE,
    Mode.OPEN: Tone.ROUTE,
    Mode.HOST_ROUTED: Tone.ROUTE,
    Mode.EXTERNAL: Tone.BRIDGE,
}
BADGES = {
    Mode.NAT: "NAT",
    Mode.ISOLATED: "isolated",
    Mode.BRIDGE: "bridged",
    Mode.ROUTE: "routed",
    Mode.OPEN: "open",
    Mode.HOST_ROUTED: "host-routed",
    Mode.EXTERNAL: "external",
}


class Shape(StrEnum):
    CLOUD = "cloud"
    BAR = "bar"
    BOX = "box"
    SMALL = "small"


@dataclass(frozen=True)
class PictureRow:
    """A line of a box with a coloured label: a port and its addresses, or one of several guests. `below`: it says more
    of the one above."""

    id: str
    label: str
    values: tuple[str, ...]
    tone: Tone
    below: bool = False


@dataclass(frozen=True)
class PictureNode:
    """A thing: a title with an optional badge, lines under it, then rows that edges can end at, then footnotes. Rows in
    `columns` are read column by column."""

    id: str
    shape: Shape
    tone: Tone
    title: str
    badge: str = ""
    lines: tuple[str, ...] = ()
    rows: tuple[PictureRow, ...] = ()
    notes: tuple[str, ...] = ()
    dashed: bool = False
    columns: int = 1


@dataclass(frozen=True)
class Edge:
    """A connection, from what is nearer to the outside; `uplink` when it leads there. Rows are ids of rows."""

    source: str
    target: str
    tone: Tone
    label: str = ""
    source_row: str = ""
    target_row: str = ""
    dashed: bool = False
    uplink: bool = False


@dataclass(frozen=True)
class Cluster:
    """A labelled frame around nodes."""

    id: str
    title: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """Nodes, edges and frames, in the order they are written. `sideways`: the outside is left instead of above."""

    title: str
    nodes: tuple[PictureNode, ...]
    edges: tuple[Edge, ...]
    clusters: tuple[Cluster, ...] = ()
    sideways: bool = False

"""What several verbs take: a topology, and which device is behind each of its labels."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from libvirt_guestnet import topology
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.model.topology import Topology


def load(args: Namespace) -> Topology:
    """The topology named on the command line. Raises TopologyError."""
    if args.topology != "-":
        return topology.load(Path(args.topology))
    return topology.load_from(sys.stdin.buffer, args.topology_name or "-")


def hostmap(args: Namespace) -> HostMap:
    """By host.yaml and `--map`. Raises GuestnetError."""
    return load_hostmap(pairs=args.map)


def count(things: Sequence[object], name: str) -> str:
    """`2 guests`"""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"

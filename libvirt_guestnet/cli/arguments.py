"""What several verbs take: a topology, and which device is behind each of its labels."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from libvirt_guestnet import topology
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.parse import shown


def load(args: Namespace) -> Topology:
    """The topology named on the command line. Raises TopologyError, and GuestnetError where `--map` names a label that
    it does not have."""
    found = _load(args)
    check_labels(getattr(args, "map", ()), found)
    return found


def _load(args: Namespace) -> Topology:
    if args.topology != "-":
        return topology.load(Path(args.topology))
    return topology.load_from(sys.stdin.buffer, args.topology_name or "-")


def check_labels(pairs: Iterable[str], found: Topology) -> None:
    """Raises GuestnetError where a mapped label is none of the topology's: the one that was meant would go without, or
    have what host.yaml says."""
    labels = [each.label for each in found.physical_networks]
    for pair in pairs:
        label, equals, _ = pair.partition("=")
        if label and equals and label not in labels:
            raise GuestnetError(
                f"--map {pair}: topology {found.name!r} has no physical network {shown(label)}; "
                f"it has {', '.join(labels) or 'none'}"
            )


def refuse_hosts(args: Namespace, found: Topology | None) -> None:
    """Raises GuestnetError for what is asked of hosts that the file does not have."""
    for option, given in (("--host", args.host), ("--allow-partial", args.allow_partial)):
        if given:
            whose = f"topology {found.name!r} has no hosts:" if found else "without a file there are none"
            raise GuestnetError(f"{option} is for a topology with several hosts; {whose}")


def refuse_own(args: Namespace) -> None:
    """Raises GuestnetError for what of one host's own is no use where a file has hosts."""
    for option, given, instead in (("-c", args.connect, "uri"), ("--map", getattr(args, "map", ()), "labels")):
        if given:
            raise GuestnetError(f"{option}: the topology has hosts:, each with {instead}: of its own")


def hostmap(args: Namespace) -> HostMap:
    """By host.yaml and `--map`. Raises GuestnetError."""
    return load_hostmap(pairs=args.map)


def count(things: Sequence[object], name: str) -> str:
    """`2 guests`"""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"

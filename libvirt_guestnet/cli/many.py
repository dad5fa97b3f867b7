"""The verbs on topologies with several hosts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING

from libvirt_guestnet import terminal
from libvirt_guestnet.cli.arguments import count
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.styled import Line, line

if TYPE_CHECKING:
    from libvirt_guestnet.apply.hosts import HostPlan

CHANGES_TO_MAKE = 3


def plan(found: Topology, args: Namespace) -> int:
    """`guestnet plan`: the plan of each host; 1 where one does not answer."""
    from libvirt_guestnet.apply import hosts
    from libvirt_guestnet.apply.reaching import told
    from libvirt_guestnet.apply.routers import GLANCE_SECONDS
    from libvirt_guestnet.model.notes import notes

    _check(args)
    with ExitStack() as closing:
        plans = hosts.plan_hosts(found, hosts.Choice(tuple(args.host), True), closing, GLANCE_SECONDS)
    for note in (*plans.notes, *notes(found), *(f"{h.name}: {n}" for h in plans.hosts for n in h.notes)):
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps([{"host": h.name, **row} for h in plans.hosts for row in h.plan.json()], indent=2))
    else:
        terminal.show([each for host in plans.hosts for each in _lines(host)], between="")
    for name, why in plans.down.items():
        sys.stderr.write(f"guestnet: {told(name, why)}\n")
    if plans.down and not args.allow_partial:
        return 1
    return CHANGES_TO_MAKE if plans.changes else 0


def _lines(host: HostPlan) -> list[Line]:
    found = [line(f"{host.name}: ", *each.parts) for each in host.plan.lines()]
    return found if host.plan.changes else [*found, line(f"{host.name}: nothing to do")]


def apply(found: Topology, args: Namespace) -> int:
    """`guestnet apply`"""
    from libvirt_guestnet.apply import hosts

    _check(args)
    choice = hosts.Choice(tuple(args.host), args.allow_partial)
    changes = hosts.apply_hosts(found, choice, allow_interrupt=args.allow_interrupt)
    print(f"{count(range(changes), 'change')} made" if changes else "nothing to do")
    return 0


def destroy(found: Topology, args: Namespace) -> int:
    """`guestnet destroy`"""
    from libvirt_guestnet.apply import hosts

    _check(args)
    choice = hosts.Choice(tuple(args.host), args.allow_partial)
    changes = hosts.destroy_hosts(found, choice, allow_interrupt=args.allow_interrupt)
    print(f"{count(range(changes), 'change')} made" if changes else f"nothing of topology {found.name!r} is left")
    return 0


def _check(args: Namespace) -> None:
    """What of one host's own is no use here."""
    for option, given, instead in (("-c", args.connect, "uri"), ("--map", getattr(args, "map", ()), "labels")):
        if given:
            raise GuestnetError(f"{option}: the topology has hosts:, each with {instead}: of its own")

"""The verbs on topologies with several hosts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from libvirt_guestnet import terminal
from libvirt_guestnet.cli import arguments
from libvirt_guestnet.cli.arguments import count
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.styled import Line, line
from libvirt_guestnet.table import made

if TYPE_CHECKING:
    from libvirt_guestnet.apply.hosts import HostPlan
    from libvirt_guestnet.apply.reaching import Reached
    from libvirt_guestnet.model.host import Host

CHANGES_TO_MAKE = 3


def plan(found: Topology, args: Namespace) -> int:
    """`guestnet plan`: the plan of each host; 1 where one does not answer."""
    from libvirt_guestnet.apply import hosts
    from libvirt_guestnet.apply.reaching import told
    from libvirt_guestnet.apply.routers import GLANCE_SECONDS
    from libvirt_guestnet.model.notes import notes

    arguments.refuse_own(args)
    with ExitStack() as closing:
        plans = hosts.plan_hosts(found, hosts.Choice(tuple(args.host), True), closing, GLANCE_SECONDS)
    for note in (*plans.notes, *notes(found), *(f"{h.name}: {n}" for h in plans.hosts for n in h.notes)):
        print(f"note: {note}", file=sys.stderr)
    rows = [{"host": "", **each.json()} for each in plans.rows]
    if args.json:
        print(json.dumps([*rows, *({"host": h.name, **row} for h in plans.hosts for row in h.plan.json())], indent=2))
    else:
        lines = [each for host in plans.hosts for each in _lines(host)]
        terminal.show([*(each.line() for each in plans.rows), *lines], between="")
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

    arguments.refuse_own(args)
    choice = hosts.Choice(tuple(args.host), args.allow_partial)
    changes = hosts.apply_hosts(found, choice, allow_interrupt=args.allow_interrupt)
    print(f"{count(range(changes), 'change')} made" if changes else "nothing to do")
    return 0


def destroy(found: Topology, args: Namespace) -> int:
    """`guestnet destroy`"""
    from libvirt_guestnet.apply import hosts

    arguments.refuse_own(args)
    choice = hosts.Choice(tuple(args.host), args.allow_partial)
    changes = hosts.destroy_hosts(found, choice, allow_interrupt=args.allow_interrupt)
    print(f"{count(range(changes), 'change')} made" if changes else f"nothing of topology {found.name!r} is left")
    return 0


def status(args: Namespace) -> int:
    """`guestnet status --hosts FILE`: 1 where a host does not answer."""
    from libvirt_guestnet import topology
    from libvirt_guestnet.apply.reaching import reach
    from libvirt_guestnet.status import hosts as of_hosts

    arguments.refuse_own(args)
    found = topology.load(Path(args.hosts))
    with ExitStack() as closing:
        reached, down = reach(found.hosts, closing)
    rows = [*(_host_row(found, host, reached, down) for host in found.hosts)]
    ports = [row for each in reached for row in of_hosts.port_rows(each.host, each.snapshot, found.name)]
    if args.json:
        print(json.dumps([*rows, *ports], indent=2))
    else:
        terminal.show([each for each in (made(rows, ("kind",)), made(ports, ("kind",))) if each])
    return 1 if down else 0


def _host_row(found: Topology, host: Host, reached: list[Reached], down: dict[str, str]) -> dict[str, object]:
    from libvirt_guestnet.status import hosts as of_hosts

    each = next((each for each in reached if each.host == host), None)
    if each is None:
        return of_hosts.host_row(host, of_hosts.DOWN, None, found.name, down[host.name])
    state = of_hosts.HERE if each.is_here else of_hosts.REACHED
    return of_hosts.host_row(host, state, each.snapshot, found.name)

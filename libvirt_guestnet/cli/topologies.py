"""The verbs on topologies. Each takes the parsed command line and returns an exit status."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from libvirt_guestnet import terminal, topology
from libvirt_guestnet.cli import arguments, many
from libvirt_guestnet.cli.arguments import count
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.hosted import hosted
from libvirt_guestnet.styled import line

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap

CHANGES_TO_MAKE = 3


def validate(args: Namespace) -> int:
    """`guestnet validate`"""
    from libvirt_guestnet.model.notes import notes

    found = arguments.load(args)
    counts = f"{count(found.networks, 'network')}, {count(found.guests, 'guest')}"
    if args.json:
        print("[]")
    else:
        print(f"{found.file}: topology {found.name!r} is valid: {counts}")
        for note in notes(found):
            print(f"note: {note}")
    return 0


def plan(args: Namespace) -> int:
    """`guestnet plan`"""
    from libvirt_guestnet.apply import topology as topologies
    from libvirt_guestnet.model.notes import notes

    found = arguments.load(args)
    if found.hosts:
        return many.plan(found, args)
    arguments.refuse_hosts(args, found)
    hostmap = arguments.hostmap(args)
    made = topologies.current_plan(found, hostmap, args.connect)
    for note in (*notes(found), *topologies.notes_here(found, hostmap)):
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps(made.json(), indent=2))
    else:
        terminal.show(made.lines() or [line("nothing to do")], between="")
    return CHANGES_TO_MAKE if made.changes else 0


def apply(args: Namespace) -> int:
    """`guestnet apply`"""
    from libvirt_guestnet.apply.topology import apply_topology

    found = arguments.load(args)
    if found.hosts:
        return many.apply(found, args)
    arguments.refuse_hosts(args, found)
    changed = apply_topology(found, arguments.hostmap(args), args.connect, allow_interrupt=args.allow_interrupt)
    print(f"{count(changed, 'change')} made" if changed else "nothing to do")
    return 0


def destroy(args: Namespace) -> int:
    """`guestnet destroy`"""
    from libvirt_guestnet.apply.topology import destroy_topology

    found = None if args.name else arguments.load(args)
    if found and found.hosts:
        return many.destroy(found, args)
    arguments.refuse_hosts(args, found)
    name = args.name if found is None else found.name
    guests = None if found is None else [guest.name for guest in found.guests]
    changed = destroy_topology(
        name, args.connect, guests, allow_interrupt=args.allow_interrupt, remove_disks=args.remove_disks
    )
    print(f"{count(changed, 'change')} made" if changed else f"nothing of topology {name!r} is left")
    return 0


def render(args: Namespace) -> int:
    """`guestnet render`: of several hosts, what each has, in a folder of its name."""
    from libvirt_guestnet.hostmap import of_host
    from libvirt_guestnet.model.placing import in_file

    found = arguments.load(args)
    if not found.hosts:
        return _render(found, arguments.hostmap(args), args.output)
    arguments.refuse_own(args)
    found = hosted(found)
    for host in found.hosts:
        if args.output is None:
            print(f"<!-- host {host.name} -->")
        _render(in_file(found, host), of_host(host), args.output and str(Path(args.output, host.name)))
    return 0


def _render(found: Topology, hostmap: HostMap, output: str | None) -> int:
    from libvirt_guestnet.datapath.netlink import links
    from libvirt_guestnet.guest import image
    from libvirt_guestnet.router.image import RECIPE as ROUTER
    from libvirt_guestnet.xmlgen import render as rendering

    hostmap.check_mapped(found.networks)
    hostmap.check_kinds(found.networks, lambda device: links.index_of(device) > 0)
    built, router = image.newest(), image.newest(recipe=ROUTER)
    kind = image.virt_type()
    if output is None:
        sys.stdout.write(rendering.render_text(found, hostmap, built, kind, router))
    else:
        for path in rendering.render(found, hostmap, Path(output), built, kind, router_image=router):
            print(path)
    lacking = {"tiny": built is None, "router": router is None}
    if without := [guest.name for guest in found.guests if lacking.get(guest.image or "")]:
        made = "`guestnet lab up` or `guestnet apply` makes their image"
        note = f"note: without domain.xml of {', '.join(without)}: {made}"
        print(note, file=sys.stderr)
    return 0


def graph(args: Namespace) -> int:
    """`guestnet graph`"""
    from libvirt_guestnet import draw

    ending = Path(args.output).suffix[1:] if args.output else ""
    if ending and ending not in draw.FORMATS and not args.format:
        known = ", ".join(draw.FORMATS)
        raise GuestnetError(f"{args.output}: what format is {ending!r}? Known are {known}: say which with --format")
    kind = args.format or ending or "dot"
    picture = draw.draw(_running(args.connect) if args.live else arguments.load(args), args.view, kind)
    if args.output:
        Path(args.output).write_bytes(picture)
    else:
        sys.stdout.buffer.write(picture)
    return 0


def _running(uri: str | None) -> Topology:
    from libvirt_guestnet.draw import running
    from libvirt_guestnet.importing.gather import leases
    from libvirt_guestnet.status.gather import look

    snapshot, rows = look(uri)
    return running.running(os.uname().nodename, snapshot, rows, leases)


def schema(_args: Namespace) -> int:
    """`guestnet schema`"""
    print(json.dumps(topology.json_schema(), indent=2))
    return 0

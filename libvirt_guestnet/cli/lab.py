"""The `guestnet lab` verbs. Without --here each runs itself again inside the lab's sandbox."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from libvirt_guestnet import sandbox, terminal
from libvirt_guestnet.cli import arguments, many_labs, sandboxes
from libvirt_guestnet.cli.labs import ensure_images, sandbox_name
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.lab import report, tables
from libvirt_guestnet.lab import run as running
from libvirt_guestnet.lab.run import Progress
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.status.filters import Only
from libvirt_guestnet.status.gather import status_rows
from libvirt_guestnet.status.text import status_blocks


def run(args: Namespace) -> int:
    """`guestnet lab run`: everything, and everything gone again unless `--keep`."""
    found, tell = _load_to_verify(args), Progress(args.began)
    if found.hosts:
        return many_labs.run(found, args, tell)
    if args.here:
        return _run_here(found, args, tell)
    _start_sandbox(found, args, keep=args.keep, tell=tell)
    try:
        status = _inside(found, args, "run", ["--keep", *_maps(args), *_json(args)], tell)
    finally:
        if not args.keep:
            sandbox.stop(sandbox_name(found))
    gone = f"the lab is kept; try: guestnet lab shell {args.topology} {_first_guest(found)}"
    tell(f"{gone}   guestnet lab down {args.topology}" if args.keep else "everything is gone again")
    return status


def up(args: Namespace) -> int:
    """`guestnet lab up`"""
    found, tell = arguments.load(args), Progress(args.began)
    if found.hosts:
        return many_labs.up(found, args, tell)
    if args.here:
        running.up(found, args.map, args.connect, tell)
        _show_status(found, args)
        return 0
    _start_sandbox(found, args, keep=True, tell=tell)
    with ExitStack() as undo:
        undo.callback(sandbox.stop, sandbox_name(found))
        status = _inside(found, args, "up", _maps(args), tell)
        if status == 0:
            undo.pop_all()
    return status


def verify(args: Namespace) -> int:
    """`guestnet lab verify`"""
    found, tell = _load_to_verify(args), Progress(args.began)
    if found.hosts:
        return many_labs.verify(found, args, tell)
    if args.here:
        return _verify_here(found, args, tell)
    return _inside(found, args, "verify", _json(args), tell)


def down(args: Namespace) -> int:
    """`guestnet lab down`; twice is success."""
    found = arguments.load(args)
    if found.hosts:
        return many_labs.down(found)
    if args.here:
        running.down(found, args.connect)
        return 0
    try:
        sandbox.stop(sandbox_name(found))
    except sandbox.NoSandboxError:
        print(f"the lab of topology {found.name!r} is not up: nothing to do")
    return 0


def shell(args: Namespace) -> int:
    """`guestnet lab shell`"""
    found = arguments.load(args)
    if args.guest and args.guest not in {guest.name for guest in found.guests if guest.image == "tiny"}:
        raise GuestnetError(f"{found.file}: no guest {args.guest!r} with image: tiny in this topology")
    argv = ["virsh", "console", args.guest] if args.guest else ["bash"]
    try:
        name = many_labs.sandbox_of(found, args.guest) if found.hosts else sandbox_name(found)
        return sandboxes.shell_inside(name, argv)
    except sandbox.NoSandboxError:
        raise _not_up(found) from None


def _load_to_verify(args: Namespace) -> Topology:
    found = arguments.load(args)
    if not found.expect:
        raise GuestnetError(f"{found.file}: no `expect:` lines, nothing to verify; `guestnet lab up` needs none")
    return found


def _run_here(found: Topology, args: Namespace, tell: Progress) -> int:
    with ExitStack() as undo:
        if not args.keep:
            undo.callback(running.down, found, args.connect)
        running.up(found, args.map, args.connect, tell)
        if not args.json:
            _show_status(found, args)
        return _verify_here(found, args, tell)


def _verify_here(found: Topology, args: Namespace, tell: Progress) -> int:
    from libvirt_guestnet.hostmap import load_hostmap
    from libvirt_guestnet.lab import verify as verifying

    tell("verifying every line of expect:")
    with running.agents(found, args.connect, load_hostmap().devices) as agents:
        results = verifying.verify(found, agents)
        shown = "" if args.json else tables.text(found, agents)
    tell("verified")
    if shown:
        print(f"\n{shown}\n")
    if args.json:
        print(json.dumps(report.rows(results), indent=2))
    else:
        terminal.show(report.blocks(results))
    return 0 if all(result.passed for result in results) else 1


def _show_status(found: Topology, args: Namespace) -> None:
    rows = status_rows(args.connect, Only(topology=found.name))
    print()
    terminal.show(status_blocks(rows, ("topology", "autostart", "drops")))
    print(flush=True)


def _start_sandbox(found: Topology, args: Namespace, *, keep: bool, tell: Progress) -> None:
    name = sandbox_name(found)
    if args.topology == "-":
        raise GuestnetError("lab: give the topology as a file, it is read more than once")
    if name in {each.name for each in sandbox.running()}:
        raise GuestnetError(
            f"the lab of topology {found.name!r} is up already: `guestnet lab down {args.topology}` takes it away"
        )
    ensure_images(found, tell)
    sandbox.start(name, prepare=[sandboxes.hooks_install()], keep=keep)
    tell(f"sandbox {name}: libvirtd answers, hooks installed")


def _inside(found: Topology, args: Namespace, verb: str, options: Sequence[str], tell: Progress) -> int:
    """The verb again, inside; the topology goes in through standard input, as the sandbox may not see its file."""
    debug = ["--debug"] if args.debug else []
    argv = [*debug, "--topology-name", found.file, "--began", str(tell.began), "lab", verb, "--here", *options, "-"]
    with Path(found.file).open("rb") as stdin:
        try:
            return sandboxes.call_inside(sandbox_name(found), argv, stdin)
        except sandbox.NoSandboxError:
            raise _not_up(found) from None


def _not_up(found: Topology) -> GuestnetError:
    return GuestnetError(f"the lab of topology {found.name!r} is not up: `guestnet lab up {found.file}` starts it")


def _maps(args: Namespace) -> list[str]:
    return [word for pair in args.map for word in ("--map", pair)]


def _json(args: Namespace) -> list[str]:
    return ["--json"] if args.json else []


def _first_guest(found: Topology) -> str:
    return next((guest.name for guest in found.guests if guest.image == "tiny"), "")

"""The `guestnet lab` verbs. Without --here each runs itself again inside the lab's sandbox."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from libvirt_guestnet import commands, sandbox
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import image
from libvirt_guestnet.lab.checks import Kind
from libvirt_guestnet.model import Topology
from libvirt_guestnet.table import table


def run(args: Namespace) -> int:
    """`guestnet lab run`: everything, and everything gone again unless `--keep`."""
    found = commands.load(args)
    _start_sandbox(found, keep=args.keep)
    try:
        status = _inside(found, "up", _maps(args))
        return status or _inside(found, "verify", ["--json"] if args.json else [])
    finally:
        if args.keep:
            print(f"the lab is kept; try: guestnet lab shell {args.topology}   guestnet lab down {args.topology}")
        else:
            sandbox.stop(sandbox_name(found))


def up(args: Namespace) -> int:
    """`guestnet lab up`"""
    from libvirt_guestnet.lab import run as running

    found = commands.load(args)
    if not args.here:
        _start_sandbox(found, keep=True)
        return _inside(found, "up", _maps(args))
    running.up(found, args.map, args.connect, running.Progress())
    return 0


def verify(args: Namespace) -> int:
    """`guestnet lab verify`"""
    from libvirt_guestnet.hostmap import load_hostmap
    from libvirt_guestnet.lab import run as running
    from libvirt_guestnet.lab import verify as verifying

    found = commands.load(args)
    if not args.here:
        return _inside(found, "verify", ["--json"] if args.json else [])
    with running.agents(found, args.connect, load_hostmap().devices) as agents:
        results = verifying.verify(found, agents)
    rows = [_row(result) for result in results]
    failed = sum(not result.passed for result in results)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print(table(rows))
        print(f"{len(rows) - failed} of {len(rows)} checks as expected" + (f", {failed} NOT" if failed else ""))
    return 1 if failed or not rows else 0


def down(args: Namespace) -> int:
    """`guestnet lab down`"""
    from libvirt_guestnet.lab import run as running

    found = commands.load(args)
    if args.here:
        running.down(found, args.connect)
    else:
        sandbox.stop(sandbox_name(found))
    return 0


def shell(args: Namespace) -> int:
    """`guestnet lab shell`"""
    found = commands.load(args)
    if not args.guest:
        return commands.shell_inside(sandbox_name(found))
    if args.guest not in {guest.name for guest in found.guests}:
        raise GuestnetError(f"{found.file}: no guest {args.guest!r} in this topology")
    return commands.shell_inside(sandbox_name(found), ["virsh", "console", args.guest])


def sandbox_name(found: Topology) -> str:
    """The sandbox a topology's lab lives in."""
    return f"lab-{found.name}"


def _start_sandbox(found: Topology, *, keep: bool) -> None:
    if any(guest.image for guest in found.guests):
        image.ensure_image()
    sandbox.start(sandbox_name(found), prepare=[commands.hooks_install()], keep=keep)


def _inside(found: Topology, verb: str, options: Sequence[str]) -> int:
    """The verb again, inside; the topology goes in through standard input, as the sandbox may not see its file."""
    argv = ["--topology-name", found.file, "lab", verb, "--here", *options, "-"]
    with Path(found.file).open("rb") as stdin:
        return commands.call_inside(sandbox_name(found), argv, stdin)


def _maps(args: Namespace) -> list[str]:
    return [word for pair in args.map for word in ("--map", pair)]


def _row(result: object) -> dict[str, object]:
    from libvirt_guestnet.lab.verify import Result

    assert isinstance(result, Result)
    check = result.check
    wanted = {True: "yes", False: "no"}[check.allowed] if check.kind in (Kind.SERVICE, Kind.LAYER2) else check.what
    if check.kind is Kind.FORGE:
        wanted = "arrives nowhere"
    return {
        "result": "ok" if result.passed else "FAILED",
        "from": check.source,
        "to": check.destination,
        "family": check.family.value if check.family else "",
        "check": check.what,
        "expected": wanted,
        "seen": result.seen,
        "note": f"{check.without_forwarding} not forwarding" if check.without_forwarding else "",
    }

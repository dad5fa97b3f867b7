"""The verbs on topologies and hosts. Each takes the parsed command line and returns an exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

from libvirt_guestnet import topology
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model import Topology

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.snapshot import Snapshot, Wanted
    from libvirt_guestnet.virt import Connection

CHANGES_TO_MAKE = 3
_LARGEST_TOPOLOGY = 1 << 20


def load(args: Namespace) -> Topology:
    """The topology named on the command line. Raises TopologyError."""
    if args.topology != "-":
        return topology.load(Path(args.topology))
    text = sys.stdin.buffer.read(_LARGEST_TOPOLOGY + 1)
    return topology.loads(text.decode(errors="replace"), args.topology_name or "-")


def validate(args: Namespace) -> int:
    """`guestnet validate`"""
    found = load(args)
    counts = f"{_count(found.networks, 'network')}, {_count(found.guests, 'guest')}"
    if args.json:
        print("[]")
    else:
        print(f"{found.file}: topology {found.name!r} is valid: {counts}")
    return 0


def plan(args: Namespace) -> int:
    """`guestnet plan`"""
    from libvirt_guestnet.plan import plan as make_plan
    from libvirt_guestnet.virt import connect

    wanted = _wanted(load(args), _hostmap(args))
    with connect(args.connect) as connection:
        made = make_plan(wanted, _snapshot(connection))
    print(json.dumps(made.json(), indent=2) if args.json else made.text() or "nothing to do")
    return CHANGES_TO_MAKE if made.changes else 0


def apply(args: Namespace) -> int:
    """`guestnet apply`"""
    found = load(args)
    changed = apply_topology(found, _hostmap(args), args.connect, allow_interrupt=args.allow_interrupt)
    print(f"{_count(changed, 'change')} made" if changed else "nothing to do")
    return 0


def apply_topology(
    found: Topology, hostmap: HostMap, uri: str | None, *, allow_interrupt: bool = False, quiet: bool = False
) -> Sequence[object]:
    """Plans and makes the changes, telling each as it comes; returns them. Raises GuestnetError."""
    from libvirt_guestnet import apply as applying
    from libvirt_guestnet.plan import plan as make_plan
    from libvirt_guestnet.virt import connect

    wanted = _wanted(found, hostmap)
    with applying.locked(), connect(uri) as connection:
        made = make_plan(wanted, _snapshot(connection))
        for note in made.notes:
            print(f"note: {note}", file=sys.stderr)

        def tell(change: object) -> None:
            if not quiet:
                print(change.text(), flush=True)  # type: ignore[attr-defined]

        applying.apply(made, connection, applying.KernelEffects(), tell, allow_interrupt=allow_interrupt)
    return made.changes


def destroy(args: Namespace) -> int:
    """`guestnet destroy`"""
    name = args.name or load(args).name
    changed = destroy_topology(name, args.connect)
    print(f"{_count(changed, 'change')} made" if changed else f"nothing of topology {name!r} is left")
    return 0


def destroy_topology(name: str, uri: str | None) -> Sequence[object]:
    """Removes everything of a topology, telling each step; returns the steps. Raises GuestnetError."""
    from libvirt_guestnet import apply as applying
    from libvirt_guestnet.plan import plan_destroy
    from libvirt_guestnet.virt import connect

    with applying.locked(), connect(uri) as connection:
        made = plan_destroy(name, _snapshot(connection))
        applying.destroy(made, connection, applying.KernelEffects(), lambda change: print(change.text(), flush=True))
    return made.changes


def render(args: Namespace) -> int:
    """`guestnet render`"""
    from libvirt_guestnet import render as rendering
    from libvirt_guestnet.guest import image

    found, hostmap = load(args), _hostmap(args)
    built = image.newest()
    kind = image.virt_type() if built else ""
    if args.output is None:
        sys.stdout.write(rendering.render_text(found, hostmap, built, kind))
    else:
        for path in rendering.render(found, hostmap, Path(args.output), built, kind):
            print(path)
    if built is None and (tiny := [guest.name for guest in found.guests if guest.image]):
        note = f"note: without domain.xml of {', '.join(tiny)}: `guestnet lab up` or `guestnet apply` makes their image"
        print(note, file=sys.stderr)
    return 0


def graph(args: Namespace) -> int:
    """`guestnet graph`"""
    from libvirt_guestnet import draw

    ending = Path(args.output).suffix[1:] if args.output else ""
    kind = args.format or (ending if ending in draw.FORMATS else "dot")
    picture = draw.draw(load(args), args.view, kind)
    if args.output:
        Path(args.output).write_bytes(picture)
    else:
        sys.stdout.buffer.write(picture)
    return 0


def schema(_args: Namespace) -> int:
    """`guestnet schema`"""
    print(json.dumps(topology.json_schema(), indent=2))
    return 0


def status(args: Namespace) -> int:
    """`guestnet status`"""
    rows = status_rows(args.connect)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        sys.stdout.write(drops_text(rows) if args.drops else status_text(rows))
    return 0


def status_rows(uri: str | None, name: str | None = None) -> list[dict[str, object]]:
    """The networks and ports of one topology, or of all, and what leads to them. Raises GuestnetError."""
    from libvirt_guestnet import status as reporting
    from libvirt_guestnet.datapath import routes
    from libvirt_guestnet.datapath.kernel import bridge_guard, guarded_ports, has_ways
    from libvirt_guestnet.hook import reaching
    from libvirt_guestnet.hook.ways import receipts
    from libvirt_guestnet.state import State
    from libvirt_guestnet.status_routes import Led
    from libvirt_guestnet.virt import connect

    seen, state = guarded_ports(), State()
    bridges, ports, known = *map(frozenset, bridge_guard()), state.bridges()
    guards = reporting.BridgeGuards(
        bridges, ports, known is not None and bool(known.cannot), {r.name: r for r in state.networks()}
    )
    led = Led(tuple(reaching.receipts(state)), routes.there())
    with connect(uri) as connection:
        # A receipt says what was applied, the kernel what is there: a flushed ruleset must not look guarded.
        found = reporting.status(
            _snapshot(connection),
            name,
            lambda tap: state.port(tap) if tap in seen else None,
            seen.get,
            receipts(state) if state.settled() and has_ways() else (),
            guards=guards,
            led=led,
        )
    return [row.json() for row in found]


def status_text(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """Tables of networks, ports, ways in and routes to guests, and aloud which ports nothing guards."""
    from libvirt_guestnet.table import table

    kinds = ([row for row in rows if row["kind"] == kind] for kind in ("network", "port", "way", "route"))
    tables = (table(found, ("kind", "trusted", "reasons", "silent", *skip)) for found in kinds if found)
    return "\n".join([*tables, *_aloud(rows)])


def _aloud(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Paragraphs on ports without port security: those that are meant to be, those that are not, and those that
    therefore pass nothing."""
    running = [row for row in rows if row["kind"] == "port" and row["running"] and not row["guarded"]]
    trusted = [f"{row['guest']}.{row['port'] or row['mac']}" for row in running if row["trusted"]]
    bare = [f"{row['guest']}.{row['port'] or row['mac']}" for row in running if not row["trusted"] and row["tap"]]
    said = [f"TRUSTED, no port security by their own policy: {', '.join(trusted)}\n"] if trusted else []
    said += [f"UNGUARDED, try `guestnet hooks sync`: {', '.join(bare)}\n"] if bare else []
    silent = {f"{port} on {row['bridge']}": None for row in rows if row["kind"] == "network" for port in _silent(row)}
    return said + (
        [f"SILENCED, nobody guards them, try `guestnet hooks sync`: {', '.join(silent)}\n"] if silent else []
    )


def _silent(row: Mapping[str, object]) -> list[object]:
    found = row.get("silent")
    return found if isinstance(found, list) else []


def drops_text(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of what port security dropped, by port and reason."""
    from libvirt_guestnet.table import table

    found = []
    for row in rows:
        reasons = row.get("reasons")
        for reason, frames in sorted(reasons.items()) if isinstance(reasons, dict) else ():
            found.append(
                {key: row[key] for key in ("guest", "port", "network", "tap")} | {"reason": reason, "frames": frames}
            )
    return table(found) or "nothing was dropped\n"


def hooks(args: Namespace) -> int:
    """`guestnet hooks`"""
    from libvirt_guestnet import install, service
    from libvirt_guestnet.hook.entry import release_all

    if args.action != "status" and os.geteuid() != 0:
        raise GuestnetError(f"hooks {args.action}: only root may do that: run it with sudo")
    if args.action == "sync":
        return _sync(args)
    if args.action == "install":
        states = install.install(any_owner=args.any_owner)
        service.install()
    elif args.action == "uninstall":
        service.uninstall()
        states = install.uninstall()
        # Without hooks nothing would ever remove the filters, and they outlive their taps.
        release_all()
    else:
        states = install.status()
    if args.json:
        print(json.dumps([asdict(state) for state in states], indent=2))
    else:
        for state in states:
            print(f"{state.path}: {_hook_text(state)}")
    return 0


def _hook_text(state: object) -> str:
    from libvirt_guestnet.install import HookStatus

    assert isinstance(state, HookStatus)
    if not state.installed:
        return "not installed"
    text = "installed" if state.current else "installed, but of another version: run `guestnet hooks install`"
    return f"{text}; restart the libvirt daemon once, so that it sees its first hook" if state.restart_needed else text


def _sync(args: Namespace) -> int:
    """Makes the kernel match what runs: guards every running guest, removes what nobody needs."""
    from libvirt_guestnet.sync import sync
    from libvirt_guestnet.virt import connect

    with connect(args.connect) as connection:
        failures = sync(connection)
    for failure in failures:
        sys.stderr.write(f"guestnet: {failure}\n")
    return 1 if failures else 0


def sandboxes(args: Namespace) -> int:
    """`guestnet sandbox`"""
    from libvirt_guestnet import sandbox

    if args.action == "list":
        names = [found.name for found in sandbox.running()]
        if names or args.json:
            print(json.dumps(names) if args.json else "\n".join(names))
    elif args.action == "start":
        sandbox.start(args.name, prepare=[hooks_install()], keep=True)
        print(f"sandbox {args.name} is up; try: guestnet --sandbox {args.name} status")
    elif args.action == "stop":
        sandbox.stop(args.name)
    else:
        return shell_inside(args.name)
    return 0


def call_inside(name: str, argv: Sequence[str], stdin: IO[bytes] | None = None) -> int:
    """Runs `guestnet ARGV` inside a sandbox and returns its exit status. Raises GuestnetError when it is not up."""
    from libvirt_guestnet import sandbox

    inside = sandbox.find(name).python(["-m", "libvirt_guestnet.cli", *argv])
    return subprocess.run(inside, stdin=stdin, check=False).returncode


def shell_inside(name: str, argv: Sequence[str] = ("bash",)) -> int:
    """Runs an interactive program inside a sandbox. Raises GuestnetError when it is not up."""
    from libvirt_guestnet import sandbox

    return subprocess.run(sandbox.find(name).command(argv), check=False).returncode


def hooks_install() -> list[str]:
    """What a sandbox runs inside before its libvirtd starts, which looks for hooks only then. Whoever may start a
    sandbox is root and runs this code anyway, so its owner does not matter."""
    from libvirt_guestnet import sandbox

    return sandbox.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])


def _hostmap(args: Namespace) -> HostMap:
    from libvirt_guestnet.hostmap import load_hostmap

    return load_hostmap(pairs=args.map)


def _wanted(found: Topology, hostmap: HostMap) -> Wanted:
    """The topology in libvirt's terms; building the guests' image first where one is wanted."""
    from libvirt_guestnet import apply as applying
    from libvirt_guestnet import xmlgen
    from libvirt_guestnet.guest import image

    if not any(guest.image for guest in found.guests):
        return applying.wanted(found, hostmap)
    built, kind = image.ensure_image(), image.virt_type()
    return applying.wanted(found, hostmap, lambda guest: xmlgen.domain(found, guest, hostmap, built, kind))


def _snapshot(connection: Connection) -> Snapshot:
    from libvirt_guestnet.apply import host_snapshot

    return host_snapshot(connection)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"

"""The verbs on topologies and hosts. Each takes the parsed command line and returns an exit status."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from libvirt_guestnet import topology
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model import Topology

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.snapshot import Snapshot, Wanted
    from libvirt_guestnet.virt import Connection

CHANGES_TO_MAKE = 3


def load(args: Namespace) -> Topology:
    """The topology named on the command line. Raises TopologyError."""
    if args.topology != "-":
        return topology.load(Path(args.topology))
    return topology.load_from(sys.stdin.buffer, args.topology_name or "-")


def validate(args: Namespace) -> int:
    """`guestnet validate`"""
    found = load(args)
    counts = f"{_count(found.networks, 'network')}, {_count(found.guests, 'guest')}"
    if args.json:
        print("[]")
    else:
        print(f"{found.file}: topology {found.name!r} is valid: {counts}")
        for note in _notes(found):
            print(f"note: {note}")
    return 0


def _notes(found: Topology) -> list[str]:
    """What is right, and perhaps not meant."""
    return [
        f"port '{guest.name}.{port.name}' on network '{port.network}' has no addresses: it may ask by DHCP, and use "
        "its link-local address only; list them, or write `addresses: any` for whatever nobody else holds"
        for guest, port in found.unaddressed
    ]


def _notes_here(found: Topology) -> list[str]:
    """The same, on this host."""
    from libvirt_guestnet import hairpins
    from libvirt_guestnet.datapath import devices

    return list(hairpins.notes(found, devices.bridged()))


def plan(args: Namespace) -> int:
    """`guestnet plan`"""
    from libvirt_guestnet.plan import plan as make_plan
    from libvirt_guestnet.virt import connect

    found = load(args)
    wanted = _wanted(found, _hostmap(args))
    with connect(args.connect) as connection:
        made = make_plan(wanted, _facing(found, wanted, _snapshot(connection)))
    for note in (*_notes(found), *_notes_here(found)):
        print(f"note: {note}", file=sys.stderr)
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
        made = make_plan(wanted, _facing(found, wanted, _snapshot(connection)))
        for note in (*made.notes, *_notes(found), *_notes_here(found)):
            print(f"note: {note}", file=sys.stderr)

        def tell(change: object) -> None:
            if not quiet:
                print(change.text(), flush=True)  # type: ignore[attr-defined]

        applying.apply(made, connection, applying.KernelEffects(), tell, allow_interrupt=allow_interrupt)
    return made.changes


def destroy(args: Namespace) -> int:
    """`guestnet destroy`"""
    found = None if args.name else load(args)
    name = args.name if found is None else found.name
    guests = None if found is None else [guest.name for guest in found.guests]
    changed = destroy_topology(name, args.connect, guests, allow_interrupt=args.allow_interrupt)
    print(f"{_count(changed, 'change')} made" if changed else f"nothing of topology {name!r} is left")
    return 0


def destroy_topology(
    name: str, uri: str | None, guests: Sequence[str] | None = None, *, allow_interrupt: bool = False
) -> Sequence[object]:
    """Removes everything of a topology, telling each step; returns the steps. `guests`: those in its file. Raises
    GuestnetError."""
    from libvirt_guestnet import apply as applying
    from libvirt_guestnet.plan import plan_destroy
    from libvirt_guestnet.virt import connect

    with applying.locked(), connect(uri) as connection:
        made = plan_destroy(name, _snapshot(connection), guests)

        def tell(change: object) -> None:
            print(change.text(), flush=True)  # type: ignore[attr-defined]

        applying.destroy(made, connection, applying.KernelEffects(), tell, allow_interrupt=allow_interrupt)
    return made.changes


def render(args: Namespace) -> int:
    """`guestnet render`"""
    from libvirt_guestnet import render as rendering
    from libvirt_guestnet.datapath import links
    from libvirt_guestnet.guest import image

    found, hostmap = load(args), _hostmap(args)
    hostmap.check_mapped(found.networks)
    hostmap.check_kinds(found.networks, lambda device: links.index_of(device) > 0)
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
    if ending and ending not in draw.FORMATS and not args.format:
        known = ", ".join(draw.FORMATS)
        raise GuestnetError(f"{args.output}: what format is {ending!r}? Known are {known}: say which with --format")
    kind = args.format or ending or "dot"
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
    from libvirt_guestnet.actual import wrongs
    from libvirt_guestnet.datapath import routes
    from libvirt_guestnet.datapath.kernel import bridge_guard, guarded_ports
    from libvirt_guestnet.hook import hostwide, offload, reaching
    from libvirt_guestnet.opened import opened
    from libvirt_guestnet.state import State
    from libvirt_guestnet.status_routes import Led
    from libvirt_guestnet.virt import connect

    seen, state = guarded_ports(), State()
    bridges, ports, known = *map(frozenset, bridge_guard()), state.bridges()
    guards = reporting.BridgeGuards(
        bridges, ports, known is not None and bool(known.cannot), {r.name: r for r in state.networks()}
    )
    checksums = reporting.Offload(frozenset(offload.lost(state)), offload.drops(state), offload.known(state).cannot)
    led = Led(tuple(reaching.receipts(state)), routes.there())
    with connect(uri) as connection:
        snapshot = _snapshot(connection)
        # A receipt says what was applied, the kernel what is there: a flushed ruleset must not look guarded.
        found = reporting.status(
            snapshot,
            name,
            lambda tap: state.sound_port(tap) if tap in seen else None,
            seen.get,
            opened(state, led.there),
            guards=guards,
            offload=checksums,
            led=led,
            host=hostwide.read(),
            plugging=state.pluggings(),
            wrong=wrongs(snapshot, state),
        )
    return [row.json() for row in found]


def status_text(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """Tables of networks, ports, ways in, routes to guests and NICs that nothing can guard, and aloud which ports
    nothing guards that could be."""
    from libvirt_guestnet.table import table

    kinds = ([row for row in rows if row["kind"] == kind] for kind in ("network", "port", "way", "route", "unguarded"))
    hidden = ("kind", "trusted", "any_address", "unknown", "reasons", "silent", "wrong", *skip)
    tables = (table(found, hidden) for found in kinds if found)
    return "\n".join([*tables, *_aloud(rows)])


def _aloud(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Paragraphs on ports without port security: those that are meant to be, those that are not, and those that
    therefore pass nothing."""
    from libvirt_guestnet.status_unguarded import PENDING

    told = [row for row in rows if row["kind"] == "unguarded"]  # and why, in a table
    said = {(row["guest"], row["mac"], row["device"]) for row in told}
    pending = {(row["guest"], row["mac"]) for row in told if row["reason"] == PENDING}
    ports = [
        row
        for row in rows
        if row["kind"] == "port"
        and (row["guest"], row["mac"], row["tap"]) not in said
        and (row["guest"], row["mac"]) not in pending
    ]
    running = [row for row in ports if row["running"] and not row["guarded"]]
    trusted = [f"{row['guest']}.{row['port'] or row['mac']}" for row in running if row["trusted"]]
    bare = [f"{row['guest']}.{row['port'] or row['mac']}" for row in running if not row["trusted"] and row["tap"]]
    guarded = [row for row in ports if row["running"] and row["guarded"]]
    anything = [f"{row['guest']}.{row['port'] or row['mac']}" for row in guarded if row["any_address"]]
    unknown = [f"{row['guest']}.{row['port'] or row['mac']}" for row in guarded if row["unknown"]]
    loud = [f"TRUSTED, no port security by their own policy: {', '.join(trusted)}\n"] if trusted else []
    loud += [f"UNGUARDED, try `guestnet hooks sync`: {', '.join(bare)}\n"] if bare else []
    loud += [f"ANY ADDRESS that nobody holds, by their own policy: {', '.join(anything)}\n"] if anything else []
    loud += (
        [f"NO ADDRESS known, DHCP and link-local only, until the policy says addresses: {', '.join(unknown)}\n"]
        if unknown
        else []
    )
    silent = {
        f"{port} on {row['bridge']}": None
        for row in rows
        if row["kind"] == "network"
        for port in _listed(row, "silent")
    }
    loud += _unguarded_offload(rows)
    loud += [f"WRONG: {text}\n" for row in rows if row["kind"] in ("network", "port") for text in _listed(row, "wrong")]
    return loud + (
        [f"SILENCED, nobody guards them, try `guestnet hooks sync`: {', '.join(silent)}\n"] if silent else []
    )


def _unguarded_offload(rows: Sequence[Mapping[str, object]]) -> list[str]:
    by_word: dict[object, list[str]] = {}
    for row in rows:
        if row["kind"] == "port" and row["offload"]:
            by_word.setdefault(row["offload"], []).append(f"{row['guest']}.{row['port'] or row['mac']}")
    said = {
        "missing": "NO CHECKSUM GUARD, try `guestnet hooks sync`",
        "kernel cannot": "NO CHECKSUM GUARD, this host cannot (`guestnet doctor` says why)",
    }
    return [f"{text}: {', '.join(by_word[word])}\n" for word, text in said.items() if word in by_word]


def _listed(row: Mapping[str, object], key: str) -> list[object]:
    found = row.get(key)
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
    told: list[str] = []
    if args.action == "install":
        states = install.install(any_owner=args.any_owner, tell=told.append)
        service.install()
    elif args.action == "uninstall":
        service.uninstall()
        states = install.uninstall(tell=told.append)
        # Without hooks nothing would ever remove the filters, and they outlive their taps.
        release_all()
    else:
        states = install.status()
    if args.json:
        print(json.dumps([asdict(state) for state in states], indent=2))
    else:
        for state in states:
            print(f"{state.path}: {_hook_text(state)}")
    for line in told:
        print(line, file=sys.stderr if args.json else sys.stdout)
    return 0


def _hook_text(state: object) -> str:
    from libvirt_guestnet import install

    assert isinstance(state, install.HookStatus)
    if not state.installed:
        return "not installed"
    text = "installed" if state.current else "installed, but of another version: run `guestnet hooks install`"
    text += "; restart the libvirt daemon once, so that it sees its first hook" if state.restart_needed else ""
    return f"{text}; {state.run_by} runs it a second time: {install.RUN_TWICE}" if state.run_by else text


def _sync(args: Namespace) -> int:
    """Makes the kernel match what runs: guards every running guest, removes what nobody needs."""
    from libvirt_guestnet import install
    from libvirt_guestnet.sync import sync
    from libvirt_guestnet.virt import connect

    install.take_over()
    with connect(args.connect) as connection:
        told = sync(connection)
    for text in (*told.failures, *told.unled):
        sys.stderr.write(f"guestnet: {text}\n")
    return 1 if told.failures else 0


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


def _facing(found: Topology, wanted: Wanted, snapshot: Snapshot) -> Snapshot:
    """With what of the wanted addresses is somebody's on this host, or on its LANs, and what the kernel has wrong."""
    from libvirt_guestnet import hairpins
    from libvirt_guestnet.actual import wrongs
    from libvirt_guestnet.datapath import devices
    from libvirt_guestnet.plan_addresses import taken_addresses
    from libvirt_guestnet.state import State

    taken = (*taken_addresses(wanted, snapshot, State()), *hairpins.problems(found, devices.bridged()))
    return replace(snapshot, taken=taken, wrong=wrongs(snapshot))

"""`guestnet lab` of a topology with several hosts: a sandbox for each, in which `guestnet apply --host` makes its part
as it would on a host of one's own."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from libvirt_guestnet import sandbox, terminal
from libvirt_guestnet.cli import sandboxes
from libvirt_guestnet.cli.labs import ensure_images, sandbox_name
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.lab import joined, report
from libvirt_guestnet.lab.run import Progress
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.sandbox import Sandbox


def run(found: Topology, args: Namespace, tell: Progress) -> int:
    """`guestnet lab run`"""
    _check(found, args)
    with ExitStack() as undo:
        if not args.keep:
            undo.callback(_stop, found)
        _start(found, args, tell, keep=args.keep)
        status = verify(found, args, tell)
    tell(f"the lab is kept; guestnet lab down {args.topology} ends it" if args.keep else "everything is gone again")
    return status


def up(found: Topology, args: Namespace, tell: Progress) -> int:
    """`guestnet lab up`"""
    _check(found, args)
    with ExitStack() as undo:
        undo.callback(_stop, found)
        _start(found, args, tell, keep=True)
        undo.pop_all()
    return 0


def verify(found: Topology, args: Namespace, tell: Progress) -> int:
    """`guestnet lab verify`"""
    from libvirt_guestnet.lab import verify as verifying

    joined.check(found)
    tell("verifying every line of expect:")
    with joined.agents(found, _found(found)) as agents:
        results = verifying.verify(found, agents)
    tell("verified")
    if args.json:
        print(json.dumps(report.rows(results), indent=2))
    else:
        terminal.show(report.blocks(results))
    return 0 if all(result.passed for result in results) else 1


def down(found: Topology) -> int:
    """`guestnet lab down`; twice is success."""
    _stop(found)
    return 0


def sandbox_of(found: Topology, guest: str | None) -> str:
    """Where a guest is; the first host's, if none is named."""
    on = next((each.host for each in found.guests if each.name == guest), None)
    return _name(found, next((host for host in found.hosts if host.name == on), found.hosts[0]))


def _check(found: Topology, args: Namespace) -> None:
    if args.here or getattr(args, "map", ()):
        raise GuestnetError("a lab of several hosts makes them all itself: leave out --here and --map")
    joined.check(found)


def _name(found: Topology, host: Host) -> str:
    """Of a sandbox, which takes less than a topology's and a host's."""
    number = found.hosts.index(host) + 1
    return f"{sandbox_name(found)[:28]}-{number}"


def _found(found: Topology) -> Mapping[str, Sandbox]:
    """The sandboxes that are up. Raises NoSandboxError."""
    return {host.name: sandbox.find(_name(found, host)) for host in found.hosts}


def _start(found: Topology, args: Namespace, tell: Progress, *, keep: bool) -> None:
    ensure_images(found, tell)
    for host in found.hosts:
        sandbox.start(_name(found, host), prepare=[sandboxes.hooks_install()], keep=keep)
        tell(f"host {host.name}, sandbox {_name(found, host)}: libvirtd answers, hooks installed")
    running = _found(found)
    joined.join(found, running)
    tell(f"joined by {', '.join(each.label for each in found.physical_networks)}")
    for host in found.hosts:
        _apply(found, host)
        joined.start_guests(found, host, running[host.name], tell)


def _apply(found: Topology, host: Host) -> None:
    argv = ["--topology-name", found.file, "apply", "--host", host.name, "-"]
    with Path(found.file).open("rb") as stdin:
        if sandboxes.call_inside(_name(found, host), argv, stdin) != 0:
            raise GuestnetError(f"host {host.name}: guestnet apply failed, as it says above")


def _stop(found: Topology) -> None:
    for host in found.hosts:
        with suppress(sandbox.NoSandboxError):
            sandbox.stop(_name(found, host))

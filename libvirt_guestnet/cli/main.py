"""`guestnet`: one command line, its exit status, and errors in words."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from libvirt_guestnet.cli.parser import parser
from libvirt_guestnet.errors import GuestnetError, TopologyError

# Garbage of objects that refer to each other is looked for after so many new ones. Python's 700 are too few for a large
# topology, all of whose objects stay: to go through them again and again would take a third of the time.
COLLECT_AFTER = 100_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    gc.set_threshold(COLLECT_AFTER)
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(arguments)
    try:
        if args.sandbox:
            return _inside(args, arguments)
        run: Callable[[argparse.Namespace], int] = _function(args.run)
        return run(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("guestnet: interrupted\n")
        return 130
    except (GuestnetError, OSError, subprocess.SubprocessError) as error:
        if args.debug:
            raise
        failure = error if isinstance(error, GuestnetError) else GuestnetError(_in_words(error))
        _report(failure, args)
        return failure.exit_status


def _in_words(error: OSError | subprocess.SubprocessError) -> str:
    """What the system refused, for whatever no module has better words for."""
    if not isinstance(error, OSError) or error.strerror is None:
        return f"{error} (--debug shows where)"
    what = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return f"{what}: run this as root"
    return what if error.filename is not None else f"{what} (--debug shows where)"


def _report(error: GuestnetError, args: argparse.Namespace) -> None:
    """Errors are for people on stderr; with --json also for programs on stdout, in rows as `validate` has them."""
    problems = error.problems if isinstance(error, TopologyError) else ()
    if getattr(args, "json", False):
        rows = [{"where": str(p.where), "message": p.message} for p in problems]
        sys.stdout.write(json.dumps(rows or [{"where": "", "message": str(error)}], indent=2) + "\n")
    for line in str(error).rstrip().split("\n"):
        sys.stderr.write(f"{line}\n" if problems else f"guestnet: {line}\n")


def _function(name: str) -> Callable[[argparse.Namespace], int]:
    """A verb's function by its dotted name: only the modules that a verb needs are imported."""
    from importlib import import_module

    module, _, function = name.rpartition(".")
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"libvirt_guestnet.cli.{module}"), function)
    return found


def _inside(args: argparse.Namespace, arguments: list[str]) -> int:
    """The same command inside a sandbox, the topology on its standard input: a sandbox has a /tmp of its own."""
    from libvirt_guestnet.cli.sandboxes import call_inside

    rest = _without_sandbox(arguments)
    if args.run == "importing.run" and args.output:
        from libvirt_guestnet.cli.importing import import_inside

        return import_inside(args.sandbox, [*rest, "--output", "-"], args.output)
    file = getattr(args, "topology", None)
    if file is None or file == "-":
        return call_inside(args.sandbox, rest)
    rest = ["-" if word == file else word for word in rest]
    try:
        with Path(file).open("rb") as stdin:
            return call_inside(args.sandbox, ["--topology-name", file, *rest], stdin)
    except OSError as error:
        raise GuestnetError(f"{file}: {error.strerror}") from error


def _without_sandbox(arguments: list[str]) -> list[str]:
    """The words without the first --sandbox NAME or --sandbox=NAME."""
    place = next(i for i, word in enumerate(arguments) if word.partition("=")[0] == "--sandbox")
    return arguments[:place] + arguments[place + (1 if "=" in arguments[place] else 2) :]

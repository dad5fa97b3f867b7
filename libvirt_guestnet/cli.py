"""The command line: what each verb takes. The verbs themselves are in `commands` and `lab.commands`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from libvirt_guestnet import __version__
from libvirt_guestnet.errors import GuestnetError, TopologyError

EXIT_STATUS = "exit status: 0 done, or nothing to do; 1 failed; 2 wrong usage or topology; 3 plan found changes to make"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments)
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
        told = error if isinstance(error, GuestnetError) else GuestnetError(_in_words(error))
        _report(told, args)
        return told.exit_status


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
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"libvirt_guestnet.{module}"), function)
    return found


def _inside(args: argparse.Namespace, arguments: list[str]) -> int:
    """The same command inside a sandbox, the topology on its standard input: a sandbox has a /tmp of its own."""
    from libvirt_guestnet.commands_sandbox import call_inside

    rest = _without_sandbox(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guestnet",
        description="Guest networks for libvirt, described once in a file and enforced by libvirt's own hooks.",
        epilog=EXIT_STATUS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"guestnet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "-c",
        "--connect",
        metavar="URI",
        help="libvirt connection (default: VIRSH_DEFAULT_CONNECT_URI, LIBVIRT_DEFAULT_URI, then qemu:///system)",
    )
    parser.add_argument("--sandbox", metavar="NAME", help="run the command inside this sandbox")
    # Of a command that runs itself again inside a sandbox: the file it has read, and when it began.
    parser.add_argument("--topology-name", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_topology_verbs(verbs)
    _add_host_verbs(verbs)
    _add_lab_verbs(verbs)
    return parser


_Verbs = argparse._SubParsersAction


def _verb(verbs: _Verbs[argparse.ArgumentParser], name: str, run: str, text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=EXIT_STATUS)
    verb.set_defaults(run=run)
    return verb


def _topology(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("topology", metavar="TOPOLOGY", help="the topology file, or - for standard input")


def _map(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--map",
        metavar="LABEL=DEVICE",
        action="append",
        default=[],
        help="what stands behind a physical network's label on this host: a NIC, a bridge, BRIDGE/NIC or ovs:BRIDGE; "
        "for another host nic:NIC or bridge:BRIDGE; once for each label (default: /etc/libvirt-guestnet/host.yaml)",
    )


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="for programs: a flat list with stable keys")


def _add_topology_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "validate", "commands.validate", "check a topology file and report everything wrong with it")
    _topology(verb)
    _json(verb)
    verb = _verb(verbs, "plan", "commands.plan", "show what apply would change, and whom it would interrupt")
    _topology(verb)
    _map(verb)
    _json(verb)
    verb = _verb(verbs, "apply", "commands.apply", "make libvirt's networks and interfaces match a topology file")
    _topology(verb)
    _map(verb)
    verb.add_argument("--allow-interrupt", action="store_true", help="also make changes that interrupt running guests")
    verb = _verb(verbs, "destroy", "commands.destroy", "remove everything of libvirt's whose metadata names a topology")
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="the topology file, or - for standard input")
    what.add_argument("--name", help="the topology's name, where the file is gone")
    text = "also cut off running guests that are not in the file, or copies of its guests"
    verb.add_argument("--allow-interrupt", action="store_true", help=text)
    verb = _verb(verbs, "render", "commands.render", "write the libvirt XML of a topology, for virsh")
    _topology(verb)
    _map(verb)
    verb.add_argument("-o", "--output", metavar="DIRECTORY", help="write files here (default: print all)")
    verb = _verb(verbs, "graph", "commands.graph", "draw a topology")
    _topology(verb)
    verb.add_argument("--view", choices=["logical", "physical"], default="logical", help="default: logical")
    verb.add_argument("--format", choices=["svg", "png", "dot", "mermaid"], help="default: the output's ending, or dot")
    verb.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    _verb(verbs, "schema", "commands.schema", "print the JSON Schema of topology files, for editors")


def _add_host_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    text = "show networks, ports, ways in and routes to guests: what is defined, running, guarded, open and in place"
    verb = _verb(verbs, "status", "commands.status", text)
    _json(verb)
    verb.add_argument("--drops", action="store_true", help="what port security dropped, by port and reason")
    text = (
        "say what on this host keeps guests from being guarded or reached, and what to do (1: something must be done)"
    )
    verb = _verb(verbs, "doctor", "doctor.doctor", text)
    verb.add_argument("topology", metavar="TOPOLOGY", nargs="?", help="also what this topology needs of the host")
    _map(verb)
    _json(verb)
    text = "libvirt's hooks: install, uninstall (with every filter), status, or sync (guard what runs already)"
    verb = _verb(verbs, "hooks", "commands.hooks", text)
    verb.add_argument("action", choices=["install", "uninstall", "status", "sync"])
    verb.add_argument(
        "--any-owner", action="store_true", help="install even if others than root can change guestnet's files"
    )
    _json(verb)
    text = (
        "private libvirt hosts in namespaces, which change nothing on this machine: start, stop, list, or a shell "
        "in one (files written there vanish with it)"
    )
    verb = _verb(verbs, "sandbox", "commands_sandbox.sandboxes", text)
    verb.add_argument("action", choices=["start", "stop", "list", "shell"])
    verb.add_argument("name", nargs="?", default="default", help="default: default")
    _json(verb)


def _add_lab_verbs(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    lab = _verb(
        verbs,
        "lab",
        "",
        "run a topology for real in a sandbox, with tiny guests and a computer for each LAN, and verify it",
    )
    actions = lab.add_subparsers(title="actions", metavar="ACTION", required=True)
    texts = {
        "run": "up, verify, down again",
        "up": "start the networks, the computers on the LANs and the guests",
        "verify": "check every `expect:` line from inside the guests",
        "down": "take everything away",
        "shell": "a guest's console, or without GUEST a shell on the lab's host",
    }
    for action, text in texts.items():
        verb = _verb(actions, action, f"lab.commands.{action}", text)
        _topology(verb)
        if action == "shell":
            verb.add_argument("guest", nargs="?", metavar="GUEST")
        else:
            verb.add_argument("--here", action="store_true", help="on this host instead of in a sandbox")
        if action in ("run", "up"):
            _map(verb)
        if action == "run":
            verb.add_argument("--keep", action="store_true", help="leave the lab up")
        if action in ("run", "verify"):
            _json(verb)


if __name__ == "__main__":
    sys.exit(main())

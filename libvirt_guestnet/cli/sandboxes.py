"""`guestnet sandbox`, and whatever else runs inside one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def sandboxes(args: Namespace) -> int:
    """`guestnet sandbox`"""
    from libvirt_guestnet import sandbox

    if args.action == "list":
        names = [found.name for found in sandbox.running()]
        if names or args.json:
            print(json.dumps(names) if args.json else "\n".join(names))
    elif args.action == "start":
        sandbox.start(args.name, prepare=[hooks_install()], keep=True)
        print(f"sandbox {args.name} is up; try: guestnet --sandbox {args.name} apply TOPOLOGY")
        print(f"virsh, ip and what else is in it: guestnet sandbox shell {args.name}")
    elif args.action == "stop":
        sandbox.stop(args.name)
    else:
        return shell_inside(args.name)
    return 0


def call_inside(name: str, argv: Sequence[str], stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> int:
    """Runs `guestnet ARGV` inside a sandbox and returns its exit status. Raises GuestnetError when it is not up."""
    from libvirt_guestnet import sandbox

    found = sandbox.find(name)
    with _signals_inside() as (words, passing_on):
        inside = found.command([*words, *sandbox.python_inside(["-m", "libvirt_guestnet.cli", *argv], found.root)])
        with subprocess.Popen(inside, stdin=stdin, stdout=stdout) as process:
            passing_on.append(process.pid)
            return process.wait()


@contextmanager
def _signals_inside() -> Iterator[tuple[list[str], list[int]]]:
    """Ctrl-C and SIGTERM are for the command inside, which may have things to put back. nsenter, its parent, would die
    of them, and it at once with nsenter. So nsenter ignores the first, as the terminal sends it to both, and the second
    is passed on: the words in front of the command, and whose children get it."""
    parents: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        for parent in parents:
            inside = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            for pid in [*map(int, inside)] or [parent]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
    try:
        yield [] if before[signal.SIGINT] == signal.SIG_IGN else ["env", "--default-signal=INT"], parents
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shell_inside(name: str, argv: Sequence[str] = ("bash",)) -> int:
    """Runs an interactive program inside a sandbox. Raises GuestnetError when it is not up."""
    from libvirt_guestnet import sandbox

    found = sandbox.find(name)
    at_home = ["sh", "-c", _AT_HOME, os.environ.get("PWD", "/"), str(Path(sys.executable).parent), *argv]
    return subprocess.run(found.command(at_home), check=False).returncode


# In the caller's folder, where the sandbox has it, and with the guestnet that was called.
_AT_HOME = 'cd -- "$0" 2>/dev/null; PATH=$PATH:$1; export PATH; shift; exec "$@"'


def hooks_install() -> list[str]:
    """What a sandbox runs inside before its libvirtd starts, which looks for hooks only then. Whoever may start a
    sandbox is root and runs this code anyway, so its owner does not matter."""
    from libvirt_guestnet import sandbox

    return sandbox.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])

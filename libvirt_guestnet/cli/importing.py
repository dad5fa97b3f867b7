"""`guestnet import`"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from libvirt_guestnet.cli.arguments import count
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.importing.facts import Imported, Request
from libvirt_guestnet.topology import kinds


def run(args: Namespace) -> int:
    """`guestnet import`"""
    from libvirt_guestnet.importing import gather

    try:
        name = kinds.WORD.read(args.name)
    except ValueError as error:
        raise GuestnetError(f"--name: {error}") from None
    request = Request(name, args.guarded == "observe", frozenset(args.names), args.own)
    found, text = gather.imported(args.connect, request)
    _write(text, args.output)
    _report(found)
    return 0


def import_inside(sandbox: str, argv: Sequence[str], output: str) -> int:
    """Runs it inside a sandbox and keeps the file out here, where `validate` and the others read it."""
    from libvirt_guestnet.cli.sandboxes import call_inside

    with TemporaryFile() as text:
        status = call_inside(sandbox, argv, stdout=text)
        text.seek(0)
        if status == 0:
            _write(text.read().decode(), output)
    return status


def _write(text: str, output: str | None) -> None:
    if output in (None, "-"):
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        return
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise GuestnetError(f"{output} is there already: import writes over no file") from None


def _report(found: Imported) -> None:
    for each in found.left_out:
        print(f"not imported: {each.what}: {each.why}", file=sys.stderr)
    ports = [port for guest in found.guests for port in guest.ports]
    said = f"{count(found.networks, 'network')}, {count(found.guests, 'guest')}, {count(ports, 'port')}"
    print(f"imported: {said}; {count(found.left_out, 'thing')} left out", file=sys.stderr)

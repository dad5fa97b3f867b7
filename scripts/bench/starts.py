"""Timed starts of guests in a sandbox. A start that fails fails the bench: its time is no measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from libvirt_guestnet import sandbox
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.sandbox import Sandbox

_INSTALL = f"from pathlib import Path; from {hook_files.__name__} import install; install(Path('/'), True)"
_START = "date +%s%N; virsh -q start $0 >/dev/null; date +%s%N"
_RUNS = '[ "$(virsh -q domstate $0)" = running ] && tap=$(virsh -q domiflist $0 | awk "{print \\$1}") && [ "$tap" ]'

# What shows that a guest's only port is as the bench has it, asked about $tap.
GUARDED = 'nft list chain netdev guestnet "tap-$tap" >/dev/null'
UNGUARDED = f"! {GUARDED} 2>/dev/null"
NWFILTER = 'ebtables-save | grep -q -- "-A libvirt-I-$tap "'


def hooks() -> list[str]:
    """What a sandbox has to run before its daemon starts, so that it has our hooks."""
    return sandbox.python_inside(["-c", _INSTALL])


def milliseconds(box: Sandbox, script: str, *words: str) -> float:
    """What a script takes between the two times that it prints, without the way into the sandbox. Raises GuestnetError
    when any of its commands fails."""
    begin, end = map(int, box.run(["sh", "-ec", script, *words], timeout=300).stdout.split())
    return (end - begin) / 1e6


@contextmanager
def started(box: Sandbox, name: str) -> Iterator[float]:
    """Starts a guest, and destroys it at the end; gives the milliseconds of `virsh start`."""
    try:
        yield milliseconds(box, _START, name)
    finally:
        box.run(["virsh", "-q", "destroy", name], check=False, timeout=60)


def prove(box: Sandbox, name: str, proof: str) -> None:
    """Raises GuestnetError unless the guest runs, and its port is as the proof wants it."""
    box.run(["sh", "-c", f"{_RUNS} || {{ echo $0 does not run >&2; exit 1; }}; {proof}", name])

"""Which functions of the hooks and of the kernel's side the unchanged seeds never reach: `reach.py`, one to a line."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[2]))

import seeds
import world
from run import DOMAINS, NETWORKS
from world import World

import libvirt_guestnet
from libvirt_guestnet.hook import live

PACKAGE = Path(libvirt_guestnet.__file__).parent
ROOMS = ("hook", "datapath")


def defined() -> set[tuple[str, str]]:
    """(file, qualified name) of every function in these rooms."""
    found = set()
    for path in sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py")):
        module = str(path.relative_to(PACKAGE))
        found |= {(module, name) for name in _functions(ast.parse(path.read_text()), "")}
    return found


def _functions(node: ast.AST, prefix: str) -> list[str]:
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            name = f"{prefix}{child.name}"
            inner = f"{name}.<locals>." if isinstance(child, ast.FunctionDef) else f"{name}."
            found += [name] if isinstance(child, ast.FunctionDef) else []
            found += _functions(child, inner)
    return found


def reached() -> set[tuple[str, str]]:
    """Those that are called while every seed lives its life."""
    seen: set[tuple[str, str]] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            file = frame.f_code.co_filename.removeprefix(f"{PACKAGE}/")
            seen.add((file, frame.f_code.co_qualname))

    sys.setprofile(profile)
    _live(World())
    sys.setprofile(None)
    return seen


def _live(host: World) -> None:
    for others in (True, False):
        host.calm(others)
        world.put_leases(seeds.LEASES)
        _one_life(host)


def _one_life(host: World) -> None:
    calls = seeds.lives()
    half = next(number for number, call in enumerate(calls) if call.operation == "release")
    for call in calls[:half]:
        host.call(call)
    live.forget_ended([seeds.uuid_of("nat")])
    host.watch()
    host.tables.clear()
    host.watch()
    host.sync(NETWORKS, DOMAINS)
    for call in calls[half:]:
        host.call(call)
    host.sync({}, {})
    for step in (live.review_bridges, lambda: live.release_tap("nobody", "tap1"), live.release_all):
        step()


if __name__ == "__main__":
    for file, name in sorted(defined() - reached()):
        print(file, name)

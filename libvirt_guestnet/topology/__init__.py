"""Topology files: YAML in, a checked `model.Topology` out, or everything that is wrong with the file at once.

yamltree (text → nodes) · spec, keys, kinds (what may be written) · reader (nodes → declarations) · schema (for editors)
· build (declarations → model), with networks, guests, addresses, routers, expectations, clashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from libvirt_guestnet.model.topology import Topology

from ..errors import GuestnetError, Problem, TopologyError, Where
from . import yamltree
from .build import build
from .keys import TopologyDecl
from .reader import read
from .report import Report
from .schema import json_schema

__all__ = ["json_schema", "load", "load_from", "loads"]


def load(path: Path) -> Topology:
    """The topology in a file.

    Raises TopologyError with everything wrong in it, GuestnetError when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return load_from(file, str(path))
    except OSError as error:
        raise GuestnetError(f"cannot read the topology file {path}: {error.strerror}") from None


def load_from(file: BinaryIO, name: str) -> Topology:
    """The same of an open file, such as standard input."""
    raw = file.read(yamltree.MAX_BYTES + 1)
    try:
        return loads(raw.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        where = Where(name, raw.count(b"\n", 0, error.start) + 1, 1)
        raise TopologyError([Problem(where, "the file is not UTF-8 text")]) from None


def loads(text: str, name: str) -> Topology:
    """The topology in `text`; `name` stands for the file in messages. Raises TopologyError."""
    report = Report()
    problems: list[Problem] = []
    root = yamltree.parse(text, name, problems)
    for problem in problems:
        report.add(*problem)
    if root is None:
        report.add(Where(name, 1, 1), "the file is empty; a topology needs at least a name:")
        report.finish()
        raise AssertionError  # finish raises
    decl = read(root, TopologyDecl, report)
    topology = build(decl, name, report) if decl else None
    report.finish()
    assert topology is not None  # read reports whatever makes it return None
    return topology

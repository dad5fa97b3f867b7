"""How much work something is, the same on every machine: benchmarks measure time, tests do not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import TypeVar

T = TypeVar("T")


def steps(work: Callable[[T], object], of: T) -> int:
    """The calls and returns of functions, Python's own among them, that it takes."""
    taken = count()
    sys.setprofile(lambda *_: next(taken) and None)
    try:
        work(of)
    finally:
        sys.setprofile(None)
    return next(taken)

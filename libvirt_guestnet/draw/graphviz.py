"""Graphviz as a program: dot text in, a picture file out."""

from __future__ import annotations

import re
import subprocess

from ..errors import GuestnetError

SECONDS = 60
_COMMENT = re.compile(rb"<!--.*?-->\n?", re.DOTALL)


def render(text: bytes, kind: str) -> bytes:
    """The picture of a dot file as "svg" or "png". Raises GuestnetError when Graphviz is missing, fails or hangs."""
    options = ["-Gdpi=144"] if kind == "png" else []
    try:
        done = subprocess.run(
            ["dot", f"-T{kind}", *options], input=text, capture_output=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise GuestnetError(
            f"cannot draw {kind}: Graphviz is missing; install the package graphviz, or ask for dot or mermaid text"
        ) from None
    except subprocess.TimeoutExpired:
        raise GuestnetError(
            f"cannot draw {kind}: Graphviz took longer than {SECONDS} s; the topology is too large for one picture"
        ) from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()[:500]
        raise GuestnetError(f"cannot draw {kind}: Graphviz's dot failed: {message}")
    return _without_comments(done.stdout) if kind == "svg" else done.stdout


def _without_comments(svg: bytes) -> bytes:
    """Graphviz writes its version into a comment: a committed picture would change with it."""
    return _COMMENT.sub(b"", svg)

"""Bytecode of this package for the Python of a sandbox.

The package is read-only inside. Without it every hook there would compile all that it imports again: on Debian 13 that
were two thirds of a hook's time.
"""

from __future__ import annotations

import compileall
import subprocess
from contextlib import suppress
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2]
_PACKAGE = "libvirt_guestnet"
_PYTHON = "/usr/bin/python3"
_SECONDS = 240.0


def compile_for(root: Path) -> None:
    """Compiles what is not compiled yet, for this Python and for the one of `root`. Where that fails, the sandbox is
    only slower."""
    compileall.compile_dir(LIBRARY / _PACKAGE, quiet=2)
    if root == Path("/") or not (root / _PYTHON.lstrip("/")).exists():
        return
    # --wd is opened outside of the root: relative paths lead to the package.
    there = ["nsenter", f"--root={root}", f"--wd={LIBRARY}", "--", _PYTHON, "-I", "-S"]
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*there, "-m", "compileall", "-q", _PACKAGE], capture_output=True, timeout=_SECONDS, check=False)

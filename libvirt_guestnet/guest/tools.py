"""Running the programs an image is made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError


def run(*argv: str, timeout: float = 60.0, stdin: bytes | None = None, cwd: Path | None = None) -> bytes:
    """stdout of a program. Raises GuestnetError with its last words when it fails or takes too long."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=True, cwd=cwd)
    except FileNotFoundError:
        raise GuestnetError(f"guest image: {argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise GuestnetError(f"guest image: {' '.join(argv)} took more than {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()[-400:]
        raise GuestnetError(f"guest image: {' '.join(argv)} failed: {words}") from None
    return done.stdout

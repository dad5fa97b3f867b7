"""Our own programs, run inside a sandbox."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libvirt_guestnet import hook
from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox
from support.libvirt_host import Host


@contextmanager
def watching(sandbox: Sandbox) -> Iterator[None]:
    """The service that `guestnet hooks install` sets up, run by hand."""
    main = Path(hook.__file__).parent / "main.py"
    argv = sandbox.command(sandboxes.python_inside([str(main), "watch"], sandbox.root))
    with subprocess.Popen(argv) as process:
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()


def guestnet(host: Host, *argv: str) -> str:
    command = host.sandbox.python(["-m", "libvirt_guestnet.cli", *argv])
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    return done.stdout + done.stderr

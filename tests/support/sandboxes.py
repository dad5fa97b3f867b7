"""What the sandboxes of tests are prepared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes

# Parameters of a fixture: this machine's libvirt, and Debian 13's, whose tests are of the tier trixie.
HERE, TRIXIE = "9.0", "11.3"
LIBVIRTS = [pytest.param(HERE), pytest.param(TRIXIE, marks=pytest.mark.trixie)]

# Nobody needs it, and libvirt 11.3 waits for ever for its udev thread when it is told to end while it still starts
# (5 of some 12 times on a busy machine; none of 25 without it).
WITHOUT_NODEDEV = ["sh", "-c", "rm -f /usr/lib/*/libvirt/connection-driver/libvirt_driver_nodedev.so"]


def install_hooks(root: Path = Path("/")) -> list[list[str]]:
    """What `prepare` needs for our hooks: libvirt looks for hooks only when it starts."""
    code = "from pathlib import Path; from libvirt_guestnet.install.hook_files import install; install(Path('/'), True)"
    return [WITHOUT_NODEDEV, sandboxes.python_inside(["-c", code], root)]

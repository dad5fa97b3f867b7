"""Which sandboxes tests have, and what these are prepared with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

# Parameters of a fixture: this machine's libvirt, and Debian 13's, whose tests are of the tier trixie.
HERE, TRIXIE = "9.0", "11.3"
LIBVIRTS = [pytest.param(HERE), pytest.param(TRIXIE, marks=pytest.mark.trixie)]
# The same where it matters what libvirt's own rules are in: Debian 13's default, and what newer ones prefer.
IPTABLES, NFTABLES = f"{TRIXIE}-iptables", f"{TRIXIE}-nftables"
BACKENDS = [pytest.param(HERE), *(pytest.param(each, marks=pytest.mark.trixie) for each in (IPTABLES, NFTABLES))]

# Nobody needs it, and libvirt 11.3 waits for ever for its udev thread when it is told to end while it still starts
# (5 of some 12 times on a busy machine; none of 25 without it).
WITHOUT_NODEDEV = ["sh", "-c", "rm -f /usr/lib/*/libvirt/connection-driver/libvirt_driver_nodedev.so"]
# The system's bus, over which libvirt hears of firewalls that reload.
BUS = ["sh", "-c", "mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile"]


def install_hooks(root: Path = Path("/")) -> list[list[str]]:
    """What `prepare` needs for our hooks: libvirt looks for hooks only when it starts."""
    code = "from pathlib import Path; from libvirt_guestnet.install.hook_files import install; install(Path('/'), True)"
    return [WITHOUT_NODEDEV, sandboxes.python_inside(["-c", code], root)]


def rules_in(backend: str) -> list[list[str]]:
    """What `prepare` needs for a libvirt 11.3 whose rules are that backend's."""
    chosen = ["sh", "-c", f"echo 'firewall_backend = \"{backend}\"' >> /etc/libvirt/network.conf"]
    # It wants to correct DHCP checksums, for which not every machine's kernel has what it takes (act_csum).
    no_tc = ["sh", "-c", "printf '#!/bin/sh\\n' > /usr/sbin/tc"]
    return [chosen, no_tc]


def root_of(request: pytest.FixtureRequest) -> Path:
    """The root with the libvirt that a fixture's parameter names."""
    return Path("/") if request.param == HERE else request.getfixturevalue("trixie_root")


def hooked(request: pytest.FixtureRequest, name: str, *more: list[str]) -> Sandbox:
    """A sandbox with that libvirt and our hooks; `more` is done, too, before its daemon starts."""
    root, backend = root_of(request), request.param.partition("-")[2]
    prepare = [*install_hooks(root), *(rules_in(backend) if backend else ()), *more]
    return sandboxes.start(f"{name}-{request.param.replace('.', '')}-{os.getpid()}", root=root, prepare=prepare)

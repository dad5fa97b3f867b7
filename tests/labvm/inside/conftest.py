"""For tests in the lab VM: libvirt hosts of their own, in sandboxes on Debian's kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox


@pytest.fixture(scope="module")
def hooked_sandbox() -> Iterator[Sandbox]:
    """A running sandbox with our hooks installed, one per test module."""
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    with sandboxes.start(f"hooked-{os.getpid()}", prepare=[install]) as running:
        yield running

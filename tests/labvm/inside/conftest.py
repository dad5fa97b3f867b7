"""For tests in the lab VM: libvirt hosts of their own, in sandboxes on Debian's kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWNET = 0x00020000, 0x40000000


@pytest.fixture(scope="module")
def hooked_sandbox() -> Iterator[Sandbox]:
    """A running sandbox with our hooks installed, one per test module."""
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    with sandboxes.start(f"hooked-{os.getpid()}", prepare=[install]) as running:
        yield running


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test runs in network and mount namespaces of its own."""
    with _namespace():
        yield


@pytest.fixture(scope="module")
def module_namespace() -> Iterator[None]:
    """All tests of the module do."""
    with _namespace():
        yield


@contextmanager
def _namespace() -> Iterator[None]:
    homes = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    cwd = Path.cwd()
    assert _LIBC.unshare(_NEWNET | _NEWNS) == 0
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "sysfs", "sys", "/sys"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        for home in homes:
            _LIBC.setns(home, 0)
            os.close(home)
        os.chdir(cwd)
        shutil.rmtree("/run/libvirt-guestnet", ignore_errors=True)

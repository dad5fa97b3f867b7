"""A throw-away network namespace with a real tap on a real bridge, and a peer that sees what the tap let through."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.taps import Wire, ip

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x20000
_NAMESPACES = {"net": _CLONE_NEWNET, "mnt": _CLONE_NEWNS}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/kernel/" in str(item.path):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test runs in a network namespace of its own, with a /sys of its own: the checksum guard is kept there."""
    homes = {flag: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind, flag in _NAMESPACES.items()}
    folder = Path.cwd()
    if _LIBC.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
        pytest.fail(f"no namespaces: {os.strerror(ctypes.get_errno())}; these tests need root")
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "sysfs", "sys", "/sys"], check=True)
        ip("link set lo up")
        yield
    finally:
        for flag, home in homes.items():
            _LIBC.setns(home, flag)
            os.close(home)
        os.chdir(folder)  # which entering a mount namespace changes


@pytest.fixture
def wire(namespace: None) -> Iterator[Wire]:
    wire = Wire("vme0000000a")
    yield wire
    wire.close()

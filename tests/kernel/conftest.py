"""A throw-away network namespace with a real tap on a real bridge, and a peer that sees what the tap let through."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.claiming import Neighbours
from support.held import Lab
from support.hooks import Hooks
from support.kernel_lan import LanHost, lan_host
from support.taps import Wire, ip

from libvirt_guestnet.hook.processes import detached
from libvirt_guestnet.state.locked import UnlockedState

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


@pytest.fixture
def both(wire: Wire) -> Iterator[Neighbours]:
    """Two neighbours who claim addresses, not guarded yet."""
    found = Neighbours(wire)
    yield found
    os.close(found.theirs)


@pytest.fixture
def lab(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Two guests' ports on one bridge, whose domains the hooks' own functions guard."""
    # A fork of this process, which has threads, might wait for a lock of theirs for ever, and hold the state's.
    monkeypatch.setattr(detached, "leave", lambda *_: None)
    lab = Lab(wire, UnlockedState(str(tmp_path)))
    yield lab
    os.close(lab.theirs)


@pytest.fixture
def box() -> Iterator[Box]:
    """With the taps of the guest whose start was captured."""
    box = Box()
    box.add_taps("vnet0", "vnet1")
    yield box
    box.close()


@pytest.fixture
def hooks(box: Box, tmp_path: Path) -> Hooks:
    """In that box, and never called before."""
    return Hooks(box, tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LanHost]:
    """One with a LAN and a guest behind NAT, of which the hooks have not heard yet."""
    with lan_host(tmp_path) as host:
        yield host

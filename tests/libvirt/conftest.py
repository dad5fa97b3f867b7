"""Private libvirtds for tests: `sandbox` is shared by one module, `new_sandbox` makes as many as a test needs.

Modules whose tests are to run on this machine's libvirt and on Debian 13's take `each_sandbox`; or, where it matters
what libvirt's own rules are in, `each_backend_sandbox`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.libvirt_apply import ApplyHost, apply_host_in, effects_in
from support.libvirt_host import Host
from support.libvirt_lan import Net
from support.libvirt_migration import ADDRESSES, join
from support.sandboxes import BACKENDS, HERE, LIBVIRTS, hooked, install_hooks, root_of

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/libvirt/" in str(item.path):
            item.add_marker(pytest.mark.libvirt)


@pytest.fixture(scope="module")
def sandbox(plain_sandbox: Sandbox) -> Sandbox:
    """What modules override that want another one."""
    return plain_sandbox


@pytest.fixture(scope="module")
def plain_sandbox() -> Iterator[Sandbox]:
    """A running sandbox without hooks, one per test module."""
    with sandboxes.start(f"test-{os.getpid()}") as running:
        yield running


@pytest.fixture(scope="module")
def hooked_sandbox() -> Iterator[Sandbox]:
    """A running sandbox with our hooks installed, one per test module."""
    with sandboxes.start(f"hooked-{os.getpid()}", prepare=install_hooks()) as running:
        yield running


@pytest.fixture
def new_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that end with the test: `new_sandbox("left", prepare=…)`."""
    with ExitStack() as running:

        def make(name: str, **options: Any) -> Sandbox:
            return running.enter_context(sandboxes.start(f"{name}-{os.getpid()}", **options))

        yield make


@pytest.fixture(scope="module")
def trixie_sandbox(trixie_root: Path) -> Iterator[Sandbox]:
    """A running sandbox over Debian 13 with our hooks installed, one per test module."""
    with sandboxes.start(f"trixie-{os.getpid()}", root=trixie_root, prepare=install_hooks(trixie_root)) as running:
        yield running


@pytest.fixture(scope="module", params=LIBVIRTS)
def each_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A running sandbox with our hooks installed, of each libvirt."""
    with hooked(request, "each") as running:
        yield running


@pytest.fixture(scope="module", params=BACKENDS)
def each_backend_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The same, with each program that libvirt's own rules may be in."""
    with hooked(request, "each") as running:
        yield running


@pytest.fixture(scope="module")
def net(sandbox: Sandbox) -> Iterator[Net]:
    """The module's sandbox with a NAT and an isolated network, and a LAN."""
    with Net(sandbox) as net:
        yield net


@pytest.fixture(scope="module", params=LIBVIRTS)
def apply_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """On 11.3 with our hooks installed."""
    found: Sandbox = request.getfixturevalue("plain_sandbox" if request.param == HERE else "trixie_sandbox")
    return found


@pytest.fixture(scope="module")
def effects(apply_sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    with effects_in(apply_sandbox) as process:
        yield process


@pytest.fixture
def apply_host(apply_sandbox: Sandbox, effects: subprocess.Popen[str]) -> Iterator[ApplyHost]:
    """A host on which topologies are applied; in the end nothing of them is left."""
    with apply_host_in(apply_sandbox, effects) as host:
        yield host


@pytest.fixture(params=LIBVIRTS)
def hosts(request: pytest.FixtureRequest, new_sandbox: Callable[..., Sandbox]) -> dict[str, Host]:
    """Two hosts joined by a cable, each with the same networks."""
    root = root_of(request)
    found = {name: Host(new_sandbox(name, root=root, prepare=install_hooks(root))) for name in ADDRESSES}
    join(found)
    return found

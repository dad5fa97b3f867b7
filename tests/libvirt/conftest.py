"""Private libvirtds for tests: `sandbox` is shared by one module, `new_sandbox` makes as many as a test needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytest.register_assert_rewrite("guests")


# Nobody needs it, and libvirt 11.3 waits for ever for its udev thread when it is told to end while it still starts
# (5 of some 12 times on a busy machine; none of 25 without it).
WITHOUT_NODEDEV = ["sh", "-c", "rm -f /usr/lib/*/libvirt/connection-driver/libvirt_driver_nodedev.so"]


def install_hooks(root: Path = Path("/")) -> list[list[str]]:
    """What `prepare` needs for our hooks: libvirt looks for hooks only when it starts."""
    code = "from pathlib import Path; from libvirt_guestnet.install.hook_files import install; install(Path('/'), True)"
    return [WITHOUT_NODEDEV, sandboxes.python_inside(["-c", code], root)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/libvirt/" in str(item.path):
            item.add_marker(pytest.mark.libvirt)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
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

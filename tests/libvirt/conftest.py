"""Private libvirtds for tests: `sandbox` is shared by one module, `new_sandbox` makes as many as a test needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

# Prepared inside before libvirtd starts: libvirt looks for hooks only then.
INSTALL_HOOKS = (
    sandboxes.python_inside(
        ["-c", "from pathlib import Path; from libvirt_guestnet import install; install.install(Path('/'), True)"]
    ),
)


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
    with sandboxes.start(f"hooked-{os.getpid()}", prepare=INSTALL_HOOKS) as running:
        yield running


@pytest.fixture
def new_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that end with the test: `new_sandbox("left", prepare=…)`."""
    with ExitStack() as running:

        def make(name: str, **options: Any) -> Sandbox:
            return running.enter_context(sandboxes.start(f"{name}-{os.getpid()}", **options))

        yield make

"""Private libvirtds for tests: `sandbox` is shared by one module, `new_sandbox` makes as many as a test needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import install_hooks

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

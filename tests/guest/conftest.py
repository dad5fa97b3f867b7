"""Labs for tests: real guests in a sandbox with our hooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.lab import LABS, Lab, lab_up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/guest/" in str(item.path):
            item.add_marker(pytest.mark.guest)


@pytest.fixture(scope="module")
def archnetwork() -> Iterator[Lab]:
    yield from lab_up("archnetwork", LABS / "archnetwork.yaml")

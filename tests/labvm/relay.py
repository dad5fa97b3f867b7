"""The pytest plugin inside the lab VM: sends what happens to the pytest outside, and gives every phase a deadline."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PHASE_SECONDS = 900

_TESTS: list[str] = json.loads(Path("/job/tests").read_text())
_FILES = {Path(test.partition("::")[0]).resolve() for test in _TESTS}
_PORT = os.open("/dev/ttyS1", os.O_WRONLY | os.O_NOCTTY)


def _send(**event: Any) -> None:
    data = memoryview(json.dumps(event).encode() + b"\n")
    while data:
        data = data[os.write(_PORT, data) :]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    # Importing the others would take long here.
    return None if any(collection_path in (file, *file.parents) for file in _FILES) else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = set(_TESTS)
    items[:] = [item for item in items if item.nodeid in wanted]


def pytest_runtest_logstart(nodeid: str) -> None:
    _send(begins=nodeid)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _send(report=report._to_json())


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _send(broken=report.nodeid, text=str(report.longrepr))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    return (yield from _limited())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    return (yield from _limited())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    return (yield from _limited())


def _limited() -> Generator[None]:
    def late(*_: object) -> None:
        pytest.fail(f"not done within {PHASE_SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PHASE_SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)

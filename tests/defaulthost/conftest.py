"""Whole default Debian hosts in the lab VM, one after the other; what each step took is said at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "labvm"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for each in ("passed", "failed") for report in terminalreporter.getreports(each)]
    for report in (each for each in reports if each.when == "call"):
        for step, seconds in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.partition('[')[2]:>10} {seconds:7.1f} s  {step}")

"""docs/lifecycle.md has every call that hooks get, and names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from libvirt_guestnet.hook.call import REPORT, VETO
from libvirt_guestnet.hook.concern import CONCERNS, VETOED
from libvirt_guestnet.hook.lifecycle import TABLE

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/lifecycle.md").read_text()
ROWS = [line.strip("|").split("|") for line in DOC.splitlines() if re.match(r"\| (qemu|network) `", line)]
FAILURE = {VETO: "vetoed", REPORT: "reported"}
DEFAULT = "tests/libvirt/test_lifecycle.py"


def named(text: str) -> list[tuple[str, str]]:
    found = re.findall(r"`(?:(tests/[\w/.]+)::)?(test_\w+)`", text)
    return [(file or DEFAULT, name) for file, name in found]


def test_every_call_has_its_row() -> None:
    documented = {tuple(cells[0].replace("`", "").split()): cells[2].strip() for cells in ROWS}
    assert documented == {row: FAILURE[call.failure] if call.work else "" for row, call in TABLE.items()}


def test_every_row_is_proven() -> None:
    assert [cells[0] for cells in ROWS if not named(cells[3])] == []


def test_named_tests_exist() -> None:
    for file, name in named(DOC):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), f"{file} has no {name}"


def test_every_test_of_the_lifecycle_is_named() -> None:
    tests = re.findall(r"^def (test_\w+)\(", (ROOT / DEFAULT).read_text(), re.M)
    assert set(tests) == {name for file, name in named(DOC) if file == DEFAULT}


def test_every_call_with_work_is_told_by_what_it_concerns() -> None:
    assert {row for row, call in TABLE.items() if call.work} == set(CONCERNS)


def test_what_a_failure_means_is_known_without_the_table() -> None:
    """Where a part of it cannot be imported."""
    assert {row for row, call in TABLE.items() if call.failure == VETO} == VETOED

"""Results as rows: one per check for programs, few for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libvirt_guestnet import styled
from libvirt_guestnet.lab.checks import Check, Kind
from libvirt_guestnet.lab.verify import CheckResult
from libvirt_guestnet.table import Block, as_text, made

PASSED, FAILED = "ok", "FAILED"
_SINGLE = {Kind.SERVICE, Kind.LAYER2}


class _Line(NamedTuple):
    """What the checks of one line have in common."""

    result: str
    source: str
    destination: str
    expected: str
    seen: str


def rows(results: Sequence[CheckResult]) -> list[dict[str, object]]:
    """One row per check, with stable keys."""
    return [_row(result) for result in results]


def blocks(results: Sequence[CheckResult]) -> list[Block]:
    """A table in which checks between the same two that saw the same share a line, and the total."""
    failed = sum(not result.passed for result in results)
    total = f"{len(results) - failed} of {len(results)} checks as expected"
    found = made(_lines(results), meaning=_meaning)
    return [*([found] if found else []), styled.line(total, (f", {failed} NOT" if failed else "", styled.BAD))]


def text(results: Sequence[CheckResult]) -> str:
    """The same as text."""
    return as_text(blocks(results)).removesuffix("\n")


def _meaning(column: str, cell: str) -> str:
    return {PASSED: styled.GOOD, FAILED: styled.BAD}.get(cell, "") if column == "RESULT" else ""


def _lines(results: Sequence[CheckResult]) -> list[dict[str, object]]:
    """Checks are joined twice: different ones of one family, then the same ones of both families."""
    by_family: dict[tuple[_Line, str], list[str]] = {}
    for result in results:
        family = result.check.family.value if result.check.family else ""
        by_family.setdefault((_line(result), family), []).append(_subject(result.check))
    joined: dict[_Line, list[str]] = {}
    for (line, family), subjects in by_family.items():
        whole = line._replace(expected=line.expected.replace("%", " ".join(subjects)))
        joined.setdefault(whole, []).append(family)
    return [_shown(line, families) for line, families in joined.items()]


def _shown(line: _Line, families: list[str]) -> dict[str, object]:
    ends = {"result": line.result, "from": line.source, "to": line.destination, "family": families}
    return {**ends, "expected": line.expected, "seen": line.seen}


def _line(result: CheckResult) -> _Line:
    check = result.check
    verb = ("can %" if check.allowed else "cannot %") if check.kind in _SINGLE else "%"
    if check.kind is Kind.FORGE:
        verb = "forged %: nowhere"
    note = f", {check.without_forwarding} not forwarding" if check.without_forwarding else ""
    at = f" at {check.at}" if check.at else ""
    return _Line(_word(result), check.source, check.destination + at, verb + note, result.seen)


def _subject(check: Check) -> str:
    return check.forgery if check.forgery else check.what


def _word(result: CheckResult) -> str:
    return PASSED if result.passed else FAILED


def _row(result: CheckResult) -> dict[str, object]:
    check = result.check
    wanted = {True: "yes", False: "no"}[check.allowed] if check.kind in _SINGLE else check.what
    return {
        "result": _word(result),
        "from": check.source,
        "to": check.destination,
        "at": str(check.at or ""),
        "family": check.family.value if check.family else "",
        "check": check.what,
        "expected": "arrives nowhere" if check.kind is Kind.FORGE else wanted,
        "seen": result.seen,
        "note": f"{check.without_forwarding} not forwarding" if check.without_forwarding else "",
    }

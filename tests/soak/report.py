"""What a soak tells at its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .growth import Sample, told


@dataclass
class Report:
    """Counts, what was found, and how long hooks took."""

    operations: int = 0
    checks: int = 0
    frames: int = 0
    violations: list[str] = field(default_factory=list)
    hopeless: bool = False
    waits: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def take(self, line: str) -> None:
        known = json.loads(line)
        self.killed, self.times = known["killed"], known["times"]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.operations} operations, {sum(self.killed.values())} kills, {self.checks} checks with "
                f"{self.frames} frames sent, {len(self.violations)} violations",
                f"killed: {', '.join(f'{name} {count}' for name, count in sorted(self.killed.items())) or 'none'}",
                f"seconds until all was at rest: {_spread(self.waits, 1)}",
                *(f"{name}: {_spread(times)} ms, {len(times)} times" for name, times in sorted(self.times.items())),
                *told(self.samples),
                *self.violations,
            ]
        )


def _spread(values: list[float], digits: int = 0) -> str:
    ordered = sorted(values) or [0.0]
    at = [ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95)]
    return " / ".join(f"{each:.{digits}f}" for each in (*at, ordered[-1])) + " (p50 / p95 / max)"

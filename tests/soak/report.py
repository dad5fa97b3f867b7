"""What a soak tells at its end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Growth:
    """At some second: descriptors and KiB of the daemon and of the service (0 while it does not run), and files."""

    seconds: float
    daemon_files: int
    daemon_memory: int
    service_files: int
    service_memory: int
    files: int

    def __str__(self) -> str:
        daemon = f"libvirtd {self.daemon_files} descriptors {self.daemon_memory / 1024:.0f} MiB"
        service = f"service {self.service_files} descriptors {self.service_memory / 1024:.0f} MiB"
        return f"{self.seconds:6.0f} s: {daemon}; {service}; {self.files} files"


@dataclass
class Report:
    """Counts, what was found, and how long hooks took."""

    operations: int = 0
    checks: int = 0
    frames: int = 0
    violations: list[str] = field(default_factory=list)
    hopeless: bool = False
    waits: list[float] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def take(self, line: str) -> None:
        told = json.loads(line)
        self.killed, self.times = told["killed"], told["times"]

    def __str__(self) -> str:
        running = [each for each in self.growth if each.service_files]
        return "\n".join(
            [
                f"{self.operations} operations, {sum(self.killed.values())} kills, {self.checks} checks with "
                f"{self.frames} frames sent, {len(self.violations)} violations",
                f"killed: {', '.join(f'{name} {count}' for name, count in sorted(self.killed.items())) or 'none'}",
                f"seconds until all was at rest: {_spread(self.waits, 1)}",
                *(f"{name}: {_spread(times)} ms, {len(times)} times" for name, times in sorted(self.times.items())),
                *(str(each) for each in (running[:1] + running[-1:])),
                *self.violations,
            ]
        )


def _spread(values: list[float], digits: int = 0) -> str:
    ordered = sorted(values) or [0.0]
    at = [ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95)]
    return " / ".join(f"{each:.{digits}f}" for each in (*at, ordered[-1])) + " (p50 / p95 / max)"

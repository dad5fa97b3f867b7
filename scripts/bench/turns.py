"""Samples of the time that frames take, of each case in turn.

They are short, and what counts is their lower quartile: whatever else the machine does makes some of them slower, by
interruptions and a cold cache, but none faster.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence

FRAMES = 100  # of a sample
Frames = Sequence[tuple[int, bytes]]  # each with the tap that it is written to
Case = tuple[str, str]  # the kind of port, and the frame's name


def send(frames: Frames) -> float:
    """Nanoseconds of this thread's own time for each frame."""
    write = os.write
    started = time.thread_time_ns()
    for fd, frame in frames:
        write(fd, frame)
    return (time.thread_time_ns() - started) / len(frames)


def rounds(cases: dict[Case, Frames], count: int) -> dict[Case, list[float]]:
    """So many samples of each case, in an order that changes with every round, all on one processor."""
    times: dict[Case, list[float]] = {case: [] for case in cases}
    order, shuffle = list(cases), random.Random(1).shuffle
    home = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(home)})
    try:
        for _ in range(count):
            shuffle(order)
            for case in order:
                times[case].append(send(cases[case]))
    finally:
        os.sched_setaffinity(0, home)
    return times


def typical(times: list[float]) -> float:
    """The lower quartile."""
    return statistics.quantiles(times, n=4)[0]

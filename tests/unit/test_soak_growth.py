"""What the soak calls steady growth (docs/soak.md), on counts that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from soak.growth import Sample, grown, told


def samples(values: Sequence[int], name: str = "nft chains") -> list[Sample]:
    return [Sample(float(at), {name: value}, {}) for at, value in enumerate(values)]


def lives(counts: Sequence[tuple[str, int]], name: str = "descriptors") -> list[Sample]:
    return [Sample(float(at), {}, {("service", life): {name: count}}) for at, (life, count) in enumerate(counts)]


def leak(at: int) -> int:
    return 20 + at


def rare_leak(at: int) -> int:
    return 20 + at // 5


def still(_: int) -> int:
    return 20


def cache(at: int) -> int:
    return 20 + min(at, 10) * 5


def sway(at: int) -> int:
    return 20 + at % 4 * 5


@pytest.mark.parametrize(
    ("course", "grows"), [(leak, True), (rare_leak, True), (still, False), (cache, False), (sway, False)]
)
def test_what_goes_on_growing_is_a_violation_and_no_cache_is(course: Callable[[int], int], grows: bool) -> None:
    found = grown(samples([course(at) for at in range(60)]))
    assert bool(found) is grows
    assert all("nft chains" in each for each in found)


def test_few_samples_are_told_and_not_judged() -> None:
    few = samples([10, 20, 30, 40, 50, 60, 70, 80])
    assert grown(few) == []
    assert "  nft chains: 10 / 20 / 70 / 80   (8 samples)" in told(few)


@pytest.mark.parametrize(("name", "grows"), [("descriptors", True), ("KiB", False)])
def test_memory_may_grow_by_more_than_a_count(name: str, grows: bool) -> None:
    assert (
        bool(grown(lives([("1", 30000 + 300 * at if name == "KiB" else 10 + at) for at in range(12)], name))) is grows
    )


def test_a_leak_of_memory_is_found() -> None:
    assert grown(lives([("1", 30000 + 2000 * at) for at in range(12)], "KiB"))


def test_a_process_is_compared_with_itself_alone() -> None:
    """Each beginning starts at less, so lives in a row would hide a leak, and a last long one would look like one."""
    leaking = [(str(at // 12), 10 + at % 12) for at in range(36)]
    assert len(grown(lives(leaking))) == 3
    assert grown(lives([*((str(at), 10) for at in range(12)), *(("last", 30) for _ in range(12))])) == []


def test_short_lives_are_told_by_the_longest_of_them() -> None:
    said = told(lives([("a", 9), ("b", 10), ("b", 11), ("c", 12), ("c", 12)]))
    assert "  service, descriptors: 10 / 10.5 / 10.5 / 11   (2 samples)" in said
    assert len(said) == 3

"""Whatever the file holds, the answer is a topology or a TopologyError, for work in proportion to its size."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steps import steps

from libvirt_guestnet import topology
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.topology.yamltree import MAX_BYTES

ROOT = Path(__file__).parent.parent
SEEDS = [
    path.read_text() for path in sorted([*ROOT.rglob("topologies/**/*.yaml"), *(ROOT.parent / "labs").glob("*.yaml")])
]
QUICK = settings(max_examples=150, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
WORDS = st.sampled_from(
    "name networks guests expect physical-networks ports network mode nat bridge subnets 10.0.0.0/24 fd00::/64 "  # noqa: SIM905
    "addresses 10.0.0.1 host none a b a.b gateway router allow from to services icmp tcp/80 can dhcp range".split()
)


def attempt(text: str) -> None:
    with contextlib.suppress(TopologyError):
        topology.loads(text, "fuzz.yaml")


@QUICK
@given(st.text())
def test_any_text(text: str) -> None:
    attempt(text)


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(TopologyError):
        topology.load(path)


@QUICK
@given(
    st.recursive(
        WORDS | st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
        max_leaves=25,
    )
)
def test_any_structure_of_our_words(value: object) -> None:
    attempt(yaml.safe_dump(value))


def test_damaged_files() -> None:
    """Lines and values of real files dropped, doubled and swapped (400 times, always the same)."""
    dice = random.Random(2)
    words = sorted({word for text in SEEDS for word in text.split()})
    for _ in range(400):
        lines = dice.choice(SEEDS).splitlines()
        for _ in range(dice.randrange(1, 4)):
            index = dice.randrange(len(lines)) if lines else 0
            line = lines[index].split(" ") if lines else [""]
            line[dice.randrange(len(line))] = dice.choice(words)
            lines[index : index + 1] = dice.choice([[], [lines[index]] * 2, [" ".join(line)]]) if lines else []
        attempt("\n".join(lines))


# What an attacker writes so many times, and how often it takes to fill a file.
HOSTILE: dict[str, tuple[Callable[[int], str], int]] = {
    "flow": (lambda n: "[" * n, MAX_BYTES),
    "maps": (lambda n: "{a: " * n, MAX_BYTES // 4),
    "dashes": (lambda n: "- " * n, MAX_BYTES // 2),
    "questions": (lambda n: "? " * n, 100_000),
    "long": (lambda n: "name: " + "a" * n, MAX_BYTES - 10),
    "wide": (lambda n: "[" + "a," * n + "]", MAX_BYTES // 2 - 2),
    "bad-networks": (lambda n: "name: t\nnetworks:\n" + "".join(f" n{i}: x\n" for i in range(n)), 100_000),
    "bad-keys": (lambda n: "name: t\n" + "".join(f"k{i}: x\n" for i in range(n)), 20_000),
    "bad-ports": (lambda n: "name: t\nguests:\n g: { ports: [" + "{ network: nowhere }," * n + "] }\n", 20_000),
    "bad-endpoints": (
        lambda n: (
            "name: t\nguests:\n"
            + "".join(f" guest{i}: {{ ports: [] }}\n" for i in range(n))
            + "expect:\n"
            + "".join(f"- {{ from: gues{i}, to: uest{i} }}\n" for i in range(n))
        ),
        10_000,
    ),
    "overlaps": (
        lambda n: (
            "name: t\nnetworks:\n" + "".join(f" n{i}: {{ mode: nat, subnets: [10.0.0.0/24] }}\n" for i in range(n))
        ),
        5_000,
    ),
    "anchors": (lambda n: "&a " * n, 1000),
    "quote": (lambda n: "'" + "\n" * n, MAX_BYTES - 2),
}


def refused(text: str) -> None:
    with pytest.raises(TopologyError):
        topology.loads(text, "hostile.yaml")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_size(kind: str) -> None:
    written, fills = HOSTILE[kind]
    refused(written(fills))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_size_costs_no_more_than_in_proportion(kind: str) -> None:
    written, _ = HOSTILE[kind]
    few, many = (steps(refused, written(size)) for size in (300, 900))
    assert many / few < 3.2

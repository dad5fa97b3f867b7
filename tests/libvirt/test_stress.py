"""Two hundred starts and stops in random order, eight at a time, while hooks are killed at random."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from guests import Host

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.virt import connect

CHANGES, WORKERS, GUESTS = 200, 8, 16
SEED = 3
# Kills one hook process in twelve that it comes across, at whatever it is doing, until its stdin ends; tells how many.
KILLER = """
import os, random, select, sys
random.seed(int(sys.argv[1]))
kills = spared = 0
seen = set()
while not select.select([sys.stdin], [], [], random.uniform(0.001, 0.02))[0]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                hook = b"hook/main.py" in file.read().split(b"\\0")[2][-12:]
            if hook and pid not in seen:
                if random.random() < 1 / 12:
                    os.kill(int(pid), 9)
                    kills += 1
                elif random.random() < 1 / 6:
                    seen.add(pid)
                    spared += 1
        except (OSError, IndexError):
            continue
print(kills, spared)
"""


@contextmanager
def killing(sandbox: Sandbox) -> Iterator[list[int]]:
    """Hooks get killed inside; afterwards the list has how many were killed and how many were spared."""
    argv = sandbox.command(["/usr/bin/python3", "-IS", "-c", KILLER, str(SEED)])
    counts: list[int] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killer:
        yield counts
        counts += map(int, killer.communicate(timeout=30)[0].split())


def work(sandbox: Sandbox, names: list[str], changes: int, seed: int) -> tuple[int, int]:
    """One of the eight: starts and stops its own guests; returns how many starts came about and were vetoed."""
    dice, running, started, vetoed = random.Random(seed), set[str](), 0, 0
    with connect(sandbox.uri) as connection:
        for _ in range(changes):
            name = dice.choice(names)
            if name in running:
                connection.stop_domain(name)
                running.remove(name)
                continue
            try:
                connection.start_domain(name)
            except GuestnetError:
                vetoed += 1
            else:
                running.add(name)
                started += 1
    return started, vetoed


def test_two_hundred_starts_and_stops(hooked_sandbox: Sandbox) -> None:
    host = Host(hooked_sandbox)
    host.networks()
    for number in range(GUESTS):
        host.guest(f"g{number}", "one", "two", number=number)
    shares = [[f"g{number}" for number in range(worker, GUESTS, WORKERS)] for worker in range(WORKERS)]
    with killing(hooked_sandbox) as counts, ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(lambda worker: work(hooked_sandbox, shares[worker], CHANGES // WORKERS, SEED + worker), range(WORKERS)))  # fmt: skip  # noqa: E501
    started, vetoed = map(sum, zip(*done, strict=True))
    print(f"{started} starts, {vetoed} vetoed, hooks killed {counts[0]} and spared {counts[1]}")
    assert counts[0] > 20
    assert started > 20
    assert set(host.files("ports")) >= set(host.needed()), "no running guest lost its guard"
    # The next call, whosever it is, sweeps up.
    host.guest("next", "one", number=99)
    host.virsh("start", "next")
    host.exact()
    for name in host.running():
        host.virsh("destroy", name)
    assert host.guarded() == {}
    host.exact()
    assert host.helpers() == []

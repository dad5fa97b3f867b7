"""Two hundred starts and stops in random order, eight at a time, while hooks are killed at random."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from support.libvirt_host import Host

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.sandbox import Sandbox

CHANGES, WORKERS, GUESTS, ROUNDS = 200, 8, 16, 2
SEED = 3
# Kills about one hook process in eight, at whatever it is doing, until its stdin ends; tells how many. A start takes
# three of them, so most starts come about.
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
                if random.random() < 1 / 30:
                    os.kill(int(pid), 9)
                    kills += 1
                elif random.random() < 1 / 4:
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
        counts += map(int, killer.communicate(timeout=120)[0].split())


class Worker:
    """One of the eight: starts and stops its own guests, and counts how many starts came about and were vetoed."""

    def __init__(self, uri: str, names: list[str], seed: int) -> None:
        self.uri, self.names, self.dice = uri, names, random.Random(seed)
        self.running: set[str] = set()
        self.started = self.vetoed = 0

    def work(self, changes: int) -> None:
        with connect(self.uri) as connection:
            for _ in range(changes):
                self._change(connection, self.dice.choice(self.names))

    def _change(self, connection: Connection, name: str) -> None:
        if name in self.running:
            connection.stop_domain(name)
            self.running.remove(name)
            return
        try:
            connection.start_domain(name)
        except GuestnetError:
            self.vetoed += 1
        else:
            self.running.add(name)
            self.started += 1


def test_two_hundred_starts_and_stops(hooked_sandbox: Sandbox) -> None:
    host = Host(hooked_sandbox)
    host.networks()
    for number in range(GUESTS):
        host.guest(f"g{number}", "one", "two", number=number)
    host.guest("next", "one", number=99)
    names = [[f"g{number}" for number in range(worker, GUESTS, WORKERS)] for worker in range(WORKERS)]
    workers = [Worker(hooked_sandbox.uri, mine, SEED + number) for number, mine in enumerate(names)]
    killed = spared = 0
    for _ in range(ROUNDS):
        with killing(hooked_sandbox) as counts, ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda worker: worker.work(CHANGES // WORKERS // ROUNDS), workers))
        killed, spared = killed + counts[0], spared + counts[1]
        assert set(host.files("ports")) >= set(host.needed()), "no running guest lost its guard"
        # The next call, whosever it is, sweeps up.
        host.virsh("start", "next")
        assert sorted(host.running()) == sorted(["next", *(name for worker in workers for name in worker.running)])
        assert len(host.running()) > 4
        host.exact()
        host.virsh("destroy", "next")
    started, vetoed = sum(worker.started for worker in workers), sum(worker.vetoed for worker in workers)
    print(f"{started} starts, {vetoed} vetoed, hooks killed {killed} and spared {spared}")
    assert killed > 20
    assert started > vetoed
    for name in host.running():
        host.virsh("destroy", name)
    assert host.guarded() == {}
    host.exact()
    host.soon(lambda: host.helpers() == [], "nobody is left waiting")

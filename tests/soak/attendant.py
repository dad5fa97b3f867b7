"""Runs inside the sandbox for as long as the soak: kills hooks, helpers and repairs when told to, and times hooks.

Each line of its stdin is an order: `kill SHARE SEED` (that share of all processes that it sees from now on dies at a
random moment), `spare`, `report` (one line of JSON: how many were killed, and milliseconds by call). A process's time
is from its fork to when it is gone, in the kernel's ticks of 10 ms.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time

SECONDS = 0.01
LONGEST = 0.25  # a start takes three hooks, each some tenths of a second under load
TICKS = os.sysconf("SC_CLK_TCK")


class Attendant:
    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, float, float]] = {}  # by PID: the call, when it began, when it is to die
        self.strangers: set[str] = set()
        self.share, self.dice = 0.0, random.Random(0)
        self.killed: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}

    def look(self) -> None:
        """Hooks that began or ended, and those whose time has come."""
        now, there = time.clock_gettime(time.CLOCK_BOOTTIME), {name for name in os.listdir("/proc") if name.isdigit()}
        for pid in self.seen.keys() - there:
            call, began, _ = self.seen.pop(pid)
            if now > began:
                self.times.setdefault(call, []).append(round((now - began) * 1000))
        self.strangers &= there
        for pid in there - self.seen.keys() - self.strangers:
            self._meet(pid, now)
        for pid, (call, began, end) in list(self.seen.items()):
            if now >= end:
                self._kill(pid, call, began)

    def _meet(self, pid: str, now: float) -> None:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                call = called(file.read().decode(errors="replace").split("\0"))
            with open(f"/proc/{pid}/stat", "rb") as file:
                began = int(file.read().rpartition(b")")[2].split()[19]) / TICKS
        except (OSError, IndexError):
            return
        if not call:
            if now - began > 1:  # it may yet become another program
                self.strangers.add(pid)
            return
        dies = self.dice.random() < self.share
        self.seen[pid] = (call, began, now + self.dice.uniform(0, LONGEST) if dies else float("inf"))

    def _kill(self, pid: str, call: str, began: float) -> None:
        self.seen[pid] = (call, float("inf"), float("inf"))  # its time is not a hook's
        try:
            os.kill(int(pid), signal.SIGKILL)
        except OSError:
            return
        self.killed[call] = self.killed.get(call, 0) + 1

    def order(self, words: list[str]) -> None:
        if words[0] == "kill":
            self.share, self.dice = float(words[1]), random.Random(words[2])
        elif words[0] == "spare":
            self.share = 0.0
            self.seen = {pid: (call, began, float("inf")) for pid, (call, began, _) in self.seen.items()}
            print(flush=True)
        else:
            print(json.dumps({"killed": self.killed, "times": self.times}), flush=True)


def called(argv: list[str]) -> str:
    """Which call a process is of, "" if it is none of ours; the service lives on."""
    for at, word in enumerate(argv):
        if word.endswith("hook/main.py") and argv[at + 1 :]:
            return "" if argv[at + 1] == "watch" else " ".join([argv[at + 1], *argv[at + 3 : at + 4]]).strip()
        if word.endswith(".d/50-guestnet") and len(argv) > at + 2:
            return f"{word.split('/')[-2].removesuffix('.d')} {argv[at + 2]}"
    return ""


def main() -> None:
    attendant = Attendant()
    while True:
        if select.select([sys.stdin], [], [], SECONDS)[0]:
            if not (line := sys.stdin.readline()):
                return
            attendant.order(line.split())
        attendant.look()


if __name__ == "__main__":
    main()

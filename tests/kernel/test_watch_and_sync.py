"""A sync beside the service: it takes several steps, and what it has not done yet is not missing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import Hooks, with_handles
from support.kernel_guests import LAN, SETUP, A

LIBRARY = str(Path(__file__).parents[2])
# The service, which tells each of its looks and all that it says; and a sync, which waits for a line before each step.
SERVICE = f"""
import sys
sys.path.insert(0, {LIBRARY!r})
from libvirt_guestnet import log
from libvirt_guestnet.hook.services import watch
log.complain = lambda text: print("said", text, flush=True)
look = watch._Watch.look
def told(self):
    look(self)
    print("looked", flush=True)
watch._Watch.look = told
watch.main()
"""
SYNC = f"""
import os, sys
sys.path.insert(0, {LIBRARY!r})
from contextlib import nullcontext
from libvirt_guestnet.hook import live
from libvirt_guestnet.state.locked import UnlockedState
try:
    from libvirt_guestnet.hook.processes import notes as promises
    syncing = promises.promised(UnlockedState(), promises.SYNCING, str(os.getpid()))
except ImportError:
    syncing = nullcontext()
steps = (live.review_bridges, lambda: live.guard_domain(sys.argv[1].encode(), settle=False),
         lambda: live.tidy({{"lan"}}, {{"lan"}}))
with syncing:
    for step in steps:
        step()
        print("done", flush=True)
        sys.stdin.readline()
print("synced", flush=True)
"""


class Told(threading.Thread):
    """What a process in the box prints, line by line."""

    def __init__(self, box: Box, *argv: str) -> None:
        super().__init__(daemon=True)
        enter = ["nsenter", "-t", box.pid, "--net", "--mount", "--", sys.executable, "-IS", "-c", *argv]
        self.process = subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        for line in iter(self.process.stdout.readline, ""):
            self.lines.append(line.strip())

    def wait(self, line: str, times: int) -> None:
        end = time.monotonic() + 240
        while self.lines.count(line) < times:
            assert time.monotonic() < end, self.lines
            time.sleep(0.02)

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    hooks = Hooks(box, tmp_path)
    assert hooks.call("network", "lan", "started", "begin", LAN) == (0, "")
    hooks.running("a", A)
    yield hooks
    box.close()


def test_the_service_leaves_a_sync_to_its_work(hooks: Hooks) -> None:
    service = Told(hooks.box, SERVICE)
    service.wait("looked", 1)
    sync = Told(hooks.box, SYNC, A.decode())
    try:
        for step in (1, 2, 3):
            sync.wait("done", step)
            looks = service.lines.count("looked")
            hooks.box.ok("nft", "add table inet somebodys; delete table inet somebodys")
            service.wait("looked", looks + 1)
            sync.go_on()
        sync.wait("synced", 1)
        assert [line for line in service.lines if line.startswith("said")] == []
    finally:
        service.end()
        sync.end()
    assert with_handles(hooks, "vme0a")


def test_the_service_finishes_a_killed_sync(hooks: Hooks) -> None:
    sync = Told(hooks.box, SYNC, A.decode())
    sync.wait("done", 1)
    sync.end()
    note = "ls /run/libvirt-guestnet/syncing; grep -c '\"settled\": false' /run/libvirt-guestnet/bridges.json || true"
    left = hooks.box.ok("sh", "-c", note).split()
    assert (len(left), left[-1]) == (2, "1")
    service = Told(hooks.box, SERVICE)
    try:
        end = time.monotonic() + 240
        while hooks.box.ok("sh", "-c", note).split() != ["0"]:
            assert time.monotonic() < end, service.lines
            time.sleep(0.05)
    finally:
        service.end()

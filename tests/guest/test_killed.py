"""`guestnet lab` killed at random moments: nothing is left on the machine, and the next one works."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from support.lab import LABS

from libvirt_guestnet.guest import image

NAME = f"killed-{os.getpid()}"
GONE_SECONDS = 60.0
ROUNDS = 10
RUN_SECONDS = 12.0
"""About what an undisturbed run takes: the moments are spread over it. A longer one is killed early, no harm."""


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "libvirt_guestnet.cli", "lab", *argv]


def lab(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*argv), capture_output=True, text=True, timeout=180, check=False)


class Machine(NamedTuple):
    """What a lab might leave on a machine, beside its processes."""

    devices: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    rules: str


def machine() -> Machine:
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True, timeout=60).stdout)
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=60).stdout
    folders = (Path("/run/libvirt-guestnet"), Path("/run/netns"), Path("/run/libvirt"))
    return Machine(
        frozenset(link["ifname"] for link in links),
        frozenset(line for line in Path("/proc/mounts").read_text().splitlines() if f"lab-{NAME}" in line),
        frozenset(str(path) for folder in folders for path in folder.rglob("*") if f"lab-{NAME}" in str(path)),
        "".join(line for line in rules.splitlines(True) if "guestnet" in line or "vme" in line),
    )


def processes() -> list[str]:
    """Processes of the lab: in its namespaces, which are named by its host name, or with its name on their line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = f"lab-{NAME}" in words or f"/lab-{NAME}/" in (process / "mountinfo").read_text()
            if ours and int(process.name) != os.getpid():
                found.append(f"{process.name} {words}")
    return found


class Used:
    """The namespaces that the lab's processes live in and this process does not.

    They are held open until the block ends: the kernel gives the number of a namespace that is gone to a new one, of
    whoever else uses this machine.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._fds = [fd for line in processes() for fd in self._opened(int(line.split()[0]))]
        self.namespaces = {Path(f"/proc/self/fd/{fd}").readlink() for fd in self._fds} - namespaces_of(os.getpid())

    def _opened(self, pid: int) -> list[int]:
        fds: list[int] = []
        for link in Path("/proc/self/ns").iterdir():
            with suppress(OSError):
                fds.append(os.open(f"/proc/{pid}/ns/{link.name}", os.O_RDONLY))
                self._stack.callback(os.close, fds[-1])
        return fds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def inhabited(self) -> set[str]:
        """Processes that live in one of them, or whose children will."""
        pids = [process.name for process in Path("/proc").glob("[0-9]*")]
        return {pid for pid in pids if namespaces_of(int(pid)) & self.namespaces}


def namespaces_of(pid: int) -> frozenset[Path]:
    """None of a process that is gone."""
    try:
        return frozenset(link.readlink() for link in Path(f"/proc/{pid}/ns").iterdir())
    except OSError:
        return frozenset()


def left(used: Used) -> list[str]:
    """What of the lab still runs: a sandbox's keeper has nothing of its name, but its children's namespace."""
    return processes() + [f"{pid} in the lab's namespaces" for pid in used.inhabited()]


@contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own; gone with the block."""
    with subprocess.Popen(
        command(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A lab that nobody else on this machine runs; its image made beforehand."""
    image.ensure_image()
    text = (LABS / "archnetwork.yaml").read_text()
    path = tmp_path_factory.mktemp("killed") / "lab.yaml"
    path.write_text(text.replace("name: archnetwork", f"name: {NAME}", 1))
    yield str(path)
    lab("down", str(path))


@pytest.fixture(scope="module")
def before(topology: str) -> Machine:
    return machine()


def assert_nothing_is_left(before: Machine, topology: str, used: Used) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    with used:
        while (running := left(used)) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert running == []
    after = machine()
    # Files of dead sandboxes go with the next command that looks at sandboxes; nothing may be mounted or running.
    assert after._replace(files=before.files) == before
    lab("down", topology)
    assert machine() == before


MOMENTS = [(number + random.random()) * RUN_SECONDS / ROUNDS for number in range(ROUNDS)]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_run_killed_at_a_random_moment(before: Machine, topology: str, number: int) -> None:
    moment, whole_group = MOMENTS[number], number % 2 == 1
    with started("run", topology) as child:
        time.sleep(moment)
        used = Used()
        print(f"killed after {moment:.2f} s, {'the whole group' if whole_group else 'the process alone'}")
        if whole_group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait(60)
        assert_nothing_is_left(before, topology, used)


def test_the_check_sees_a_running_lab(before: Machine, topology: str) -> None:
    with started("run", topology) as child:
        deadline = time.monotonic() + 480
        while not any("qemu-system" in line for line in processes()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        used = Used()
        assert len(used.namespaces) >= 5
        while outside := {line.split()[0] for line in processes()} - used.inhabited():
            assert time.monotonic() < deadline, outside  # one that is just about to enter, or ended meanwhile
            time.sleep(0.1)
        assert machine().files > before.files
        child.kill()
        child.wait(60)
        assert_nothing_is_left(before, topology, used)


def test_up_killed_half_way_goes_with_down_and_comes_up_again(before: Machine, topology: str) -> None:
    for seconds in (0.3, 1.5, 4.0):
        with started("up", topology) as child:
            time.sleep(seconds)
            used = Used()
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(60)
            down = lab("down", topology)
            assert down.returncode == 0, down.stderr
            assert_nothing_is_left(before, topology, used)
    up = lab("up", topology)
    assert up.returncode == 0, up.stderr
    verified = lab("verify", topology)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    again = lab("up", topology)
    message = f"the lab of topology '{NAME}' is up already: `guestnet lab down {topology}` takes it away"
    assert (again.returncode, again.stderr) == (1, f"guestnet: {message}\n")
    used = Used()
    assert lab("down", topology).returncode == 0
    assert_nothing_is_left(before, topology, used)
    twice = lab("down", topology)
    message = f"the lab of topology '{NAME}' is not up: nothing to do\n"
    assert (twice.returncode, twice.stdout) == (0, message)

"""Killed at any moment, a sandbox leaves no process, namespace, mount, bridge or file, and its name is free again."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox, registry

GONE_SECONDS = 2.0
OWNER = """
import sys, time
from pathlib import Path
from libvirt_guestnet import sandbox
name, keep = sys.argv[1], sys.argv[2] == "keep"
print("starting", flush=True)
box = sandbox.start(name, keep=keep)
print("ready", flush=True)
box.run(["ip", "link", "add", "killme0", "type", "bridge"])
domain = '''<domain type="qemu"><name>guest</name><memory unit="MiB">8</memory>
<os><type arch="x86_64" machine="pc">hvm</type></os><devices><memballoon model="none"/></devices></domain>'''
box.run(["virsh", "create", "/dev/stdin"], stdin=domain)
print("guest", flush=True)
time.sleep(60)
"""


@contextmanager
def owner(name: str, keep: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that starts a sandbox; whatever the test does, it and its sandbox do not outlive the test."""
    argv = [sys.executable, "-c", OWNER, name, keep]
    library = str(Path(sandboxes.__file__).parents[2])
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, "PYTHONPATH": library}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        if name in {s.name for s in sandboxes.running()}:
            sandboxes.stop(name)


def await_word(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 20)[0]:
        line = process.stdout.readline().strip()
        assert line, "the owner ended early"
        if line == word:
            return
    pytest.fail(f"no {word!r} in 20 s")


def remains(name: str) -> list[str]:
    """Living processes that belong to the sandbox or see its file system, and mounts of it on the machine."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}" in line]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"guestnet-sandbox={name}" in command or f"/{name}/upper" in (process / "mountinfo").read_text():
                found.append(f"{process.name} {command}")
    return found


def await_nothing(name: str) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while (left := remains(name)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left
    assert not Path("/sys/class/net/killme0").exists()


def network_namespace(sandbox: Sandbox) -> str:
    return str(Path(f"/proc/{sandbox.first.pid}/ns/net").readlink())


def network_namespace_is_used(inode: str) -> bool:
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            if str(link.readlink()) == inode:
                return True
    return False


def assert_name_is_free(name: str) -> None:
    with sandboxes.start(name) as box:
        assert box.run(["virsh", "list", "--all", "--name"]).stdout.split() == []
        assert "killme0" not in box.run(["ip", "-br", "link"]).stdout
    assert not (registry.ROOT / name).exists()


def test_the_check_sees_a_running_sandbox() -> None:
    with sandboxes.start("seen") as box:
        found = remains("seen")
        assert any("libvirtd" in line for line in found)
        assert len(found) >= 3, found
        assert network_namespace_is_used(network_namespace(box))


@pytest.mark.parametrize("milliseconds", [0, 3, 6, 10, 15, 20, 25, 30, 40, 50, 60, 80, 120, 200])
def test_owner_killed_while_it_starts(milliseconds: int) -> None:
    name = f"young-{milliseconds}"
    with owner(name) as process:
        await_word(process, "starting")
        time.sleep(milliseconds / 1000)
        process.kill()
        await_nothing(name)
    assert_name_is_free(name)


@pytest.mark.parametrize("moment", ["ready", "guest"])
def test_owner_killed_when_it_is_up(moment: str) -> None:
    name = f"killed-{moment}"
    with owner(name) as process:
        await_word(process, moment)
        inode = network_namespace(sandboxes.find(name))
        process.kill()
        await_nothing(name)
        assert not network_namespace_is_used(inode)
        assert not (registry.ROOT / name).exists()
    assert_name_is_free(name)


def test_the_next_start_works_at_once() -> None:
    with owner("hasty") as process:
        await_word(process, "guest")
        process.kill()
        process.wait(10)
        assert_name_is_free("hasty")


def test_keeper_killed() -> None:
    with owner("keeperless") as process:
        await_word(process, "guest")
        entry = registry.read("keeperless")
        assert entry is not None
        os.kill(entry.keeper.pid, signal.SIGKILL)
        await_nothing("keeperless")
        assert "keeperless" not in {s.name for s in sandboxes.running()}
        assert not (registry.ROOT / "keeperless").exists()
    assert_name_is_free("keeperless")


def test_first_process_killed() -> None:
    with owner("firstless") as process:
        await_word(process, "guest")
        os.kill(sandboxes.find("firstless").first.pid, signal.SIGKILL)
        await_nothing("firstless")
        assert not (registry.ROOT / "firstless").exists()


def test_kept_outlives_its_owner_and_stops_on_demand() -> None:
    with owner("kept", "keep") as process:
        await_word(process, "guest")
        process.kill()
        process.wait(10)
        time.sleep(0.3)
        box = sandboxes.find("kept")
        assert box.keep
        assert box.run(["virsh", "list", "--name"]).stdout.split() == ["guest"]
        sandboxes.stop("kept")
        await_nothing("kept")
    assert_name_is_free("kept")


def test_kept_that_is_not_up_yet_goes_with_its_owner() -> None:
    with owner("unborn", "keep") as process:
        await_word(process, "starting")
        time.sleep(0.03)
        process.kill()
        await_nothing("unborn")
    assert_name_is_free("unborn")


def test_a_reused_pid_is_not_taken_for_the_sandbox() -> None:
    own = registry.Process.of(os.getpid())
    stranger = registry.Process(own.pid, own.started - 1)
    assert own.alive()
    assert not stranger.alive()
    stranger.kill()
    assert stranger.gone(0)

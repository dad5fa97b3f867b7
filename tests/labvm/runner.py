"""Boots the lab VM and runs tests in it: one boot for all of them, reports as they come.

::

    VM(suite, checkout, node ids) ─► job disk: the checkout and the job ─► QEMU ─► ttyS1: one JSON line per event
                                                                            └────► console file, ttyS2: exit status

The machine's own network is not connected to it. It ends with the process that started it, and at its deadline.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from libvirt_guestnet.sandbox import bytecode

CHECKOUT = Path(__file__).resolve().parents[2]
EVENT_BYTES = 4_000_000
CONSOLE_TAIL = 4000
_READ = 65536
_PREFIX = "guestnet-labvm-"
_UNHELD_SECONDS = 10  # between making a folder and holding it

# A hook gives up after 20 s, nft after 15, who waits for a plugged NIC after 10, who listens for frames of its own
# after 5, and a router that gets a document after 30; a real host is done in a tenth of a second. The VM's processor is
# emulated and shared, thirty times as slow and now and then slower: it gets ten times as long.
_JOB = """#!/bin/sh
set -e
mount -o remount,rw /job  # for compiled modules; what is written there ends with the VM
for file in hook/concern hook/processes/deadline hook/helpers/hotplug datapath/run/program isolation/run \\
    router/client; do
    file=/job/checkout/libvirt_guestnet/$file.py
    grep -Eq '^(HELPER_|LONGEST_|CONFIGURE_)?SECONDS = [1235]' $file
    sed -Ei 's/^(HELPER_|LONGEST_|CONFIGURE_)?SECONDS = [0-9]/&0/' $file
done
# No guest in here boots anything. With firmware that halts at once (where a processor begins: cli; hlt; back to hlt)
# instead of a BIOS that looks for a disk, each takes 12 s less of the processor.
{ head -c 262128 /dev/zero; printf '\\372\\364\\353\\375'; head -c 12 /dev/zero; } >/usr/share/seabios/bios-256k.bin
export PYTHONPATH=/opt/tests:/job/checkout:/job/checkout/tests/labvm
cd /job/checkout && exec python3 -m pytest -p no:cacheprovider -p relay -q
"""


# Beside the root's own packages there are those that scripts/make-labvm puts on the disk, at the same place.
_COMPILE = """
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/new /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/new,workdir=/mnt/work" none /mnt/root
mkdir -p /mnt/root/job/checkout
mount --bind "$2" /mnt/root/job/checkout
for module in pytest _pytest pluggy iniconfig packaging pygments scapy; do
    mkdir -p /mnt/root/opt/tests/$module
    mount --bind "$3/$module" /mnt/root/opt/tests/$module
done
for tree in dev proc sys; do mount --bind /$tree /mnt/root/$tree; done
shift 3
unset PYTHONDONTWRITEBYTECODE
exec chroot /mnt/root env PYTHONPATH=/opt/tests:/job/checkout \\
    sh -c 'cd /job/checkout && python3 -m pytest -p no:cacheprovider --collect-only -q "$@"' sh "$@"
"""
_COMPILE_SECONDS = 240.0
_BEGUN = "the lab VM's job begins"
_MOST_BOOTS = 3


class LabVMError(Exception):
    """The lab VM could not be built, or ended before its job did; the text says why, with the console's last words."""


class BootError(LabVMError):
    """Its kernel died before the job began. QEMU's emulation of several processors and a kernel that patches its own
    code get in each other's way now and then ("Oops: int3")."""


class Machine(NamedTuple):
    """What is booted: `disk` are the options by which scripts/make-labvm knows it, `init` is for the kernel's command
    line, and with `reboots` the machine does so where it would otherwise end."""

    disk: tuple[str, ...] = ()
    init: str = "init=/lab-init"
    reboots: bool = False


LAB = Machine()


class VM:
    """One boot that runs the tests with these node ids. Raises LabVMError when it cannot start.

    `seconds` is the deadline of all together; `job` may be another program than pytest. A kernel that dies before the
    job began is booted again, at most twice: `died` says of what.
    """

    def __init__(self, suite: str, tests: list[str], seconds: float, job: str = _JOB, machine: Machine = LAB) -> None:
        self.suite, self.machine = suite, machine
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.work, self.held = _work_folder()
        self.console = self.work / "console"
        self.died: list[str] = []
        try:
            self.console.touch()
            root = _built("make-root", suite)
            bytecode.compile_for(root)
            _pack_job(self.work, tests, job, root)
            self._boot()
        except BaseException:
            self._leave()
            raise

    def _boot(self) -> None:
        self.events, theirs = socket.socketpair()
        with theirs:
            self.qemu = _boot(_built("make-labvm", self.suite, *self.machine.disk), self.work, theirs, self.machine)

    def __enter__(self) -> VM:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.qemu.kill()
        self.qemu.wait(30)
        self.events.close()
        self._leave()

    def _leave(self) -> None:
        shutil.rmtree(self.work)
        os.close(self.held)

    def stream(self) -> Iterator[dict[str, Any]]:
        """The events of the job, until it ends. Raises LabVMError when it does not end well, or not in time."""
        while True:
            try:
                yield from self._stream()
                return
            except BootError as error:
                self.died.append(str(error))
                if len(self.died) == _MOST_BOOTS:
                    raise
            self.events.close()
            self._boot()

    def _stream(self) -> Iterator[dict[str, Any]]:
        buffer = b""
        while chunk := self._read():
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > EVENT_BYTES:
                raise self._failure(f"an event of more than {EVENT_BYTES} bytes")
            for line in lines:
                yield json.loads(line)
        self._check_end()

    def _read(self) -> bytes:
        left = max(0.0, self.deadline - time.monotonic())
        if not select.select([self.events], [], [], left)[0]:
            raise self._failure("not done at its deadline")
        return self.events.recv(_READ)

    def _check_end(self) -> None:
        try:
            self.qemu.wait(max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise self._failure("still on at its deadline, its job done") from error
        status = (self.work / "status").read_text().strip()
        if not status and _BEGUN not in self.console.read_text(errors="replace"):
            raise self._failure("its kernel died before the job began", BootError)
        if not status:
            raise self._failure("ended before its job did (a kernel panic?)")
        # 1: a test failed, which its own report says.
        if status not in ("0", "1"):
            raise self._failure(f"pytest ended with status {status}")

    def _failure(self, what: str, kind: type[LabVMError] = LabVMError) -> LabVMError:
        tail = self.console.read_bytes()[-CONSOLE_TAIL:].decode(errors="replace")
        after = time.monotonic() - self.started
        return kind(f"lab VM {self.suite}: {what}, after {after:.0f} s. Its console's last words:\n{tail}")


def _work_folder() -> tuple[Path, int]:
    """A new folder and the descriptor that holds it; takes those away whose holder was killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _UNHELD_SECONDS:
                os.close(_hold(left))
                shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(prefix=_PREFIX))
    return work, _hold(work)


def _hold(folder: Path) -> int:
    """Raises OSError if somebody else holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _built(script: str, suite: str, *options: str) -> Path:
    """Where one of the scripts has put what it makes of that Debian. Raises LabVMError if it has not."""
    # This Python: it names the pytest that has to be on the disk.
    argv = [sys.executable, str(CHECKOUT / "scripts" / script), *options, "--path", suite]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        build = " ".join((f"scripts/{script}", *options, suite))
        raise LabVMError(f"lab VM {suite} is not built: run {build}\n{done.stderr}")
    return Path(done.stdout.strip())


def _pack_job(work: Path, tests: list[str], program: str, root: Path) -> None:
    job = work / "job"
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, capture_output=True, timeout=120, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        if (source := CHECKOUT / name).is_file():
            target = job / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    _add_bytecode(job / "checkout")
    _compile(job / "checkout", tests, root)
    (job / "tests").write_text(json.dumps(tests))
    for name, text in (("run", f"#!/bin/sh\necho {_BEGUN!r}\nexec /job/program\n"), ("program", program)):
        (job / name).write_text(text)
        (job / name).chmod(0o755)
    make = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(job), str(work / "job.img"), "64M"]
    subprocess.run(make, capture_output=True, timeout=240, check=True)
    shutil.rmtree(job)


def _add_bytecode(checkout: Path) -> None:
    """What is compiled already: in there it takes twenty times as long."""
    for source in (CHECKOUT / "libvirt_guestnet").rglob("__pycache__/*.pyc"):
        target = checkout / source.relative_to(CHECKOUT)
        if target.parent.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(source, target)


def _compile(checkout: Path, tests: list[str], root: Path) -> None:
    """Has the tests compiled by the Python that runs them, in its own root and at their place there, and by this
    pytest. Where that fails, the VM does it, in half a minute."""
    files = sorted({test.partition("::")[0] for test in tests})
    if not files:
        return
    packages = Path(pytest.__file__).parents[1]
    argv = ["unshare", "--mount", "sh", "-euc", _COMPILE, "sh", str(root), str(checkout), str(packages), *files]
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(argv, capture_output=True, timeout=_COMPILE_SECONDS)


def _boot(disk: Path, work: Path, events: socket.socket, machine: Machine) -> subprocess.Popen[bytes]:
    # norandmaps: QEMU would translate each program anew every time that it starts, as it is elsewhere in memory then.
    # no_timer_check: at boot the kernel waits some milliseconds for timer interrupts, and panics where none came
    # ("IO-APIC + timer doesn't work"). On a busy machine QEMU does not run for so long; what it emulates is not broken.
    options = "console=ttyS0 quiet panic=-1 mitigations=off norandmaps no_timer_check"
    append = f"root=/dev/nvme0n1 rw {machine.init} {options}"
    # Different buses: the kernel numbers two disks of one kind in the order in which they happen to answer.
    disks = {"nvme": disk / "root.img", "virtio-blk-pci": work / "job.img"}
    drives = []
    for bus, image in disks.items():
        drives += ["-drive", f"file={image},if=none,id={image.stem},format=raw,cache=unsafe,snapshot=on"]
        drives += ["-device", f"{bus},drive={image.stem},serial={image.stem}"]
    argv = [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *(
            "qemu-system-x86_64",
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max,cx16=off",
            # One processor: with two, a fifth more of the host's time for the same work.
            "-smp",
            "1",
            "-m",
            "2048",
        ),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *(() if machine.reboots else ("-no-reboot",)),
        *("-kernel", str(disk / "kernel"), "-append", append, *drives),
        *("-serial", f"file:{work / 'console'}", "-chardev", f"socket,id=events,fd={events.fileno()}"),
        *("-serial", "chardev:events", "-serial", f"file:{work / 'status'}"),
    ]
    (work / "status").touch()
    errors = (work / "console").open("ab")
    with errors:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=[events.fileno()]
        )


def main() -> int:
    """For trying things: `python tests/labvm/runner.py SUITE NODE-ID...` prints the events."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with VM(sys.argv[1], sys.argv[2:], 600) as vm:
        try:
            for event in vm.stream():
                print(f"{time.monotonic() - vm.started:6.1f}", json.dumps(event)[:200])
        finally:
            print(vm.console.read_text(errors="replace")[-20000:])
    return 0


if __name__ == "__main__":
    sys.exit(main())

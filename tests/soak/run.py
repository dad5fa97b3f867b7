"""A soak: rounds of operations by chance, some with processes killed, and after each one what has to be true.

How long the product has to come to rest is SETTLE_SECONDS; a look that finds nothing amiss ends the waiting, so that is
long for busy machines' sake only.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType

import libvirt

from libvirt_guestnet import hook
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.sandbox import Sandbox, python_inside

from . import attendant, growth, probes, setting, wanted
from .operations import PREAMBLE, Operation, draw, is_lasting
from .report import Report
from .seen import Seen, look

SETTLE_SECONDS = 120.0
_OPERATION_SECONDS = 600.0
_SAMPLED = 5  # rounds
_SHARE = 0.25  # of hooks, helpers and repairs that are killed in a round with kills
_HOOK = Path(hook.__file__).parent / "main.py"


@dataclass(frozen=True)
class Round:
    """Some operations, one after the other or two at a time, and whether processes are killed meanwhile."""

    number: int
    operations: tuple[Operation, ...]
    workers: int
    kills: bool


def drawn(seed: str, number: int) -> Round:
    dice = Random(f"{seed}.{number}")
    operations = tuple(draw(seed, f"{number}.{each}") for each in range(dice.randrange(3, 9)))
    return Round(number, operations, dice.choice((1, 1, 2)), dice.random() < 0.4)


@dataclass
class Soak:
    """One sandbox, prepared; `only` are the numbers of the operations that are done, if not all."""

    sandbox: Sandbox
    seed: str
    only: frozenset[str] = frozenset()
    say: Callable[[str], None] = print
    report: Report = field(default_factory=Report)
    stack: ExitStack = field(default_factory=ExitStack)
    service: subprocess.Popen[bytes] | None = None
    alone: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Soak:
        setting.prepare(self.sandbox)
        self.attendant = self.stack.enter_context(self._attending())
        self.stack.callback(self._stop_service)
        self._start_service()
        self.pump = self.stack.enter_context(probes.Pump(self.sandbox, look(self.sandbox)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def last(self, seconds: float) -> None:
        """Rounds for so long; then all guests end, and nothing may be left of them."""
        begun, number = time.monotonic(), 0
        self._rest("at first")
        while time.monotonic() - begun < seconds and not self.report.hopeless:
            if is_lasting(number) and self.service is None:
                self._start_service()
            self._round(drawn(self.seed, number))
            number += 1
            if number % _SAMPLED == 0:
                self._sample(time.monotonic() - begun)
        self.report.violations += growth.grown(self.report.samples)
        self._end()
        self.report.take(self._order("report"))

    def _round(self, this: Round) -> None:
        chosen = [each for each in this.operations if not self.only or each.number in self.only]
        if not chosen:
            return
        self.say(f"round {this.number}: {this.workers} at a time{', with kills' * this.kills}")
        self.pump.opened = any(each.opens for each in chosen)
        if this.kills:
            self._order(f"kill {_SHARE} {self.seed}.{this.number}", answers=False)
        with ThreadPoolExecutor(this.workers) as pool:
            list(pool.map(self._do, chosen))
        if this.kills:
            self._order("spare")
            # docs/lifecycle.md, "Killed hooks": the next call of any guest repairs what they left.
            self._shell(f"v start {setting.NEXT} && v destroy {setting.NEXT}")
        self._rest(f"after round {this.number}", owed=this.kills or any(each.owes for each in chosen))

    def _do(self, operation: Operation) -> None:
        begun = time.monotonic()
        said = self._shell(operation.line) if operation.line else ""
        if operation.daemon or operation.service:
            with self.alone:
                said += self._restart(operation.daemon) if operation.daemon else self._serve(operation.service)
        self.report.operations += 1
        self.say(f"  {operation}   [{time.monotonic() - begun:.1f} s] {said}")
        if "Traceback" in said or re.search(r"libvirt-guestnet: [^|]*internal error: ", said):
            self.report.violations.append(f"{operation}: {said}")

    def _shell(self, line: str) -> str:
        guestnet = " ".join(python_inside(["-m", "libvirt_guestnet.cli"], self.sandbox.root))
        script = f'GUESTNET="{guestnet}"\n{PREAMBLE}\n{line}'
        done = self.sandbox.run(["sh", "-c", script], check=False, timeout=_OPERATION_SECONDS)
        return " | ".join(line for line in (done.stdout + done.stderr).splitlines() if line)

    def _restart(self, how: str) -> str:
        """The daemon ends, and the sandbox starts it again, as systemd would; one that hangs is killed."""
        pid = self.sandbox.libvirtd()
        gone = f"kill -0 {pid} 2>/dev/null || exit 0"
        script = f"kill -{how} {pid}; for turn in $(seq 900); do {gone}; sleep 0.1; done; kill -KILL {pid}; echo hung"
        said = self.sandbox.run(["sh", "-c", script], timeout=_OPERATION_SECONDS).stdout.strip()
        self.sandbox.start_libvirtd(SETTLE_SECONDS)
        return said

    # Service

    def _serve(self, how: str) -> str:
        self._stop_service()
        if how != "stop":
            self._start_service()
        return ""

    def _start_service(self) -> None:
        argv = self.sandbox.command(python_inside([str(_HOOK), "watch"], self.sandbox.root))
        log = Path(f"/proc/{self.sandbox.first.pid}/root{setting.FOLDER}/service.log")
        with log.open("ab") as file:
            self.service = subprocess.Popen(argv, stdout=file, stderr=file)

    def _stop_service(self) -> None:
        if self.service:
            self.service.kill()
            self.service.wait()
        self.service = None

    # What has to be true

    def _rest(self, when: str, owed: bool = False) -> Seen | None:
        """Waits until nothing is amiss, and sends frames then. Returns what is seen, None where something is amiss."""
        if self.service is None and owed and (said := self._shell("guestnet hooks sync")):
            self.say(f"  sync: {said}")
        begun = time.monotonic()
        found, seen = self._settled()
        self.report.waits.append(time.monotonic() - begun)
        if seen and not found:
            checks, found = probes.probe(self.sandbox, seen)
            self.report.frames += checks
        found += self.pump.judged()
        self.report.checks += 1
        if found:
            self._violated(when, found)
        return None if found else seen

    def _settled(self, seconds: float = SETTLE_SECONDS) -> tuple[list[str], Seen | None]:
        end, found, seen = time.monotonic() + seconds, ["nothing could be seen"], None
        while found and time.monotonic() < end:
            try:
                seen = look(self.sandbox)
                found = wanted.amiss(seen)
            except (GuestnetError, libvirt.libvirtError, ValueError) as error:
                found = [f"nothing could be seen: {error}"]
            if found:
                time.sleep(0.5)
        return found, seen

    def _violated(self, when: str, found: list[str]) -> None:
        """Notes it, and asks for what is always the last resort: whatever that mends is not noted again."""
        for each in found:
            self.say(f"  VIOLATION {when}: {each[:400]}")
        self.report.violations += [f"{when}: {each[:400]}" for each in found]
        self.say(f"  sync: {self._shell('guestnet hooks sync')}")
        left, _ = self._settled(SETTLE_SECONDS / 4)
        for each in left:
            self.say(f"  STILL: {each}")
        self.report.hopeless = bool(left)

    def _sample(self, seconds: float) -> None:
        """Ends every guest but the bystander, as only what is counted with the same guests can be compared."""
        guests = " ".join((*setting.BY_HAND, *setting.OF_FILE))
        networks = " ".join(setting.NETWORKS)
        self._shell(
            f"""for each in {guests}; do v destroy $each; done; guestnet destroy --name file --allow-interrupt
            for each in {guests}; do v undefine $each --managed-save --snapshots-metadata; done
            for each in {networks}; do v net-start $each; done"""
        )
        seen = self._rest("with no guest", owed=True)
        if seen:
            self.report.samples.append(growth.sample(self.sandbox, seen, seconds))

    def _end(self) -> None:
        guests = (*setting.BY_HAND, *setting.OF_FILE, setting.BYSTANDER, setting.NEXT)
        self.pump.stop()
        for guest in guests:
            self._shell(f"v destroy {guest}; v undefine {guest} --managed-save --snapshots-metadata")
        self.say(f"end: {self._shell('guestnet destroy --name file')}")
        for network in (*setting.NETWORKS, "safe"):
            self._shell(f"v net-destroy {network}; v net-undefine {network}")
        self._rest("when all is gone", owed=True)

    # Attendant

    @contextmanager
    def _attending(self) -> Iterator[subprocess.Popen[str]]:
        argv = self.sandbox.command(["/usr/bin/python3", "-IS", attendant.__file__])
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _order(self, line: str, answers: bool = True) -> str:
        assert self.attendant.stdin and self.attendant.stdout
        print(line, file=self.attendant.stdin, flush=True)
        return self.attendant.stdout.readline() if answers else ""

"""Make the changes of a plan, in order; take them back when one fails.

A guest that does not let go of a NIC takes nothing back (decision 100): whoever runs it decides that, and there are
others in the plan.

The lock stops two applies from interleaving: both would plan from the same snapshot and undo each other's work.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from libvirt_guestnet.changes.change import Change, Effects, Run
from libvirt_guestnet.changes.guest import NicKeptError
from libvirt_guestnet.changes.network import RemoveNetwork
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.connection import Connection
from libvirt_guestnet.plan.order import Plan

RUN_DIRECTORY = Path("/run/libvirt-guestnet")
LOCK_SECONDS = 60.0

Progress = Callable[[Change], None]
Step = Callable[[str], None]


def _quiet(_: object) -> None:
    return None


def tell_note(text: str) -> None:
    """For people, beside what is done."""
    print(f"note: {text}", file=sys.stderr)


class InterruptError(GuestnetError):
    """The plan interrupts running guests, and that was not allowed. Nothing was changed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        lines = [f"  {change.text()}" for change in plan.changes if set(change.interrupts) - plan.expected]
        super().__init__(
            "this would interrupt running guests; nothing was changed. Allow it with --allow-interrupt:\n"
            + "\n".join(lines)
        )


class ApplyError(GuestnetError):
    """A change failed. `not_undone` is what the rollback could not take back (empty: all is as before)."""

    def __init__(self, change: Change, cause: BaseException, not_undone: list[str]) -> None:
        self.change = change
        self.not_undone = tuple(not_undone)
        self.failure = f"{change.text()}\n  failed: {cause}"
        lines = [self.failure]
        if not_undone:
            lines += ["rolled back, except:", *(f"  {text}" for text in not_undone)]
            lines += ["run `guestnet apply` again once the cause is removed"]
        else:
            lines += ["rolled back: everything is as before"]
        super().__init__("\n".join(lines))


class UnfinishedError(GuestnetError):
    """All was done but `failures`, of guests that keep a NIC which the topology changes; nothing was taken back."""

    def __init__(self, failures: list[str]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(["everything else was done, but not this:", *(f"  {text}" for text in failures)]))


class DestroyError(GuestnetError):
    """Some of it could not be removed; everything else is gone."""

    def __init__(self, failures: list[str]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(["not everything could be removed:", *(f"  {text}" for text in failures)]))


class KernelEffects:
    """The real effects: netlink and nft, through the modules that own them (slow to import, so only when needed)."""

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        from libvirt_guestnet.datapath.netlink.kernel import enslave

        enslave(tap, bridge, isolated)

    def guard(self, domain_xml: bytes, settle: bool = True) -> None:
        from libvirt_guestnet.hook.live import guard_domain

        guard_domain(domain_xml, settle)

    def release(self, uuid: str, tap: str) -> None:
        from libvirt_guestnet.hook.live import release_tap

        release_tap(uuid, tap)

    def adopt_network(self, network_xml: bytes) -> None:
        from libvirt_guestnet.hook.live import adopt_network

        adopt_network(network_xml)

    def kept_open(self, bridge: str) -> AbstractContextManager[None]:
        from libvirt_guestnet.datapath.firewalls.flows import kept_open

        return kept_open(bridge)


@dataclass
class Within:
    """A plan among several that are made together: `undo` takes back what was made of it, and `not_undone` is what it
    could not."""

    undo: ExitStack = field(default_factory=ExitStack)
    not_undone: list[str] = field(default_factory=list)


def apply(
    plan: Plan,
    connection: Connection,
    effects: Effects,
    on_progress: Progress = _quiet,
    *,
    allow_interrupt: bool = False,
    on_step: Step = _quiet,
    on_note: Step = _quiet,
    within: Within | None = None,
) -> tuple[Change, ...]:
    """Make every change; when one fails, take back everything done so far. Returns those that were made. What is then
    still to be taken back should something else fail goes to `within`.

    `on_step` hears of every elementary step after it was done; an exception from it counts as the step's failure.
    `on_note` hears of what could not be done, and holds nothing up.
    Raises InterruptError before anything is touched, ApplyError after rolling back, UnfinishedError after everything
    that could be done.
    """
    if plan.interrupts and not allow_interrupt:
        raise InterruptError(plan)
    whole = within or Within()
    not_undone = whole.not_undone
    current: list[Change] = []
    try:
        with ExitStack() as undo:
            run = Run(connection, effects, _registrar(undo, not_undone), on_step, on_note)
            maker = _Maker(plan, run)
            for change in plan.changes:
                current[:] = [change]
                maker.make(change, on_progress)
            whole.undo.push(undo.pop_all())
    except Exception as error:
        raise ApplyError(current[0], error, not_undone) from error
    except BaseException as error:  # the user's Ctrl-C rolls back too
        for text in not_undone:
            error.add_note(f"could not undo: {text}")
        raise
    if maker.failures:
        raise UnfinishedError(maker.failures)
    return tuple(maker.made)


class _Maker:
    """Makes changes past guests that are `stuck`: one keeps a NIC, or goes and cannot be taken leave of. What else was
    to change of it is left out, its metadata with it, so that it stays guarded and the next plan has it again; so do
    the networks that it needs. `failures` are of guests in the file, which is not in force then; others are notes."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan, self.run = plan, run
        self.made: list[Change] = []
        self.failures: list[str] = []

    def make(self, change: Change, on_progress: Progress) -> None:
        if _is_of_guest(change) and change.name in self.run.stuck:
            return
        if needed := _still_needed(change, self.run.stuck):
            self._tell(needed, f"{_stays(change.name, needed)}, and apply again")
            return
        on_progress(change)
        try:
            change.run(self.run)
        except GuestnetError as error:
            if not (isinstance(error, NicKeptError) or (_is_of_guest(change) and change.name in self.plan.leaving)):
                raise
            self.run.stuck.add(change.name)
            self._tell({change.name}, f"{change.text()}\n  failed: {error}; {_LEFT_OUT}")
        else:
            self.made.append(change)

    def _tell(self, guests: set[str], text: str) -> None:
        if guests <= self.plan.leaving:
            self.run.note(text)
        else:
            self.failures.append(text)


_LEFT_OUT = "what else was to change of it stays as it is, its guard too; the others go on, and the next apply tries it"


def _is_of_guest(change: Change) -> bool:
    return not change.KIND.startswith("network")


def _still_needed(change: Change, stuck: set[str]) -> set[str]:
    """The guests that would have let go of the network which this removes."""
    return set(change.after & stuck) if isinstance(change, RemoveNetwork) else set()


def _stays(network: str, needed: set[str]) -> str:
    users = ", ".join(sorted(needed))
    return f"network {network} stays: {users} has it still; shut {users} off"


def _registrar(stack: ExitStack, not_undone: list[str]) -> Callable[[str, Callable[[], object]], None]:
    def attempt(what: str, undo: Callable[[], object]) -> None:
        try:
            undo()
        except Exception as error:  # whatever it is, the other undos must still run
            not_undone.append(f"{what}: {error}")

    def register(what: str, undo: Callable[[], object]) -> None:
        stack.callback(attempt, what, undo)

    return register


def destroy(
    plan: Plan,
    connection: Connection,
    effects: Effects,
    on_progress: Progress = _quiet,
    *,
    allow_interrupt: bool = False,
    on_note: Step = _quiet,
) -> None:
    """Make every change of a `plan_destroy`, past all failures, and report them all at the end.

    After a failure the other changes of the same object are left out: its mark must stay for the next attempt. So do
    the networks that it needs.
    Raises InterruptError before anything is touched, DestroyError.
    """
    if plan.interrupts and not allow_interrupt:
        raise InterruptError(plan)
    failures: list[str] = []
    failed: set[tuple[bool, str]] = set()
    run = Run(connection, effects, lambda _what, _undo: None, _quiet, on_note)
    for change in plan.changes:
        subject = (_is_of_guest(change), change.name)
        if subject in failed:
            continue
        if needed := _still_needed(change, {name for _, name in failed}):
            failures.append(f"{_stays(change.name, needed)}, and destroy again")
            continue
        on_progress(change)
        try:
            change.run(run)
        except GuestnetError as error:
            failed.add(subject)
            failures.append(f"{change.text()}: {error}")
    if failures:
        raise DestroyError(failures)


@contextmanager
def locked(directory: Path = RUN_DIRECTORY, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the one lock of apply and destroy, from the snapshot on.

    Raises GuestnetError when another process holds it for longer than `seconds`, or the directory cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(directory / "apply.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise GuestnetError(f"{directory}/apply.lock: {error.strerror}: guestnet apply must run as root") from error
    try:
        _acquire(file, directory, seconds)
        yield
    finally:
        os.close(file)


def _acquire(file: int, directory: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(file, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise GuestnetError(
                    f"another guestnet apply or destroy (process {holder}) holds {directory}/apply.lock: wait for it"
                ) from None
            time.sleep(0.05)
        else:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return

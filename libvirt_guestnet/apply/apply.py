"""Make the changes of a plan, in order; take them back when one fails.

The lock stops two applies from interleaving: both would plan from the same snapshot and undo each other's work.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from libvirt_guestnet.changes.change import Change, Effects, Run
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
        lines = [f"{change.text()}\n  failed: {cause}"]
        if not_undone:
            lines += ["rolled back, except:", *(f"  {text}" for text in not_undone)]
            lines += ["run `guestnet apply` again once the cause is removed"]
        else:
            lines += ["rolled back: everything is as before"]
        super().__init__("\n".join(lines))


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


def apply(
    plan: Plan,
    connection: Connection,
    effects: Effects,
    on_progress: Progress = _quiet,
    *,
    allow_interrupt: bool = False,
    on_step: Step = _quiet,
    on_note: Step = _quiet,
) -> None:
    """Make every change; when one fails, take back everything done so far.

    `on_step` hears of every elementary step after it was done; an exception from it counts as the step's failure.
    `on_note` hears of what could not be done, and holds nothing up.
    Raises InterruptError before anything is touched, ApplyError after rolling back.
    """
    if plan.interrupts and not allow_interrupt:
        raise InterruptError(plan)
    not_undone: list[str] = []
    current: list[Change] = []
    try:
        with ExitStack() as undo:
            run = Run(connection, effects, _registrar(undo, not_undone), on_step, on_note)
            for change in plan.changes:
                current[:] = [change]
                on_progress(change)
                change.run(run)
            undo.pop_all()
    except Exception as error:
        raise ApplyError(current[0], error, not_undone) from error
    except BaseException as error:  # the user's Ctrl-C rolls back too
        for text in not_undone:
            error.add_note(f"could not undo: {text}")
        raise


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
        subject = (change.KIND.startswith("network"), change.name)
        if subject in failed:
            continue
        if isinstance(change, RemoveNetwork) and (needed := sorted({n for _, n in failed} & change.after)):
            users = ", ".join(needed)
            failures.append(f"network {change.name} stays: {users} has it still; shut {users} off, and destroy again")
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

"""A topology on many hosts: one plan for each, made host after host, and taken back on all where one fails.

This host is changed as ever. All others are changed by libvirt alone, and by what their own hooks do then (decision
122). What is made first is taken back last, so that a failure on the third host finds the first as it was left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

from libvirt_guestnet.apply import apply as applying
from libvirt_guestnet.apply import northbound, routers
from libvirt_guestnet.apply import topology as topologies
from libvirt_guestnet.apply.reaching import DownError, Reached, reach
from libvirt_guestnet.changes.change import Effects
from libvirt_guestnet.changes.northbound import SetRow
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import live
from libvirt_guestnet.hostmap import MAPPED_BY, HostMap, of_host
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.notes import notes
from libvirt_guestnet.model.placing import Placing, lacking, on_host, place
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.hosted import hosted
from libvirt_guestnet.plan.external import resolved, there
from libvirt_guestnet.plan.order import Plan, plan, plan_destroy
from libvirt_guestnet.plan.problems import PlanError
from libvirt_guestnet.plan.remote import beyond
from libvirt_guestnet.state.locked import UnlockedState

_OVN = "OVN's database"
_PARTIAL = "--allow-partial finishes the others, and the next apply completes it"


@dataclass(frozen=True)
class HostPlan:
    """What is to be done on a host, and what is to be said of it."""

    reached: Reached
    plan: Plan
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.reached.host.name


@dataclass(frozen=True)
class HostPlans:
    """The plans of all hosts that answer; `down` are the others, each with why. `rows` are the changes of OVN's
    database, before all others."""

    hosts: tuple[HostPlan, ...]
    down: dict[str, str]
    notes: tuple[str, ...] = ()
    rows: tuple[SetRow, ...] = ()

    @property
    def changes(self) -> int:
        return len(self.rows) + sum(len(each.plan.changes) for each in self.hosts)


@dataclass(frozen=True)
class Choice:
    """Which hosts are meant (none: all), and whether those that do not answer, or fail, hold up the others."""

    only: tuple[str, ...] = ()
    allow_partial: bool = False

    def of(self, found: Topology) -> list[Host]:
        """Raises GuestnetError where the topology has no such host."""
        names = [host.name for host in found.hosts]
        for name in self.only:
            if name not in names:
                raise GuestnetError(f"--host {name}: topology {found.name!r} has the hosts {', '.join(names)}")
        return [host for host in found.hosts if not self.only or host.name in self.only]


class HostsError(GuestnetError):
    """A change failed on one host. `stands` says, by host, what is there now."""

    def __init__(self, failed: str, why: str, stands: dict[str, list[str]]) -> None:
        self.failed, self.stands = failed, stands
        lines = [f"host {failed}: {why}", *_standing(stands)]
        if any(stands.values()):
            lines.append("run `guestnet apply` again once the cause is removed")
        super().__init__("\n".join(lines))


def _standing(stands: dict[str, list[str]]) -> Iterator[str]:
    for name, left in stands.items():
        who = name if name == _OVN else f"host {name}"
        yield f"{who}: {'rolled back, except:' if left else 'everything is as before'}"
        yield from (f"  {text}" for text in left)


class PartialError(GuestnetError):
    """Everything was done but on some hosts, each with why."""

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        said = [f"host {name}: {why}" for name, why in failures.items()]
        super().__init__("\n".join(["done, but not on all hosts; the next apply completes it:", *said]))


class LibvirtAlone:
    """The effects on a host that is reached by libvirt alone: none. A plan that needs one was refused (decision 122),
    so one that is asked for all the same fails, and what was done is taken back."""

    def __init__(self, host: str) -> None:
        self._host = host

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        raise self._refusal(f"put {tap} into bridge {bridge}")

    def guard(self, domain_xml: bytes, settle: bool = True) -> None:
        raise self._refusal("guard a guest that runs")

    def release(self, uuid: str, tap: str) -> None:
        raise self._refusal(f"take the guard from {tap}")

    def adopt_network(self, network_xml: bytes) -> None:
        raise self._refusal("tell its hooks of a network")

    def kept_open(self, bridge: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _refusal(self, what: str) -> GuestnetError:
        return GuestnetError(f"only host {self._host} itself can {what}: run guestnet apply there")


def plan_hosts(found: Topology, choice: Choice, closing: ExitStack, patience: float) -> HostPlans:
    """What `apply_hosts` would do. Connections last until `closing`. Raises PlanError with everything that stands in
    the way on any host, DownError where hosts do not answer and that is not allowed."""
    hosts = choice.of(found)
    rows, found = closing.enter_context(northbound.of_topology(found)), hosted(found)
    reached, down = reach(hosts, closing)
    if down and not choice.allow_partial:
        raise DownError(down, f"nothing was changed: {_PARTIAL}")
    domains = {each.host.name: frozenset(each.snapshot.domain) for each in reached}
    placing = place(found, domains)
    made, problems = [], []
    for each in reached:
        try:
            made.append(_plan_host(found, each, placing, patience))
        except GuestnetError as error:
            problems += [f"host {each.host.name}: {text}" for text in _in_file(error, each.host).splitlines()]
    if problems:
        raise PlanError(problems)
    unknown = placing.notes if len(reached) == len(found.hosts) else ()
    return HostPlans(tuple(made), down, unknown, rows)


def _in_file(error: GuestnetError, host: Host) -> str:
    """A message of what one host has otherwise, where it is the file that maps its labels."""
    return str(error).replace(MAPPED_BY, f"(labels: of host {host.name})")


def _plan_host(found: Topology, reached: Reached, placing: Placing, patience: float) -> HostPlan:
    host = reached.host
    if problems := lacking(found, host, placing.guests[host.name]):
        raise PlanError(problems)
    own = there(on_host(found, host, placing.guests[host.name]), reached.snapshot)
    astray, hostmap = placing.astray[host.name], of_host(host)
    if not reached.is_here:
        return _plan_from_afar(own, reached, hostmap, astray)
    define = topologies.definer(own, hostmap)
    made, own = topologies.planned(own, hostmap, define, reached.snapshot, patience, left_alone=astray)
    hooks = hook_files.unseen() if made.changes else ""
    return HostPlan(reached, made, (*topologies.notes_here(own, hostmap), *([hooks] if hooks else ())))


def _plan_from_afar(own: Topology, reached: Reached, hostmap: HostMap, astray: frozenset[str]) -> HostPlan:
    """By what libvirt says there. Guests with an image are left as that host has made them."""
    snapshot, made_there = reached.snapshot, [guest.name for guest in own.guests if guest.image is not None]
    missing = [name for name in made_there if name not in snapshot.domain]
    wished = topologies.wanted(resolved(own, snapshot), hostmap)
    made = plan(replace(wished, left_alone=astray | {*made_there}), snapshot)
    do = f"run `guestnet apply --host {reached.host.name}` on it first"
    problems = [f"guest {name!r} has an image, which its host alone makes: {do}" for name in missing]
    problems += [f"{text}: {do}" for text in beyond(made, snapshot)]
    if problems:
        raise PlanError(problems)
    kept = f"guests with an image ({', '.join(made_there)}) stay as they are: their host alone changes them"
    return HostPlan(reached, made, (kept,) if made_there else ())


def apply_hosts(found: Topology, choice: Choice, *, allow_interrupt: bool = False) -> int:
    """Plans and makes the changes on all hosts, telling each as it comes; returns how many. Raises GuestnetError."""
    with applying.locked(), ExitStack() as closing:
        plans = plan_hosts(found, choice, closing, routers.PATIENCE_SECONDS)
        for note in (*plans.notes, *notes(found), *(f"{h.name}: {n}" for h in plans.hosts for n in said(h))):
            applying.tell_note(note)
        _check_consent(plans.hosts, allow_interrupt)
        failures = _make_all(plans, choice)
        down = {name: f"not reached: {why}" for name, why in plans.down.items()}
        if failures or down:
            raise PartialError(down | failures)
        return plans.changes


def said(host: HostPlan) -> tuple[str, ...]:
    """The notes of a host's plan, and of what it is on."""
    return (*host.plan.notes, *host.notes)


def _check_consent(hosts: Sequence[HostPlan], allow_interrupt: bool) -> None:
    """Before anything is touched on any host."""
    for each in hosts:
        if each.plan.interrupts and not allow_interrupt:
            raise GuestnetError(f"host {each.name}: {applying.InterruptError(each.plan)}")


def _make_all(plans: HostPlans, choice: Choice) -> dict[str, str]:
    """Makes the changes of each host; why of those that are left undone. Raises HostsError once all that was made is
    taken back."""
    failures: dict[str, str] = {}
    made = [(each, applying.Within()) for each in plans.hosts]
    rows_left: list[str] = []
    with ExitStack() as whole:
        northbound.make(plans.rows, whole, rows_left)
        for each, within in made:
            whole.push(within.undo)
            try:
                _make(each, within)
            except applying.UnfinishedError as error:
                failures[each.name] = str(error)
            except applying.ApplyError as error:
                if not choice.allow_partial:
                    whole.close()
                    stands = {_OVN: rows_left} if plans.rows else {}
                    stands |= {other.name: undone.not_undone for other, undone in made}
                    raise HostsError(each.name, error.failure, stands) from error
                failures[each.name] = str(error)
        whole.pop_all()
    return failures


def _make(host: HostPlan, within: applying.Within) -> None:
    with topologies.telling(host.plan, where=f"{host.name}: ") as tell:
        applying.apply(
            host.plan,
            host.reached.connection,
            _effects(host.reached),
            tell,
            allow_interrupt=True,  # asked for all hosts at once
            on_note=lambda text: applying.tell_note(f"{host.name}: {text}"),
            within=within,
        )


def _effects(reached: Reached) -> Effects:
    return applying.KernelEffects() if reached.is_here else LibvirtAlone(reached.host.name)


def destroy_hosts(found: Topology, choice: Choice, *, allow_interrupt: bool = False) -> int:
    """Removes everything of a topology from its hosts, past all failures; returns how many steps that took. Raises
    GuestnetError."""
    with applying.locked(), ExitStack() as closing:
        reached, down = reach(choice.of(found), closing)
        if down and not choice.allow_partial:
            raise DownError(down, f"nothing was changed: {_PARTIAL.replace('apply', 'destroy')}")
        rows = closing.enter_context(northbound.of_destroyed(found.name, found.fabric))
        plans = [_destroy_plan(found, each) for each in reached]
        _check_consent(plans, allow_interrupt)
        failures = {name: f"not reached: {why}" for name, why in down.items()}
        for each in plans:
            try:
                _destroy(each)
            except applying.DestroyError as error:
                failures[each.name] = str(error)
        # A host that still has guests of the topology needs their rows.
        if failures or choice.only:
            rows = ()
        with ExitStack() as kept:
            northbound.make(rows, kept, [])
            kept.pop_all()
        if failures:
            raise PartialError(failures)
        return len(rows) + sum(len(each.plan.changes) for each in plans)


def _destroy_plan(found: Topology, reached: Reached) -> HostPlan:
    known = UnlockedState().networks() if reached.is_here else []
    adopted = {receipt.name: receipt.topology for receipt in known if receipt.external}
    made = plan_destroy(found.name, replace(reached.snapshot, adopted=adopted), [guest.name for guest in found.guests])
    if not reached.is_here and (problems := beyond(made, reached.snapshot)):
        do = f"run `guestnet destroy --host {reached.host.name}` on it, or shut the guest off"
        raise PlanError([f"host {reached.host.name}: {text}: {do}" for text in problems])
    return HostPlan(reached, made)


def _destroy(host: HostPlan) -> None:
    for note in host.plan.notes:
        applying.tell_note(f"{host.name}: {note}")
    with topologies.telling(host.plan, where=f"{host.name}: ") as tell:
        effects = _effects(host.reached)
        applying.destroy(host.plan, host.reached.connection, effects, tell, allow_interrupt=True)
    if host.reached.is_here:
        live.remove_unused()

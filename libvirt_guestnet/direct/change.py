"""`guestnet guard`, `forward` and `address` on this host: read, plan, apply, and say what was done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from libvirt_guestnet.apply import apply as applying
from libvirt_guestnet.apply.topology import facing
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.direct import addresses, forwards, network, report
from libvirt_guestnet.direct.forwards import Asked
from libvirt_guestnet.direct.guard import guarded
from libvirt_guestnet.direct.named import DOMAIN, Named, named, unknown
from libvirt_guestnet.direct.planning import Setting
from libvirt_guestnet.direct.subject import DirectPort, Subject, network_policy, one_port, request, subject
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.importing import gather
from libvirt_guestnet.importing.addresses import on_network
from libvirt_guestnet.importing.facts import Leases, Seen
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.libvirtd.connection import Connection, connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.plan.order import plan

Edit = Callable[[DirectPort], PortPolicy | None]
Tell = Callable[[Subject, DirectPort, PortPolicy | None, Leases], Iterable[str]]


@dataclass(frozen=True)
class Host:
    """libvirt and what it has, while nobody else applies anything; and this host's default, as the hooks know it."""

    connection: Connection
    snapshot: Snapshot
    by_host: str

    def seen(self, domain: str) -> Seen:
        """What import sees for the sake of one domain."""
        return gather.seen(self.snapshot, request(domain))

    def by_network(self) -> dict[str, str]:
        """How the networks guard ports that have no policy, as far as that was set without a file."""
        return {state.name: network_policy(state).guarded for state in self.snapshot.networks}

    def make(self, setting: Setting, leases: Leases, allow_interrupt: bool) -> bool:
        """Makes what is set, and prints each change; whether there was anything to do. Raises GuestnetError, and then
        all is as before."""
        wanted = setting.wanted()
        made = plan(wanted, facing(wanted, self.snapshot, leases))
        hooks = hook_files.unseen() if made.changes else ""
        for note in (*made.notes, *([hooks] if hooks else ())):
            applying.tell_note(note)
        effects, tell_note = applying.KernelEffects(), applying.tell_note
        interrupts, connection = allow_interrupt, self.connection
        return bool(applying.apply(made, connection, effects, _tell, allow_interrupt=interrupts, on_note=tell_note))


def _tell(change: Change) -> None:
    print(change.text(), flush=True)


@contextmanager
def host(uri: str | None) -> Iterator[Host]:
    """This host, locked against every other apply. Raises GuestnetError."""
    with applying.locked(), connect(uri) as connection:
        yield Host(connection, host_snapshot(connection), hostwide.read().guard)


def guard(uri: str | None, word: str, how: str, kind: str = "", *, allow_interrupt: bool = False) -> None:
    """`guestnet guard`. Raises GuestnetError."""
    with host(uri) as here:
        name = named(word, here.snapshot, kind)
        if name.network:
            _guard_network(here, name.network, how)
            return
        change(here, name, lambda port: guarded(port, how), allow_interrupt=allow_interrupt)


def change(here: Host, name: Named, edit: Edit, *, allow_interrupt: bool) -> None:
    """Changes the policies of the NICs that are meant, and says what they are then."""
    seen = here.seen(name.domain)
    about = subject(name, seen, here.by_host)
    policies, leases = about.edited(edit), leases_of(seen)
    done = here.make(Setting(here.snapshot, {name.domain: policies}), leases, allow_interrupt)
    say(report.lines(about, policies, leases, here.by_network()), done)


def leases_of(seen: Seen) -> Leases:
    """By MAC address, on whichever bridge."""
    found: dict[str, frozenset[str]] = {}
    for leases in seen.leases.values():
        for address, ips in leases.items():
            found[address] = found.get(address, frozenset()) | ips
    return found


def say(lines: Iterable[str], done: bool) -> None:
    for line in (*lines, *(() if done else ("nothing to do",))):
        print(line, flush=True)


def _guard_network(here: Host, name: str, how: str) -> None:
    guard = network.guard(here.snapshot, name, how)
    done = here.make(Setting(here.snapshot, guards={name: guard}, by_host=here.by_host), {}, allow_interrupt=False)
    say(network.lines(here.snapshot, name, guard, here.by_host), done)


def _of_one_port(
    uri: str | None, word: str, edit: Callable[[DirectPort, Seen], PortPolicy | None], tell: Tell, allow_interrupt: bool
) -> None:
    """Changes the policy of the one NIC that is meant, and says what `tell` makes of it."""
    with host(uri) as here:
        name = named(word, here.snapshot, DOMAIN)
        seen = here.seen(name.domain)
        about = subject(name, seen, here.by_host)
        port = one_port(about)
        policy, leases = edit(port, seen), leases_of(seen)
        policies = about.edited(lambda _: policy)
        done = here.make(Setting(here.snapshot, {name.domain: policies}), leases, allow_interrupt)
        say(tell(about, port, policy, leases), done)


def forward(
    uri: str | None, word: str, wanted: Sequence[Asked], *, remove: bool = False, allow_interrupt: bool = False
) -> None:
    """`guestnet forward add` and `remove`. Raises GuestnetError."""

    def edit(port: DirectPort, _: Seen) -> PortPolicy | None:
        policy: PortPolicy | None = port.policy
        for each in wanted:
            now = replace(port, policy=policy or port.default)
            policy = forwards.removed(now, each) if remove else forwards.added(now, each)
        return policy

    def tell(about: Subject, port: DirectPort, policy: PortPolicy | None, _: Leases) -> Iterable[str]:
        return report.forwards(about, port, policy)

    _of_one_port(uri, word, edit, tell, allow_interrupt)


def address(
    uri: str | None,
    word: str,
    wanted: Sequence[addresses.Asked],
    *,
    remove: bool = False,
    allow_interrupt: bool = False,
) -> None:
    """`guestnet address add` and `remove`. Raises GuestnetError."""

    def edit(port: DirectPort, seen: Seen) -> PortPolicy | None:
        on = on_network(port.link, seen)
        if remove:
            return addresses.removed(port, on, wanted)
        policy = addresses.added(port, on, wanted, addresses.of_others(port, seen.snapshot))
        for note in addresses.given_to_others(on, wanted):
            print(f"note: {note}", file=sys.stderr)
        return policy

    def tell(about: Subject, port: DirectPort, policy: PortPolicy | None, leases: Leases) -> Iterable[str]:
        return [report.address_line(about, port, policy, leases)]

    _of_one_port(uri, word, edit, tell, allow_interrupt)


def addresses_of(uri: str | None, word: str | None) -> list[str]:
    """`guestnet address list`: a line for each that is listed, of all domains or of one. Raises GuestnetError."""
    return list(addresses.of_domains(_domains(uri, word)))


def forwards_of(uri: str | None, word: str | None) -> list[str]:
    """`guestnet forward list`: a line for each, of all domains or of one. Raises GuestnetError."""
    return list(forwards.listed(_domains(uri, word)))


def _domains(uri: str | None, word: str | None) -> list[DomainState]:
    """All of them, or the one of that name."""
    with connect(uri) as connection:
        snapshot = connection.snapshot()
    if word is not None and word not in snapshot.domain:
        raise GuestnetError(unknown(word, snapshot, DOMAIN))
    return [state for state in snapshot.domains if word in (None, state.name)]

"""What `plan`, `apply` and `destroy` do of a topology's networks in OVN, beside what they do of libvirt's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from libvirt_guestnet import terminal
from libvirt_guestnet.changes.northbound import SetRow, changes
from libvirt_guestnet.model.host import Fabric, FabricKind
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.compare import compare, held, problems
from libvirt_guestnet.ovn.rows import Row
from libvirt_guestnet.plan.problems import PlanError


@contextmanager
def of_topology(topology: Topology) -> Iterator[tuple[SetRow, ...]]:
    """The changes that OVN's northbound database needs, which can be made as long as this is entered; none where no
    fabric of kind ovn carries the networks. Raises PlanError when they would change what is not this topology's, and
    GuestnetError."""
    if topology.fabric.kind is not FabricKind.OVN:
        yield ()
        return
    from libvirt_guestnet.ovn.wanted import wanted

    with _planned(topology.fabric, topology.name, wanted(topology)) as made:
        yield made


@contextmanager
def of_destroyed(name: str, fabric: Fabric | None) -> Iterator[tuple[SetRow, ...]]:
    """The same to remove all that the database has of a topology."""
    if fabric is None or fabric.kind is not FabricKind.OVN:
        yield ()
        return
    with _planned(fabric, name, ()) as made:
        yield made


def make(rows: Sequence[SetRow], undo: ExitStack, not_undone: list[str]) -> None:
    """Makes them, in one transaction, telling each before. `undo` takes that back, and says in `not_undone` what it
    could not. Raises GuestnetError, when nothing was changed."""
    if not rows:
        return
    with terminal.Progress(sys.stdout, sys.stderr) as progress:
        for each in rows:
            progress.say(each.line())
    transaction = rows[-1].transaction
    assert transaction is not None
    transaction.run()

    def take_back() -> None:
        try:
            transaction.reverse()
        except Exception as error:  # whatever it is, the hosts must still be taken back
            not_undone.append(f"change OVN's northbound database back: {error}")

    undo.callback(take_back)


@contextmanager
def _planned(fabric: Fabric, name: str, rows: Sequence[Row]) -> Iterator[tuple[SetRow, ...]]:
    from libvirt_guestnet.ovn.database import opened

    with opened(fabric) as database:
        found = database.read(name)
        differences = compare(rows, found)
        gone = [each.old for each in differences if each.old is not None and each.new is None]
        wrong = [*problems(rows, found, database.where), *held(gone, found, database.where)]
        if wrong:
            raise PlanError(wrong)
        yield changes(database, name, differences)

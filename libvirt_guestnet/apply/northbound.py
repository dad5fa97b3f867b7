"""What `plan`, `apply` and `destroy` do of a topology's networks in OVN, beside what they do of libvirt's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

"""Changes of rows in OVN's northbound database: each says what it is of, and all of a plan are one transaction, which
is made before what is changed of any host, and taken back after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from libvirt_guestnet.changes.change import Change, Run
from libvirt_guestnet.ovn.compare import Difference
from libvirt_guestnet.ovn.rows import WORDS


class Committing(Protocol):
    """What makes changes of rows, all or none. Raises GuestnetError."""

    def commit(self, topology: str, differences: Sequence[Difference]) -> None: ...


@dataclass(frozen=True)
class Transaction:
    """All differences of a topology, in the database that has them."""

    database: Committing
    topology: str
    differences: tuple[Difference, ...]

    def run(self) -> None:
        self.database.commit(self.topology, self.differences)

    def reverse(self) -> None:
        self.database.commit(self.topology, [each.reverse() for each in reversed(self.differences)])


@dataclass(frozen=True)
class SetRow(Change):
    """A row that is made, changed or removed. The `transaction` is the last one's to run, once all have been said."""

    difference: Difference | None = None
    transaction: Transaction | None = field(default=None, compare=False, repr=False)

    VERB: ClassVar[str] = "set"
    KIND: ClassVar[str] = "OVN"

    @property
    def verb(self) -> str:
        if self.difference is None or self.difference.old is None:
            return "define"
        return "set" if self.difference.new is not None else "remove"

    def run(self, run: Run) -> None:
        if self.transaction is not None:
            self.transaction.run()
            run.done("changed OVN's database", "change OVN's database back", self.transaction.reverse)


def changes(database: Committing, topology: str, differences: tuple[Difference, ...]) -> tuple[SetRow, ...]:
    """A change for each difference."""
    whole = Transaction(database, topology, differences)
    made = [
        SetRow(name=f"{WORDS[each.row.table]} {each.row.key}", detail=each.detail(), difference=each)
        for each in differences
    ]
    if made:
        last = made[-1]
        made[-1] = SetRow(last.name, last.detail, difference=last.difference, transaction=whole)
    return tuple(made)

"""What differs between the rows that a topology needs and those that are there, by meaning. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from libvirt_guestnet.ovn.rows import NAMED, PARENTS, WORDS, Northbound, Ref, Row, Value

# Whoever is listed by another comes after it when rows are made.
_DEEPEST = 3


@dataclass(frozen=True)
class Difference:
    """A row before and after; None where there is none."""

    old: Row | None
    new: Row | None

    @property
    def row(self) -> Row:
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def changed(self) -> tuple[str, ...]:
        """The columns that differ, of a row that stays."""
        if self.old is None or self.new is None:
            return ()
        before, after = self.old.columns, self.new.columns
        return tuple(name for name in sorted(after) if before.get(name) != after[name])

    def reverse(self) -> Difference:
        return Difference(self.new, self.old)

    def detail(self) -> str:
        """What is new, in words."""
        if self.old is not None and self.new is not None:
            said = (
                f"{name} {_text(self.old.columns[name])} -> {_text(self.new.columns[name])}" for name in self.changed
            )
            return "; ".join(said)
        return "" if self.new is None else _summary(self.new)


def compare(wanted: Sequence[Row], found: Northbound) -> tuple[Difference, ...]:
    """Removals first, parents before what they list."""
    by_ref = {row.ref: row for row in wanted}
    gone = [row for ref, row in found.rows.items() if ref not in by_ref or _moved(by_ref[ref], row)]
    moved = {row.ref for row in gone}
    new = [Difference(None, row) for ref, row in by_ref.items() if ref not in found.rows or ref in moved]
    kept = (Difference(found.rows[ref], row) for ref, row in by_ref.items() if ref in found.rows and ref not in moved)
    return (
        *(Difference(row, None) for row in sorted(gone, key=_order, reverse=True)),
        *sorted(new, key=lambda each: _order(each.row)),
        *(each for each in kept if each.changed),
    )


def problems(wanted: Iterable[Row], found: Northbound, where: str) -> Iterator[str]:
    """Why the database cannot be made so without touching what is not the topology's: a line for each reason."""
    for row in wanted:
        owner = found.others.get((row.table, row.name)) if row.table in NAMED else None
        if owner is not None:
            yield _taken(row, owner, where)


def held(gone: Iterable[Row], found: Northbound, where: str) -> Iterator[str]:
    """Rows that are to go and list rows of others, which would go with them."""
    for row in gone:
        for guest in found.guests.get(row.ref, ()):
            yield (
                f"{WORDS[row.table]} {label(row)!r} in {where} has {guest}, which guestnet did not make and would go "
                "with it: move or remove that first"
            )


def _taken(row: Row, owner: str, where: str) -> str:
    whose = f"topology {owner!r}" if owner else "somebody else than guestnet"
    return (
        f"{WORDS[row.table]} {row.name!r} in {where} is there already, and {whose} made it: rename or remove it there, "
        "or give the topology another name"
    )


def label(row: Row) -> str:
    """By what people know the row."""
    return row.key


def _moved(wanted: Row, found: Row) -> bool:
    """Whether another row lists it: it is made anew there."""
    return wanted.parent != found.parent


def _order(row: Row) -> tuple[int, str, str]:
    return _depth(row.table), row.table, row.key


def _depth(table: str) -> int:
    depth = 0
    while table in PARENTS and depth < _DEEPEST:
        table, depth = PARENTS[table][0], depth + 1
    return depth


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_item, value)) + "}"
    return str(value) or '""'


def _item(item: str | tuple[str, str] | Ref) -> str:
    if isinstance(item, Ref):
        return item.key
    return item if isinstance(item, str) else "=".join(item)


_SAID = ("addresses", "networks", "vips", "external_ip", "ip_prefix", "match", "cidr", "chassis_name")


def _summary(row: Row) -> str:
    return "; ".join(f"{name} {_text(row.columns[name])}" for name in _SAID if row.columns.get(name))

"""OVN's northbound database, by ovsdbapp: the only user of that library.

All that one topology changes is one transaction. Two that apply the same topology take turns by a lock of the database
itself; and what was read for a plan must still be so when it is carried out.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.host import Fabric
from libvirt_guestnet.ovn import names
from libvirt_guestnet.ovn.compare import Difference
from libvirt_guestnet.ovn.rows import (
    COLUMNS,
    KEY,
    NAMED,
    PARENTS,
    REFERENCES,
    TOPOLOGY,
    Northbound,
    Ref,
    Row,
    Value,
)

SCHEMA = "OVN_Northbound"
SECONDS = 60
"""How long the database may take to connect, and for a transaction."""
_LOCK_SECONDS = 60.0
_MISSING = (
    "networks of OVN need the Python library ovsdbapp, which is not installed: apt-get install python3-ovsdbapp, or "
    "pip install 'libvirt-guestnet[ovn]'"
)
T = TypeVar("T")


class NorthboundError(GuestnetError):
    """The northbound database could not be reached, or did not do what was asked."""


class Database:
    """A connection to the northbound database, with a replica of its tables that follows it."""

    def __init__(self, api: Any, where: str) -> None:
        self._api = api
        self.where = where

    def read(self, topology: str) -> Northbound:
        """What it has of a topology."""
        with self._api.ovsdb_connection.lock:
            return _read(self._api.tables, topology)

    def commit(self, topology: str, differences: Sequence[Difference]) -> None:
        """All of them in one transaction, or nothing. Raises NorthboundError."""
        self._take_lock(topology)
        from ovsdbapp import exceptions
        from ovsdbapp.backend.ovs_idl.command import BaseCommand

        class Rows(BaseCommand):  # type: ignore[misc]
            def run_idl(self, txn: Any) -> None:
                _write(self.api.tables, txn, topology, differences)

        try:
            Rows(self._api).execute(check_error=True, log_errors=False)
        except (exceptions.OvsdbAppException, RuntimeError, queue.Empty) as error:
            raise NorthboundError(f"{self.where} did not take the change: {error or type(error).__name__}") from error
        self._check(topology, differences)

    def _check(self, topology: str, differences: Sequence[Difference]) -> None:
        """The library leaves out a value that does not fit its column, and says nothing."""
        there = self.read(topology).rows
        for each in differences:
            if each.new is not None and there.get(each.new.ref) != each.new:
                raise NorthboundError(f"{self.where} has another {each.row.table} {each.row.key!r} than it was told")

    def _take_lock(self, topology: str) -> None:
        """Waits for another apply of the topology, wherever that is."""
        connection, name = self._api.ovsdb_connection, names.group("lock", topology)
        with connection.lock:
            if connection.idl.lock_name != name:
                connection.idl.set_lock(name)
        connection.txns.alert_notify()
        deadline = time.monotonic() + _LOCK_SECONDS
        while not connection.idl.has_lock:
            if time.monotonic() > deadline:
                raise NorthboundError(
                    f"{self.where}: another guestnet has changed topology {topology!r} for {_LOCK_SECONDS:.0f} s: wait "
                    f"for it (it holds the lock {name})"
                )
            time.sleep(0.01)


@contextmanager
def opened(fabric: Fabric, seconds: int = SECONDS) -> Iterator[Database]:
    """A connection to the topology's northbound database. Raises NorthboundError when there is none within
    `seconds`."""
    where = f"northbound database {', '.join(fabric.northbound)}"
    api = _within(seconds, where, lambda: _connect(fabric, seconds))
    try:
        yield Database(api, where)
    finally:
        api.ovsdb_connection.stop(timeout=5)


def _connect(fabric: Fabric, seconds: int) -> Any:
    try:
        from ovs.stream import Stream
        from ovsdbapp.backend.ovs_idl import connection
        from ovsdbapp.backend.ovs_idl.idlutils import get_schema_helper
        from ovsdbapp.schema.ovn_northbound.impl_idl import OvnNbApiIdlImpl
    except ImportError as error:
        raise NorthboundError(_MISSING) from error
    for name in ("ovsdbapp", "ovs"):  # what they would say, our errors say
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if fabric.tls is not None:
        Stream.ssl_set_private_key_file(fabric.tls.key)
        Stream.ssl_set_certificate_file(fabric.tls.certificate)
        Stream.ssl_set_ca_cert_file(fabric.tls.ca)
    remote = ",".join(fabric.northbound)
    helper = get_schema_helper(remote, SCHEMA)
    for table, columns in COLUMNS.items():
        known = helper.schema_json["tables"].get(table, {"columns": {}})["columns"]
        parents = {column for parent, column in PARENTS.values() if parent == table}
        if lacking := (columns | parents | {"external_ids"}) - known.keys():
            raise NorthboundError(f"{remote}: table {table} has no {', '.join(sorted(lacking))}: OVN is too old")
        helper.register_columns(table, [*columns, *parents, "external_ids"])
    idl = connection.OvsdbIdl(remote, helper)
    return OvnNbApiIdlImpl(connection.Connection(idl, seconds), start=True, auto_index=False)


def _within(seconds: float, where: str, do: Callable[[], T]) -> T:
    """What `do` returns or raises; the library opens connections without a deadline of its own."""
    answers: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            answers.put((do(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, failure = answers.get(timeout=seconds)
    except queue.Empty:
        raise NorthboundError(f"{where} did not answer within {seconds:.0f} s: does it run there?") from None
    if isinstance(failure, GuestnetError):
        raise failure
    if failure is not None:
        raise NorthboundError(f"{where} cannot be reached: {failure or type(failure).__name__}") from failure
    assert found is not None
    return found


def _read(tables: Any, topology: str) -> Northbound:
    mine = {table: dict(_of(tables, table, topology)) for table in COLUMNS}
    refs = {row.uuid: Ref(table, key) for table, rows in mine.items() for key, row in rows.items()}
    parents: dict[Any, Ref] = {}
    guests: dict[Ref, list[str]] = {}
    for table, (parent, column) in PARENTS.items():
        for ref, row in ((Ref(parent, key), row) for key, row in mine[parent].items()):
            for child in getattr(row, column):
                if child.uuid in refs:
                    parents[child.uuid] = ref
                else:
                    guests.setdefault(ref, []).append(f"{table} {getattr(child, 'name', child.uuid)}")
    rows = {
        Ref(table, key): Row(table, key, _columns(table, row, refs), parents.get(row.uuid))
        for table, found in mine.items()
        for key, row in found.items()
    }
    said = {ref: tuple(sorted(names)) for ref, names in guests.items()}
    return Northbound(rows, dict(_others(tables, refs)), said)


def _of(tables: Any, table: str, topology: str) -> Iterator[tuple[str, Any]]:
    """A topology's rows by their keys; a second one of a key, which another apply or a copy left, by its UUID."""
    seen = set()
    for row in tables[table].rows.values():
        said = row.external_ids
        if said.get(TOPOLOGY) == topology:
            key = said.get(KEY, "")
            key = f"{key} {row.uuid}" if key in seen or not key else key
            seen.add(key)
            yield key, row


def _others(tables: Any, ours: Mapping[Any, Ref]) -> Iterator[tuple[tuple[str, str], str]]:
    for table in NAMED:
        for row in tables[table].rows.values():
            if row.uuid not in ours and row.name:
                yield (table, row.name), row.external_ids.get(TOPOLOGY, "")


def _columns(table: str, row: Any, refs: Mapping[Any, Ref]) -> dict[str, Value]:
    return {name: _value(getattr(row, name), refs) for name in COLUMNS[table]}


def _value(found: Any, refs: Mapping[Any, Ref]) -> Value:
    if isinstance(found, dict):
        return tuple(sorted(found.items()))
    if isinstance(found, list | tuple):
        known = [refs.get(each.uuid) if hasattr(each, "uuid") else str(each) for each in found]
        return tuple(sorted(each for each in known if each is not None))  # type: ignore[return-value]
    if hasattr(found, "uuid"):
        return (refs[found.uuid],) if found.uuid in refs else ()
    value: Value = found
    return value


def _write(tables: Any, txn: Any, topology: str, differences: Sequence[Difference]) -> None:
    """Raises NorthboundError, before anything is sent, when what is there is not what was planned for."""
    mine = {table: dict(_of(tables, table, topology)) for table in COLUMNS}
    rows = {Ref(table, key): row for table, found in mine.items() for key, row in found.items()}
    refs = {row.uuid: ref for ref, row in rows.items()}
    going = {each.old.ref for each in differences if each.old is not None and each.new is None}
    for each in differences:
        if not _is_as_planned(each, rows, refs, going):
            raise NorthboundError(f"{each.row.table} {each.row.key!r} was changed by somebody meanwhile: apply again")
    for each in differences:
        if each.old is not None and each.new is None:
            _remove(rows, each.old, going)
    for ref in going:
        rows.pop(ref)
    new = [each.new for each in differences if each.old is None and each.new is not None]
    for row in new:
        rows[row.ref] = txn.insert(tables[row.table])
        rows[row.ref].external_ids = {TOPOLOGY: topology, KEY: row.key}
    for row in new:
        _set(rows, refs, row, tuple(row.columns))
    for each in differences:
        if each.old is not None and each.new is not None:
            _set(rows, refs, each.new, each.changed)
    _list(rows, new)


def _is_as_planned(each: Difference, rows: Mapping[Ref, Any], refs: Mapping[Any, Ref], going: set[Ref]) -> bool:
    row = rows.get(each.row.ref)
    if each.old is None:
        return row is None or each.row.ref in going
    return row is not None and _columns(each.old.table, row, refs) == each.old.columns


def _remove(rows: Mapping[Ref, Any], old: Row, going: set[Ref]) -> None:
    """A row that another lists goes by itself when that no longer lists it, or goes."""
    if old.table not in PARENTS:
        rows[old.ref].delete()
    elif old.parent is not None and old.parent not in going:
        rows[old.parent].delvalue(PARENTS[old.table][1], rows[old.ref])


def _list(rows: Mapping[Ref, Any], new: Sequence[Row]) -> None:
    """Puts new rows into those that list them."""
    made = {row.ref for row in new}
    inside: dict[tuple[Ref, str], list[Any]] = {}
    for row in new:
        if row.parent is not None:
            inside.setdefault((row.parent, PARENTS[row.table][1]), []).append(rows[row.ref])
    for (parent, column), children in inside.items():
        if parent in made:
            setattr(rows[parent], column, children)
        else:
            for child in children:
                rows[parent].addvalue(column, child)


def _set(rows: Mapping[Ref, Any], refs: Mapping[Any, Ref], new: Row, names: Sequence[str]) -> None:
    row = rows[new.ref]
    for name in names:
        if name in REFERENCES.get(new.table, {}):
            listed = getattr(row, name) if new.ref in refs.values() else []
            others = [each for each in listed if each.uuid not in refs]
            ours: Any = new.columns[name]
            setattr(row, name, [*others, *(rows[ref] for ref in ours)])
        else:
            setattr(row, name, _python(row, name, new.columns[name]))


def _python(row: Any, name: str, value: Value) -> object:
    """A value as the library wants it for a column of that type."""
    kind = row._table.columns[name].type
    if kind.is_map():
        return dict(value)  # type: ignore[arg-type]
    if not isinstance(value, tuple):
        return value
    of = kind.key.type.to_string()
    if of == "boolean":
        return [each == "True" for each in value]
    return [int(str(each)) if of == "integer" else each for each in value]

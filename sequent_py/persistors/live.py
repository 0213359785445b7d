"""The live persistor: straight SQL, one statement per operation, inside the transaction of the events.

On a caller's connection every statement is sent when it is due. On one of the store's own a :class:`~sequent_py.persistors.lines.Line` carries them, which can have
answered some already, and sends others later; rows and errors are the same.

Locks the rows it updates, from the read at the start of an update's block to the end of the transaction, so that two transactions that
add to one row do so one after the other. Takes no other locks and commits nothing. After an error of the server the transaction is the
caller's to roll back, as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar, cast

import psycopg

from sequent_py.errors import RecordNotFound, RecordNotManaged
from sequent_py.persistors.lines import Line
from sequent_py.persistors.live_tables import LiveTable
from sequent_py.persistors.tables import TableShape
from sequent_py.records import Record
from sequent_py.row_classes import Row

R = TypeVar("R", bound=Record)


class LivePersistor:
    """Projects straight into the tables over ``connection``. Cheap to make: what can be prepared lives with the tables."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        tables: Mapping[type[Record], TableShape],
        line: Line | None = None,
    ) -> None:
        self.connection, self._line = connection, line
        self._tables = tables
        self._live: dict[type[Record], LiveTable] = {}

    def create_record(self, record: type[R], values: Mapping[str, Any]) -> R:
        row: R = self._table(record).create_one(values)
        return row

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]]) -> list[R]:
        return cast(list[R], self._table(record).create(list(rows)))

    def update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return LiveUpdate(self._table(record), where, touched, False)

    def create_or_update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return LiveUpdate(self._table(record), where, touched, True)

    def get_record(self, record: type[R], where: Mapping[str, Any]) -> R:
        row = self.find_record(record, where)
        if row is None:
            raise RecordNotFound(record.__name__, where)
        return row

    def find_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        row: R | None = self._table(record).first(where, "ASC")
        return row

    def find_records(self, record: type[R], where: Mapping[str, Any]) -> list[R]:
        table = self._table(record)
        query, parameters = table.statements.select(table.operations.filters(where), order="ASC")
        return cast(list[R], [table.operations.load(values) for values in table.run(query, parameters)])

    def last_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        row: R | None = self._table(record).first(where, "DESC")
        return row

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int:
        table = self._table(record)
        filters = table.operations.filters(where)
        return table.update(filters, table.operations.coerced(values))

    def delete_record(self, record: type[R], row: R) -> int:
        return self.delete_all_records(record, self._table(record).operations.key_filters(row))

    def delete_all_records(self, record: type[Record], where: Mapping[str, Any]) -> int:
        table = self._table(record)
        query, parameters = table.statements.delete(table.operations.filters(where))
        return table.change(query, parameters).rowcount

    def _table(self, record: type[Record]) -> LiveTable:
        found = self._live.get(record)
        if found is None:
            if record not in self._tables:
                raise RecordNotManaged("This persistor", getattr(record, "__name__", repr(record)))
            found = self._live[record] = LiveTable(self.connection, self._tables[record], self._line)
        return found


class LiveUpdate:
    """The block of an update: reads and locks the row, yields a writable copy, writes what changed."""

    __slots__ = ("_after", "_before", "_may_create", "_table", "_touched", "_where", "_writes")

    def __init__(
        self, table: LiveTable, where: Mapping[str, Any], touched: Mapping[str, Any], may_create: bool
    ) -> None:
        self._table, self._where, self._touched, self._may_create = table, where, touched, may_create

    def __enter__(self) -> Row:
        table, operations = self._table, self._table.operations
        self._before = table.first(self._where, "ASC", lock=True)
        if self._before is not None:
            self._after = operations.clone(self._before)
        elif self._may_create:
            self._after = operations.draft(operations.filters(self._where), table.draw)
        else:
            raise RecordNotFound(table.name, self._where)
        operations.touch(self._after, self._touched)
        self._writes = table.writes
        return self._after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        after, before = self._after, self._before
        try:
            if kind is None:
                self._insert(after) if before is None else self._write(before, after)
        finally:
            self._table.operations.lock(after)

    def _insert(self, after: Row) -> None:
        table, operations = self._table, self._table.operations
        operations.check_draft(after)
        if table.may_wait:
            table.insert_later(after)
        else:
            table.insert(after, returning=False)

    def _write(self, before: Row, after: Row) -> None:
        table, operations = self._table, self._table.operations
        operations.finish(after, before)
        changed = operations.changed(before, after)
        if changed:
            # The row is locked; nothing but the block itself can have written to it meanwhile.
            table.update_row(before, changed, after, may_wait=table.writes == self._writes)

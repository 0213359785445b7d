"""The replay persistor: rows in memory, written in bulk.

``backing="none"`` starts from nothing: look-ups see what was created since the last flush. Rows beyond ``max_rows_in_memory`` move to a
temporary table of their own. ``flush`` appends everything to the tables by COPY and starts from nothing again.

``backing="table"`` goes on from what the tables hold: misses read them, ``flush`` inserts, updates and deletes what differs. When memory
is full the same happens early, within the caller's transaction.

Locks nothing but the rows it writes and commits nothing: a worker's transaction makes a batch all or nothing, and after a failure the
persistor is to be thrown away with the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

import psycopg

from sequent_py.errors import RecordNotFound, RecordNotManaged
from sequent_py.persistors.ahead import AccessPaths, Coming, ReadAhead
from sequent_py.persistors.backing import Residency, RowDelta
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.relations import Relation, Spill
from sequent_py.persistors.several import create_all, delete, delete_all, update_all
from sequent_py.persistors.shortcuts import shorten
from sequent_py.persistors.tables import DefaultSource, TableShape
from sequent_py.projectors import Projector
from sequent_py.records import Record

R = TypeVar("R", bound=Record)

__all__ = ["ReplayPersistor", "RowDelta"]

AGGREGATES_PER_STATEMENT = 1_000
"""Beyond it the list of ids in a statement costs more than the round trip."""


class _MemoryTables(dict[type[Record], MemoryTable]):
    """Tables by record. A look-up that fails is an error of its own, so that those that succeed need no test."""

    def __missing__(self, record: Any) -> MemoryTable:
        raise RecordNotManaged("This persistor", getattr(record, "__name__", repr(record)))


class ReplayPersistor:
    """Projects into memory; ``connection`` draws defaults, reads what is missing and takes the flush."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        tables: Mapping[type[Record], TableShape],
        *,
        backing: Literal["none", "table"] = "none",
        max_rows_in_memory: int = 200_000,
    ) -> None:
        self._connection, self._shapes, self._backing = connection, dict(tables), backing
        self._budget = max_rows_in_memory
        self.writing: TableShape | None = None
        """The table that was written last; after a failure in :meth:`flush` the one whose rows were refused."""
        self._ahead: ReadAhead | None = None
        self._tables = _MemoryTables()
        for record, table in tables.items():
            memory = self._tables[record] = MemoryTable(table, DefaultSource(connection, table))
            memory.make_room = self._make_room
            memory.take_at_most(max(1, max_rows_in_memory // len(tables)))
            if backing == "table":
                relation = Relation(connection, table, (table.schema, table.name))
                memory.back_by(Residency(memory, relation, is_relation_empty=False))

    def create_record(self, record: type[R], values: Mapping[str, Any]) -> R:
        return self._tables[record].create(values)  # type: ignore[no-any-return]

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]]) -> list[R]:
        return create_all(self._tables[record], rows)

    def update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return self._tables[record].update(where, touched)

    def create_or_update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return self._tables[record].create_or_update(where, touched)

    def get_record(self, record: type[R], where: Mapping[str, Any]) -> R:
        row = self.find_record(record, where)
        if row is None:
            raise RecordNotFound(record.__name__, where)
        return row

    def find_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        table = self._tables[record]
        key = table.first(where)
        return None if key is None else table.read(key)

    def find_records(self, record: type[R], where: Mapping[str, Any]) -> list[R]:
        table = self._tables[record]
        return [table.read(key) for key in table.keys(where)]

    def last_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        table = self._tables[record]
        key = table.last(where)
        return None if key is None else table.read(key)

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int:
        return update_all(self._tables[record], where, values)

    def delete_record(self, record: type[R], row: R) -> int:
        return delete(self._tables[record], row)

    def delete_all_records(self, record: type[Record], where: Mapping[str, Any]) -> int:
        return delete_all(self._tables[record], where)

    # What workers call

    def shorten(self, projector: Projector) -> None:
        """Let a projector that has this persistor take the short way to its rows."""
        shorten(projector, self._tables)

    @property
    def shapes(self) -> Mapping[type[Record], TableShape]:
        """The tables that are projected into."""
        return self._shapes

    @property
    def rows_in_memory(self) -> int:
        """How many rows are held now."""
        return sum(len(table.rows) for table in self._tables.values())

    def read_ahead(self, coming: Coming, paths: AccessPaths) -> None:
        """From now on let a look-up that misses read what coming events will ask for, too, as far as ``paths`` tells; they learn from it."""
        self._ahead = ReadAhead(coming, paths)
        for table in self._tables.values():
            if table.residency is not None:
                table.residency.ahead = self._ahead

    def delete_aggregates(self, aggregate_ids: Sequence[UUID]) -> None:
        """Delete all rows of these aggregates from the tables, before anything of them is projected; they count in the next flush.

        Only with ``backing="table"``. Records without an ``aggregate_id`` are left as they are.
        """
        for memory in self._tables.values():
            if memory.residency is not None and memory.operations.shape.has_aggregate_id:
                for start in range(0, len(aggregate_ids), AGGREGATES_PER_STATEMENT):
                    ids = list(aggregate_ids[start : start + AGGREGATES_PER_STATEMENT])
                    memory.residency.delete_all(memory.operations.filters({"aggregate_id": ids}))

    def flush(self) -> Mapping[type[Record], RowDelta]:
        """Write everything to the tables, forget all rows and say how many were added and taken per record.

        May be called any number of times; each batch starts afresh.

        Raises
        ------
        DuplicateRecord
            A row was created under the primary key of one that the table had.
        psycopg.Error
            A constraint of the table file was violated.
        """
        return {record: self._flush(self._shapes[record], table) for record, table in self._tables.items()}

    def _flush(self, shape: TableShape, memory: MemoryTable) -> RowDelta:
        residency, self.writing = memory.residency, shape
        if residency is not None and self._backing == "table":
            residency.write_back()
            return residency.take_delta()
        target = Relation(self._connection, shape, (shape.schema, shape.name))
        inserted = 0
        rows = list(memory.rows.values())
        if residency is not None:
            rows = residency.take_unwritten()
            inserted = cast(Spill, residency.relation).move_to(target)
            memory.back_by(None)
        if rows:
            inserted += target.insert(rows)
        memory.clear()
        return RowDelta(inserted, 0)

    def _make_room(self, table: MemoryTable) -> None:
        """Let ``table`` grow while all tables together are within the budget; else evict half of the largest."""
        tables = self._tables.values()
        spare = self._budget - self.rows_in_memory
        if spare <= 0:
            largest = max(tables, key=lambda candidate: len(candidate.rows))
            if largest.residency is None:
                spill = Spill(self._connection, largest.operations.table)
                largest.back_by(Residency(largest, spill, is_relation_empty=True))
            residency = largest.residency
            assert residency is not None
            residency.ahead = self._ahead
            self.writing = largest.operations.table
            residency.evict(len(largest.rows) // 2)
            spare = self._budget - self.rows_in_memory
        table.take_at_most(len(table.rows) + max(1, spare // len(tables)))

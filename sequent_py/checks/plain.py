"""The plain persistor: rows in dictionaries, for a fold that checks what another persistor has written.

A third implementation beside the live persistor and the replay's memory, and deliberately the simplest: no C, no generated stores, nothing read ahead, no row
that is shared with a handler's block. What it has in common with the live persistor is what makes values and filters of what handlers give
(``operations``); with the replay it has no more in common than that. Some fifty microseconds per event instead of the three hundred that the live persistor and
the server spend on its statements.

:meth:`PlainPersistor.flush` copies all rows into the tables, as text. They are taken to be empty, and nobody else writes them meanwhile. So when memory is full, the rows of a
table are copied there before, and whatever a handler may ask for comes back first: rows that match its filters are deleted from the table and put into
memory, where the question is then answered. What only the server can know (constraints other than the primary key, and that a key is taken by a row that
was copied) is said by the copying.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from types import TracebackType
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors, sql

from sequent_py.conversions import is_same
from sequent_py.cursors import OwnCursor
from sequent_py.errors import RecordNotFound, RecordNotManaged
from sequent_py.persistors import DuplicateRecord
from sequent_py.persistors.generators import Key, Values, Where
from sequent_py.persistors.operations import Filter, RowOperations, operations_of
from sequent_py.persistors.statements import Statements, statements_of
from sequent_py.persistors.tables import DefaultSource, TableShape
from sequent_py.records import Record
from sequent_py.row_classes import Row

R = TypeVar("R", bound=Record)

MOST_ROWS = 100_000
"""Of one table in memory: some fifty megabytes."""
MOST_ROUNDS = 10
"""So often on average a row may come back into memory."""


class OutOfRoom(Exception):
    """Handlers ask for all rows again and again, and memory does not hold them."""


class PlainPersistor:
    """Projects into memory, and into tables that are empty at first."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        tables: Mapping[type[Record], TableShape],
        *,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._tables = {record: PlainTable(connection, table, most_rows) for record, table in tables.items()}

    def create_record(self, record: type[R], values: Mapping[str, Any]) -> R:
        return cast(R, self._table(record).create([values])[0])

    def create_records(self, record: type[R], rows: Iterable[Mapping[str, Any]]) -> list[R]:
        return cast(list[R], self._table(record).create(rows))

    def update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return cast(AbstractContextManager[R], PlainUpdate(self._table(record), where, touched, False))

    def create_or_update_record(
        self, record: type[R], where: Mapping[str, Any], touched: Mapping[str, Any]
    ) -> AbstractContextManager[R]:
        return cast(AbstractContextManager[R], PlainUpdate(self._table(record), where, touched, True))

    def get_record(self, record: type[R], where: Mapping[str, Any]) -> R:
        row = self.find_record(record, where)
        if row is None:
            raise RecordNotFound(record.__name__, where)
        return row

    def find_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        table = self._table(record)
        keys = table.matches(table.operations.filters(where))
        return cast("R | None", table.read(keys[0]) if keys else None)

    def find_records(self, record: type[R], where: Mapping[str, Any]) -> list[R]:
        table = self._table(record)
        return cast(list[R], [table.read(key) for key in table.matches(table.operations.filters(where))])

    def last_record(self, record: type[R], where: Mapping[str, Any]) -> R | None:
        table = self._table(record)
        keys = table.matches(table.operations.filters(where))
        return cast("R | None", table.read(keys[-1]) if keys else None)

    def update_all_records(
        self, record: type[Record], where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int:
        table = self._table(record)
        filters = table.operations.filters(where)
        return table.update_all(filters, table.operations.coerced(values))

    def delete_record(self, record: type[R], row: R) -> int:
        return self.delete_all_records(record, self._table(record).operations.key_filters(row))

    def delete_all_records(self, record: type[Record], where: Mapping[str, Any]) -> int:
        table = self._table(record)
        keys = list(table.matches(table.operations.filters(where)))
        for key in keys:
            table.remove(key)
        return len(keys)

    def flush(self) -> None:
        """Copy all rows into the tables, and forget them.

        Raises
        ------
        DuplicateRecord
            A row was made under the primary key of one that had been copied before.
        psycopg.Error
            The server refuses a row.
        """
        for table in self._tables.values():
            table.flush()

    def _table(self, record: type[Record]) -> PlainTable:
        found = self._tables.get(record)
        if found is None:
            raise RecordNotManaged("This persistor", getattr(record, "__name__", repr(record)))
        return found


class PlainTable:
    """The rows of one table by primary key, and for each combination of columns that was filtered by, the keys of the rows with each of its values."""

    def __init__(self, connection: psycopg.Connection[Any], table: TableShape, most_rows: int) -> None:
        self.operations: RowOperations = operations_of(table)
        self.name = self.operations.name
        self.rows: dict[Key, Row] = {}
        self.defaults = DefaultSource(connection, table)
        self._cursor = OwnCursor(connection)
        self._relation = sql.Identifier(table.schema, table.name)
        self._statements: Statements = statements_of(table)
        self._most_rows = most_rows
        self._is_divided = False
        """Whether there are rows in the table."""
        self._made = self._recalled = 0
        self._value_keys = {name: self.operations.value_key(name) for name in self.operations.columns}
        self._indexes: dict[tuple[str, ...], dict[tuple[Any, ...], list[Key]]] = {}

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """Return what stands for a row's primary key."""
        return self._values_of(row, self.operations.key_attributes)

    def _values_of(self, row: Row, attributes: Sequence[str]) -> tuple[Any, ...]:
        value_keys = self._value_keys
        return tuple([value_keys[name](getattr(row, name)) for name in attributes])

    # Rows in and out

    def insert(self, row: Row) -> None:
        """Store a new locked row; DuplicateRecord if its key is taken."""
        key = self.key_of(row)
        if key in self.rows:
            raise self.operations.duplicate(row)
        self._made += 1
        self._adopt(key, row)

    def make_room(self) -> None:
        """Copy all rows into the table if memory is full; before rows are made, and never while several are being changed."""
        if len(self.rows) >= self._most_rows:
            self.flush()

    def _adopt(self, key: Key, row: Row) -> None:
        self.rows[key] = row
        for attributes, entries in self._indexes.items():
            insort(entries.setdefault(self._values_of(row, attributes), []), key)

    def remove(self, key: Key) -> None:
        """Remove a stored row."""
        row = self.rows.pop(key)
        for attributes, entries in self._indexes.items():
            value = self._values_of(row, attributes)
            keys = entries[value]
            del keys[bisect_left(keys, key)]
            if not keys:
                del entries[value]

    def replace(self, key: Key, after: Row, changed: Iterable[str]) -> None:
        """Put a row in the place of another one, from which it differs in the attributes ``changed``."""
        indexed = {name for attributes in self._indexes for name in attributes}
        if indexed.isdisjoint(changed) and not set(self.operations.key_attributes).intersection(changed):
            self.rows[key] = after
            return
        if self.key_of(after) != key and self._is_taken(after):
            raise self.operations.duplicate(after)
        self.remove(key)
        self.insert(after)

    # Look-ups

    def matches(self, filters: Sequence[Filter]) -> Sequence[Key]:
        """Return the keys of all matching rows in order; not to be changed, and not to be kept beyond the next change."""
        attributes = tuple([item.column.attribute for item in filters])
        wanted = [
            [self._value_keys[name](value) for value in item.values]
            for name, item in zip(attributes, filters, strict=True)
        ]
        found = self._finder(attributes)
        if all(len(values) == 1 for values in wanted):
            one = tuple([values[0] for values in wanted])
            if self._is_divided and (attributes != self.operations.key_attributes or one not in self.rows):
                self._recall(filters)
            return found(one)
        if self._is_divided:
            self._recall(filters)
        return sorted({key for values in product(*wanted) for key in found(values)})

    def _finder(self, attributes: tuple[str, ...]) -> Callable[[tuple[Any, ...]], Sequence[Key]]:
        if attributes == self.operations.key_attributes:
            return lambda key: (key,) if key in self.rows else ()
        entries = self._indexes.get(attributes)
        if entries is None:
            entries = self._indexes[attributes] = {}
            for key in sorted(self.rows):
                entries.setdefault(self._values_of(self.rows[key], attributes), []).append(key)
        return lambda values: entries.get(values, ())

    def _recall(self, filters: Sequence[Filter]) -> None:
        """Take the rows that match back from the table."""
        query, parameters = self._statements.delete(filters, returning=True)
        for values in self._cursor.execute(query, parameters).fetchall():
            row = self.operations.load(values)
            self._adopt(self.key_of(row), row)
            self._recalled += 1
        if self._recalled > MOST_ROUNDS * self._made:
            raise OutOfRoom(
                f"{self._recalled} rows of {self.name} were taken back into memory, {self._made} made"
            )

    def read(self, key: Key) -> Row:
        """Return a stored row for a reader."""
        detach = self.operations.detach
        return self.rows[key] if detach is None else detach(self.rows[key])

    # Operations

    def create(self, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
        """Make, store and return rows, all or none."""
        operations = self.operations
        completed = [operations.completed(values) for values in rows]
        made = [operations.fill(values, self.defaults.draw) for values in completed]
        self.make_room()
        keys = set()
        for row in made:
            key = self.key_of(row)
            if key in keys or key in self.rows:
                raise operations.duplicate(row)
            keys.add(key)
        for row in made:
            self.insert(row)
        detach = operations.detach
        return made if detach is None else [detach(row) for row in made]

    def update_all(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of all matching rows and return how many match."""
        keys = list(self.matches(filters))
        if not values:
            return len(keys)
        after = {key: self._with(self.rows[key], values) for key in keys}
        if set(values).isdisjoint(self.operations.key_attributes):
            for key, row in after.items():
                self.replace(key, row, values)
            return len(keys)
        moved = set()
        for row in after.values():
            key = self.key_of(row)
            if key in moved or (key not in after and self._is_taken(row)):
                raise self.operations.duplicate(row)
            moved.add(key)
        for key in keys:
            self.remove(key)
        for row in after.values():
            self.insert(row)
        return len(keys)

    def _is_taken(self, row: Row) -> bool:
        """Whether there is a row with this one's primary key; it is in memory then."""
        return bool(self.matches(self.operations.filters(self.operations.key_values(row))))

    def _with(self, before: Row, values: Mapping[str, Any]) -> Row:
        """Return a copy of a stored row with other values, which it shares with nobody."""
        shape = self.operations.shape
        after = shape.clone(before)
        for name, value in values.items():
            setattr(after, name, value)
        return shape.lock(shape.clone(after))

    def write(self, before: Row, values: Mapping[str, Any]) -> None:
        """Set columns of the row with the primary key of ``before``, as it is now.

        Raises
        ------
        RecordNotFound
            There is none any longer.
        """
        key = self.key_of(before)
        if key not in self.rows and not self._is_taken(before):
            raise RecordNotFound(self.name, self.operations.key_values(before))
        self.replace(key, self._with(self.rows[key], values), values)

    def flush(self) -> None:
        """Copy all rows into the table, as text, and forget them."""
        columns = self.operations.columns.values()
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            self._relation, sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        )
        dumps = [(column.attribute, self._statements.dumpers[column.attribute]) for column in columns]
        try:
            with self._cursor.copy(statement) as copy:
                for row in self.rows.values():
                    copy.write_row(
                        [
                            value if (value := getattr(row, name)) is None or dump is None else dump(value)
                            for name, dump in dumps
                        ]
                    )
        except errors.UniqueViolation as error:
            if error.diag.constraint_name not in self.operations.table.key_constraints:
                raise
            raise DuplicateRecord(self.name, {}, error.diag.message_detail) from error
        self._is_divided = bool(self.rows) or self._is_divided
        self.rows.clear()
        for entries in self._indexes.values():
            entries.clear()


class PlainUpdate:
    """The block of an update: yields a writable copy of the first row that matches, and writes what changed."""

    __slots__ = ("_after", "_before", "_may_create", "_table", "_touched", "_where")

    def __init__(self, table: PlainTable, where: Where, touched: Mapping[str, Any], may_create: bool) -> None:
        self._table, self._where, self._touched, self._may_create = table, where, touched, may_create

    def __enter__(self) -> Row:
        table, operations = self._table, self._table.operations
        filters = operations.filters(self._where)
        keys = table.matches(filters)
        self._before = table.rows[keys[0]] if keys else None
        if self._before is not None:
            self._after = operations.shape.clone(self._before)
        elif self._may_create:
            self._after = operations.draft(filters, table.defaults.draw)
        else:
            raise RecordNotFound(table.name, self._where)
        operations.touch(self._after, self._touched)
        return self._after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        table, operations, after, before = self._table, self._table.operations, self._after, self._before
        try:
            if kind is not None:
                return
            if before is None:
                operations.check_draft(after)
                table.make_room()
                table.insert(operations.lock(operations.shape.clone(after)))
            elif changed := _changed(operations, before, after):
                table.write(before, changed)
        finally:
            operations.lock(after)


def _changed(operations: RowOperations, before: Row, after: Row) -> Values:
    """Convert what a block has set, in place, and return it where it is not what was stored."""
    changed = {}
    for name, column in operations.columns.items():
        stored, value = getattr(before, name), getattr(after, name)
        # A mutable value is a copy of the stored one in any case.
        if value is not stored:
            value = column.coerce(value)
            setattr(after, name, value)
            if not is_same(stored, value):
                changed[name] = value
    return changed

"""Relations: rows of a record in the database, read by filter and written in bulk by primary key.

Two kinds stand behind rows in memory: the table itself, and a *spill*, a temporary table private to the connection. Writes lock the rows
they touch; temporary tables are dropped here or by the end of the session or transaction. Nothing is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from sequent_py.persistors import DuplicateRecord
from sequent_py.persistors.copying import copier_of
from sequent_py.persistors.generators import Values
from sequent_py.persistors.loading import NotLoaded, load_rows
from sequent_py.persistors.native import native_table
from sequent_py.persistors.operations import Filter, operations_of
from sequent_py.persistors.statements import Statements
from sequent_py.persistors.tables import TableShape
from sequent_py.records import ColumnShape
from sequent_py.row_classes import Row

_INDEXED = """
    SELECT coalesce(bool_or(names[1] = ANY (%(columns)s)), false),
           coalesce(bool_or(indisunique AND names <@ %(columns)s::text[]), false)
    FROM (
        SELECT i.indisunique, array(
            SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY AS k (number, place)
            LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.place
        ) AS names
        FROM pg_catalog.pg_index i WHERE i.indrelid = %(relation)s::regclass AND i.indisvalid AND i.indpred IS NULL
    ) AS indexes"""
"""Whether an index begins with one of these columns, and whether values of all of them are of one row at most. An expression has no name."""


class Relation:
    """A relation with a record's columns; ``name`` is schema and name, or a temporary table's name alone."""

    def __init__(self, connection: psycopg.Connection[Any], table: TableShape, name: Sequence[str]) -> None:
        self.table, self.shape, self.name = table, table.record_shape, tuple(name)
        self.operations = operations_of(table)
        self.statements = Statements(table, self.name)
        self.connection = connection
        self._copier = copier_of(table)
        self._native = native_table(table)
        self._identifier = sql.Identifier(*self.name)
        self._column_list = sql.SQL(", ").join(sql.Identifier(column.name) for column in self.shape.columns)
        self._indexed: dict[tuple[str, ...], tuple[bool, bool]] = {}

    def cursor(self) -> psycopg.Cursor[tuple[Any, ...]]:
        """Return a cursor of plain rows."""
        return self.connection.cursor(row_factory=tuple_row)

    def is_key_violation(self, error: errors.UniqueViolation) -> bool:
        """Whether it was the primary key that was violated."""
        return error.diag.constraint_name in self.table.key_constraints

    def prepare(self, attributes: Sequence[str]) -> None:
        """Make ready for look-ups by these columns; the table file has said how."""

    def select(self, filters: Sequence[Filter]) -> list[Row]:
        """Return all matching rows, in no order."""
        query, parameters = self.statements.select(filters)
        with self.cursor() as cursor:
            return [self.operations.load(values) for values in cursor.execute(query, parameters)]

    def select_page(self, filters: Sequence[Filter], order: str, size: int, offset: int) -> list[Row]:
        """Return a page of matching rows in the order of the primary key, ``order`` being "ASC" or "DESC"."""
        query, parameters = self.statements.select(filters, order=order, limit=True)
        with self.cursor() as cursor:
            return [
                self.operations.load(values) for values in cursor.execute(query, [*parameters, size, offset])
            ]

    def select_keys(
        self, columns: Sequence[ColumnShape], keys: Sequence[Sequence[Any]], order: str, most_each: int
    ) -> list[Row]:
        """Return the rows that have one of ``keys`` in ``columns``; with an order at most so many of each key, from its beginning."""
        by_index = not order or self._index_on(columns)[0]
        query, parameters = self.statements.select_keys(
            columns, keys, order=order, most_each=most_each, by_index=by_index
        )
        # The driver alone knows when it is to begin a transaction.
        is_begun = self.connection.info.transaction_status is TransactionStatus.INTRANS
        if is_begun and self._native is not None and self._native.can_dump:
            with suppress(NotLoaded):
                return load_rows(self.connection, self._native, query, parameters)
        with self.cursor() as cursor:
            return [self.operations.load(values) for values in cursor.execute(query, parameters)]

    def is_unique(self, columns: Sequence[ColumnShape]) -> bool:
        """Whether there is at most one row with the same values, none of them NULL, in these columns; once the transaction has ended, if the constraint is deferred."""
        return self._index_on(columns)[1]

    def _index_on(self, columns: Sequence[ColumnShape]) -> tuple[bool, bool]:
        """Return whether rows can be found by these columns without going through all of them, and whether it is one row at most."""
        names = sorted(column.name for column in columns)
        found = self._indexed.get(tuple(names))
        if found is None:
            with self.cursor() as cursor:
                row = cursor.execute(
                    _INDEXED, {"relation": self._identifier.as_string(cursor), "columns": names}
                ).fetchone()
            assert row is not None
            found = self._indexed[tuple(names)] = (bool(row[0]), bool(row[1]))
        return found

    def insert(self, rows: Iterable[Row]) -> int:
        """Append rows by COPY and return how many.

        Raises
        ------
        DuplicateRecord
            A primary key exists.
        """
        try:
            with self.cursor() as cursor:
                return self._copier.copy(cursor, self.name, rows)
        except errors.UniqueViolation as error:
            if self.is_key_violation(error):
                raise self._duplicate(error) from error
            raise

    def _duplicate(self, error: errors.UniqueViolation) -> DuplicateRecord:
        return DuplicateRecord(self.operations.name, {}, error.diag.message_detail)

    def delete(self, keys: Sequence[Values]) -> int:
        """Delete rows by primary key and return how many."""
        if not keys:
            return 0
        query, parameters = self.statements.delete_keys(keys)
        with self.cursor() as cursor:
            return cursor.execute(query, parameters).rowcount

    def update(self, rows: Sequence[Row]) -> None:
        """Overwrite rows by primary key: from a staging table, or, where a unique constraint minds the order, by taking all out first."""
        if not rows:
            return
        try:
            with self.connection.transaction():
                self._update_from_staging(rows)
        except errors.UniqueViolation:
            # One statement checks each row against rows it has not come to yet: a name that one row gave up and another took fails
            # there, though the end is valid.
            self.delete([self.operations.key_values(row) for row in rows])
            self.insert(rows)

    def _update_from_staging(self, rows: Sequence[Row]) -> None:
        staging_name = f"sequent_staging_{uuid4().hex}"
        staging = sql.Identifier(staging_name)
        settable = [
            sql.SQL("{0} = s.{0}").format(sql.Identifier(column.name))
            for column in self.shape.columns
            if not column.primary_key and column.attribute not in self.table.always_identities
        ]
        if not settable:
            return
        matches = [sql.SQL("t.{0} = s.{0}").format(sql.Identifier(name)) for name in self.shape.primary_key]
        with self.cursor() as cursor:
            cursor.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
                    staging, self._column_list, self._identifier
                )
            )
            self._copier.copy(cursor, (staging_name,), rows)
            cursor.execute(
                sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}").format(
                    self._identifier, sql.SQL(", ").join(settable), staging, sql.SQL(" AND ").join(matches)
                )
            )
            cursor.execute(sql.SQL("DROP TABLE {}").format(staging))

    def update_matching(self, filters: Sequence[Filter], values: Values) -> int:
        """Set columns of matching rows and return how many match."""
        query, parameters = self.statements.update(tuple(values), filters)
        given = [self.statements.dump(name, value) for name, value in values.items()]
        try:
            with self.cursor() as cursor:
                return cursor.execute(query, [*given, *parameters]).rowcount
        except errors.UniqueViolation as error:
            if self.is_key_violation(error):
                raise self._duplicate(error) from error
            raise

    def delete_matching(self, filters: Sequence[Filter]) -> int:
        """Delete matching rows and return how many."""
        query, parameters = self.statements.delete(filters)
        with self.cursor() as cursor:
            return cursor.execute(query, parameters).rowcount


class Spill(Relation):
    """A private temporary table for rows that do not fit in memory; indexed by primary key, and by whatever is looked up."""

    def __init__(self, connection: psycopg.Connection[Any], table: TableShape) -> None:
        super().__init__(connection, table, (f"sequent_spill_{uuid4().hex}",))
        self._prepared: set[tuple[str, ...]] = set()
        with self.cursor() as cursor:
            # A plain copy of the columns: the table's own NOT NULLs could be on columns that only its defaults fill.
            cursor.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
                    self._identifier, self._column_list, sql.Identifier(table.schema, table.name)
                )
            )
        self._create_index(self.operations.key_attributes, is_unique=True)
        if self.shape.has_aggregate_id:
            self.prepare(("aggregate_id",))

    def is_key_violation(self, error: errors.UniqueViolation) -> bool:
        """Whether it was the primary key: the spill has no other constraint."""
        return True

    def prepare(self, attributes: Sequence[str]) -> None:
        """Index the columns of a filter when it is first used, so that the cost of look-ups does not grow with the spill."""
        if attributes and tuple(sorted(attributes)) not in self._prepared:
            self._create_index(attributes, is_unique=False)

    def _create_index(self, attributes: Sequence[str], *, is_unique: bool) -> None:
        by_attribute = self.shape.by_attribute
        names = sql.SQL(", ").join(sql.Identifier(by_attribute[name].name) for name in attributes)
        template = "CREATE UNIQUE INDEX ON {} ({})" if is_unique else "CREATE INDEX ON {} ({})"
        with self.cursor() as cursor:
            cursor.execute(sql.SQL(template).format(self._identifier, names))
        self._prepared.add(tuple(sorted(attributes)))

    def move_to(self, target: Relation) -> int:
        """Append all rows to ``target``, drop the spill and return how many rows that were."""
        query = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
            target._identifier, self._column_list, self._column_list, self._identifier
        )
        try:
            with self.cursor() as cursor:
                moved = cursor.execute(query).rowcount
        except errors.UniqueViolation as error:
            if target.is_key_violation(error):
                raise self._duplicate(error) from error
            raise
        self.drop()
        return moved

    def drop(self) -> None:
        """Drop the temporary table."""
        with self.cursor() as cursor:
            cursor.execute(sql.SQL("DROP TABLE {}").format(self._identifier))

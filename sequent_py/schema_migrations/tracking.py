"""The tracking tables: what has been applied.

``schema_info(version integer)`` holds one row with the number of the last integer migration; ``schema_migrations(filename text)`` a row per
applied timestamp migration. Both are Sequel's own, so that a database can be handed over from one tool to the other. Only this module reads
or writes them. Reading never creates anything: a table that is missing means that nothing has been applied. A write happens in the
transaction of the migration that it records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.schema import CreateTable

from sequent_py.schema_migrations.connections import ask, scope
from sequent_py.schema_migrations.errors import TrackingTableError

VERSION_TABLE = "schema_info"
FILENAME_TABLE = "schema_migrations"

COLUMNS = sa.text(
    "SELECT attname, pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute"
    " WHERE attrelid = pg_catalog.to_regclass(:relation) AND attnum > 0 AND NOT attisdropped"
)


@dataclass(frozen=True, slots=True)
class _TrackingTable:
    """A tracking table by name. ``schema`` is None where the search path decides."""

    name: str
    column: str
    schema: str | None = None

    @property
    def relation(self) -> str:
        """The quoted name, as PostgreSQL reads it."""
        parts = (self.schema, self.name) if self.schema is not None else (self.name,)
        return sql.Identifier(*parts).as_string()

    def columns(self, connection: sa.Connection) -> dict[str, str]:
        """Return names and types of the table's columns; empty where there is no such table."""
        rows = ask(connection, COLUMNS, relation=self.relation)
        return {str(name): str(kind) for name, kind in map(tuple, rows)}

    def _create(self, connection: sa.Connection, column: sa.Column[object]) -> None:
        connection.execute(CreateTable(sa.Table(self.name, sa.MetaData(), column, schema=self.schema)))

    def _table(self) -> sa.TableClause:
        return sa.table(self.name, sa.column(self.column), schema=self.schema)


@dataclass(frozen=True, slots=True)
class VersionTable(_TrackingTable):
    """One row, one number."""

    name: str = VERSION_TABLE
    column: str = "version"

    def prepare(self, connection: sa.Connection) -> None:
        """Make the table, the column and the row that are missing, in a transaction of their own."""
        columns = self.columns(connection)
        if self.column in columns and self._rows(connection):
            return
        with scope(connection, transactional=True):
            if not columns:
                self._create(connection, self._version_column())
            elif self.column not in columns:
                from alembic.operations import Operations, ops
                from alembic.runtime.migration import MigrationContext

                added = ops.AddColumnOp(self.name, self._version_column(), schema=self.schema)
                Operations(MigrationContext.configure(connection)).invoke(added)
            if not self._rows(connection):
                connection.execute(sa.insert(self._table()).values({self.column: 0}))

    def read(self, connection: sa.Connection) -> int | None:
        """Return the recorded version; None where nothing is recorded at all.

        Raises
        ------
        TrackingTableError
            There is more than one row.
        """
        if self.column not in self.columns(connection):
            return None
        rows = self._rows(connection)
        return (rows[0] or 0) if rows else None

    def write(self, connection: sa.Connection, version: int) -> None:
        """Record ``version``.

        Raises
        ------
        TrackingTableError
            The row is gone: a migration must not touch it.
        """
        changed = connection.execute(sa.update(self._table()).values({self.column: version})).rowcount
        if changed != 1:
            raise TrackingTableError(
                f"The tracking table {self.relation} has {changed} rows instead of one; version {version} was not recorded."
            )

    def read_alone(self, connection: sa.Connection) -> int | None:
        """Return the version if the table is exactly one row of exactly one number: what a conversion may rely on."""
        if set(self.columns(connection)) != {self.column}:
            return None
        rows = self._all(connection)
        return rows[0] if len(rows) == 1 and isinstance(rows[0], int) else None

    def _version_column(self) -> sa.Column[object]:
        return sa.Column(self.column, sa.Integer, server_default=sa.text("0"), nullable=False)

    def _all(self, connection: sa.Connection) -> list[int | None]:
        rows = ask(connection, sa.select(sa.column(self.column)).select_from(self._table()))
        return [row[0] for row in rows]

    def _rows(self, connection: sa.Connection) -> list[int | None]:
        rows = self._all(connection)
        if len(rows) > 1:
            raise TrackingTableError(
                f"More than 1 row in migrator table {self.relation}.",
                remedy="Delete all rows but the right one.",
            )
        return rows


@dataclass(frozen=True, slots=True)
class FilenameTable(_TrackingTable):
    """A row per applied file: its base name in lower case."""

    name: str = FILENAME_TABLE
    column: str = "filename"

    def exists(self, connection: sa.Connection) -> bool:
        """Whether it is there with its column."""
        columns = self.columns(connection)
        if columns and self.column not in columns:
            raise TrackingTableError(f"The tracking table {self.relation} has no column {self.column!r}.")
        return bool(columns)

    def prepare(self, connection: sa.Connection, converted: Sequence[str] = ()) -> None:
        """Make the table where it is missing, and put ``converted`` names in it, in a transaction of its own."""
        exists = self.exists(connection)
        if exists and not converted:
            return
        with scope(connection, transactional=True):
            if not exists:
                self._create(connection, sa.Column(self.column, sa.Text, primary_key=True))
            for name in converted:
                self.add(connection, name)

    def read(self, connection: sa.Connection) -> tuple[str, ...]:
        """Return the recorded names, sorted; none where the table is missing."""
        if not self.exists(connection):
            return ()
        rows = ask(connection, sa.select(sa.column(self.column)).select_from(self._table()))
        return tuple(sorted(row[0] for row in rows))

    def add(self, connection: sa.Connection, name: str) -> None:
        """Record a file as applied."""
        connection.execute(sa.insert(self._table()).values({self.column: name.lower()}))

    def remove(self, connection: sa.Connection, name: str) -> None:
        """Record a file as undone.

        Raises
        ------
        TrackingTableError
            The row is gone: a migration must not touch it.
        """
        table = self._table()
        gone = sa.delete(table).where(sa.func.lower(table.c[self.column]) == name.lower())
        if connection.execute(gone).rowcount == 0:
            raise TrackingTableError(f"The tracking table {self.relation} has lost its row of {name}.")

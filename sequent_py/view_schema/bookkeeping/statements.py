"""What the records of view migrations share: how their statements are composed and run.

:class:`~sequent_py.view_schema.bookkeeping.versions.Versions` owns ``view_migrations``, :class:`~sequent_py.view_schema.bookkeeping.relations.Relations` owns
``view_tables``. Every method of both takes the caller's psycopg connection, runs inside the caller's transaction, and commits nothing, so
that a row changes together with what it tells of: after a crash the two agree. Writers wait for at most the session's
``lock_timeout``. Readers are single plain SELECTs: no DDL, no row locks, nothing that a backup could block. Readers raise
``StoreNotInstalled``, and leave the transaction usable, where the tables do not exist. Writers may count on a reader having been asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from sequent_py.database import for_parameters
from sequent_py.errors import StoreNotInstalled

Connection = psycopg.Connection[Any]
_Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """The records in one event store schema. Holds the schema's name and nothing else."""

    schema: str
    columns: ClassVar[sql.Composable]
    """The columns of the owner's table, in the order of its row's fields: ``{columns}`` in its statements."""

    def _read(
        self, connection: Connection, query: LiteralString, parameters: _Parameters
    ) -> list[tuple[Any, ...]]:
        """Run a SELECT; looks for the tables first, because a failed statement would abort the caller's transaction."""
        missing = self._missing(connection)
        if missing is not None:
            raise StoreNotInstalled(self.schema, missing)
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self._composed(query), parameters).fetchall()

    def _one(
        self, connection: Connection, query: LiteralString, parameters: _Parameters
    ) -> tuple[Any, ...] | None:
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self._composed(query), parameters).fetchone()

    def _execute(self, connection: Connection, query: LiteralString, parameters: _Parameters) -> int:
        with connection.cursor() as cursor:
            return cursor.execute(self._composed(query), parameters).rowcount

    def _composed(self, query: LiteralString) -> sql.Composed:
        # All statements have parameters.
        return sql.SQL(query).format(
            migrations=for_parameters(sql.Identifier(self.schema, "view_migrations")),
            tables=for_parameters(sql.Identifier(self.schema, "view_tables")),
            columns=self.columns,
        )

    def _missing(self, connection: Connection) -> str | None:
        """Say what is missing; None when both tables are there. Reads catalogs only, so it can neither fail nor wait."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(
                "SELECT n.oid IS NOT NULL, count(c.oid) FROM (VALUES (%s::text)) AS wanted (name) "
                "LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.name "
                "LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname IN ('view_migrations', 'view_tables') "
                "GROUP BY n.oid",
                (self.schema,),
            ).fetchone()
        has_schema, tables_found = row or (False, 0)
        if not has_schema:
            return "does not exist"
        return (
            None if tables_found == 2 else "has no tables of view migrations: it is older than this release"
        )

"""Deferred constraints: those that the server would check only when the transaction commits.

By then nobody knows which group's rows are refused, and the transaction that could say so is gone. So they are checked at the end of each
group, in its transaction, and deferred again for the next one. Tables without such constraints cost nothing but one look at the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.persistors.tables import TableShape

Connection = psycopg.Connection[Any]


class DeferredConstraints:
    """The constraints of some tables, and of those that refer to them, that are checked at the commit. A value."""

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        self._names = sql.SQL(", ").join(sql.Identifier(*name) for name in sorted(names))
        self._is_empty = not self._names.as_string(None)

    def check(self, connection: Connection) -> None:
        """Check what has been deferred so far in this transaction, and let what comes be deferred again.

        Raises
        ------
        psycopg.Error
            A constraint is violated.
        """
        if self._is_empty:
            return
        # By name: ALL would defer what is declared DEFERRABLE INITIALLY IMMEDIATE when it is turned back.
        for mode in ("IMMEDIATE", "DEFERRED"):
            connection.execute(sql.SQL("SET CONSTRAINTS {} {}").format(self._names, sql.SQL(mode)))


def read_deferred(connection: Connection, tables: Iterable[TableShape]) -> DeferredConstraints:
    """Read which constraints of these tables are initially deferred."""
    by_schema: dict[str, list[str]] = {}
    for table in tables:
        by_schema.setdefault(table.schema, []).append(table.name)
    return DeferredConstraints(
        name for schema, names in by_schema.items() for name in deferred_names(connection, schema, names)
    )


def deferred_names(connection: Connection, schema: str, tables: Sequence[str]) -> set[tuple[str, str]]:
    """Return schema and name of the constraints of these tables, or of others that refer to them, that are initially deferred."""
    return set(connection.execute(_DEFERRED, {"schema": schema, "names": list(tables)}).fetchall())


_DEFERRED = """
    SELECT n.nspname::text, c.conname::text
    FROM pg_catalog.pg_constraint c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
    WHERE c.condeferred AND c.conparentid = 0 AND ARRAY[c.conrelid, c.confrelid] && ARRAY(
        SELECT t.oid FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
        WHERE s.nspname = %(schema)s AND t.relname = ANY (%(names)s))"""

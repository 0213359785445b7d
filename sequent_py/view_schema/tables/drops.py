"""Drops relations by exact name, never by pattern, never with CASCADE, and never by waiting longer than a lock timeout, in short tries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.errors import DependentObjects, MigrationError
from sequent_py.view_schema.tables import catalog
from sequent_py.view_schema.tables.autovacuum import make_way
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.outside_tables import outside_tables
from sequent_py.view_schema.tables.script import lock_timeout
from sequent_py.view_schema.tables.short_tries import in_short_tries

Connection = psycopg.Connection[Any]

_DROP = {
    "table": "DROP TABLE {}",
    "view": "DROP VIEW {}",
    "materialized view": "DROP MATERIALIZED VIEW {}",
    "sequence": "DROP SEQUENCE {}",
    "function": "DROP ROUTINE {}",
    "type": "DROP TYPE {}",
    "composite type": "DROP TYPE {}",
    "domain": "DROP DOMAIN {}",
}


def drop_tables(
    connection: Connection, view_schema: str, names: Collection[str], *, lock_timeout_seconds: float = 5.0
) -> list[str]:
    """Drop tables by exact name, all or none; return those that existed.

    Commits nothing when the caller has a transaction open.

    Raises
    ------
    DependentObjects
        Something else depends on one of them; names it.
    MigrationError
        One of them is in use; names the sessions.
    """
    return _drop(
        connection, view_schema, [("table", name) for name in dict.fromkeys(names)], lock_timeout_seconds
    )


def drop_blueprints(
    connection: Connection,
    view_schema: str,
    blueprints: Iterable[TableBlueprint],
    *,
    lock_timeout_seconds: float = 5.0,
) -> list[str]:
    """Drop shadow or retired tables and what else their files created (functions, types, views), by recorded name, all or none.

    Returns the names of those that existed. What is gone already is left out, so that an interrupted clean-up can be repeated.

    Raises
    ------
    DependentObjects, MigrationError
        As :func:`drop_tables`.
    """
    items = [
        (item.kind, item.name)
        for each in blueprints
        for item in each.names
        if item.table == "" and item.kind in _DROP
    ]
    return _drop(connection, view_schema, items, lock_timeout_seconds)


def lock_holders(connection: Connection, schema: str, relations: Collection[str]) -> list[str]:
    """Describe the other sessions that hold locks on relations: process, user, application, age of the transaction, statement."""
    rows = connection.execute(
        """
        SELECT DISTINCT l.pid, coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), 'unnamed'),
               coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::int, coalesce(left(a.query, 60), '')
        FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_class c ON c.oid = l.relation
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
        WHERE l.granted AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
          AND n.nspname = %s AND c.relname = ANY (%s) AND l.pid IS DISTINCT FROM pg_backend_pid()
        ORDER BY 1
        """,
        (schema, list(relations)),
    ).fetchall()
    return [
        f"backend {pid} ({user}, {application}, transaction open for {seconds} s: {query})"
        if pid is not None
        else "a prepared transaction"
        for pid, user, application, seconds, query in rows
    ]


def _drop(
    connection: Connection, view_schema: str, items: Sequence[tuple[str, str]], lock_timeout_seconds: float
) -> list[str]:
    with connection.transaction():
        found = [
            (item.kind, item.name) for item in catalog.standing_objects(connection, view_schema, set(items))
        ]
        tables = [name for kind, name in found if kind == "table"]
        # One statement for all tables: foreign keys among them are no hindrance then.
        pending: list[tuple[str, list[str]]] = [("table", tables)] if tables else []
        pending += [(kind, [name]) for kind, name in reversed(found) if kind != "table"]

        def attempt(lock_timeout_seconds: float) -> None:
            with connection.transaction(), lock_timeout(connection, lock_timeout_seconds):
                _drop_in_order(connection, view_schema, pending)

        make_way(connection, view_schema, tables)
        with _explained(connection, view_schema, tables, lock_timeout_seconds):
            # Dropping a table with a foreign key locks the table that it refers to as well, and others use that.
            in_short_tries(connection, attempt, seconds=lock_timeout_seconds)
    return [name for _, name in found]


def _drop_in_order(connection: Connection, schema: str, pending: Sequence[tuple[str, list[str]]]) -> None:
    while pending:
        left = [
            step for step in pending if not _try_drop(connection, schema, *step, is_last=len(pending) == 1)
        ]
        if len(left) == len(pending):
            _try_drop(connection, schema, *left[0], is_last=True)
        pending = left


def _try_drop(connection: Connection, schema: str, kind: str, names: Sequence[str], *, is_last: bool) -> bool:
    """Drop unless something depends on it that may be dropped later; the server knows the order, we need not."""
    identifiers = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    try:
        with connection.transaction():
            connection.execute(sql.SQL(_DROP[kind]).format(identifiers))
    except errors.DependentObjectsStillExist:
        if is_last:
            raise
        return False
    return True


@contextmanager
def _explained(
    connection: Connection, schema: str, tables: Sequence[str], lock_timeout_seconds: float
) -> Iterator[None]:
    try:
        yield
    except errors.DependentObjectsStillExist as error:
        raise DependentObjects(
            f"{', '.join(tables)}: {error.diag.message_primary}: {'; '.join((error.diag.message_detail or '').splitlines())}. "
            "Nothing was dropped.",
            remedy="Drop what depends on them first, or let it refer to the tables that serve.",
        ) from error
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        found = lock_holders(connection, schema, tables)
        for other in outside_tables(
            connection, schema, leaving=tables, replaced=tables, managed=(), suspended=()
        ):
            # Dropping the foreign keys locks it as well.
            held = lock_holders(connection, other.schema, [other.name])
            found += [f"{holder} on {other.described}, which they refer to" for holder in held]
        holders = "; ".join(found) or "somebody who is gone by now"
        raise MigrationError(
            f"{', '.join(tables)} could not be dropped within {lock_timeout_seconds:g} s, held by {holders}. Nothing was dropped.",
            remedy="Run it again when that transaction has ended.",
        ) from error

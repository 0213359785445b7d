"""The locks of a swap, in an order that its readers keep, too.

Whoever reads a view locks the view first and then what it reads; whoever reads a partitioned table locks that first and then the partitions.
So a swap locks views, the outermost first, then tables, then partitions, each by name, and two swaps cannot meet head-on. A reader may still
have locked a table before it comes to a view of it, or two tables in another order than ours. Then somebody must give way, and it is the swap:
from its first lock to its last it waits for less time in all than PostgreSQL lets a waiter wait before it looks for deadlocks, so none is
found in which a reader would be cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.view_schema.tables.outside_tables import OutsideTable, late_locks

Connection = psycopg.Connection[Any]

_BUDGET = """
    SELECT extract(epoch FROM least(nullif(pg_catalog.current_setting('lock_timeout')::interval, '0'),
        pg_catalog.current_setting('deadlock_timeout')::interval / 2))::float8
"""

_TABLES_FIRST = """
    SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p') ORDER BY c.relispartition, c.relname
"""


def view_locks(views: Sequence[tuple[str, str]]) -> list[sql.Composed]:
    """Return the statements that lock views ACCESS EXCLUSIVE; a view that is gone is passed over."""
    # LOCK TABLE on a view would lock all that it reads, other people's tables too; this changes nothing and locks the view alone.
    return [
        sql.SQL("ALTER TABLE IF EXISTS {} SET SCHEMA {}").format(
            sql.Identifier(schema, name), sql.Identifier(schema)
        )
        for schema, name in views
    ]


def lock_for_swap(
    connection: Connection,
    schema: str,
    *,
    views: Sequence[tuple[str, str]],
    tables: Collection[str],
    outside: Sequence[OutsideTable] = (),
) -> None:
    """Lock views (schema and name, the outermost first) and tables of ``schema`` ACCESS EXCLUSIVE until the transaction ends.

    Before these, those ``outside`` that foreign keys refer to, with all that is needed of them at once (:mod:`sequent_py.view_schema.tables.outside_tables`):
    either the caller has locked them, or nobody waits at the gate.
    Waits, in all, hardly longer than the transaction's ``lock_timeout`` nor than half of ``deadlock_timeout``; what is left of that is the
    transaction's ``lock_timeout`` afterwards. What is gone is passed over.

    Raises
    ------
    psycopg.errors.LockNotAvailable
        Not now; roll back and try again.
    """
    row = connection.execute(_BUDGET).fetchone()
    ordered = [name for (name,) in connection.execute(_TABLES_FIRST, (schema, list(tables))).fetchall()]
    statements = [
        *late_locks(outside),
        *view_locks(views),
        *(
            sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(schema, name))
            for name in ordered
        ),
    ]
    deadline = time.monotonic() + (row[0] if row else 0.0)
    for statement in (*statements, sql.SQL("SELECT")):
        # What is free may be locked however late it is: that is no waiting.
        milliseconds = max(int((deadline - time.monotonic()) * 1000), 1)
        # In one go: a lock that is free costs one round trip.
        connection.execute(
            sql.SQL("SET LOCAL lock_timeout = {}; {}").format(sql.Literal(milliseconds), statement),
            prepare=False,
        )

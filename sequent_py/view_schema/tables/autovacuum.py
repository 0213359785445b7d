"""Autovacuum, asked to give way to those who need a table for themselves.

The server ends an autovacuum for whoever waits behind it, but not before that session has waited for ``deadlock_timeout``. Our tries for strong locks are over long before, for the
sake of everybody who would wait behind them; so a large table that has just been loaded could not be swapped or dropped while it is vacuumed, for minutes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.view_schema.tables.script import lock_timeout

_VACUUMED = """
    WITH ours AS (
        SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p')
    )
    SELECT DISTINCT n.nspname::text, c.relname::text, extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8
    FROM (SELECT oid FROM ours UNION SELECT tree.relid FROM ours, pg_catalog.pg_partition_tree(ours.oid) AS tree) AS tables
    JOIN pg_catalog.pg_locks l ON l.relation = tables.oid
    JOIN pg_catalog.pg_class c ON c.oid = tables.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE l.granted AND l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    ORDER BY 1, 2
"""
"""Tables, partitions among them, that somebody has locked as VACUUM and ANALYZE do (who it is, not everybody may know), and for how long the server lets one wait."""


def make_way(connection: psycopg.Connection[Any], schema: str, tables: Collection[str]) -> None:
    """Wait behind whoever vacuums tables of ``schema`` for as long as it takes the server to end that, if it is autovacuum; half as long again for each at most.

    The lock that is waited for is the one that VACUUM takes itself: those who read and write neither wait behind it nor for it. It is given back at once, unless the caller is
    in a transaction. One who may not be ended (VACUUM by hand, or against wraparound) is left to whoever needs the table.
    """
    for of_schema, table, patience in connection.execute(_VACUUMED, (schema, list(tables))).fetchall():
        statement = sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE")
        try:
            with connection.transaction(), lock_timeout(connection, 1.5 * patience):
                connection.execute(statement.format(sql.Identifier(of_schema, table)))
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.UndefinedTable):
            continue

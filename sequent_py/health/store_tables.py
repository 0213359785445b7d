"""The store's own tables as wholes: whether each is there.

The server says of a table that somebody dropped that a relation does not exist, in the middle of whatever needed it. :func:`naming_lost_tables` is
the one place that makes an error of ours of that; it asks the catalog, once something has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from sequent_py.errors import LostTable, StoreNotInstalled
from sequent_py.replay.groups import PARTITION_COUNT

Connection = psycopg.Connection[Any]

VERSION_TABLE = "schema_info"
EVENT_TABLES = ("events", *(f"events_{number:02}" for number in range(PARTITION_COUNT)))
STORE_TABLES = (
    *EVENT_TABLES,
    "event_types",
    "event_edits",
    "gate",
    "append_order",
    "partitions",
    "aggregate_partitions",
    "view_migrations",
    "view_tables",
    "replay_passes",
    "replay_groups",
    "replay_control",
    "special_aggregates",
    "quarantined_aggregates",
    "store_roles",
    "home",
    VERSION_TABLE,
)
"""What the store's migrations create."""


def lost_tables(connection: Connection, schema: str) -> tuple[str, ...]:
    """Return the tables that are not there, of a store that has some; none where nothing is installed."""
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p')",
        (schema, list(STORE_TABLES)),
    ).fetchall()
    found = {name for (name,) in rows}
    return tuple(name for name in STORE_TABLES if name not in found) if found else ()


def require_tables(connection: Connection, schema: str) -> None:
    """Refuse a store that somebody dropped a table of.

    Raises
    ------
    LostTable
        Naming it.
    """
    lost = lost_tables(connection, schema)
    if lost:
        raise LostTable(schema, lost)


def require_version_table(connection: Connection, schema: str) -> None:
    """Refuse a store of which nobody knows any more which migrations made it; one of any version.

    Raises
    ------
    LostTable
        Naming the table.
    """
    lost = lost_tables(connection, schema)
    if VERSION_TABLE in lost:
        raise LostTable(schema, (VERSION_TABLE,))


@contextmanager
def naming_lost_tables(connection: Connection, schema: str) -> Iterator[None]:
    """Say which table of ours is gone where the block fails for want of one, over this or any other connection.

    ``connection``, which is in autocommit, must be in no transaction when the block is left; else, and where all tables are there, the error passes
    as it is.

    Raises
    ------
    LostTable
        Naming it.
    """
    try:
        yield
    except (psycopg.errors.UndefinedTable, StoreNotInstalled) as error:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            raise
        lost = lost_tables(connection, schema)
        if not lost:
            raise
        raise LostTable(schema, lost) from error

"""Contenders: each rebuilds the tables of a workload in its own way, over the same events, on the same server."""

from __future__ import annotations

from abc import ABC, abstractmethod

import psycopg
from psycopg import sql

from bench.workloads import ReadTable, Workload

EVENT_STORE_SCHEMA = "sequent_schema"


class Contender(ABC):
    """One way to rebuild the tables. Called in this order, again and again: reset, run, discard; differences before a discard."""

    name: str
    events: int
    """How many of the store's events it replays, from the first: all, but for those that would take for ever."""
    cpu_seconds_before = 0.0
    """What a process that it has started has used when the run begins, and ended with the run."""

    def prepare(self) -> None:  # noqa: B027
        """Set up once what is needed to run: its own event store, for example. Not timed."""

    def reset(self) -> None:  # noqa: B027
        """Make ready for the next run. Not timed."""

    @abstractmethod
    def run(self) -> float | None:
        """Rebuild the tables, keys and indexes included; return the seconds until all rows were written, where that is known. Timed."""

    @abstractmethod
    def differences(self) -> int | None:
        """Count the rows that differ from what plain SQL computes from the events; None where nothing is kept that could."""

    def discard(self) -> None:  # noqa: B027
        """Throw the tables away. Not timed."""


def store_names(events: int | None = None, after: int = 0) -> dict[str, sql.Composable]:
    """Return what fills the placeholders of a :class:`~bench.workloads.ReadTable`'s select.

    With ``events``, the store ends after as many; with ``after``, it begins behind that position.
    """
    table: sql.Composable = sql.Identifier(EVENT_STORE_SCHEMA, "events")
    if after:
        table = sql.SQL("(SELECT * FROM {} WHERE position > {})").format(table, sql.Literal(after))
    if events is not None:
        table = sql.SQL("(SELECT * FROM {} ORDER BY position LIMIT {})").format(table, sql.Literal(events))
    return {"events": table, "event_types": sql.Identifier(EVENT_STORE_SCHEMA, "event_types")}


def rows_that_differ(
    connection: psycopg.Connection[tuple[int]],
    table: ReadTable,
    found: sql.Composable,
    events: int | None = None,
) -> int:
    """Compare a table with plain SQL over the first ``events`` events, or all, whole rows, in both directions."""
    # One aggregation over both sides: EXCEPT ALL in both directions takes twice as long, and several times the disk.
    query = sql.SQL(
        "SELECT coalesce(sum(abs(surplus)), 0)::bigint FROM (SELECT sum(side) AS surplus FROM ("
        "SELECT 1 AS side, {columns} FROM ({select}) s UNION ALL SELECT -1, {columns} FROM {found}"
        ") AS sides GROUP BY {columns} HAVING sum(side) <> 0) AS differing"
    ).format(
        columns=columns_of(table),
        select=sql.SQL(table.select).format(**store_names(events)),
        found=found,
    )
    with connection.transaction():
        connection.execute("SET LOCAL work_mem = '256MB'")
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def schema_differences(
    connection: psycopg.Connection[tuple[int]], workload: Workload, schema: str, events: int | None = None
) -> int:
    """Compare a workload's tables in a schema with plain SQL over the first ``events`` events, or all; count the rows that differ."""
    return sum(
        rows_that_differ(connection, table, sql.Identifier(schema, table.name), events)
        for table in workload.tables
    )


def columns_of(table: ReadTable) -> sql.Composable:
    """Return the names of a table's columns, with commas."""
    return sql.SQL(", ").join(map(sql.Identifier, table.columns))


def create_tables(
    connection: psycopg.Connection[tuple[int]], workload: Workload, schema: str, *, with_indexes: bool
) -> None:
    """Create a workload's tables, empty, in a schema of their own that takes the place of any other of that name's tables."""
    drop_tables(connection, workload, schema)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    _use(connection, schema)
    for table in workload.tables:
        connection.execute(_script(workload, f"{table.name}.sql"))
    if with_indexes:
        create_indexes(connection, workload, schema)


def create_indexes(connection: psycopg.Connection[tuple[int]], workload: Workload, schema: str) -> None:
    """Build the keys and indexes that a replay builds, and analyse."""
    _use(connection, schema)
    for table in workload.tables:
        connection.execute(_script(workload, f"{table.name}.indexes.sql"))
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table.name)))


def drop_tables(connection: psycopg.Connection[tuple[int]], workload: Workload, schema: str) -> None:
    """Drop a workload's tables from a schema."""
    for table in workload.tables:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table.name)))


def _use(connection: psycopg.Connection[tuple[int]], schema: str) -> None:
    connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))


def _script(workload: Workload, name: str) -> bytes:
    return (workload.sql_directory / name).read_text(encoding="utf-8").replace("%SUFFIX%", "").encode()

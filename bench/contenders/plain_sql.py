"""What one would write by hand: set-based SQL over the same events, in one session."""

from __future__ import annotations

import time

import psycopg
from psycopg import sql

from bench.contenders import (
    Contender,
    columns_of,
    create_indexes,
    create_tables,
    drop_tables,
    schema_differences,
    store_names,
)
from bench.workloads import ReadTable, Workload

_SCHEMA, _WINDOWS_SCHEMA = "bench_insert", "bench_windows"
_MEMORY = "SET work_mem = '256MB'; SET maintenance_work_mem = '256MB'"


class Insert(Contender):
    """``INSERT … SELECT … GROUP BY`` into empty tables, then the keys and indexes that a replay builds, and ANALYZE."""

    name = "INSERT … SELECT, one session"

    def __init__(self, url: str, workload: Workload, events: int) -> None:
        self.events = events
        self._url, self._workload = url, workload

    def reset(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            create_tables(connection, self._workload, _SCHEMA, with_indexes=False)

    def run(self) -> float | None:
        started = time.perf_counter()
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(_MEMORY)
            with connection.transaction():
                for table in self._workload.tables:
                    _insert(connection, _SCHEMA, table)
            seconds = time.perf_counter() - started
            create_indexes(connection, self._workload, _SCHEMA)
        return seconds

    def differences(self) -> int | None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return schema_differences(connection, self._workload, _SCHEMA, self.events)

    def discard(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            drop_tables(connection, self._workload, _SCHEMA)


class Copy(Contender):
    """The rows of the same selects, sent to the client and thrown away."""

    name = "COPY of the same select, drained"

    def __init__(self, url: str, workload: Workload, events: int) -> None:
        self.events = events
        self._url, self._workload = url, workload

    def run(self) -> float | None:
        started = time.perf_counter()
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(_MEMORY)
            for table in self._workload.tables:
                select = sql.SQL(table.select).format(**store_names())
                with connection.cursor().copy(sql.SQL("COPY ({}) TO STDOUT").format(select)) as copy:
                    for _ in copy:
                        pass
        return time.perf_counter() - started

    def differences(self) -> int | None:
        return None


class Increments:
    """The same tables kept up to date by hand: set-based SQL over the events that have come since, in one session."""

    name = "set-based SQL, one session"

    def __init__(self, url: str, workload: Workload) -> None:
        self._url, self._workload = url, workload
        self._upto = 0

    def load(self) -> None:
        """Fill the tables from all events there are."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            create_tables(connection, self._workload, _WINDOWS_SCHEMA, with_indexes=False)
            for table in self._workload.tables:
                _insert(connection, _WINDOWS_SCHEMA, table)
            create_indexes(connection, self._workload, _WINDOWS_SCHEMA)
            self._upto = _newest(connection)

    def run(self) -> None:
        """Add what has come since. By position, which is exact while nobody else writes."""
        with psycopg.connect(self._url) as connection:
            connection.execute(_MEMORY)
            connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(_WINDOWS_SCHEMA)))
            names = store_names(after=self._upto)
            for statement in self._workload.increments:
                connection.execute(sql.SQL(statement).format(**names))
            self._upto = _newest(connection)

    def differences(self) -> int:
        """Count the rows that differ from what plain SQL computes from all events."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            return schema_differences(connection, self._workload, _WINDOWS_SCHEMA)


def _insert(connection: psycopg.Connection[tuple[int]], schema: str, table: ReadTable) -> None:
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) {}").format(
            sql.Identifier(schema, table.name),
            columns_of(table),
            sql.SQL(table.select).format(**store_names()),
        )
    )


def _newest(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("SELECT max(position) FROM sequent_schema.events").fetchone()
    assert row is not None
    return row[0]

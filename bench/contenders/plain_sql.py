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
    rows_that_differ,
    store_names,
)
from bench.workloads import Workload

_SCHEMA = "bench_insert"
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
                    connection.execute(
                        sql.SQL("INSERT INTO {} ({}) {}").format(
                            sql.Identifier(_SCHEMA, table.name),
                            columns_of(table),
                            sql.SQL(table.select).format(**store_names()),
                        )
                    )
            seconds = time.perf_counter() - started
            create_indexes(connection, self._workload, _SCHEMA)
        return seconds

    def differences(self) -> int | None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return sum(
                rows_that_differ(connection, table, sql.Identifier(_SCHEMA, table.name), self.events)
                for table in self._workload.tables
            )

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

"""A table that is being vacuumed can be had all the same: autovacuum gives way, and nobody else waits."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from sequent_py.testing.server import SERVER_OPTIONS, fresh_database, shared_server
from sequent_py.view_schema.autovacuum import make_way
from sequent_py.view_schema.drops import drop_tables


@pytest.fixture
def vacuumed_url() -> Iterator[str]:
    """A server that vacuums what was loaded at once, and takes for ever over it."""
    options = {
        **SERVER_OPTIONS,
        "autovacuum": "on",
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_insert_threshold": "0",
        "autovacuum_vacuum_insert_scale_factor": "0",
        "autovacuum_vacuum_cost_delay": "100ms",
        "autovacuum_vacuum_cost_limit": "1",
    }
    name = uuid.uuid4().hex[:12]
    with shared_server(name, options=options) as server, fresh_database(server, f"vacuumed_{name}") as url:
        yield url


def is_being_vacuumed(connection: psycopg.Connection) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass('s.t') AND mode = 'ShareUpdateExclusiveLock' AND granted)"
    ).fetchone()
    return row == (True,)


def wait_until_vacuumed(connection: psycopg.Connection) -> None:
    deadline = time.monotonic() + 60
    while not is_being_vacuumed(connection):
        assert time.monotonic() < deadline, "autovacuum never came"
        time.sleep(0.05)


def test_an_autovacuum_ends_for_whoever_drops_its_table(vacuumed_url: str) -> None:
    with psycopg.connect(vacuumed_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA s")
        connection.execute("CREATE TABLE s.t AS SELECT n, repeat('x', 100) FROM generate_series(1, 200000) n")
        wait_until_vacuumed(connection)

        assert drop_tables(connection, "s", ["t"]) == ["t"]


def test_nobody_waits_behind_one_who_waits_for_a_vacuum_that_may_not_be_ended(database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        psycopg.connect(database_url) as by_hand,
        psycopg.connect(database_url, autocommit=True) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        other.execute("CREATE SCHEMA s")
        other.execute("CREATE TABLE s.t (n int)")
        by_hand.execute("LOCK TABLE s.t IN SHARE UPDATE EXCLUSIVE MODE")
        before = other.execute("SHOW lock_timeout").fetchone()

        def wait() -> object:
            with connection.transaction():
                make_way(connection, "s", ["t", "never_was"])
                return connection.execute("SHOW lock_timeout").fetchone()

        waiting = threads.submit(wait)
        is_waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 's.t'::regclass AND NOT granted)"
        while other.execute(is_waiting).fetchone() != (True,):
            assert not waiting.done(), waiting.result()
        other.execute("SET lock_timeout = '1ms'")
        other.execute("INSERT INTO s.t VALUES (1)")
        assert not waiting.done()
        assert waiting.result(30) == before
        assert is_being_vacuumed(other)

"""A table that is being vacuumed can be had all the same: autovacuum gives way, and nobody else waits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from shop import Shop1, Shop2, place_orders, shop
from waiting import wait_until

from sequent_py.testing.server import SERVER_OPTIONS, fresh_database, roomy_memory, shared_server
from sequent_py.view_schema.going_live import golive, offline
from sequent_py.view_schema.tables.autovacuum import make_way
from sequent_py.view_schema.tables.drops import drop_tables


@pytest.fixture
def vacuumed_url() -> Iterator[str]:
    """A server that looks every few seconds for what is to be vacuumed."""
    options = {**SERVER_OPTIONS, "autovacuum": "on", "autovacuum_naptime": "3s"}
    name = uuid.uuid4().hex[:12]
    with (
        shared_server(name, options=options, memory=roomy_memory()) as server,
        fresh_database(server, f"vacuumed_{name}") as url,
    ):
        yield url


def let_it_be_vacuumed(connection: psycopg.Connection, table: str) -> None:
    """Return when autovacuum is at a table that has rows; it will be for minutes."""
    options = (
        "autovacuum_vacuum_insert_threshold = 0, autovacuum_vacuum_insert_scale_factor = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    )
    connection.execute(f"ALTER TABLE {table} SET ({options})")
    wait_until(lambda: is_being_vacuumed(connection, table))


def is_being_vacuumed(connection: psycopg.Connection, table: str = "s.t") -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass(%s) AND mode = 'ShareUpdateExclusiveLock' AND granted)",
        [table],
    ).fetchone()
    return row == (True,)


def test_an_autovacuum_ends_for_whoever_drops_its_table(vacuumed_url: str) -> None:
    with psycopg.connect(vacuumed_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA s")
        connection.execute("CREATE TABLE s.t AS SELECT n, repeat('x', 100) FROM generate_series(1, 200000) n")
        let_it_be_vacuumed(connection, "s.t")

        assert drop_tables(connection, "s", ["t"]) == ["t"]


@pytest.mark.parametrize(
    ("command", "owner", "name"),
    [("golive", golive, "cut_over"), ("offline", offline._CutOver, "promote")],
    ids=["golive", "offline"],
)
def test_an_autovacuum_of_what_was_built_ends_for_the_swap(
    vacuumed_url: str, monkeypatch: pytest.MonkeyPatch, command: str, owner: Any, name: str
) -> None:
    with (
        shop(vacuumed_url, Shop1, as_login=False) as at_1,
        shop(vacuumed_url, Shop2, as_login=False) as at_2,
        psycopg.connect(vacuumed_url, autocommit=True) as connection,
    ):
        at_1.install()
        place_orders(at_1, range(700), lines=1)
        at_1.view_schema.online()
        at_1.view_schema.offline()
        at_2.view_schema.online()
        for _ in range(40):
            connection.execute("UPDATE view_schema.order_records_2 SET lines = lines")
        swap = getattr(owner, name)

        def vacuumed(*arguments: Any, **options: Any) -> Any:
            # Not before: the command's own ANALYZE ends it, too.
            let_it_be_vacuumed(connection, "view_schema.order_records_2")
            return swap(*arguments, **options)

        monkeypatch.setattr(owner, name, vacuumed)
        report = getattr(at_2.view_schema, command)(lock_budget_seconds=8.0)

    assert report.target_version == 2


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

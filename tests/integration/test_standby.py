"""Beside a real standby: the lag of replicas, and the load of the server, which no other test shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from shop import Shop1, actual_rows, expected_rows, place_orders, shop
from standby_server import Pair, binaries_from_environment, primary_and_standby
from waiting import wait_until

from sequent_py import Sequent
from sequent_py.replay.control import take_readings
from sequent_py.replay.group_fold import GroupFold
from sequent_py.replay.limits import LagHistory, Limits
from sequent_py.testing.server import fresh_database, with_database

SCHEMA = "sequent_schema"
GROUP_EVENTS = 50
READERS_AT_WORK = (
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
)


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, name: str) -> None:
        pass

    def replay(self, progress: object) -> None:
        pass

    def note(self, text: str) -> None:
        self.lines.append(text)

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with primary_and_standby(binaries_from_environment()) as pair:
        yield pair


@pytest.fixture
def urls(pair: Pair) -> Iterator[tuple[str, str]]:
    """A database with forty orders, on the primary and on the standby."""
    name = f"standby_{uuid4().hex[:8]}"
    with fresh_database(pair.primary, name) as url:
        with shop(url, as_login=False) as app:
            app.install()
            place_orders(app, range(40))
        yield url, with_database(pair.standby, name)


@pytest.fixture
def connection(urls: tuple[str, str]) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(urls[0], autocommit=True) as connection:
        yield connection


@pytest.fixture
def replica(pair: Pair) -> Iterator[psycopg.Connection[Any]]:
    """An administrator's session on the standby, whose replay goes on at the end."""
    with psycopg.connect(pair.standby, autocommit=True) as connection:
        yield connection
        connection.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def application(url: str) -> Sequent:
    return shop(url, Shop1, as_login=False, group_target_events=GROUP_EVENTS)


def online(url: str, notes: Notes | None = None, **options: Any) -> None:
    with application(url) as app:
        app.view_schema.online(progress=notes or Notes(), **options)


def finish(url: str, connection: psycopg.Connection[Any]) -> None:
    with application(url) as app:
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def has_replayed(replica: psycopg.Connection[Any], connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    there = replica.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone()
    return there == (True,)


@contextmanager
def before_each_group(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[None]:
    run = GroupFold.run

    def acted(self: GroupFold) -> tuple[int, dict[str, int]]:
        act()
        return run(self)

    with monkeypatch.context() as patched:
        patched.setattr(GroupFold, "run", acted)
        yield


class TestLimits:
    def test_the_load_is_who_runs_a_statement_and_is_not_of_this_tool(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        limits, history = Limits(max_load=1), LagHistory()

        def active() -> int | None:
            return take_readings(connection, limits, history).active_backends

        with (
            psycopg.connect(urls[0], autocommit=True) as busy,
            psycopg.connect(urls[0], autocommit=True, application_name="sequent worker") as ours,
            psycopg.connect(urls[0]) as idle,
        ):
            idle.execute("SELECT 1")
            wait_until(lambda: active() == 0)
            for session in (busy, ours):
                pool.submit(session.execute, "SELECT pg_sleep(600)")
            try:
                at_work = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
                wait_until(lambda: connection.execute(at_work).fetchone() == (2,), 20)
                assert active() == 1
            finally:
                for session in (busy, ours):
                    session.cancel()
            wait_until(lambda: active() == 0)

    def test_a_replay_waits_while_the_load_is_too_high(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        notes = Notes()
        with psycopg.connect(urls[0], autocommit=True) as busy:
            sleeping = pool.submit(busy.execute, "SELECT pg_sleep(600)")
            running = pool.submit(online, urls[0], notes, limits=Limits(max_load=0))
            wait_until(lambda: notes.says("--max-load is 0") or running.done())
            done = connection.execute(f"SELECT count(done_at) FROM {SCHEMA}.replay_groups").fetchone()  # noqa: S608
            assert done == (0,)
            busy.cancel()
            assert isinstance(sleeping.exception(60), psycopg.errors.QueryCanceled)
            running.result(60)
        finish(urls[0], connection)

    def test_a_replay_waits_for_a_standby_that_is_stuck(
        self,
        urls: tuple[str, str],
        connection: psycopg.Connection[Any],
        replica: psycopg.Connection[Any],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        notes = Notes()
        # A replay that lasts until it has been seen that the standby is stuck.
        with application(urls[0]) as app:
            app.view_schema.pause()
        running = pool.submit(online, urls[0], notes, limits=Limits(max_replica_lag_seconds=1.0))
        wait_until(lambda: notes.says("paused") or running.done())
        replica.execute("SELECT pg_wal_replay_pause()")
        with application(urls[0]) as app:
            place_orders(app, range(700, 703))
            limits, history = Limits(max_replica_lag_seconds=1.0), LagHistory()
            wait_until(lambda: max(take_readings(connection, limits, history).replica_lags.values()) > 2)
            app.view_schema.resume()
        wait_until(lambda: notes.says("behind, and --max-replica-lag is 1") or running.done())
        assert not running.done()
        replica.execute("SELECT pg_wal_replay_resume()")
        running.result(60)
        finish(urls[0], connection)

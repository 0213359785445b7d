"""Beside a real standby: reading events from it, the lag of replicas, and the load of the server, which no other test shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from declared_shop import DeclaredShop1, MixedShop
from shop import OrderPlaced, Shop1, actual_rows, expected_rows, order_id, place_orders, shop
from standby_server import Pair, binaries_from_environment, primary_and_standby
from waiting import wait_until

from sequent_py import Migrations, Sequent
from sequent_py.errors import ConfigurationError, DatabaseUnavailable, WorkerFailed
from sequent_py.replay import standby
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


class TestReadingFromAStandby:
    def test_the_tables_equal_the_log_and_the_primary_was_not_read(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        readers: list[bool] = []
        begin = GroupFold.__init__

        def noted(
            self: GroupFold, folding: Any, claimed: Any, specials: Any, reader: Any, writer: Any
        ) -> None:
            readers.append(reader.execute("SELECT pg_is_in_recovery()").fetchone()[0])
            begin(self, folding, claimed, specials, reader, writer)

        with monkeypatch.context() as patched:
            patched.setattr(GroupFold, "__init__", noted)
            online(urls[0], read_from=urls[1])
        assert len(readers) > 1
        assert all(readers)
        finish(urls[0], connection)

    def test_worker_processes_and_the_setting(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        with shop(urls[0], as_login=False, standby_url=urls[1], workers=1) as app:
            app.view_schema.online()
        finish(urls[0], connection)

    @pytest.mark.parametrize("migrations", [DeclaredShop1, MixedShop])
    def test_declared_projections_beside_it_are_folded_on_the_primary(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], migrations: type[Migrations]
    ) -> None:
        with shop(urls[0], migrations, as_login=False, group_target_events=GROUP_EVENTS) as app:
            app.view_schema.online(read_from=urls[1])
            app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    def test_it_takes_no_more_than_the_migrators_role(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], replica: psycopg.Connection[Any]
    ) -> None:
        prefix = f"s_{uuid4().hex[:8]}"
        with application(urls[0]) as app:
            app.set_up_roles(prefix=prefix)
        connection.execute(f"CREATE ROLE {prefix}_deploy LOGIN IN ROLE {prefix}_migrator")
        wait_until(lambda: has_replayed(replica, connection))
        primary, standby_url = (url.replace("//postgres@", f"//{prefix}_deploy@") for url in urls)
        notes = Notes()
        online(primary, notes, read_from=standby_url, limits=Limits(max_load=100, max_replica_lag_seconds=60))
        assert not notes.says("No standby"), "it sees the one that there is"
        finish(primary, connection)

    def test_an_empty_url_is_the_primary_whatever_is_configured(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any]
    ) -> None:
        nowhere = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"
        with shop(urls[0], as_login=False, standby_url=nowhere) as app:
            with pytest.raises(DatabaseUnavailable):
                app.view_schema.online()
            app.view_schema.online(read_from="")
        finish(urls[0], connection)

    def test_a_standby_that_is_behind_is_waited_for(
        self,
        urls: tuple[str, str],
        connection: psycopg.Connection[Any],
        replica: psycopg.Connection[Any],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        wait_for, is_waiting = standby.Standby.wait_for, threading.Event()

        def noted(self: standby.Standby, claimed: Any) -> None:
            is_waiting.set()
            wait_for(self, claimed)

        monkeypatch.setattr(standby.Standby, "wait_for", noted)
        wait_until(lambda: has_replayed(replica, connection))
        replica.execute("SELECT pg_wal_replay_pause()")
        # Events that the snapshot will see and the standby has not.
        with application(urls[0]) as app:
            place_orders(app, range(100, 120))
        running = pool.submit(online, urls[0], read_from=urls[1])
        wait_until(lambda: is_waiting.is_set() or running.done())
        assert not running.done(), "it has read what was not there"
        assert connection.execute(
            f"SELECT count(done_at), (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)"  # noqa: S608
            " WHERE l.relation = 'sequent_schema.replay_groups'::regclass AND state = 'idle in transaction')"
            f" FROM {SCHEMA}.replay_groups"
        ).fetchone() == (0, 0)
        replica.execute("SELECT pg_wal_replay_resume()")
        running.result(60)
        finish(urls[0], connection)

    def test_a_standby_that_does_not_move_is_given_up(
        self,
        urls: tuple[str, str],
        connection: psycopg.Connection[Any],
        replica: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(standby.Standby.__init__, "__kwdefaults__", {
            **standby.Standby.__init__.__kwdefaults__, "patience_seconds": 0.5,  # type: ignore[dict-item]
        })  # fmt: skip
        wait_until(lambda: has_replayed(replica, connection))
        replica.execute("SELECT pg_wal_replay_pause()")
        with pytest.raises(WorkerFailed, match="does not have the events of this pass"):
            online(urls[0], read_from=urls[1])
        # The work goes on without it.
        online(urls[0])
        finish(urls[0], connection)

    def test_transactions_in_flight_at_the_snapshot_are_left_to_the_next_pass(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with application(urls[0]) as app:
            late = psycopg.connect(urls[0])
            app.store.append(order_id(500), [OrderPlaced(customer="late")], connection=late)
            lost = psycopg.connect(urls[0])
            app.store.append(order_id(501), [OrderPlaced(customer="rolled back")], connection=lost)
            is_over: list[bool] = []

            def commit() -> None:
                if not is_over:
                    late.commit()
                    lost.rollback()
                    with psycopg.connect(urls[1], autocommit=True) as there:
                        wait_until(
                            lambda: (
                                there.execute(
                                    f"SELECT count(*) FROM {SCHEMA}.events WHERE aggregate_id = %s",  # noqa: S608
                                    (order_id(500),),
                                ).fetchone()
                                == (1,)
                            )
                        )
                    is_over.append(True)

            with late, lost, before_each_group(monkeypatch, commit):
                online(urls[0], read_from=urls[1])
            built = connection.execute(
                "SELECT count(*) FROM view_schema.order_records_1 WHERE customer IN ('late', 'rolled back')"
            ).fetchone()
            assert built == (0,), "the first pass is what its snapshot saw"
        finish(urls[0], connection)

    @pytest.mark.parametrize("is_replayed", [True, False])
    def test_edits_during_the_pass_are_folded_by_the_next_one_wherever_the_standby_is(
        self,
        urls: tuple[str, str],
        connection: psycopg.Connection[Any],
        replica: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
        is_replayed: bool,
    ) -> None:
        edited: list[bool] = []

        def edit() -> None:
            if not edited:
                edited.append(True)
                if not is_replayed:
                    replica.execute("SELECT pg_wal_replay_pause()")
                connection.execute(
                    f"UPDATE {SCHEMA}.events SET payload = jsonb_set(payload, '{{cents}}', '7000')"  # noqa: S608
                    " WHERE payload ? 'cents' AND aggregate_id = ANY (%s)",
                    ([order_id(number) for number in (1, 2, 3)],),
                )
                if is_replayed:
                    wait_until(lambda: has_replayed(replica, connection))

        with before_each_group(monkeypatch, edit):
            online(urls[0], read_from=urls[1])
        replica.execute("SELECT pg_wal_replay_resume()")
        late = connection.execute("SELECT count(*) FROM view_schema.order_records_1 WHERE total >= 7000")
        assert late.fetchone() == (0,), "the pass is what its snapshot saw"
        finish(urls[0], connection)

    def test_a_read_that_the_standby_cancels_is_begun_anew(
        self,
        urls: tuple[str, str],
        connection: psycopg.Connection[Any],
        replica: psycopg.Connection[Any],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fold_in_batches = GroupFold._fold_in_batches
        cancelled: list[BaseException] = []

        def drop_what_is_being_read() -> None:
            wait_until(lambda: replica.execute(READERS_AT_WORK).fetchone() == (1,))
            # max_standby_streaming_delay is 0.
            connection.execute("DROP TABLE junk")

        def meet_conflict(self: GroupFold, raw_events: Any, fold: Any = None) -> int:
            if not cancelled:
                pool.submit(drop_what_is_being_read)
                try:
                    self._reader.execute("SELECT pg_sleep(60) FROM junk LIMIT 1")
                except psycopg.Error as error:
                    cancelled.append(error)
                    raise
            return fold_in_batches(self, raw_events, fold)

        connection.execute("CREATE TABLE junk AS SELECT generate_series(1, 1000) AS n")
        with monkeypatch.context() as patched:
            patched.setattr(GroupFold, "_fold_in_batches", meet_conflict)
            online(urls[0], read_from=urls[1])
        assert isinstance(cancelled[0], psycopg.errors.SerializationFailure)
        finish(urls[0], connection)

    def test_a_primary_and_a_copy_of_another_database_are_refused(
        self, urls: tuple[str, str], pair: Pair
    ) -> None:
        with pytest.raises(ConfigurationError, match="no standby"):
            online(urls[0], read_from=urls[0])
        with pytest.raises(ConfigurationError, match="another database"):
            online(urls[0], read_from=pair.standby)

    def test_a_cut_over_reads_from_the_primary(
        self, urls: tuple[str, str], connection: psycopg.Connection[Any], replica: psycopg.Connection[Any]
    ) -> None:
        with shop(urls[0], as_login=False, standby_url=urls[1]) as app:
            app.view_schema.online()
            replica.execute("SELECT pg_wal_replay_pause()")
            place_orders(app, range(300, 310))
            app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)


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

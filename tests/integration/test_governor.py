"""Pause, rate and the end of a run: what workers ask before they begin a group; and joining replays of every command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from login_roles import login_url
from shop import Shop1, Shop2, actual_rows, expected_rows, place_orders, shop
from waiting import wait_until

from sequent_py import Sequent
from sequent_py.database import connect_for_migration
from sequent_py.errors import ConfigurationError, InsufficientPrivileges
from sequent_py.progress import ReplayProgress
from sequent_py.replay import fence
from sequent_py.replay.control import Control
from sequent_py.replay.governor import Governor
from sequent_py.replay.limits import Limits
from sequent_py.replay.pools import WorkerExit
from sequent_py.replay.replayer import join_replay
from sequent_py.replay.task import ReplayTask
from sequent_py.view_schema.building.joining import _joinable

SCHEMA = "sequent_schema"
GROUP_EVENTS = 20


class Notes:
    """Keeps what a command says; tells ``on_replay`` of progress."""

    def __init__(self, on_replay: Callable[[ReplayProgress], object] = lambda _progress: None) -> None:
        self.lines: list[str] = []
        self._on_replay = on_replay

    def step(self, name: str) -> None:
        pass

    def replay(self, progress: ReplayProgress) -> None:
        self._on_replay(progress)

    def note(self, text: str) -> None:
        self.lines.append(text)

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def url(store_database_url: str) -> str:
    with shop(store_database_url) as app:
        place_orders(app, range(40))
    return store_database_url


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@contextmanager
def resumed_at_last(url: str) -> Iterator[None]:
    """Resume also where the test fails, or its threads would wait for ever."""
    try:
        yield
    finally:
        with shop(url) as app:
            app.view_schema.resume()


def groups(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    row = connection.execute(
        f"SELECT count(done_at), count(*) FROM {SCHEMA}.replay_groups"  # noqa: S608
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def terminate(connection: psycopg.Connection[Any], key: str) -> None:
    """End the sessions that hold a lock of the store."""
    connection.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"  # noqa: S608
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        f" AND objid = ({SCHEMA}.{key}() & 4294967295)::oid AND granted"
    )


def online(url: str, notes: Notes, **options: Any) -> None:
    with shop(url) as app:
        app.view_schema.online(group_target_events=GROUP_EVENTS, progress=notes, **options)


def finish(url: str, connection: psycopg.Connection[Any]) -> None:
    with shop(url) as app:
        app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


class TestPause:
    def test_a_replay_that_is_begun_while_paused_begins_no_group_until_it_is_resumed(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            assert app.view_schema.pause("evening peak").is_paused
            running = pool.submit(online, url, notes)
            wait_until(lambda: notes.says("evening peak") or running.done())
            done, total = groups(connection)
            assert (done, total > 1) == (0, True)
            status = app.view_schema.status()
            assert status.pause is not None
            assert status.pause.reason == "evening peak"
            assert "sequent migrate resume" in status.next_commands
            assert app.view_schema.resume().pause is not None
        running.result(60)
        assert notes.lines[-1] == "The replay goes on."
        assert app.view_schema.status().pause is None
        finish(url, connection)

    def test_a_running_replay_finishes_its_group_and_no_transaction_waits(
        self,
        url: str,
        connection: psycopg.Connection[Any],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Told after each group, however soon that is.
        monkeypatch.setattr("sequent_py.replay.replayer.PROGRESS_SECONDS", 0.0)
        monkeypatch.setattr("sequent_py.replay.replayer.PROGRESS_SHARE", 1e9)
        with shop(url) as operator, resumed_at_last(url):

            def pause(progress: ReplayProgress) -> None:
                if progress.groups_done == 2:
                    operator.view_schema.pause()

            notes = Notes(pause)
            running = pool.submit(online, url, notes)
            wait_until(lambda: notes.says("paused") or running.done())
            assert groups(connection)[0] == 2
            waiting = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'sequent %' AND xact_start IS NOT NULL AND state <> 'active'"
            ).fetchone()
            assert waiting == (0,)
            operator.view_schema.resume()
            running.result(60)
        finish(url, connection)

    def test_worker_processes_wait_as_well(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.pause()
            running = pool.submit(online, url, notes, workers=1)
            wait_until(lambda: fence.worker_count(connection, SCHEMA) == 1 or running.done())
            wait_until(lambda: notes.says("paused") or running.done())
            assert groups(connection)[0] == 0
        running.result(60)
        finish(url, connection)

    @pytest.mark.parametrize("command", ["offline", "golive"])
    def test_no_cut_over_begins_and_writers_go_on(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor, command: str
    ) -> None:
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.online()
            app.view_schema.pause()
            running = pool.submit(lambda: getattr(app.view_schema, command)(progress=notes))
            wait_until(lambda: notes.says("paused") or running.done())
            place_orders(app, range(40, 42))
            assert not running.done()
        running.result(60)
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize("command", ["offline", "golive"])
    def test_a_cut_over_that_has_begun_is_not_held_up(
        self, url: str, connection: psycopg.Connection[Any], command: str, monkeypatch: Any
    ) -> None:
        from sequent_py.view_schema.building.passes import Passes

        with resumed_at_last(url), shop(url) as app, shop(url) as operator:
            app.view_schema.online()
            hurry = Passes.hurry

            def pause_and_hurry(self: Passes) -> None:
                operator.view_schema.pause()
                # Something for the last window.
                place_orders(operator, range(50, 90))
                hurry(self)

            monkeypatch.setattr(Passes, "hurry", pause_and_hurry)
            getattr(app.view_schema, command)()
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_worker_that_dies_while_it_waits_is_replaced_and_the_other_waits_as_well(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.pause()
            running = pool.submit(online, url, notes, workers=1)
            wait_until(lambda: fence.worker_count(connection, SCHEMA) == 1 or running.done())
            terminate(connection, "worker_key")
            wait_until(lambda: notes.says("was lost") or running.done())
            wait_until(lambda: fence.worker_count(connection, SCHEMA) == 1 or running.done())
            assert groups(connection)[0] == 0
        running.result(60)
        finish(url, connection)

    def test_where_the_coordinator_dies_workers_leave_and_status_says_that_it_is_paused(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.pause("forgotten")
            running = pool.submit(online, url, notes)
            wait_until(lambda: notes.says("paused") or running.done())
            joined = pool.submit(app.view_schema.work)
            wait_until(lambda: fence.worker_count(connection, SCHEMA) == 2 or joined.done())
            terminate(connection, "migration_key")
            assert running.exception(60) is not None
            assert joined.result(60) == 0
            status = app.view_schema.status()
            assert (status.holder, status.state) == (None, "online_running")
            assert status.pause is not None
            assert status.pause.reason == "forgotten"
            assert status.next_commands[:2] == ("sequent migrate resume", "sequent migrate online")
            assert groups(connection)[0] == 0
            app.view_schema.resume()
            online(url, Notes())
        finish(url, connection)

    def test_what_came_in_during_a_pause_is_caught_up_before_the_gate_is_closed(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.online()
            app.view_schema.pause()
            running = pool.submit(lambda: app.view_schema.offline(progress=notes))
            wait_until(lambda: notes.says("paused") or running.done())
            place_orders(app, range(50, 110))
        report = running.result(60)
        assert (report.catch_up_events > 200, report.window_events) == (True, 0)
        assert actual_rows(connection) == expected_rows(connection)

    def test_the_time_of_a_pause_is_not_taken_for_a_slow_replay(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor, monkeypatch: Any
    ) -> None:
        # One pass that leaves more than it found would be enough, however short it is.
        monkeypatch.setattr("sequent_py.view_schema.building.pace.LOSING_PASSES", 1)
        monkeypatch.setattr("sequent_py.view_schema.building.pace.SHORT_PASS_SECONDS", 0.0)
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.online()
            place_orders(app, range(50, 110))
            app.view_schema.pause()
            running = pool.submit(lambda: app.view_schema.golive(progress=notes))
            wait_until(lambda: notes.says("paused") or running.done())
            place_orders(app, range(200, 280))
        running.result(60)
        assert actual_rows(connection) == expected_rows(connection)

    def test_pausing_twice_keeps_the_first_and_resuming_nothing_says_so(self, url: str) -> None:
        with shop(url) as app:
            app.view_schema.pause("first")
            again = app.view_schema.pause("second").pause
            assert again is not None
            assert again.reason == "first"
            assert app.view_schema.resume().pause == again
            assert app.view_schema.resume().pause is None

    def test_the_application_may_see_it_and_not_do_it(self, url: str) -> None:
        with shop(url) as app:
            app.view_schema.pause()
            app.view_schema.resume()
        with shop(url, as_login=False) as owner:
            as_web = owner.config.model_copy(
                update={"database_url": type(owner.config.database_url)(login_url(url, "web"))}  # type: ignore[misc]
            )
        with Sequent(as_web, migrations=Shop1) as web:
            assert web.view_schema.status().pause is None
            for change in (web.view_schema.pause, web.view_schema.resume):
                with pytest.raises(InsufficientPrivileges, match="may not pause or resume replays") as raised:
                    change()
                assert "_migrator" in raised.value.remedy

    def test_whoever_paused_another_login_may_resume(self, url: str) -> None:
        with shop(url) as app, shop(url, as_login=False) as administrator:
            pause = app.view_schema.pause().pause
            assert pause is not None
            assert "_deploy" in pause.by
            assert administrator.view_schema.resume().pause == pause
            assert administrator.view_schema.pause().is_paused
            assert app.view_schema.resume().pause is not None
            assert app.view_schema.status().pause is None


class TestRate:
    def test_it_is_kept_over_all_workers(
        self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor
    ) -> None:
        events = 40 * 4 + 5
        rate = 100.0
        began = time.monotonic()
        running = pool.submit(online, url, Notes(), limits=Limits(rate=rate))
        wait_until(lambda: groups(connection)[1] > 0)
        with shop(url) as app:
            report = app.view_schema.status()
            assert report.limits == Limits(rate=rate)
            joined = pool.submit(app.view_schema.work)
            running.result(60)
            joined.result(60)
            assert app.view_schema.status().limits is None, "it was the command's"
        # The first group does not wait, and the last one's own time is not waited for.
        assert time.monotonic() - began > (events - 2 * GROUP_EVENTS) / rate
        finish(url, connection)

    def test_what_a_group_really_had_is_paid_for(self, connection: psycopg.Connection[Any]) -> None:
        control = Control(SCHEMA)
        control.begin_run(connection, 1, 1, limits=Limits(rate=10), code={})
        assert control.reserve(connection, 5) == 0
        assert 4 < control.reserve(connection, 1) <= 5
        control.correct(connection, 10)
        assert 15 < control.reserve(connection, 1) <= 16
        control.begin_run(connection, 1, 2, limits=Limits(rate=10), code={})
        assert control.reserve(connection, 1) == 0, "a new run owes nothing"


class TestRights:
    @pytest.mark.parametrize("limits", [Limits(max_load=5), Limits(max_replica_lag_seconds=5)])
    def test_limits_that_cannot_be_watched_are_refused_with_the_grant(
        self, url: str, connection: psycopg.Connection[Any], limits: Limits
    ) -> None:
        Control(SCHEMA).begin_run(connection, 1, 1, limits=limits, code={})
        with psycopg.connect(login_url(url, "web"), autocommit=True) as blind:
            with pytest.raises(InsufficientPrivileges, match="other logins") as raised:
                Governor(SCHEMA, 1, 1).look(blind)
            assert "GRANT pg_read_all_stats" in raised.value.remedy

    def test_a_lag_that_nobody_reports_is_said_to_hold_nothing_back(
        self, url: str, connection: psycopg.Connection[Any]
    ) -> None:
        notes = Notes()
        online(url, notes, limits=Limits(max_replica_lag_seconds=5))
        assert notes.says("--max-replica-lag holds nothing back until one is")
        finish(url, connection)


class IdlePool:
    """Its workers find nothing to do."""

    running = 0

    def __init__(self, _task: ReplayTask) -> None:
        pass

    def __enter__(self) -> IdlePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, count: int) -> None:
        pass

    def collect(self) -> list[WorkerExit]:
        return []

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def test_a_pool_that_does_nothing_is_said_to_and_its_work_is_done(
    url: str, connection: psycopg.Connection[Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
    notes = Notes()
    online(url, notes, workers=2, pool=IdlePool)
    assert notes.says("The workers have found nothing more to do")
    finish(url, connection)


class TestLeaving:
    @pytest.fixture
    def coordinator(self, url: str) -> Iterator[psycopg.Connection[Any]]:
        with connect_for_migration(url, application_name="sequent migrate test") as connection:
            fence.become_coordinator(connection, SCHEMA)
            Control(SCHEMA).begin_run(connection, 7, 3, code={})
            yield connection

    def test_a_worker_leaves_when_nobody_coordinates(
        self, connection: psycopg.Connection[Any], coordinator: psycopg.Connection[Any]
    ) -> None:
        governor = Governor(SCHEMA, 7, 3)
        assert governor.admit(connection)
        fence.resign(coordinator, SCHEMA)
        assert not governor.admit(connection)

    def test_a_worker_leaves_when_another_run_has_begun_even_while_it_waits(
        self, connection: psycopg.Connection[Any], coordinator: psycopg.Connection[Any]
    ) -> None:
        control = Control(SCHEMA)
        control.pause(coordinator, "somebody", None)
        governor = Governor(
            SCHEMA, 7, 3, sleep=lambda _seconds: control.begin_run(coordinator, 7, 4, code={})
        )
        # There must be something to wait for.
        coordinator.execute(
            f"ALTER TABLE {SCHEMA}.replay_groups DROP CONSTRAINT replay_groups_migration_id_pass_fkey"
        )
        coordinator.execute(
            f"INSERT INTO {SCHEMA}.replay_groups (migration_id, pass, number, estimated_events, epoch) VALUES (7, 0, 0, 1, 3)"  # noqa: S608
        )
        assert not governor.admit(connection)


class TestJoining:
    """Joined are passes while their coordinator is paused, so that it is the worker who replays them."""

    def join(self, app: Sequent) -> int:
        context = app.view_schema._context
        with context.reading("test") as connection:
            task = _joinable(context, connection)
        task = replace(task, is_elsewhere=True, is_governed=False)
        return join_replay(task, context.migrations, context.event_types)

    @contextmanager
    def paused(
        self, url: str, pool: ThreadPoolExecutor, command: Callable[[Notes], object]
    ) -> Iterator[Future[object]]:
        notes = Notes()
        with resumed_at_last(url), shop(url) as app:
            app.view_schema.pause()
            running = pool.submit(command, notes)
            wait_until(lambda: notes.says("paused") or running.done())
            yield running
        running.result(60)

    def test_online(self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor) -> None:
        with self.paused(url, pool, lambda notes: online(url, notes)), shop(url) as joiner:
            assert self.join(joiner) == groups(connection)[1] > 1
        finish(url, connection)

    def test_golive(self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor) -> None:
        with shop(url) as app:
            app.view_schema.online()
            place_orders(app, range(100, 180))
            with self.paused(url, pool, lambda notes: app.view_schema.golive(progress=notes)):
                assert self.join(app) >= 1
        assert actual_rows(connection) == expected_rows(connection)

    def test_rollback(self, url: str, connection: psycopg.Connection[Any], pool: ThreadPoolExecutor) -> None:
        with shop(url) as app:
            app.view_schema.online()
            app.view_schema.offline()
        with shop(url, Shop2) as newer:
            newer.view_schema.online()
            newer.view_schema.offline()
            place_orders(newer, range(100, 120))
            with shop(url) as older:
                with self.paused(url, pool, lambda notes: older.view_schema.rollback(progress=notes)):
                    with pytest.raises(ConfigurationError, match="could join"):
                        newer.view_schema.work()
                    assert self.join(older) >= 1
                place_orders(older, range(200, 203))
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("jsonb_set(code, '{library}', '\"older\"')", "sequent_py itself"),
            (
                "jsonb_set(code, '{tables,order_records,OrderProjector.line_added}', '\"other\"')",
                "OrderProjector.line_added",
            ),
        ],
    )
    def test_other_code_is_refused_and_named(
        self,
        url: str,
        connection: psycopg.Connection[Any],
        pool: ThreadPoolExecutor,
        change: str,
        named: str,
    ) -> None:
        with self.paused(url, pool, lambda notes: online(url, notes)), shop(url) as joiner:
            connection.execute(f"UPDATE {SCHEMA}.replay_control SET code = {change}")  # noqa: S608
            with pytest.raises(ConfigurationError, match=named):
                self.join(joiner)
            assert groups(connection)[0] == 0

    def test_with_nobody_at_work_there_is_nothing_to_join(self, url: str) -> None:
        with shop(url) as app, pytest.raises(ConfigurationError, match="No replay is running"):
            app.view_schema.work()

"""The cut-over while the application runs: writers wait and do not fail, readers see one version or the other, and any death leaves the old one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from batches import Batches
from psycopg import sql
from psycopg.rows import tuple_row
from shop import (
    SQL_DIRECTORY,
    FailingProjector,
    LineAdded,
    LineProjector,
    LineRecord,
    OrderPlaced,
    OrderProjector,
    Shop1,
    Shop1And2,
    ShopFailing,
    ShopForgetful,
    actual_rows,
    built_shop,
    expected_rows,
    live_shop,
    place_orders,
    shop,
)
from waiting import wait_until

from sequent_py import Event, Migrations, Sequent, alter_table, database, on
from sequent_py.errors import (
    CatchUpTooSlow,
    DependentObjects,
    EventsEdited,
    MigrationError,
    MigrationNotStarted,
    ProjectionFailed,
    SwapLockTimeout,
    TimeLimitReached,
    VerificationFailed,
    VersionMismatch,
)
from sequent_py.view_schema.going_live import golive as module
from sequent_py.view_schema.going_live import last_window

pytestmark = pytest.mark.store(made_by=live_shop())


class Altering(Migrations):
    """Version 2 alters the lines in place."""

    version = 2
    versions = {1: [OrderProjector, LineProjector], 2: [alter_table(LineRecord)]}


SLEEP_MILLISECONDS = 4.0


class SlowOrderProjector(OrderProjector):
    """Takes its time when it is replayed."""

    is_slow = True

    @on(OrderPlaced, LineAdded)
    def dawdles(self, event: OrderPlaced | LineAdded) -> None:
        if type(self._persistor).__name__ == "ReplayPersistor":
            time.sleep(SLEEP_MILLISECONDS / 1000)


class Slow(Migrations):
    """Version 2 is slow to build; its code also serves version 1."""

    version = 2
    versions = {1: [SlowOrderProjector, LineProjector], 2: [SlowOrderProjector]}
    also_serves = (Shop1,)


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    """The code carries both versions."""
    with shop(store_database_url, Shop1And2) as app:
        yield app


def order(number: int) -> UUID:
    return UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)


@dataclass
class Application:
    """Threads that append to orders of their own, some 300 events a second in all, and one that reads.

    No faster: they share a process with the command, which on a busy machine would not get ahead of them, and rightly say so.
    """

    app: Sequent
    url: str
    writers: int = 3
    failures: list[BaseException] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    looks: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[Application]:
        threads = [threading.Thread(target=self._guarded, args=(self._write, n)) for n in range(self.writers)]
        threads.append(threading.Thread(target=self._guarded, args=(self._read, 0)))
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(self.latencies) > 20 or self.failures)
            yield self
            before = len(self.latencies)
            wait_until(lambda: len(self.latencies) > before + 20 or self.failures)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(60)

    def _guarded(self, work: Any, number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            self.failures.append(error)

    def _write(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            aggregate_id = order(1_000_000 * (number + 1) + count // 5)
            event: Event = (
                OrderPlaced(customer="c") if count % 5 == 0 else LineAdded(product=f"p{count}", cents=count)
            )
            before = time.monotonic()
            self.app.store.append(aggregate_id, [event], expected_version=count % 5)
            self.latencies.append(time.monotonic() - before)
            count += 1
            self.stop.wait(0.01)

    def _read(self, _number: int) -> None:
        """Look at every row again and again: no table may be missing, no order may go back."""
        seen: dict[UUID, int] = {}
        with psycopg.connect(self.url, autocommit=True, row_factory=tuple_row) as reader:
            while not self.stop.is_set():
                rows = reader.execute(
                    "SELECT aggregate_id, sequence_number FROM view_schema.order_records"
                ).fetchall()
                found = dict(rows)
                for aggregate_id, sequence_number in seen.items():
                    now = found.get(aggregate_id, 0)
                    assert now >= sequence_number, f"{aggregate_id} went back from {sequence_number} to {now}"
                seen = found
                self.looks += 1


class SlowOnceProjector(LineProjector):
    """Takes longer over an event than the slowest window may."""

    @on(LineAdded)
    def slow(self, event: LineAdded) -> None:
        time.sleep(last_window.SLOWEST_WINDOW_SECONDS / 2)


class ShopSlowOnce(Migrations):
    version = 1
    versions = {1: [OrderProjector, SlowOnceProjector]}


class TestUnderWriters:
    def test_no_append_fails_no_reader_sees_anything_go_back_and_the_tables_equal_the_log(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(50))
        with Application(app, store_database_url).running() as application:
            app.view_schema.online()
            report = app.view_schema.golive()
        assert application.failures == []
        assert application.looks > 5
        assert actual_rows(connection) == expected_rows(connection)
        assert app.view_schema.current_version() == 2
        assert set(report.retired_tables) == {"line_records_1", "order_records_1"}
        assert report.verified_aggregates > 0
        assert 0 < report.readers_stall_milliseconds <= report.writers_stall_milliseconds
        stored = connection.execute(
            "SELECT stall_milliseconds FROM sequent_schema.view_migrations ORDER BY id DESC LIMIT 1"
        ).fetchone()
        assert stored == (report.writers_stall_milliseconds,)

    def test_code_of_the_old_version_alone_fails_for_its_version_and_nothing_else(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url) as old:
            application = Application(old, store_database_url)
            app.view_schema.online()
            threads = [threading.Thread(target=application._guarded, args=(application._write, 0))]
            threads[0].start()
            wait_until(lambda: len(application.latencies) > 20)
            app.view_schema.golive()
            threads[0].join(60)
        assert [type(error) for error in application.failures] == [VersionMismatch]
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_transaction_that_is_open_meanwhile_is_waited_for_and_not_lost(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        app.view_schema.online()
        with psycopg.connect(store_database_url) as slow:
            app.store.append(
                order(1), [OrderPlaced(customer="slow"), LineAdded(product="p", cents=5)], connection=slow
            )

            def finish() -> None:
                wait_until(lambda: app.view_schema.status().state == "golive_running")
                place_orders(app, range(2, 20))
                slow.commit()

            thread = threading.Thread(target=finish)
            thread.start()
            app.view_schema.golive()
            thread.join(30)
        assert actual_rows(connection) == expected_rows(connection)
        assert len(actual_rows(connection)["order_records"]) > 10

    def test_an_append_that_began_to_wait_before_the_swap_is_projected_by_the_new_version(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app.view_schema.online()
        threads: list[threading.Thread] = []
        original = module._Golive._replay

        def replay(self: Any, window: Any) -> None:
            original(self, window)
            thread = threading.Thread(target=place_orders, args=(app, [1]))
            thread.start()
            threads.append(thread)
            wait_until(
                lambda: (
                    connection.execute(
                        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                    ).rowcount
                    == 1
                )
            )

        monkeypatch.setattr(module._Golive, "_replay", replay)
        app.view_schema.golive()
        threads[0].join(30)
        assert len(actual_rows(connection)["order_records"]) == 1
        assert actual_rows(connection) == expected_rows(connection)


class TestWhatItNeeds:
    @pytest.mark.store(made_by=None)
    def test_the_first_version_goes_live_without_maintenance_mode(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url) as app:
            place_orders(app, range(20))
            app.view_schema.online()
            place_orders(app, range(20, 40))
            report = app.view_schema.golive()
            assert report.catch_up_events > 0
            assert report.rows == {name: len(rows) for name, rows in actual_rows(connection).items()}
            assert actual_rows(connection) == expected_rows(connection)
            assert app.view_schema.golive().is_noop

    def test_a_version_that_only_alters_a_table_in_place_goes_live(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any], tmp_path: Path
    ) -> None:
        place_orders(app, range(3))
        shutil.copytree(SQL_DIRECTORY, tmp_path, dirs_exist_ok=True)
        index = "CREATE INDEX line_records_product{} ON line_records{} (product);"
        with (tmp_path / "line_records.indexes.sql").open("a") as file:
            file.write(index.format("%SUFFIX%", "%SUFFIX%"))
        (tmp_path / "line_records_2.sql").write_text(index.format("", ""))
        with shop(store_database_url, Altering, sql_directory=tmp_path) as altering:
            altering.view_schema.online()
            report = altering.view_schema.golive()
            assert report.retired_tables == ()
            assert connection.execute(
                "SELECT to_regclass('view_schema.line_records_product')::text"
            ).fetchone() == ("view_schema.line_records_product",)
            place_orders(altering, range(3, 6))
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.store(made_by=None)
    def test_one_slow_event_does_not_stand_for_a_store_in_which_nothing_happens(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, ShopSlowOnce) as app:
            app.view_schema.online()
            place_orders(app, [1])
            assert app.view_schema.golive().window_events == 0
            assert actual_rows(connection) == expected_rows(connection)

    def test_online_comes_first(self, app: Sequent) -> None:
        with pytest.raises(MigrationNotStarted, match="golive needs the tables that online builds"):
            app.view_schema.golive()

    def test_status_offers_it_when_online_is_done(self, app: Sequent) -> None:
        app.view_schema.online()
        assert "sequent migrate golive" in app.view_schema.status().next_commands

    def test_a_materialized_view_that_has_come_since_is_refused_at_the_door(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        app.view_schema.online()
        connection.execute(
            "CREATE MATERIALIZED VIEW public.totals AS SELECT sum(total) FROM view_schema.order_records"
        )
        with pytest.raises(DependentObjects, match="totals"):
            app.view_schema.golive()
        assert app.view_schema.status().state == "online_done"

    def test_a_materialized_view_that_comes_in_the_very_last_moment_stops_the_swap(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app.view_schema.online()
        original = module._Golive._approach

        def approach(self: Any, window: Any) -> None:
            original(self, window)
            connection.execute(
                "CREATE MATERIALIZED VIEW public.totals AS SELECT sum(total) FROM view_schema.order_records"
            )

        monkeypatch.setattr(module._Golive, "_approach", approach)
        with pytest.raises(DependentObjects, match="totals"):
            app.view_schema.golive()
        assert app.view_schema.status().state == "online_done"
        monkeypatch.undo()
        connection.execute("DROP MATERIALIZED VIEW public.totals")
        app.view_schema.golive()

    def test_what_was_granted_in_the_very_last_moment_follows(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app.view_schema.online()
        original = module._Golive._approach

        def approach(self: Any, window: Any) -> None:
            original(self, window)
            connection.execute("GRANT SELECT ON view_schema.order_records TO public")

        monkeypatch.setattr(module._Golive, "_approach", approach)
        app.view_schema.golive()
        granted = connection.execute(
            "SELECT FROM information_schema.table_privileges WHERE grantee = 'PUBLIC' AND table_schema = 'view_schema'"
            " AND table_name = 'order_records'"
        )
        assert granted.rowcount == 1


class TestFailures:
    def test_when_the_locks_cannot_be_had_the_holder_is_named_and_everything_is_as_before(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(10))
        app.view_schema.online()
        with psycopg.connect(store_database_url, application_name="report") as reader:
            reader.execute("SELECT count(*) FROM view_schema.line_records")
            with pytest.raises(SwapLockTimeout) as caught:
                app.view_schema.golive(lock_budget_seconds=0.3)
            for part in (f"pid {reader.info.backend_pid}", "report", "line_records", "idle in transaction"):
                assert part in str(caught.value)
            assert "sequent migrate golive" in caught.value.remedy
            status = app.view_schema.status()
            assert (status.state, status.live_version) == ("online_done", 1)
            assert status.migration is not None
            assert str(reader.info.backend_pid) in (status.migration.error or "")
            place_orders(app, range(10, 20))
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize("table", ["view_migrations", "view_tables"])
    def test_who_has_locked_the_records_of_migrations_is_named(
        self,
        app: Sequent,
        store_database_url: str,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
        table: str,
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        settings = dict(database.MIGRATION_SETTINGS) | {"lock_timeout": "100ms"}
        monkeypatch.setattr(database, "MIGRATION_SETTINGS", tuple(settings.items()))
        with psycopg.connect(store_database_url, application_name="by hand") as other:
            other.execute(
                sql.SQL("SELECT FROM {} FOR UPDATE").format(sql.Identifier("sequent_schema", table))
            )
            with pytest.raises(MigrationError) as caught:
                app.view_schema.golive(lock_budget_seconds=0.3)
            assert f"rows of {table} held by pid {other.info.backend_pid}" in caught.value.message
            assert "sequent migrate golive" in caught.value.remedy
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.store(made_by=None)
    def test_a_handler_that_raises_leaves_online_done(
        self, store_database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, ShopFailing) as app:
            [first] = place_orders(app, [1])
            app.view_schema.online()
            app.store.append(first, [LineAdded(product="poison", cents=1)])
            with pytest.raises(ProjectionFailed, match="no poison here"):
                app.view_schema.golive()
            assert app.view_schema.status().state == "online_done"
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.store(made_by=None)
    def test_tables_that_differ_from_the_log_are_not_promoted(self, store_database_url: str) -> None:
        with shop(store_database_url, ShopForgetful) as app:
            place_orders(app, range(5))
            app.view_schema.online()
            with pytest.raises(VerificationFailed, match="fresh fold"):
                app.view_schema.golive()
            assert (app.view_schema.status().state, app.view_schema.current_version()) == ("online_done", 0)

    def test_rows_that_nobody_accounts_for_are_found(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("DELETE FROM view_schema.line_records_2 WHERE number = 2")
        with pytest.raises(VerificationFailed, match="line_records"):
            app.view_schema.golive(verify_sample=0)
        assert app.view_schema.status().state == "online_done"

    def test_edited_events_are_folded_anew(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (ids[0],))
        original = module._Golive._approach

        def approach(self: Any, window: Any) -> None:
            original(self, window)
            # Left to the last window, which has no other event.
            connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (ids[1],))

        monkeypatch.setattr(module._Golive, "_approach", approach)
        report = app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)
        assert report.rows["line_records"] == len(actual_rows(connection)["line_records"])

    def test_events_that_nobody_can_tell_apart_stop_it(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("TRUNCATE sequent_schema.events_03")
        with pytest.raises(EventsEdited):
            app.view_schema.golive()
        assert app.view_schema.status().state == "online_done"

    def test_a_window_that_has_grown_gives_the_locks_back_and_is_caught_up_with(
        self, app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app.view_schema.online()
        grown: list[int] = []
        original = module._Golive._approach

        def approach(self: Any, window: Any) -> None:
            original(self, window)
            if len(grown) < 2:
                grown.append(len(place_orders(app, range(100 * len(grown), 100 * len(grown) + 60))))

        monkeypatch.setattr(module._Golive, "_approach", approach)
        report = app.view_schema.golive(max_delta_events=20, max_lag_seconds=0.0)
        assert grown == [60, 60]
        assert report.tries >= 3
        assert report.window_events == 0
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_window_that_grows_each_time_is_an_error_that_says_what_to_do(
        self, app: Sequent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app.view_schema.online()
        placed: list[int] = []
        original = module._Golive._approach

        def approach(self: Any, window: Any) -> None:
            original(self, window)
            placed.extend(range(len(placed), len(placed) + 10))
            place_orders(app, placed[-10:])

        monkeypatch.setattr(module._Golive, "_approach", approach)
        with pytest.raises(CatchUpTooSlow) as caught:
            app.view_schema.golive(max_delta_events=5, max_lag_seconds=0.0)
        assert "--max-delta" in caught.value.remedy
        assert app.view_schema.status().state == "online_done"
        place_orders(app, [1_000])

    @pytest.mark.slow
    def test_passes_that_do_not_get_ahead_of_the_writers_are_an_error_with_both_rates(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, Slow) as app:
            app.view_schema.online()
            before = connection.execute("SELECT max(number) FROM sequent_schema.replay_passes").fetchone()
            with Batches(app).running(), pytest.raises(CatchUpTooSlow) as caught:
                app.view_schema.golive(max_delta_events=50)
            after = connection.execute("SELECT max(number) FROM sequent_schema.replay_passes").fetchone()
            status = app.view_schema.status()
        message = caught.value.message
        caught_up, appended = (
            int(rate.replace(",", "")) for rate in re.findall(r"([\d,]+) events/s", message)
        )
        assert 0 < caught_up < min(1_000 / SLEEP_MILLISECONDS, appended / 0.85), message
        assert "offline" in caught.value.remedy
        assert status.state == "online_done"
        assert before is not None
        assert after is not None
        assert after[0] - before[0] <= 12, "it is said as soon as passes are long"

    def test_a_slow_projector_catches_up_with_slower_writers(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, Slow) as app:
            app.view_schema.online()
            with Batches(app, size=5, pause_seconds=0.1).running():
                app.view_schema.golive(max_delta_events=50)
        assert actual_rows(connection) == expected_rows(connection)


def stopped_by_time(
    app: Sequent, match: str, *max_seconds: float, **limits: float
) -> tuple[TimeLimitReached, re.Match[str]]:
    """Run a golive that its time ends where it says so; a busy machine takes longer to come as far."""
    for seconds in max_seconds:
        began = time.monotonic()
        with pytest.raises(TimeLimitReached) as caught:
            app.view_schema.golive(max_seconds=seconds, **limits)
        assert time.monotonic() - began < seconds + 28
        if found := re.search(match, caught.value.message):
            return caught.value, found
    pytest.fail(caught.value.message)


class TestTimeInAll:
    """``max_seconds``: it stops where nothing is lost, says how far it came, and goes on from there."""

    def test_it_stops_between_groups_and_keeps_them(
        self,
        store_database_url: str,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # So that there are several groups in a window that is small enough for a test.
        monkeypatch.setattr("sequent_py.replay.estimate.SAMPLE_ROWS", 100)
        with shop(store_database_url, Slow, group_target_events=20) as app:
            app.view_schema.online()
            place_orders(app, range(200))
            error, found = stopped_by_time(
                app, r"while catching up: 0 events were caught up, (\d+) of (\d+) groups", 1.0, 2.0, 3.0
            )
            message, remedy = error.message, error.remedy
            done, total = map(int, found.groups())
            assert 0 < done < total
            assert re.search(r"[123] s at most", message)
            assert "--max-time" in remedy
            assert "sequent migrate golive" in remedy
            status = app.view_schema.status()
            assert status.state == "online_done"
            assert status.migration is not None
            assert status.migration.error == str(error)
            place_orders(app, [1_000])
            report = app.view_schema.golive()
        pending = connection.execute("SELECT count(*) FROM sequent_schema.events").fetchone()
        assert pending is not None
        assert report.catch_up_events < pending[0], "finished groups are not replayed again"
        assert actual_rows(connection) == expected_rows(connection)

    def test_whoever_keeps_it_from_its_locks_is_named(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        with psycopg.connect(store_database_url, application_name="long report") as reader:
            reader.execute("SELECT FROM view_schema.order_records")
            stopped_by_time(app, "long report", 2.0, 8.0, 30.0, lock_budget_seconds=60.0)
        assert app.view_schema.status().state == "online_done"
        app.view_schema.golive(max_seconds=60.0, lock_timeout_seconds=1.0)
        assert actual_rows(connection) == expected_rows(connection)

    def test_it_is_over_while_replays_are_paused(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        app.view_schema.online()
        place_orders(app, range(100))
        app.view_schema.pause()
        with pytest.raises(TimeLimitReached, match="catching up"):
            app.view_schema.golive(max_seconds=1.0)
        app.view_schema.resume()
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_smaller_budget_for_the_locks_counts_as_what_it_is(
        self, app: Sequent, store_database_url: str
    ) -> None:
        app.view_schema.online()
        with psycopg.connect(store_database_url, application_name="long report") as reader:
            reader.execute("SELECT FROM view_schema.order_records")
            with pytest.raises(SwapLockTimeout):
                app.view_schema.golive(max_seconds=60.0, lock_budget_seconds=0.1)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from shop import Shop1And2, shop
from sequent_py.view_schema.going_live import golive, cut_over, promotion, last_window
from sequent_py.view_schema.ddl.swap import swap
import sequent_py.view_schema.ddl.swap as swap_module
def hang(*_):
    print("here", flush=True)
    sys.stdin.read()
def before(owner, name):
    original = getattr(owner, name)
    def paused(*arguments, **named):
        hang()
        return original(*arguments, **named)
    setattr(owner, name, paused)
def after(owner, name):
    original = getattr(owner, name)
    def paused(*arguments, **named):
        result = original(*arguments, **named)
        hang()
        return result
    setattr(owner, name, paused)
{point}
with shop({url!r}, Shop1And2) as app:
    app.view_schema.golive()
"""

POINTS = {
    "verifying": "before(promotion.Promotion, 'verify')",
    "entered": "after(promotion.Promotion, 'begin')",
    "locked": "before(golive._Golive, '_replay')",
    "in the last window": "before(last_window.GroupReplayer, 'run')",
    "replayed": "after(golive._Golive, '_replay')",
    "swapped": "after(swap_module, 'swap')",
    "about to commit": "after(promotion.Promotion, 'promote')",
}


@contextmanager
def stopped_at(url: str, point: str) -> Iterator[subprocess.Popen[str]]:
    """A golive in a process of its own that has come to a point and stays there."""
    script = SCRIPT.format(
        path=[str(Path(__file__).parent), str(Path(__file__).parents[1])], url=url, point=POINTS[point]
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "here\n", process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def place_one_more(app: Sequent, number: int) -> threading.Thread:
    """Append from a thread: it waits while the locks are held."""
    thread = threading.Thread(target=place_orders, args=(app, [number]))
    thread.start()
    return thread


def require_served_by_version_1(app: Sequent, connection: psycopg.Connection[Any]) -> None:
    wait_until(lambda: app.view_schema.status().holder is None, seconds=10)
    status = app.view_schema.status()
    assert (status.state, status.live_version) == ("online_done", 1)
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.store(made_by=built_shop(10, Shop1And2))
class TestDeaths:
    @pytest.mark.parametrize("command", ["golive", "offline", "abort"])
    @pytest.mark.parametrize("point", ["locked", "swapped"])
    def test_after_a_kill_any_command_goes_on(
        self,
        app: Sequent,
        store_database_url: str,
        connection: psycopg.Connection[Any],
        point: str,
        command: str,
    ) -> None:
        with stopped_at(store_database_url, point) as process:
            writer = place_one_more(app, 11)
            process.kill()
            writer.join(10)
            assert not writer.is_alive()
        require_served_by_version_1(app, connection)
        getattr(app.view_schema, command)()
        place_orders(app, [12])
        assert actual_rows(connection) == expected_rows(connection)
        assert app.view_schema.current_version() == (1 if command == "abort" else 2)

    @pytest.mark.parametrize(
        "point", ["verifying", "entered", "in the last window", "replayed", "about to commit"]
    )
    def test_a_kill_leaves_the_old_tables_serving_and_golive_goes_on(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any], point: str
    ) -> None:
        place_orders(app, range(10, 20))
        with stopped_at(store_database_url, point) as process:
            writer = place_one_more(app, 21)
            process.kill()
            writer.join(10)
            assert not writer.is_alive()
        require_served_by_version_1(app, connection)
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize(
        ("point", "backend"),
        [
            ("locked", "sequent migrate golive%"),
            ("about to commit", "sequent migrate golive%"),
            ("in the last window", "sequent worker"),
            ("in the last window", "sequent worker (reader)"),
        ],
    )
    def test_a_terminated_backend_fails_it_and_golive_goes_on(
        self,
        app: Sequent,
        store_database_url: str,
        connection: psycopg.Connection[Any],
        point: str,
        backend: str,
    ) -> None:
        place_orders(app, range(10, 20))
        with stopped_at(store_database_url, point) as process:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
                " AND datname = current_database()",
                (backend,),
            )
            assert ended.rowcount == 1
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) != 0
        require_served_by_version_1(app, connection)
        place_orders(app, [21])
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_coordinator_that_hangs_with_the_locks_is_ended_by_the_server(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with stopped_at(store_database_url, "replayed") as process:
            writer = place_one_more(app, 10)
            writer.join(15)
            assert not writer.is_alive(), "the server lets writers go on"
            assert process.poll() is None, "though the coordinator still hangs"
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) != 0
            assert process.stderr is not None
            assert "StallLimitExceeded" in process.stderr.read()
        require_served_by_version_1(app, connection)
        app.view_schema.golive()
        assert actual_rows(connection) == expected_rows(connection)

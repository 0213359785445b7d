"""The main job on a real server: online and offline, with everything that can happen in between."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import (
    FailingProjector,
    LineAdded,
    OrderPlaced,
    Shop1,
    Shop2,
    ShopFailing,
    ShopForgetful,
    actual_rows,
    expected_rows,
    live_shop,
    order_id,
    place_orders,
    shop,
)

from sequent_py import Sequent
from sequent_py.database import connect_for_migration
from sequent_py.errors import (
    ConcurrentMigration,
    DrainTimeout,
    ForeignTransactionIds,
    InsufficientPrivileges,
    InvalidTransition,
    MaintenanceModeActive,
    MigrationNotStarted,
    PlanChanged,
    ProjectionFailed,
    SwapLockTimeout,
    TableFileError,
    VerificationFailed,
    VersionMismatch,
)
from sequent_py.view_schema.going_live.promotion import Promotion


def table_names(connection: psycopg.Connection[Any]) -> set[str]:
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'view_schema' AND c.relkind = 'r'"
    )
    return {row[0] for row in rows}


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


class TestOnline:
    def test_builds_shadow_tables_beside_nothing_and_leaves_them_unpromoted(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(20))
        report = app.view_schema.online()
        assert table_names(connection) == {"order_records_1", "line_records_1"}
        assert actual_rows(connection, "_1") == expected_rows(connection)
        assert (report.events, report.is_noop, report.is_resumed) == (20 * 4 + 2, False, False)
        assert report.rows == {"order_records": 18, "line_records": 54}
        assert app.view_schema.status().state == "online_done"

    def test_an_empty_store_is_migrated(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        migrate(app)
        assert actual_rows(connection) == {"order_records": [], "line_records": []}
        assert app.view_schema.current_version() == 1

    def test_the_application_goes_on_and_shadow_tables_stay_at_their_snapshot(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        before = actual_rows(connection, "_1")
        place_orders(app, range(5, 10))
        assert actual_rows(connection, "_1") == before
        assert app.view_schema.status().pending_events == 5 * 4 + 1

    def test_run_again_it_catches_up(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        ids = place_orders(app, range(5, 10))
        app.store.append(ids[0], [LineAdded(product="late", cents=1)])
        assert app.view_schema.online().events == 5 * 4 + 1 + 1
        assert actual_rows(connection, "_1") == expected_rows(connection)
        assert app.view_schema.online().events == 0

    def test_a_failing_handler_names_everything_and_finished_work_is_kept(
        self, store_database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            [order] = place_orders(failing, [1])
            failing.store.append(order, [LineAdded(product="poison", cents=1)])
            with pytest.raises(ProjectionFailed) as caught:
                failing.view_schema.online()
            for part in ("FailingProjector", "LineAdded", str(order), "sequence number 5", "no poison here"):
                assert part in str(caught.value)
            assert failing.view_schema.status().state == "online_running"
            assert failing.view_schema.current_version() == 0
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            assert failing.view_schema.online().is_resumed
            failing.view_schema.offline()
        assert len(actual_rows(connection)["order_records"]) == 1

    @pytest.mark.store(made_by=live_shop())
    def test_when_the_version_is_live_there_is_nothing_to_do(self, app: Sequent) -> None:
        assert app.view_schema.online().is_noop
        assert app.view_schema.offline().is_noop

    @pytest.mark.store(made_by=live_shop())
    def test_an_older_version_is_refused(self, app: Sequent, store_database_url: str) -> None:
        with shop(store_database_url, Shop2) as newer:
            migrate(newer)
        for command in (app.view_schema.online, app.view_schema.offline):
            with pytest.raises(InvalidTransition, match="version"):
                command()

    def test_unrelated_tables_survive(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        connection.execute("CREATE SCHEMA IF NOT EXISTS view_schema")
        for name in ("lines1", "lines_1", "report_2"):
            connection.execute(f"CREATE TABLE view_schema.{name} ()")
        migrate(app)
        assert {"lines1", "lines_1", "report_2"} <= table_names(connection)

    def test_the_migration_lock_is_free_when_a_command_returns(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        for _ in range(20):
            app.view_schema.online()
            held = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
            assert held == (0,), "a script's next command would be refused as concurrent"

    def test_a_second_coordinator_is_refused_at_once_and_changes_nothing(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("SELECT pg_advisory_lock(sequent_schema.migration_key())")
        for command in (app.view_schema.online, app.view_schema.offline, app.view_schema.abort):
            with pytest.raises(ConcurrentMigration):
                command()
        row = connection.execute("SELECT count(*) FROM sequent_schema.view_migrations").fetchone()
        assert row == (0,)

    def test_another_target_is_refused_until_the_first_is_aborted(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        app.view_schema.online()
        with shop(store_database_url, Shop2) as newer:
            for command in (newer.view_schema.online, newer.view_schema.offline):
                with pytest.raises(InvalidTransition, match="abort"):
                    command()
            assert table_names(connection) == {"order_records_1", "line_records_1"}
            newer.view_schema.abort()
            migrate(newer)
        assert table_names(connection) == {"order_records", "line_records"}

    def test_a_changed_table_file_is_refused(
        self, store_database_url: str, tmp_path: Any, app: Sequent
    ) -> None:
        for file in app.config.sql_path.iterdir():
            (tmp_path / file.name).write_text(file.read_text())
        with shop(store_database_url, sql_directory=tmp_path) as copy:
            copy.view_schema.online()
            (tmp_path / "line_records.indexes.sql").write_text(
                "CREATE INDEX i%SUFFIX% ON line_records%SUFFIX% (cents);"
            )
            with pytest.raises(PlanChanged, match=r"line_records\.indexes\.sql"):
                copy.view_schema.offline()
            copy.view_schema.abort()
            migrate(copy)


class TestWindows:
    def place(self, connection: psycopg.Connection[Any], app: Sequent, aggregate_id: UUID) -> None:
        app.store.append(
            aggregate_id, [OrderPlaced(customer="x"), LineAdded(product="p", cents=5)], connection=connection
        )

    def test_a_transaction_open_during_online_is_replayed_once_by_offline(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, range(3))
        with psycopg.connect(store_database_url) as early:
            self.place(early, app, uuid4())
            app.view_schema.online()
            assert len(actual_rows(connection, "_1")["order_records"]) == 3
            early.commit()
        app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)
        assert len(actual_rows(connection)["order_records"]) == 4

    def test_a_transaction_that_took_its_id_early_and_appends_late_is_not_lost(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        [order] = place_orders(app, [1])
        with psycopg.connect(store_database_url) as early:
            early.execute("SELECT pg_current_xact_id()")
            app.store.append(order, [LineAdded(product="newer", cents=1)])
            app.view_schema.online()
            app.store.append(order, [LineAdded(product="after", cents=1)], connection=early)
            early.commit()
        app.view_schema.online()
        app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_rolled_back_transaction_leaves_nothing(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        with psycopg.connect(store_database_url) as doomed:
            self.place(doomed, app, uuid4())
            app.view_schema.online()
            doomed.rollback()
        app.view_schema.offline()
        assert actual_rows(connection) == {"order_records": [], "line_records": []}

    def test_an_unrelated_long_transaction_delays_nothing(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        connection.execute("CREATE TABLE public.elsewhere (x int)")
        with psycopg.connect(store_database_url) as unrelated:
            unrelated.execute("INSERT INTO public.elsewhere VALUES (1)")
            place_orders(app, range(10))
            migrate(app)
            assert actual_rows(connection) == expected_rows(connection)

    def test_the_same_rows_whatever_the_group_size(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(60))
        for size in (1, 7, 100_000):
            app.view_schema.online(group_target_events=size)
            assert actual_rows(connection, "_1") == expected_rows(connection)
            app.view_schema.abort()


class TestOffline:
    def test_needs_online(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        with pytest.raises(MigrationNotStarted):
            app.view_schema.offline()
        row = connection.execute("SELECT count(*) FROM sequent_schema.view_migrations").fetchone()
        assert row == (0,)

    def test_replays_the_rest_and_swaps(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        place_orders(app, range(10))
        app.view_schema.online()
        place_orders(app, range(10, 14))
        report = app.view_schema.offline()
        assert report.window_events == 4 * 4 + 1
        assert report.verified_aggregates > 0
        assert report.retired_tables == ()
        assert table_names(connection) == {"order_records", "line_records"}
        assert actual_rows(connection) == expected_rows(connection)
        assert app.view_schema.status().live_version == 1

    @pytest.mark.store(made_by=live_shop(5))
    def test_live_projection_goes_on_from_the_swapped_tables(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        ids = list(map(order_id, range(5)))
        app.store.append(ids[0], [LineAdded(product="live", cents=3)])
        place_orders(app, range(5, 12))
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.store(made_by=live_shop(5))
    def test_the_old_table_is_retired_and_old_code_refused(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        with shop(store_database_url, Shop2) as newer:
            with pytest.raises(VersionMismatch):
                place_orders(newer, [50])
            newer.view_schema.online()
            place_orders(app, range(5, 9))
            report = newer.view_schema.offline()
            assert report.retired_tables == ("order_records_1",)
            assert table_names(connection) == {"order_records", "order_records_1", "line_records"}
            assert actual_rows(connection) == expected_rows(connection)
            with pytest.raises(VersionMismatch):
                place_orders(app, [51])
            place_orders(newer, range(20, 25))
            assert actual_rows(connection) == expected_rows(connection)
            status = newer.view_schema.status()
            assert (status.state, status.retired_tables) == ("live", ("order_records_1",))

    def test_a_writer_in_flight_is_named_when_it_does_not_finish(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        with psycopg.connect(store_database_url, application_name="slow writer") as slow:
            app.store.append(uuid4(), [OrderPlaced(customer="slow")], connection=slow)
            with pytest.raises(DrainTimeout, match="slow writer"):
                app.view_schema.offline(drain_timeout_seconds=0.2)
            assert app.view_schema.status().state == "online_done"
            place_orders(app, [30])
            slow.commit()
        app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    def test_maintenance_mode_that_was_on_before_stays_on(self, app: Sequent) -> None:
        app.view_schema.online()
        app.maintenance.on("moving house")
        app.view_schema.offline()
        with pytest.raises(MaintenanceModeActive, match="moving house"):
            place_orders(app, [1])
        app.maintenance.off()
        place_orders(app, [1])

    @pytest.mark.store(made_by=live_shop(3))
    def test_a_reader_that_holds_the_table_stops_the_swap_and_nothing_is_lost(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        with shop(store_database_url, Shop2, lock_timeout_seconds=0.1) as newer:
            newer.view_schema.online()
            with psycopg.connect(store_database_url, application_name="long report") as reader:
                reader.execute("SELECT * FROM view_schema.order_records").fetchall()
                with pytest.raises(SwapLockTimeout, match="long report"):
                    newer.view_schema.offline(lock_budget_seconds=0.5)
                assert newer.view_schema.status().state == "online_done"
                place_orders(app, [40])
            newer.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize(
        ("configured", "given", "expected"), [(None, None, "1s"), (0.7, None, "700ms"), (0.7, 0.3, "300ms")]
    )
    def test_a_try_of_the_swap_waits_for_its_locks_as_long_as_the_option_says_or_the_setting(
        self,
        store_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
        configured: float | None,
        given: float | None,
        expected: str,
    ) -> None:
        seen: list[Any] = []
        promote = Promotion.promote

        def promoted(self: Promotion) -> Any:
            seen.append(self.connection.execute("SHOW lock_timeout").fetchone())
            return promote(self)

        monkeypatch.setattr(Promotion, "promote", promoted)
        with shop(store_database_url, lock_timeout_seconds=configured) as app:
            app.view_schema.online()
            app.view_schema.offline(lock_timeout_seconds=given)
        assert seen == [(expected,)]

    @pytest.mark.store(made_by=live_shop())
    def test_who_has_locked_the_record_of_a_table_is_named(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        with shop(store_database_url, Shop2, lock_timeout_seconds=0.1) as newer:
            newer.view_schema.online()
            with psycopg.connect(store_database_url, application_name="by hand") as other:
                other.execute("UPDATE sequent_schema.view_tables SET rows = rows")
                with pytest.raises(SwapLockTimeout, match=r"rows of view_tables held by pid \d+ \(.*by hand"):
                    newer.view_schema.offline(lock_budget_seconds=0.3)

    def test_a_failing_handler_leaves_the_old_tables_serving(
        self, store_database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            [order] = place_orders(failing, [1])
            failing.view_schema.online()
            failing.store.append(order, [LineAdded(product="poison", cents=1)])
            with pytest.raises(ProjectionFailed):
                failing.view_schema.offline()
            status = failing.view_schema.status()
            assert status.state == "online_done"
            assert status.migration is not None
            assert "no poison here" in (status.migration.error or "")
            place_orders(failing, [2])
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            failing.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_tampered_shadow_row_is_not_promoted(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("UPDATE view_schema.order_records_1 SET total = total + 1")
        with pytest.raises(VerificationFailed, match="order_records"):
            app.view_schema.offline()
        assert table_names(connection) == {"order_records_1", "line_records_1"}

    def test_a_lost_row_is_not_promoted(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute(
            "DELETE FROM view_schema.line_records_1 WHERE ctid = (SELECT min(ctid) FROM view_schema.line_records_1)"
        )
        with pytest.raises(VerificationFailed, match="line_records"):
            app.view_schema.offline(verify_sample=0)

    def test_a_handler_that_depends_on_more_than_its_events_is_not_promoted(
        self, store_database_url: str
    ) -> None:
        with shop(store_database_url, ShopForgetful) as forgetful:
            place_orders(forgetful, range(5))
            forgetful.view_schema.online()
            with pytest.raises(VerificationFailed, match="customer"):
                forgetful.view_schema.offline()

    def test_a_restored_store_with_future_transaction_ids_is_refused(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, [1])
        connection.execute("UPDATE sequent_schema.events SET xact_id = '99999999999'")
        for command in (app.view_schema.online, app.view_schema.offline):
            with pytest.raises(ForeignTransactionIds, match="another cluster"):
                command()
        with pytest.raises(InsufficientPrivileges, match="does not own"):
            app.view_schema.repair_transaction_ids()
        with shop(store_database_url, as_login=False) as admin:
            assert admin.view_schema.repair_transaction_ids() == 4
        place_orders(app, [2])
        migrate(app)
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_migration_that_was_restored_with_its_store_is_aborted_before_the_repair(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, [1])
        app.view_schema.online()
        connection.execute("UPDATE sequent_schema.events SET xact_id = '99999999999'")
        with shop(store_database_url, as_login=False) as admin:
            with pytest.raises(InvalidTransition, match="abort"):
                admin.view_schema.repair_transaction_ids()
            app.view_schema.abort()
            assert admin.view_schema.repair_transaction_ids() == 4
        migrate(app)
        assert actual_rows(connection) == expected_rows(connection)


class TestDryRun:
    def test_replays_a_sample_and_leaves_no_trace(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(20))
        before = expected_rows(connection)
        report = app.view_schema.dry_run(sample=7)
        assert (report.aggregates, report.rows["order_records"] > 0) == (7, True)
        assert table_names(connection) == set()
        assert app.view_schema.status().state is None
        assert expected_rows(connection) == before
        migrate(app)
        assert actual_rows(connection) == before

    def test_finds_a_handler_that_raises(self, store_database_url: str) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            [order] = place_orders(failing, [1])
            failing.store.append(order, [LineAdded(product="poison", cents=1)])
            with pytest.raises(ProjectionFailed, match="no poison here"):
                failing.view_schema.dry_run()

    def test_finds_a_key_that_is_not_unique(
        self, store_database_url: str, app: Sequent, tmp_path: Any, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        for file in app.config.sql_path.iterdir():
            (tmp_path / file.name).write_text(file.read_text())
        (tmp_path / "line_records.indexes.sql").write_text(
            "CREATE UNIQUE INDEX i%SUFFIX% ON line_records%SUFFIX% (product);"
        )
        with (
            shop(store_database_url, sql_directory=tmp_path) as copy,
            pytest.raises(TableFileError, match="product"),
        ):
            copy.view_schema.dry_run()
        assert table_names(connection) == set()

    @pytest.mark.store(made_by=live_shop())
    def test_with_nothing_to_do_it_does_nothing(self, app: Sequent) -> None:
        assert app.view_schema.dry_run().events == 0


class TestHostileDefaults:
    @pytest.mark.parametrize(
        "setting",
        [
            "default_transaction_isolation = 'serializable'",
            "default_transaction_isolation = 'repeatable read'",
            "default_transaction_read_only = on",
            "search_path = 'nowhere'",
            "TimeZone = 'Asia/Kathmandu'",
            "DateStyle = 'SQL, DMY'",
            "bytea_output = 'escape'",
            "idle_in_transaction_session_timeout = '1ms'",
        ],
    )
    def test_a_migration_does_not_depend_on_the_databases_defaults(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str, setting: str
    ) -> None:
        place_orders(app, range(20))
        app.close()
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET {setting}')  # type: ignore[call-overload]
        with shop(store_database_url, workers=1) as other:
            migrate(other)
        connection.execute(f'ALTER DATABASE "{name}" RESET ALL')  # type: ignore[call-overload]
        assert actual_rows(connection) == expected_rows(connection)


def test_migration_connections_have_no_time_limits(
    connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    name = connection.info.dbname
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout"):
        connection.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '7min'")  # type: ignore[call-overload]
    with connect_for_migration(store_database_url, application_name="x") as own:
        row = own.execute(
            "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),"
            " current_setting('lock_timeout')"
        ).fetchone()
        assert row == ("0", "0", "10s")


class TestAbort:
    def test_drops_exactly_what_was_recorded(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        place_orders(app, range(5))
        app.view_schema.online()
        connection.execute("CREATE TABLE view_schema.other_1 ()")
        report = app.view_schema.abort()
        assert set(report.dropped_tables) == {"order_records_1", "line_records_1"}
        assert table_names(connection) == {"other_1"}
        migrate(app)
        assert actual_rows(connection) == expected_rows(connection)

    def test_with_nothing_unfinished_is_an_error(self, app: Sequent) -> None:
        with pytest.raises(InvalidTransition):
            app.view_schema.abort()


class TestStatus:
    def test_before_anything(self, database_url: str) -> None:
        with shop(database_url) as app:
            status = app.view_schema.status()
            assert (status.installed, status.live_version, status.next_commands) == (
                False,
                0,
                ("sequent init",),
            )
            assert app.view_schema.current_version() == 0
            assert not app.view_schema.check().is_current
            plan = app.view_schema.plan().plan
            assert [step.table_name for step in plan.replays] == ["order_records", "line_records"]

    def test_follows_the_migration(self, app: Sequent) -> None:
        assert app.view_schema.status().next_commands == ("sequent migrate online",)
        place_orders(app, range(3))
        app.view_schema.online()
        status = app.view_schema.status()
        assert status.replay is not None
        assert (status.replay.events_done, status.replay.groups_done) == (12, 1)
        assert "sequent migrate offline" in status.next_commands
        app.view_schema.offline()
        status = app.view_schema.status()
        assert (status.state, status.live_version, status.next_commands) == ("live", 1, ())
        assert app.view_schema.check().is_current

    @pytest.mark.store(made_by=live_shop())
    def test_reports_a_dropped_live_table(self, app: Sequent, connection: psycopg.Connection[Any]) -> None:
        connection.execute("DROP TABLE view_schema.line_records")
        check = app.view_schema.check()
        assert not check.is_current
        assert "line_records" in " ".join(check.problems)


def test_shop1_is_the_default(app: Sequent) -> None:
    assert app.migrations is Shop1

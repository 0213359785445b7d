"""Everything that doctor and the guards look for: break it, see it found and the phase refused, and see the remedy work."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from login_roles import login_url
from shop import (
    LineAdded,
    Shop1,
    Shop2,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Sequent
from sequent_py.doctor import DoctorReport, Finding, Verdict, examine
from sequent_py.errors import (
    ForeignTransactionIds,
    InsufficientPrivileges,
    InvalidTransition,
    MigrationError,
    UnsoundInstallation,
)


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


def problems(report: DoctorReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.verdict is Verdict.PROBLEM]


def problem(report: DoctorReport, subject: str) -> Finding:
    found = [finding for finding in problems(report) if finding.subject == subject]
    assert found, f"no problem with {subject} in {report.findings}"
    return found[0]


def finding(report: DoctorReport, subject: str) -> Finding:
    found = [finding for finding in report.findings if finding.subject == subject]
    assert found, f"nothing about {subject} in {report.findings}"
    return found[0]


def test_a_sound_installation_has_no_problem_before_and_after_a_migration(app: Sequent) -> None:
    place_orders(app, range(5))
    before = examine(app)
    assert before.verdict is Verdict.PENDING
    assert problems(before) == []
    migrate(app)
    assert examine(app).verdict is Verdict.OK
    assert problems(examine(app, reads_all_events=True)) == []


class TestStoreObjects:
    @pytest.mark.parametrize(
        ("damage", "named", "is_refused"),
        [
            ("DROP TRIGGER events_03_guard ON sequent_schema.events_03", "events_03_guard", True),
            ("ALTER TABLE sequent_schema.events DISABLE TRIGGER events_guard", "events_guard", True),
            (
                "ALTER TABLE sequent_schema.events_05 ENABLE REPLICA TRIGGER events_05_guard",
                "events_05_guard",
                True,
            ),
            ("DROP INDEX sequent_schema.events_xact_id", "events_xact_id", True),
            ("ALTER TABLE sequent_schema.events DROP CONSTRAINT events_pkey", "events_pkey", True),
            (
                "DROP INDEX sequent_schema.view_migrations_one_unfinished",
                "view_migrations_one_unfinished",
                False,
            ),
            (
                "ALTER TABLE sequent_schema.event_edits DROP CONSTRAINT event_edits_pkey",
                "event_edits_pkey",
                False,
            ),
            (
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sequent_schema.events_07_position_idx'::regclass",
                "events_07_position_idx",
                False,
            ),
        ],
    )
    def test_what_is_missing_is_named_and_repaired(
        self,
        app: Sequent,
        admin: Sequent,
        connection: psycopg.Connection[Any],
        damage: Any,
        named: str,
        is_refused: bool,
    ) -> None:
        place_orders(app, range(3))
        connection.execute(damage)
        found = problem(examine(app), "store objects")
        assert named in found.message or "and" in found.message
        assert "doctor --repair" in found.remedy
        if is_refused:
            with pytest.raises(UnsoundInstallation, match="doctor --repair"):
                app.view_schema.online()
        repaired = admin.view_schema.repair()
        assert any(named in line for line in repaired)
        assert problems(examine(app)) == []
        migrate(app)
        # Nothing is left to do, and the second run finds that.
        assert admin.view_schema.repair() == ()

    def test_an_index_is_rebuilt_while_a_writer_is_in_the_middle_of_a_transaction(
        self, app: Sequent, admin: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        [order] = place_orders(app, [1])
        connection.execute("DROP INDEX sequent_schema.view_migrations_one_unfinished")
        with app.engine.begin() as writer:
            app.store.append(order, [LineAdded(product="x", cents=1)], connection=writer)
            admin.view_schema.repair()

    def test_a_key_that_the_rows_do_not_allow_is_said_so(
        self, admin: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(admin, [1])
        connection.execute("ALTER TABLE sequent_schema.events DROP CONSTRAINT events_pkey")
        connection.execute(
            "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
            " SELECT aggregate_id, sequence_number, event_type_id, payload FROM sequent_schema.events LIMIT 1"
        )
        with pytest.raises(MigrationError, match="duplicate"):
            admin.view_schema.repair()

    def test_a_guard_that_was_away_during_a_migration_means_beginning_anew(
        self, app: Sequent, admin: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, [1])
        app.view_schema.online()
        connection.execute("DROP TRIGGER events_03_guard ON sequent_schema.events_03")
        with pytest.raises(UnsoundInstallation):
            app.view_schema.offline()
        with pytest.raises(InvalidTransition, match="abort"):
            admin.view_schema.repair()
        app.view_schema.abort()
        admin.view_schema.repair()
        migrate(app)

    def test_a_lost_function_or_column_has_to_be_restored(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute("DROP FUNCTION sequent_schema.lock_events_v1()")
        connection.execute("ALTER TABLE sequent_schema.gate DROP COLUMN maintenance_since")
        found = problem(examine(app), "store objects")
        for part in ("function lock_events_v1()", "column maintenance_since", "backup"):
            assert part in found.message + found.remedy

    def test_an_unlogged_partition_is_refused_until_it_is_logged(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, [1])
        connection.execute("ALTER TABLE sequent_schema.events_02 SET UNLOGGED")
        found = problem(examine(app), "unlogged tables")
        with pytest.raises(UnsoundInstallation, match="events_02"):
            app.view_schema.online()
        connection.execute(found.remedy.partition("run: ")[2])
        migrate(app)

    def test_events_that_a_crash_has_emptied_are_told_by_their_positions(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, [1])
        connection.execute("ALTER TABLE sequent_schema.events_02 SET UNLOGGED")
        connection.execute("TRUNCATE sequent_schema.events")
        assert "a crash has emptied them" in problem(examine(app), "unlogged tables").message

    def test_a_hostile_schema_is_compared_and_repaired(self, database_url: str) -> None:
        schema = 'Sch"e%m$body$a ü'
        with shop(database_url, event_store_schema=schema) as app:
            app.install()
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute('DROP INDEX "Sch""e%m$body$a ü".events_xact_id')
                connection.execute('DROP TRIGGER events_03_guard ON "Sch""e%m$body$a ü".events_03')
            assert problem(examine(app), "store objects")
            assert len(app.view_schema.repair()) == 18
            assert problems(examine(app)) == []


class TestLineage:
    def test_a_subscription_into_the_events_is_refused_until_it_is_disabled(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        connection.execute(
            "CREATE SUBSCRIPTION \"fe%ed\" CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
        )
        connection.execute(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " SELECT oid, 'sequent_schema.events_04'::regclass, 'r' FROM pg_subscription WHERE subname = 'fe%ed'"
        )
        try:
            connection.execute("UPDATE pg_subscription SET subenabled = true WHERE subname = 'fe%ed'")
            found = problem(examine(app), "subscriptions")
            assert "events_04" in found.message
            with pytest.raises(UnsoundInstallation, match="passes no gate"):
                app.view_schema.online()
            connection.execute("UPDATE pg_subscription SET subenabled = false WHERE subname = 'fe%ed'")
            app.view_schema.online()
        finally:
            connection.execute("UPDATE pg_subscription SET subenabled = false WHERE subname = 'fe%ed'")
            connection.execute('DROP SUBSCRIPTION "fe%ed"')

    def test_an_id_that_is_past_but_not_its_writers_is_found_and_repaired(
        self, app: Sequent, admin: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        # As a replication would write it: an id that this cluster gives out to somebody else, a moment later.
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO sequent_schema.events (xact_id, aggregate_id, sequence_number, event_type_id, payload)"
            " SELECT %s::text::xid8, gen_random_uuid(), 1, id, jsonb_build_object('customer', 'x')"
            " FROM sequent_schema.event_types WHERE name = 'OrderPlaced'",
            [str(int(row[0]) + 3)],
        )
        for _ in range(5):
            connection.execute("SELECT pg_current_xact_id()")
        found = problem(examine(app), "transaction ids")
        assert "another cluster" in found.message
        with pytest.raises(ForeignTransactionIds, match="doctor --repair"):
            app.view_schema.online()
        assert admin.view_schema.repair() == ("transaction ids of 1 events",)
        assert problems(examine(app)) == []
        migrate(app)

    def test_events_appended_under_savepoints_are_ours(self, app: Sequent) -> None:
        with app.engine.begin() as outer:
            for number in range(3):
                with outer.begin_nested():
                    app.store.append(
                        place_orders_id(number), [LineAdded(product="p", cents=1)], connection=outer
                    )
        assert "transaction ids" not in {it.subject for it in problems(examine(app, reads_all_events=True))}

    def test_a_pass_of_another_clusters_snapshot_stops_its_migration(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, [1])
        app.view_schema.online()
        connection.execute("UPDATE sequent_schema.replay_passes SET snapshot_until = '99999:99999:'")
        assert "future" in problem(examine(app), "snapshots").message
        for command in (app.view_schema.online, app.view_schema.offline):
            with pytest.raises(ForeignTransactionIds, match="migrate abort"):
                command()
        app.view_schema.abort()
        migrate(app)


def place_orders_id(number: int) -> Any:
    from uuid import UUID

    return UUID(int=number + 1)


class TestServer:
    def test_more_workers_than_connections_are_refused_with_a_number_that_works(self, app: Sequent) -> None:
        with pytest.raises(UnsoundInstallation, match="--workers"):
            app.view_schema.online(workers=500)
        assert app.view_schema.status().state is None

    def test_a_role_that_begins_as_replica_is_refused(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, as_login=False) as app:
            row = connection.execute("SELECT current_database()").fetchone()
            assert row is not None
            connection.execute(f'ALTER DATABASE "{row[0]}" SET session_replication_role = replica')
            with pytest.raises(UnsoundInstallation, match="session_replication_role"):
                app.view_schema.online()
            assert problem(examine(app), "settings")
            connection.execute(f'ALTER DATABASE "{row[0]}" RESET session_replication_role')
            app.view_schema.online()

    def test_read_only_by_default_is_a_problem_and_serializable_a_notice(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        row = connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        connection.execute(f"ALTER DATABASE \"{row[0]}\" SET default_transaction_isolation = 'serializable'")
        with shop(store_database_url) as app:
            report = examine(app)
            assert problems(report) == []
            assert any("serializable" in it.message for it in report.findings)


class TestPrivileges:
    def test_what_is_missing_is_named_with_the_grant(
        self, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(login_url(store_database_url, "web"), as_login=False) as web:
            with pytest.raises(InsufficientPrivileges, match=r"GRANT .*_migrator") as caught:
                web.view_schema.online()
            for part in ("ownership of", "CREATE on", "INSERT on table replay_groups"):
                assert part in str(caught.value) or "more" in str(caught.value)
            assert finding(examine(web), "privileges").verdict is Verdict.NOTICE

    def test_a_single_missing_privilege_stops_the_phase_before_it_begins(
        self, app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
    ) -> None:
        place_orders(app, [1])
        migrator = next(it for it in roles_of(connection) if it.endswith("_migrator"))
        connection.execute(f'REVOKE UPDATE ON sequent_schema.replay_groups FROM "{migrator}"')
        with pytest.raises(InsufficientPrivileges, match="UPDATE on table replay_groups"):
            app.view_schema.online()
        assert "replay_groups" in problem(examine(app), "roles").message
        with shop(store_database_url, as_login=False) as admin:
            admin.set_up_roles()
        migrate(app)


def roles_of(connection: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sequent_schema.store_roles")]


class TestTables:
    @pytest.mark.store(made_by=live_shop(3))
    def test_missing_unlogged_orphaned_and_retired_tables_are_told_apart(
        self, app: Sequent, store_database_url: str, connection: psycopg.Connection[Any]
    ) -> None:
        with shop(store_database_url, Shop2) as newer:
            migrate(newer)
            assert "order_records_1" in finding(examine(newer), "retired tables").message
            connection.execute("ALTER TABLE view_schema.line_records SET UNLOGGED")
            assert "line_records" in problem(examine(newer), "unlogged tables").message
            connection.execute("DROP TABLE view_schema.line_records")
            assert "line_records" in problem(examine(newer), "live tables").message
            assert not newer.view_schema.check().is_current
            connection.execute(
                "UPDATE sequent_schema.view_tables SET unmanaged_since = 2 WHERE table_name = 'line_records'"
            )
            report = examine(newer)
            assert "line_records" in finding(report, "orphaned tables").message
            assert "live tables" not in {it.subject for it in problems(report)}

    def test_a_shadow_table_that_was_dropped_by_hand_is_left_over(
        self, app: Sequent, connection: psycopg.Connection[Any]
    ) -> None:
        place_orders(app, range(3))
        app.view_schema.online()
        connection.execute("DROP TABLE view_schema.line_records_1")
        assert "abort" in problem(examine(app), "left over").remedy
        app.view_schema.abort()
        assert problems(examine(app)) == []


def test_a_check_that_may_not_be_made_does_not_stop_the_others(store_database_url: str, app: Sequent) -> None:
    with shop(login_url(store_database_url, "web"), as_login=False) as web:
        report = examine(web)
    subjects = {it.subject for it in report.findings}
    assert {"gate", "live tables", "transaction ids", "coverage"} <= subjects
    with shop(login_url(store_database_url, "reports"), as_login=False) as reports:
        assert "may not look" in problem(examine(reports), "event store").message


def test_the_guards_pass_under_every_declaration(app: Sequent, store_database_url: str) -> None:
    for migrations in (Shop1, Shop2):
        with shop(store_database_url, migrations) as each:
            migrate(each)

"""Erasing aggregates, and folding them anew: afterwards no place holds what was erased, and live rows are what the log says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from shop import (
    FailingProjector,
    LineAdded,
    LineProjector,
    LineRecord,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    ProductProjector,
    ProductRecord,
    Shop2,
    ShopCounting,
    ShopFailing,
    actual_rows,
    expected_rows,
    place_orders,
    shop,
)
from waiting import wait_until

from sequent_py import Migrations, Sequent
from sequent_py.erasure import Erasure, ErasureReport
from sequent_py.errors import (
    DrainTimeout,
    MaintenanceModeActive,
    MigrationError,
    ProjectionFailed,
    WrongExpectedVersion,
)
from sequent_py.projectors import projector_definition
from sequent_py.refolding import lanes

Connection = psycopg.Connection[Any]


class OnlyProducts(Migrations):
    version = 1
    versions = {1: [ProductProjector]}


class Both(LineProjector):
    manages_tables = (OrderRecord, LineRecord, ProductRecord)


SECRET = "Rumpelstiltskin"


def place_secret(app: Sequent, number: int = 1) -> UUID:
    order = UUID(int=number)
    app.store.append(
        order, [OrderPlaced(customer=SECRET), LineAdded(product=SECRET, cents=7)], expected_version=0
    )
    return order


def places_with(connection: Connection, text: str) -> set[str]:
    """Every table of the database that has a row with the text in it."""
    tables = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname IN ('view_schema', 'sequent_schema')"
    ).fetchall()
    found = set()
    for schema, name in tables:
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE position(%s in t::text) > 0)").format(
            sql.Identifier(schema, name)
        )
        if connection.execute(query, (text,)).fetchone() == (True,):
            found.add(name)
    return found


def rows_of(report: ErasureReport) -> dict[str, int | None]:
    return {place.name: place.rows for place in report.places}


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


class TestErase:
    def test_live_retired_and_shadow_tables_and_the_events(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        order = place_secret(app)
        place_orders(app, range(1, 6))
        migrate(app)
        with shop(store_database_url, Shop2) as newer:
            migrate(newer)
            with shop(store_database_url, Shop2, workers=0) as other:
                other.store.append(order, [LineAdded(product=SECRET, cents=8)])
            assert places_with(connection, SECRET) >= {"order_records", "order_records_1", "line_records"}
            report = newer.aggregates.erase([order])
            assert places_with(connection, SECRET) == set()
            assert rows_of(report) == {
                "events": 3,
                "partition keys": 0,
                "snapshots of aggregates": None,
                "saved copies": None,
                "live table line_records": 2,
                "live table order_records": 1,
                "retired table order_records_1": 1,
                "quarantine": 0,
                "recorded errors": 0,
            }
            assert actual_rows(connection) == expected_rows(connection)
            assert set(rows_of(newer.aggregates.erase([order])).values()) == {0, None}
            newer.store.append(order, [OrderPlaced(customer="new")], expected_version=0)
            assert actual_rows(connection) == expected_rows(connection)

    @pytest.mark.parametrize("is_caught_up", [True, False])
    def test_shadow_tables_and_the_ledgers_counts(
        self, app: Sequent, connection: Connection, is_caught_up: bool
    ) -> None:
        order = place_secret(app)
        place_orders(app, range(1, 6))
        app.view_schema.online()
        if is_caught_up:
            app.view_schema.online()
        report = app.aggregates.erase([order])
        assert places_with(connection, SECRET) == set()
        assert rows_of(report)["shadow table order_records_1"] == 1
        assert actual_rows(connection, "_1") == expected_rows(connection)
        assert app.view_schema.offline().rows["line_records"] == len(actual_rows(connection)["line_records"])
        assert actual_rows(connection) == expected_rows(connection)

    def test_a_migration_at_work_deletes_the_shadow_rows_by_itself(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        order = place_secret(app)
        place_orders(app, range(1, 6))
        app.view_schema.online()
        with psycopg.connect(store_database_url, autocommit=True) as coordinator:
            coordinator.execute("SELECT pg_advisory_lock(sequent_schema.migration_key())")
            report = app.aggregates.erase([order])
        assert report.left_to_next_pass == ("line_records_1", "order_records_1")
        app.view_schema.online()
        assert places_with(connection, SECRET) == set()
        app.view_schema.offline()
        assert actual_rows(connection) == expected_rows(connection)

    def test_retired_tables_wait_for_whoever_else_is_at_work(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        order = place_secret(app)
        migrate(app)
        with shop(store_database_url, Shop2) as newer:
            migrate(newer)
            with (
                psycopg.connect(store_database_url, autocommit=True, application_name="the pruner") as other,
                ThreadPoolExecutor(1) as pool,
            ):
                other.execute("SELECT pg_advisory_lock(sequent_schema.migration_key())")
                with pytest.raises(MigrationError, match="the pruner"):
                    newer.aggregates.erase([order], lock_budget_seconds=0.2)
                assert places_with(connection, SECRET) == {"order_records_1"}
                erasing = pool.submit(newer.aggregates.erase, [order])
                other.execute("SELECT pg_advisory_unlock(sequent_schema.migration_key())")
                assert rows_of(erasing.result())["retired table order_records_1"] == 1
            assert places_with(connection, SECRET) == set()

    def test_quarantine_and_recorded_errors(self, connection: Connection, store_database_url: str) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            order = place_secret(failing)
            failing.store.append(order, [LineAdded(product="poison", cents=1)])
            for quarantine in (False, True):
                with pytest.raises(ProjectionFailed) if not quarantine else _nothing():
                    failing.view_schema.online(quarantine=quarantine)
            connection.execute(
                "UPDATE sequent_schema.view_migrations SET error = %s",
                (f"Key (customer)=({SECRET}) already exists.",),
            )
            connection.execute(
                "UPDATE sequent_schema.quarantined_aggregates SET error = error || %s", (SECRET,)
            )
            report = failing.aggregates.erase([order])
            assert places_with(connection, SECRET) == set()
            assert (rows_of(report)["quarantine"], rows_of(report)["recorded errors"]) == (1, 1)
            failing.view_schema.offline()
            assert actual_rows(connection) == expected_rows(connection)

    def test_what_is_appended_before_the_erasure_has_ended_is_projected(
        self, connection: Connection, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            order = place_secret(failing)
            failing.store.append(order, [LineAdded(product="poison", cents=1)])
            failing.view_schema.online(quarantine=True)
            failing.view_schema.offline(accept_quarantined=[order])
            erase_kept = Erasure._erase_kept

            def append_and_erase_kept(erasure: Erasure, ids: Sequence[UUID]) -> None:
                failing.store.append(order, [OrderPlaced(customer="new")], expected_version=0)
                erase_kept(erasure, ids)

            monkeypatch.setattr(Erasure, "_erase_kept", append_and_erase_kept)
            failing.aggregates.erase([order])
            failing.store.append(order, [LineAdded(product="more", cents=2)])
            assert actual_rows(connection) == expected_rows(connection)

    def test_a_dry_run_counts_and_writes_nothing(self, app: Sequent, connection: Connection) -> None:
        order = place_secret(app)
        migrate(app)
        before = expected_rows(connection)
        report = app.aggregates.erase([order], is_dry_run=True)
        found = rows_of(report)
        assert (found["events"], found["live table order_records"], report.is_dry_run) == (2, 1, True)
        assert expected_rows(connection) == before == actual_rows(connection)

    def test_tables_without_an_aggregate_id_are_named(
        self, connection: Connection, store_database_url: str
    ) -> None:
        with shop(store_database_url, ShopCounting) as counting:
            order = place_secret(counting)
            migrate(counting)
            report = counting.aggregates.erase([order])
            assert report.untold_tables == ("product_records",)
            assert places_with(connection, SECRET) == {"product_records"}

    def test_partition_keys_go_with_their_last_aggregate(self, app: Sequent, connection: Connection) -> None:
        for number in (1, 2):
            app.store.append(UUID(int=number), [OrderPlaced(customer="x")], partition_key=SECRET)
        app.aggregates.erase([UUID(int=1)])
        assert places_with(connection, SECRET) == {"partitions", "aggregate_partitions"}
        app.aggregates.erase([UUID(int=2)])
        assert places_with(connection, SECRET) == set()

    def test_nobody_appends_to_a_half_erased_stream(
        self,
        app: Sequent,
        connection: Connection,
        store_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A writer that decided on the old version waits before it reads, and then finds a new stream."""
        order = place_secret(app)
        migrate(app)
        monkeypatch.setattr("sequent_py.event_store.standstill.ACTION_LOCK_TIMEOUT_SECONDS", 60.0)
        outcomes: list[object] = []

        def append_and_record() -> None:
            try:
                outcomes.append(app.store.append(order, [LineAdded(product="late", cents=1)], 2))
            except WrongExpectedVersion as error:
                outcomes.append(error.actual)

        with psycopg.connect(store_database_url) as slow:
            # Holds a row that the erasure has to delete, so that it stands still in its middle.
            slow.execute("SELECT FROM view_schema.order_records FOR UPDATE")
            eraser = threading.Thread(target=lambda: outcomes.append(app.aggregates.erase([order])))
            eraser.start()
            wait_until(lambda: _waits(connection, "sequent aggregates erase", "transactionid"))
            writer = threading.Thread(target=append_and_record)
            writer.start()
            wait_until(lambda: _waits(connection, "sequent", "advisory"))
            slow.rollback()
            eraser.join(30)
            writer.join(30)
        assert 0 in outcomes
        assert places_with(connection, SECRET) == places_with(connection, "late") == set()

    def test_a_repeatable_read_writer_with_an_older_snapshot_fails(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        order = place_secret(app)
        with psycopg.connect(store_database_url) as writer:
            writer.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            writer.execute("SELECT 1").fetchone()
            app.aggregates.erase([order])
            with pytest.raises(psycopg.errors.SerializationFailure):
                app.store.append(order, [LineAdded(product="late", cents=1)], 2, connection=writer)
        assert places_with(connection, "late") == set()

    def test_a_writer_in_flight_is_waited_for_and_named(
        self, app: Sequent, connection: Connection, store_database_url: str
    ) -> None:
        order = place_secret(app)
        with psycopg.connect(store_database_url, application_name="slow writer") as slow:
            app.store.append(order, [LineAdded(product="late", cents=1)], connection=slow)
            with pytest.raises(DrainTimeout, match="slow writer"):
                app.aggregates.erase([order], lock_budget_seconds=0.3)
            place_orders(app, [40])
            slow.commit()
        app.aggregates.erase([order])
        assert places_with(connection, SECRET) == set()

    def test_a_row_that_somebody_has_locked_holds_writers_up_for_a_moment_only(
        self,
        app: Sequent,
        connection: Connection,
        store_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        order = place_secret(app)
        migrate(app)
        monkeypatch.setattr("sequent_py.event_store.standstill.ACTION_LOCK_TIMEOUT_SECONDS", 0.05)
        reports: list[ErasureReport] = []
        with psycopg.connect(store_database_url) as slow:
            slow.execute("SELECT FROM view_schema.order_records FOR UPDATE")
            eraser = threading.Thread(target=lambda: reports.append(app.aggregates.erase([order])))
            eraser.start()
            wait_until(lambda: _waits(connection, "sequent aggregates erase", "transactionid"))
            place_orders(app, range(40, 60))
            slow.rollback()
            eraser.join(30)
        assert (rows_of(reports[0])["events"], rows_of(reports[0])["live table line_records"]) == (2, 1)
        assert actual_rows(connection) == expected_rows(connection)

    def test_maintenance_mode_refuses_it(self, app: Sequent) -> None:
        order = place_secret(app)
        app.maintenance.on("moving house")
        for command in (app.aggregates.erase, app.aggregates.refold):
            with pytest.raises((MaintenanceModeActive, MigrationError)):
                command([order])


class TestRefold:
    def test_live_rows_follow_an_edit_of_the_events(self, app: Sequent, connection: Connection) -> None:
        ids = place_orders(app, range(6))
        migrate(app)
        connection.execute(
            "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '1') WHERE aggregate_id = %s AND sequence_number = 2",
            (ids[1],),
        )
        connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (ids[2],))
        assert actual_rows(connection) != expected_rows(connection)
        report = app.aggregates.refold([ids[1], ids[2], ids[3]])
        assert actual_rows(connection) == expected_rows(connection)
        assert report.events == 4 + 4
        assert (report.deleted_rows["line_records"], report.inserted_rows["line_records"]) == (9, 6)

    def test_an_aggregate_that_cannot_be_folded_stays_as_it_was(
        self, connection: Connection, store_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shop(store_database_url, ShopFailing) as failing:
            ids = place_orders(failing, range(3))
            migrate(failing)
            before = actual_rows(connection)
            connection.execute(
                "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{product}', '\"poison\"') WHERE aggregate_id = %s AND sequence_number = 2",
                (ids[1],),
            )
            with pytest.raises(ProjectionFailed):
                failing.aggregates.refold([ids[1]])
            assert actual_rows(connection) == before
            monkeypatch.setattr(FailingProjector, "is_mended", True)
            failing.aggregates.refold([ids[1]])
            assert actual_rows(connection) == expected_rows(connection)

    def test_other_code_than_the_live_one_is_refused(self, app: Sequent, store_database_url: str) -> None:
        [order] = place_orders(app, [1])
        with pytest.raises(MigrationError, match="No version is live"):
            app.aggregates.refold([order])
        migrate(app)
        with (
            shop(store_database_url, Shop2) as newer,
            pytest.raises(MigrationError, match="version 1 is live"),
        ):
            newer.aggregates.refold([order])

    def test_tables_without_an_aggregate_id_are_left_as_they_are_and_named(
        self, connection: Connection, store_database_url: str
    ) -> None:
        with shop(store_database_url, ShopCounting) as counting:
            ids = place_orders(counting, range(3))
            migrate(counting)
            products = connection.execute(
                "SELECT * FROM view_schema.product_records ORDER BY 1, 2"
            ).fetchall()
            connection.execute(
                "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{product}', '\"edited\"') WHERE aggregate_id = %s"
                " AND sequence_number = 2",
                (ids[1],),
            )
            report = counting.aggregates.refold([ids[1], ids[2]])
            [left] = report.not_folded
            assert (left.projectors, left.tables) == (("ProductProjector",), ("product_records",))
            assert "no aggregate_id" in left.reason
            assert set(report.inserted_rows) == {"order_records", "line_records"}
            assert actual_rows(connection) == expected_rows(connection)
            rows = connection.execute("SELECT * FROM view_schema.product_records ORDER BY 1, 2").fetchall()
            assert rows == products

    def test_where_no_table_has_an_aggregate_id_it_is_refused(self, store_database_url: str) -> None:
        with shop(store_database_url, OnlyProducts) as products:
            [order] = place_orders(products, [1])
            migrate(products)
            with pytest.raises(MigrationError, match="product_records"):
                products.aggregates.refold([order])

    def test_projectors_that_share_a_table_are_folded_together_or_not_at_all(self) -> None:
        every = [projector_definition(item) for item in (OrderProjector, LineProjector, Both)]
        [lane] = lanes(every)
        assert set(lane.tables) == {"order_records", "line_records", "product_records"}
        assert [item.name for item in lane.projectors] == ["OrderProjector", "LineProjector", "Both"]
        assert lane.obstacles
        assert [lane.tables for lane in lanes(every[:2])] == [("order_records",), ("line_records",)]


def _waits(connection: Connection, application: str, event: str) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        " AND wait_event_type = 'Lock' AND wait_event = %s)",
        (application, event),
    ).fetchone()
    return row == (True,)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

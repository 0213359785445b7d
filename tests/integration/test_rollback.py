"""Going back and forth between versions: nothing written meanwhile is lost, whatever the migrations did to the tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from batches import Batches
from psycopg import sql
from rollback_shop import V1, Deployments, PricedOrderProjector, V1And2, deployed_at, deployments
from shop import (
    LineAdded,
    LineProjector,
    LineRecord,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    place_orders,
    shop,
)

from sequent_py import Migrations, Projector, Sequent, alter_table, on
from sequent_py.errors import (
    CatchUpTooSlow,
    ConcurrentMigration,
    DependentObjects,
    EventsEdited,
    ForeignTransactionIds,
    InvalidTransition,
    PlanChanged,
    ProjectionFailed,
    StallLimitExceeded,
    SwapLockTimeout,
    VerificationFailed,
    VersionMismatch,
)
from sequent_py.view_schema.retired.rollback import _Run


@pytest.fixture
def deployed(store_database_url: str, tmp_path: Path) -> Iterator[Deployments]:
    with deployments(store_database_url, tmp_path) as deployed:
        yield deployed


def unused_orders(start: int = 0) -> Iterator[range]:
    return (range(first, first + 8) for first in count(start, 8))


@pytest.fixture
def orders() -> Iterator[range]:
    """Ranges of numbers that nobody has used: ``next(orders)``."""
    return unused_orders()


AT_2_ORDERS = 16


def at_2(database_url: str) -> None:
    """Make a store on which version 2 is live, and half of the orders were placed with each version."""
    orders = unused_orders()
    with (
        TemporaryDirectory() as directory,
        deployments(database_url, Path(directory)) as deployed,
    ):
        for version in (1, 2):
            deployed.migrate(version)
            place_orders(deployed[version], next(orders))


def state(deployed: Deployments) -> tuple[Any, ...]:
    row = deployed.connection.execute(
        "SELECT state FROM sequent_schema.view_migrations ORDER BY id DESC LIMIT 1"
    ).fetchone()
    assert row is not None
    return row


class TestBackAndForth:
    def test_every_round_leaves_every_table_equal_to_the_log(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        for version in (1, 2):
            place_orders(deployed[version if version == 1 else 1], next(orders))
            deployed.migrate(version)
        assert deployed.tables() == {
            "order_records", "order_records_1", "line_records", "cancellation_records",
        }  # fmt: skip
        for version, other in ((1, 2), (2, 1)) * 3:
            # Old orders get new lines, others are cancelled: rows change that had been there when the tables retired.
            place_orders(deployed[other], next(orders))
            for aggregate_id, _, *_ in deployed.connection.execute(
                "SELECT aggregate_id, customer FROM view_schema.order_records"
            ).fetchall()[:5]:
                deployed[other].store.append(aggregate_id, [LineAdded(product="again", cents=7)])
            report = deployed[version].view_schema.rollback()
            assert (report.from_version, report.target_version, report.is_forth) == (
                other,
                version,
                version == 2,
            )
            assert report.catch_up_events + report.window_events > 8
            deployed.check(version)
            place_orders(deployed[version], next(orders))
            deployed.check(version)
            assert state(deployed) == ("live" if version == 2 else "rolled_back",)
        assert deployed.tables() == {
            "order_records", "order_records_1", "line_records", "cancellation_records",
        }  # fmt: skip

    def test_several_versions_back_and_forth_again(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        for version in (1, 2, 3, 4):
            deployed.migrate(version)
            place_orders(deployed[version], next(orders))
            deployed.check(version)
        for version in (3, 2, 1, 2, 3, 4, 3, 2, 3):
            deployed[version].view_schema.rollback()
            deployed.check(version)
            place_orders(deployed[version], next(orders))
            deployed.check(version)

    @pytest.mark.store(made_by=deployed_at(2))
    def test_it_is_not_done_twice(self, deployed: Deployments, orders: Iterator[range]) -> None:
        assert deployed[2].view_schema.rollback().is_noop
        deployed[1].view_schema.rollback()
        assert deployed[1].view_schema.rollback().is_noop
        assert deployed[1].view_schema.rollback_plan().is_noop
        deployed.check(1)

    @pytest.mark.store(made_by=deployed_at(1))
    def test_transactions_that_began_before_the_swap_and_append_after_it_are_not_lost(
        self, deployed: Deployments, store_database_url: str, orders: Iterator[range]
    ) -> None:
        [order, *_] = place_orders(deployed[1], next(orders))
        with psycopg.connect(store_database_url) as early:
            early.execute("SELECT pg_current_xact_id()")
            deployed.migrate(2)
            place_orders(deployed[2], next(orders))
            deployed[2].store.append(order, [LineAdded(product="late", cents=1)], connection=early)
            early.commit()
        with psycopg.connect(store_database_url) as early:
            early.execute("SELECT pg_current_xact_id()")
            deployed[1].view_schema.rollback()
            deployed.check(1)
            place_orders(deployed[1], next(orders))
            deployed[1].store.append(order, [LineAdded(product="later", cents=1)], connection=early)
            early.commit()
        deployed.check(1)
        deployed[2].view_schema.rollback()
        deployed.check(2)

    @pytest.mark.store(made_by=deployed_at(1))
    def test_a_transaction_open_while_the_tables_catch_up_belongs_to_a_later_pass(
        self, deployed: Deployments, store_database_url: str, orders: Iterator[range]
    ) -> None:
        [order, *_] = place_orders(deployed[1], next(orders))
        deployed.migrate(2)
        place_orders(deployed[2], next(orders))
        with psycopg.connect(store_database_url) as slow:
            deployed[2].store.append(order, [LineAdded(product="slow", cents=1)], connection=slow)
            with pytest.raises(SwapLockTimeout, match="rollback"):
                deployed[1].view_schema.rollback(lock_budget_seconds=0.2)
            assert state(deployed) == ("live",)
            place_orders(deployed[2], next(orders))
            slow.commit()
        deployed[1].view_schema.rollback()
        deployed.check(1)

    @pytest.mark.store(made_by=deployed_at(1))
    def test_writers_wait_and_none_of_their_events_is_lost(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        place_orders(deployed[1], next(orders))
        deployed.migrate(2)
        refused = threading.Event()
        wrong: list[Exception] = []

        def write() -> None:
            for number in count(100_000):
                try:
                    place_orders(deployed[2], [number])
                except VersionMismatch:
                    refused.set()
                    return
                except Exception as error:
                    wrong.append(error)
                    return

        writer = threading.Thread(target=write)
        writer.start()
        try:
            deployed[1].view_schema.rollback()
        finally:
            writer.join(timeout=30)
        assert not wrong
        assert refused.is_set(), "code of version 2 could still write"
        deployed.check(1)

    @pytest.mark.store(made_by=deployed_at(1))
    def test_a_process_that_serves_both_versions_appends_through_it_and_nothing_fails(
        self, deployed: Deployments, store_database_url: str, orders: Iterator[range]
    ) -> None:
        place_orders(deployed[1], next(orders))
        deployed.migrate(2)
        stop = threading.Event()
        wrong: list[Exception] = []
        written: list[int] = []

        def write() -> None:
            for number in count(100_000):
                if stop.is_set():
                    return
                try:
                    place_orders(both, [number])
                    written.append(deployed[1].view_schema.current_version())
                except Exception as error:
                    wrong.append(error)
                    return

        with shop(store_database_url, V1And2) as both:
            writer = threading.Thread(target=write)
            writer.start()
            try:
                for version in (1, 2, 1, 2):
                    report = deployed[version].view_schema.rollback()
                    assert report.writers_stall_milliseconds < 2_000
            finally:
                stop.set()
                writer.join(timeout=30)
        assert not wrong
        assert {1, 2} <= set(written)
        deployed.check(2)
        deployed[1].view_schema.rollback()
        deployed.check(1)

    def test_worker_processes_replay_what_is_much(
        self,
        store_database_url: str,
        tmp_path: Path,
        orders: Iterator[range],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        # A small window's aggregates are not sampled, and it is one group then.
        monkeypatch.setattr("sequent_py.replay.estimate.SAMPLE_ROWS", 50)
        with deployments(store_database_url, tmp_path, group_target_events=5) as deployed:
            deployed.migrate(1)
            place_orders(deployed[1], next(orders))
            deployed.migrate(2)
            for _ in range(5):
                place_orders(deployed[2], next(orders))
            deployed[1].view_schema.rollback(workers=2)
            deployed.check(1)
            row = deployed.connection.execute(
                "SELECT count(*) > 1 FROM sequent_schema.replay_groups g JOIN sequent_schema.replay_passes p"
                " ON p.migration_id = g.migration_id AND p.number = g.pass WHERE g.migration_id = 2 AND p.number >= 1 AND g.events > 0"
            ).fetchone()
            assert row == (True,)

    def test_sequences_go_on_and_unique_ids_stay_unique(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        for version in (1, 2):
            deployed.migrate(version)
            place_orders(deployed[version], next(orders))
        for version in (1, 2):
            deployed[version].view_schema.rollback()
            place_orders(deployed[version], next(orders))
            row = deployed.connection.execute(
                "SELECT count(*) = count(DISTINCT id), max(id) <= last_value FROM view_schema.order_records, view_schema.order_records_id_seq"
                " GROUP BY last_value"
            ).fetchone()
            assert row == (True, True)


class TestWhatAMigrationDid:
    def test_one_that_only_orphaned_a_table_has_no_passes_and_goes_back_all_the_same(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        for version in (1, 2, 3):
            deployed.migrate(version)
        place_orders(deployed[3], next(orders))
        deployed.migrate(4)
        place_orders(deployed[4], next(orders))
        plan = deployed[3].view_schema.rollback_plan()
        assert plan.in_place == ("cancellation_records",)
        assert plan.pending_events == 1
        deployed[3].view_schema.rollback()
        deployed.check(3)
        place_orders(deployed[3], next(orders))
        deployed.check(3)
        deployed[4].view_schema.rollback()
        place_orders(deployed[4], next(orders))
        deployed.check(4)
        deployed[3].view_schema.rollback()
        deployed.check(3)

    def test_one_that_changed_the_number_only(
        self, store_database_url: str, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        class Number2(Migrations):
            version = 2
            versions = {1: [OrderProjector, LineProjector], 2: []}

        deployed.migrate(1)
        with shop(store_database_url, Number2) as newer:
            newer.view_schema.online()
            newer.view_schema.offline()
            place_orders(newer, next(orders))
            report = deployed[1].view_schema.rollback()
            assert (report.returned_tables, report.catch_up_events) == ((), 0)
            deployed.check(1)
            assert not newer.view_schema.rollback().is_noop
            assert newer.view_schema.current_version() == 2

    def test_one_that_altered_in_place_is_refused_with_table_and_file(
        self, store_database_url: str, deployed: Deployments, tmp_path: Path
    ) -> None:
        class Altered2(Migrations):
            version = 2
            versions = {1: [OrderProjector, LineProjector], 2: [OrderProjector, alter_table(LineRecord)]}

        for file in deployed[1].config.sql_path.iterdir():
            (tmp_path / file.name).write_text(file.read_text())
        (tmp_path / "line_records_2.sql").write_text("COMMENT ON TABLE line_records IS 'lines';")
        (tmp_path / "line_records.sql").write_text(
            (tmp_path / "line_records.sql").read_text() + "COMMENT ON TABLE line_records%SUFFIX% IS 'lines';"
        )
        deployed.migrate(1)
        with shop(store_database_url, Altered2, sql_directory=tmp_path) as newer:
            newer.view_schema.online()
            newer.view_schema.offline()
            [kept] = newer.view_schema.status().generations
            assert (kept.tables, kept.leads_from) == (("order_records_1",), None)
            assert "version 2 altered line_records in place" in kept.way
            pruned = newer.view_schema.prune(dry_run=True)
            assert (pruned.dropped_tables, pruned.ended_ways) == (("order_records_1",), ())
        for ask in (deployed[1].view_schema.rollback, deployed[1].view_schema.rollback_plan):
            with pytest.raises(InvalidTransition, match=r"line_records by line_records_2\.sql"):
                ask()
        assert deployed[1].view_schema.current_version() == 2

    def test_event_types_that_the_migration_never_read_are_replayed(
        self, store_database_url: str, orders: Iterator[range]
    ) -> None:
        class Counting(OrderProjector):
            """Knows orders only; lines are nothing to it."""

            @on(LineAdded)
            def line_added(self, event: LineAdded) -> None:
                pass

        class PlacedOnly(Projector):
            manages_tables = (OrderRecord,)

            @on(OrderPlaced)
            def placed(self, event: OrderPlaced) -> None:
                self.create_record(
                    OrderRecord,
                    aggregate_id=event.aggregate_id,
                    customer=event.customer,
                    total=0,
                    lines=0,
                    updated_at=event.created_at,
                    sequence_number=event.sequence_number,
                )

        class Placed2(Migrations):
            version = 2
            versions = {1: [PlacedOnly, LineProjector], 2: [PlacedOnly]}

        with shop(store_database_url, V1) as old, shop(store_database_url, Placed2) as new:
            migrate(old)
            ids = place_orders(old, next(orders))
            migrate(new)
            new.store.append(ids[0], [LineAdded(product="x", cents=5)])
            old.view_schema.rollback()
            with psycopg.connect(store_database_url) as connection:
                row = connection.execute(
                    "SELECT lines FROM view_schema.order_records WHERE aggregate_id = %s", (ids[0],)
                ).fetchone()
            assert row == (4,)


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


@pytest.mark.store(made_by=at_2)
class TestWhatGoesWrong:
    @pytest.fixture
    def at_2(self, deployed: Deployments) -> Deployments:
        """Both versions have taken orders."""
        return deployed

    @pytest.fixture
    def orders(self) -> Iterator[range]:
        return unused_orders(AT_2_ORDERS)

    def test_a_failure_anywhere_leaves_the_newer_version_serving_and_the_same_command_goes_on(
        self, at_2: Deployments, orders: Iterator[range], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Stop(Exception):
            pass

        def stop(*_: object, **__: object) -> None:
            raise Stop

        for name in ("prepare", "cut_over", "_approach", "_replay", "_promote"):
            with monkeypatch.context() as patched:
                patched.setattr(f"sequent_py.view_schema.retired.rollback._Run.{name}", stop)
                with pytest.raises(Stop):
                    at_2[1].view_schema.rollback()
            assert state(at_2) == ("live",)
            at_2.check(2)
            place_orders(at_2[2], next(orders))
            at_2.check(2)
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.bookkeeping.versions.Versions.transition", stop)
            with pytest.raises(Stop):
                at_2[1].view_schema.rollback()
        at_2.check(2)
        report = at_2[1].view_schema.rollback()
        assert report.catch_up_events <= 2 * 35, "finished passes are not replayed again"
        at_2.check(1)

    def test_a_handler_that_raises_names_the_event_and_nothing_is_swapped(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch, orders: Iterator[range]
    ) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("no")

        with monkeypatch.context() as patched:
            patched.setattr(OrderProjector, "placed", refuse)
            with pytest.raises(ProjectionFailed, match="OrderProjector"):
                at_2[1].view_schema.rollback()
        assert "OrderProjector" in str(at_2[2].view_schema.status().migration)
        at_2.check(2)
        at_2[1].view_schema.rollback()
        at_2.check(1)
        migration = at_2[1].view_schema.status().migration
        assert migration is not None
        assert migration.error is None

    def test_another_migration_after_a_half_done_rollback_and_all_the_way_back_through_it(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch, orders: Iterator[range]
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.retired.rollback._Run.cut_over", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                at_2[1].view_schema.rollback()
        place_orders(at_2[2], next(orders))
        at_2.migrate(3)
        at_2.check(3)
        place_orders(at_2[3], next(orders))
        for version in (2, 1, 2, 3):
            at_2[version].view_schema.rollback()
            at_2.check(version)

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE view_schema.order_records_1 SET total = total + 1",
            "UPDATE view_schema.line_records SET product = 'else'",
            "DELETE FROM view_schema.order_records_1",
        ],
    )
    def test_kept_tables_that_somebody_changed_are_not_let_back(self, at_2: Deployments, change: str) -> None:
        at_2.connection.execute(change)  # type: ignore[call-overload]
        with pytest.raises((VerificationFailed, ProjectionFailed)):
            at_2[1].view_schema.rollback()
        at_2.check(2)
        if "DELETE" not in change:
            with pytest.raises(VerificationFailed, match=r"version 1 are not equal to the log") as caught:
                at_2[1].view_schema.rollback()
            assert "abort" not in caught.value.remedy

    def test_rows_are_counted_where_no_sample_is_compared(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.retired.rollback._Run._verify", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                at_2[1].view_schema.rollback()
        at_2.connection.execute(
            "INSERT INTO view_schema.order_records_1 (aggregate_id, customer, total, lines, updated_at, sequence_number)"
            " VALUES (%s, 'nobody', 0, 0, now(), 1)",
            (uuid4(),),
        )
        with pytest.raises(VerificationFailed, match="order_records has"):
            at_2[1].view_schema.rollback(verify_sample=0)
        at_2.check(2)

    def test_events_edited_since_the_swap_are_folded_anew(
        self, at_2: Deployments, orders: Iterator[range]
    ) -> None:
        at_2.connection.execute(
            "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '1') WHERE payload ? 'cents'"
            " AND aggregate_id::text < '8'"
        )
        at_2.connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id::text > 'c'")
        place_orders(at_2[2], next(orders))
        at_2[1].view_schema.rollback()
        at_2.check(1)

    @pytest.mark.store(made_by=deployed_at(1))
    def test_events_edited_while_the_kept_tables_served_are_folded_anew(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        place_orders(deployed[1], next(orders))
        edit = (
            "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{{cents}}', '{}') WHERE payload ? 'cents'"
            " AND aggregate_id::text < '4'"
        )
        deployed.connection.execute(sql.SQL(edit).format(sql.SQL("1")))
        deployed.migrate(2)
        deployed.check(2)
        deployed.connection.execute(sql.SQL(edit).format(sql.SQL("2")))
        deployed[1].view_schema.rollback()
        deployed.check(1)
        deployed[2].view_schema.rollback()
        deployed.check(2)

    def test_what_is_erased_is_counted_where_the_table_that_nobody_manages_comes_back(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch, orders: Iterator[range]
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.retired.rollback._Run.cut_over", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                at_2[1].view_schema.rollback()
        at_2[3].view_schema.online()
        ids = at_2.connection.execute("SELECT aggregate_id FROM view_schema.line_records").fetchall()
        at_2.of_owner(2).aggregates.erase([ids[0][0]])
        at_2[3].view_schema.abort()
        at_2.of_owner(2).aggregates.erase([ids[-1][0]])
        at_2[1].view_schema.rollback()
        at_2.check(1)

    def test_what_is_erased_is_counted_where_the_table_that_nobody_manages_is_built_anew(
        self, at_2: Deployments
    ) -> None:
        at_2[3].view_schema.online()
        ids = at_2.connection.execute("SELECT aggregate_id FROM view_schema.line_records").fetchall()
        at_2.of_owner(2).aggregates.erase([ids[0][0]])
        at_2[3].view_schema.golive()
        at_2.check(3)

    def test_events_that_nobody_can_tell_apart_stop_it(self, at_2: Deployments) -> None:
        at_2.connection.execute("TRUNCATE sequent_schema.events_03")
        with pytest.raises(EventsEdited, match="Build them anew") as caught:
            at_2[1].view_schema.rollback()
        assert "abort" not in caught.value.remedy

    def test_aggregates_erased_between_two_runs_are_gone_and_not_missed(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("sequent_py.view_schema.retired.rollback._Run.cut_over", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                at_2[1].view_schema.rollback()
        rows = at_2.connection.execute(
            "SELECT aggregate_id FROM view_schema.order_records_1 LIMIT 3"
        ).fetchall()
        at_2.of_owner(2).aggregates.erase([aggregate_id for (aggregate_id,) in rows])
        at_2[1].view_schema.rollback()
        at_2.check(1)
        at_2[2].view_schema.rollback()
        at_2.check(2)

    def test_an_erased_aggregate_does_not_come_back_and_counts_stay_exact(
        self, at_2: Deployments, orders: Iterator[range]
    ) -> None:
        def some_order() -> Any:
            row = at_2.connection.execute(
                "SELECT aggregate_id FROM view_schema.order_records ORDER BY total DESC LIMIT 1"
            ).fetchone()
            assert row is not None
            return row[0]

        at_2.of_owner(2).aggregates.erase([some_order()])
        # A pass over the retired tables has begun when the next one is erased.
        with pytest.raises(StallLimitExceeded):
            at_2[1].view_schema.rollback(stall_limit_seconds=0.0)
        erased = some_order()
        at_2.of_owner(2).aggregates.erase([erased])
        place_orders(at_2[2], next(orders))
        at_2[1].view_schema.rollback()
        at_2.check(1)
        assert at_2.connection.execute(
            "SELECT count(*) FROM view_schema.line_records WHERE aggregate_id = %s", (erased,)
        ).fetchone() == (0,)

    def test_somebody_else_at_work_is_named(self, at_2: Deployments) -> None:
        at_2.connection.execute("SELECT pg_advisory_lock(sequent_schema.migration_key())")
        for command in (at_2[1].view_schema.rollback, at_2[1].view_schema.prune):
            with pytest.raises(ConcurrentMigration):
                command()

    def test_an_unfinished_migration_comes_first(self, at_2: Deployments) -> None:
        at_2[3].view_schema.online()
        with pytest.raises(InvalidTransition, match="version 3 is unfinished") as caught:
            at_2[1].view_schema.rollback()
        assert "abort" in caught.value.remedy
        at_2[1].view_schema.abort()
        assert "sequent migrate rollback" in at_2[1].view_schema.status().next_commands
        at_2[1].view_schema.rollback()
        at_2.check(1)

    def test_a_view_on_a_table_that_leaves_is_named_before_any_work(self, at_2: Deployments) -> None:
        at_2.connection.execute(
            "CREATE VIEW public.cancelled AS SELECT * FROM view_schema.cancellation_records"
        )
        for ask in (at_2[1].view_schema.rollback, at_2[1].view_schema.rollback_plan):
            with pytest.raises(DependentObjects, match=r"public\.cancelled"):
                ask()
        at_2.check(2)

    def test_a_view_reads_the_version_that_serves(self, at_2: Deployments, database_prefix: str) -> None:
        at_2.connection.execute("CREATE VIEW public.totals AS SELECT count(*) FROM view_schema.order_records")
        # The migrator may replace what is its own.
        at_2.connection.execute(f'GRANT CREATE ON SCHEMA public TO "{database_prefix}_migrator"')
        at_2.connection.execute(f'ALTER VIEW public.totals OWNER TO "{database_prefix}_migrator"')
        reads = (
            "SELECT count(*) FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid"
            " WHERE r.ev_class = 'totals'::regclass AND d.refobjid = 'view_schema.order_records'::regclass"
        )
        for version in (1, 2):
            at_2[version].view_schema.rollback()
            at_2.check(version)
            assert at_2.connection.execute(reads).fetchone() != (0,)

    def test_a_table_dropped_by_hand_is_named(self, at_2: Deployments) -> None:
        at_2.connection.execute("DROP TABLE view_schema.order_records_1")
        with pytest.raises(InvalidTransition, match="order_records_1 is missing") as caught:
            at_2[1].view_schema.rollback()
        assert "prune --version 1" in caught.value.remedy
        assert "order_records_1 is missing" in str(at_2[1].view_schema.status().rollback)

    @pytest.mark.parametrize("physical_name", ["order_records_1", "order_records", "line_records"])
    def test_a_record_deleted_by_hand_is_named(self, at_2: Deployments, physical_name: str) -> None:
        at_2.connection.execute(
            "DELETE FROM sequent_schema.view_tables WHERE physical_name = %s", (physical_name,)
        )
        table = physical_name.removesuffix("_1")
        with pytest.raises(InvalidTransition, match=f"{table} of version [12] is no longer recorded"):
            at_2[1].view_schema.rollback()

    def test_migrations_deleted_by_hand_are_missed(self, at_2: Deployments) -> None:
        at_2.connection.execute(
            "UPDATE sequent_schema.view_migrations SET state = 'aborted' WHERE target_version = 2"
        )
        with pytest.raises(InvalidTransition, match="No view migration is recorded"):
            at_2[1].view_schema.rollback()

    def test_a_cut_over_that_was_not_recorded_cannot_be_gone_back_on(self, at_2: Deployments) -> None:
        at_2.connection.execute("UPDATE sequent_schema.view_migrations SET promoted_snapshot = NULL")
        with pytest.raises(InvalidTransition, match="is not recorded"):
            at_2[1].view_schema.rollback()
        at_2.connection.execute(
            "UPDATE sequent_schema.view_migrations SET promoted_snapshot = '900000000:900000000:'"
        )
        with pytest.raises(ForeignTransactionIds, match="future"):
            at_2[1].view_schema.rollback()

    def test_a_plan_of_another_release_is_named(self, at_2: Deployments) -> None:
        at_2.connection.execute("UPDATE sequent_schema.view_migrations SET plan = '{}'")
        with pytest.raises(PlanChanged, match="cannot be rolled back by this release") as caught:
            at_2[1].view_schema.rollback()
        assert "abort" not in caught.value.remedy

    def test_mended_transaction_ids_end_the_way_back(self, at_2: Deployments) -> None:
        at_2.connection.execute(
            "SET session_replication_role = replica; UPDATE sequent_schema.events SET xact_id = '900000000'::xid8"
        )
        at_2.of_owner(2).view_schema.repair_transaction_ids()
        with pytest.raises(InvalidTransition, match="is not recorded"):
            at_2[1].view_schema.rollback()

    def test_a_swap_that_gets_no_lock_names_who_holds_it_and_can_be_repeated(
        self, at_2: Deployments, store_database_url: str
    ) -> None:
        with psycopg.connect(store_database_url) as reader:
            reader.execute("SELECT FROM view_schema.order_records LIMIT 1")
            with pytest.raises(SwapLockTimeout) as caught:
                at_2[1].view_schema.rollback(lock_budget_seconds=0.2)
            assert str(reader.info.backend_pid) in str(caught.value)
        at_2.check(2)
        at_2[1].view_schema.rollback()
        at_2.check(1)

    @pytest.mark.slow
    def test_passes_that_do_not_get_ahead_of_the_writers_are_an_error_with_both_rates(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line_added = OrderProjector.line_added

        @on(LineAdded)
        def slowly(self: OrderProjector, event: LineAdded) -> None:
            time.sleep(0.004)
            line_added(self, event)

        def passes() -> int:
            row = at_2.connection.execute("SELECT count(*) FROM sequent_schema.replay_passes").fetchone()
            assert row is not None
            return int(row[0])

        monkeypatch.setattr(OrderProjector, "line_added", slowly)
        before = passes()
        with Batches(at_2[2]).running(), pytest.raises(CatchUpTooSlow) as caught:
            at_2[1].view_schema.rollback(max_delta_events=50)
        assert caught.value.message.count("events/s") == 2
        for way_out in ("--workers", "sequent maintenance on"):
            assert way_out in caught.value.remedy
        assert "offline" not in caught.value.remedy
        assert passes() - before <= 8, "it is said as soon as passes are long"
        at_2.check(2)

    def test_a_cut_over_that_takes_too_long_is_given_up_and_may_be_given_time(
        self, at_2: Deployments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promote = _Run._promote

        def slowly(self: _Run, connection: psycopg.Connection[Any]) -> object:
            connection.execute("SELECT pg_sleep(0.3)")
            return promote(self, connection)

        monkeypatch.setattr(_Run, "_promote", slowly)
        with pytest.raises(StallLimitExceeded) as caught:
            at_2[1].view_schema.rollback(stall_limit_seconds=0.25)
        assert "sequent maintenance on" in caught.value.remedy
        assert "--stall-limit" in caught.value.remedy
        at_2.check(2)
        at_2[1].maintenance.on("going back")
        at_2[1].view_schema.rollback(stall_limit_seconds=30)
        at_2[1].maintenance.off()
        at_2.check(1)


class TestWhichCode:
    def test_the_first_version_has_none_before_it(
        self, deployed: Deployments, store_database_url: str
    ) -> None:
        class Old(Migrations):
            version = 1
            versions = {1: [OrderProjector, LineProjector]}

        deployed.migrate(2)
        with shop(store_database_url, Old) as old, pytest.raises(InvalidTransition, match="is the first"):
            old.view_schema.rollback()

    def test_only_the_version_right_before_it(self, deployed: Deployments) -> None:
        for version in (1, 2, 3):
            deployed.migrate(version)
        with pytest.raises(InvalidTransition, match="rolled back to version 2; this code is of version 1"):
            deployed[1].view_schema.rollback()

    @pytest.mark.store(made_by=deployed_at(1))
    def test_newer_code_is_told_to_migrate(self, deployed: Deployments) -> None:
        with pytest.raises(InvalidTransition, match="no newer one has been") as caught:
            deployed[2].view_schema.rollback()
        assert "sequent migrate online" in caught.value.remedy
        deployed.migrate(2)
        deployed[1].view_schema.rollback()
        with pytest.raises(InvalidTransition, match="version 2 was rolled back; this code is of version 3"):
            deployed[3].view_schema.rollback()

    def test_code_that_does_not_know_the_tables_is_refused(
        self, deployed: Deployments, store_database_url: str
    ) -> None:
        class Other1(Migrations):
            version = 1
            versions = {1: [PricedOrderProjector]}

        deployed.migrate(1)
        deployed.migrate(2)
        with (
            shop(store_database_url, Other1, sql_directory=deployed[2].config.sql_path) as other,
            pytest.raises(InvalidTransition, match="line_records up to date, and this code has no projector"),
        ):
            other.view_schema.rollback()

    @pytest.mark.store(made_by=deployed_at(2))
    def test_old_code_is_told_of_the_way_back(self, deployed: Deployments, orders: Iterator[range]) -> None:
        place_orders(deployed[2], next(orders))
        status = deployed[1].view_schema.status()
        assert status.rollback is not None
        assert status.rollback.is_possible
        assert "order_records_1 as order_records" in status.rollback.message
        assert status.rollback.pending_events == 33
        assert status.next_commands == ("sequent migrate rollback",)
        assert [item.way for item in status.generations] == ["from version 2 back to 1"]
        problems = deployed[1].view_schema.check().problems
        assert any("sequent migrate rollback" in problem for problem in problems)
        with pytest.raises(InvalidTransition) as caught:
            deployed[1].view_schema.plan()
        assert "sequent migrate rollback --plan" in caught.value.remedy
        assert deployed[2].view_schema.status().rollback is None
        assert deployed[2].view_schema.status().next_commands == ()

    @pytest.mark.store(made_by=deployed_at(2))
    def test_what_was_rolled_back_is_not_built_over(self, deployed: Deployments) -> None:
        deployed[1].view_schema.rollback()
        status = deployed[2].view_schema.status()
        assert status.next_commands == ("sequent migrate rollback",)
        before = deployed.tables()
        for command in (deployed[2].view_schema.online, deployed[2].view_schema.plan):
            with pytest.raises(InvalidTransition, match="its tables are kept: ") as caught:
                command()
            assert "sequent migrate prune --version 2" in caught.value.remedy
        assert deployed.tables() == before
        deployed.migrate(3)
        deployed.check(3)

    @pytest.mark.store(made_by=deployed_at(2))
    def test_it_is_built_anew_once_its_tables_are_pruned(
        self, deployed: Deployments, orders: Iterator[range]
    ) -> None:
        deployed[1].view_schema.rollback()
        place_orders(deployed[1], next(orders))
        deployed[1].view_schema.prune(version=2)
        deployed.migrate(2)
        deployed.check(2)
        place_orders(deployed[2], next(orders))
        deployed[1].view_schema.rollback()
        deployed.check(1)
        deployed[2].view_schema.rollback()
        deployed.check(2)

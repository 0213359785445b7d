"""Rows that their table refuses only when a group is written: the event is named, and a quarantine sets its aggregate aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from picky import PickyProjector, ShopBadges, ShopPickyByPartition, ShopPickyInLine, picky_shop
from psycopg import errors
from psycopg.pq import TransactionStatus
from shop import LineAdded, Rows, actual_rows, expected_rows, order_id, place_orders, shop

from sequent_py import Migrations, Sequent
from sequent_py.errors import AggregatesQuarantined, ConstraintViolated, DefinitionError
from sequent_py.persistors.deferred import DeferredConstraints, deferred_names
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.replay import group_fold, violations
from sequent_py.replay.group_replayer import MOST_LOCK_RETRIES

Connection = psycopg.Connection[Any]

KINDS = {
    "CHECK": (LineAdded(product="refund", cents=-100_000), "order_records", "total_is_positive_1"),
    "NOT NULL": (LineAdded(product="unlisted", cents=1), "order_records", "NOT NULL of dialled"),
    "UNIQUE": (LineAdded(product="voucher taken", cents=1), "order_records", "voucher_once_1"),
    "deferred UNIQUE": (LineAdded(product="desk 7", cents=1), "order_records", "desk_once_1"),
    "deferred FOREIGN KEY": (LineAdded(product="orphan", cents=1), "line_records", "line_of_order_1"),
    "range": (LineAdded(product="gold", cents=40_000), "line_records", None),
    "trigger": (LineAdded(product="forbidden", cents=1), "line_records", None),
}
"""What violates, which table then refuses its rows, and by which constraint; the server does not name one where a type or a trigger refuses."""


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with picky_shop(store_database_url) as app:
        yield app


def own_voucher_and_desk(app: Sequent) -> None:
    """Give them to two others."""
    for order, product in zip(place_orders(app, [1001, 1002]), ("voucher taken", "desk 7"), strict=True):
        app.store.append(order, [LineAdded(product=product, cents=2)])


def poison(app: Sequent, kind: str, *orders: UUID) -> None:
    """Append an event that violates, and one after it."""
    for order in orders:
        app.store.append(order, [KINDS[kind][0], LineAdded(product="after", cents=2)])


def cure(connection: Connection) -> None:
    """Correct every event that violates."""
    connection.execute(
        'UPDATE sequent_schema.events SET payload = \'{"product": "cure", "cents": 1}\''
        " WHERE payload ->> 'product' IN ('refund', 'unlisted', 'voucher taken', 'desk 7', 'orphan', 'gold', 'forbidden')"
    )


def without(rows: Rows, *orders: UUID) -> Rows:
    return {table: [row for row in found if row[0] not in orders] for table, found in rows.items()}


def set_aside(app: Sequent) -> list[UUID]:
    return [item.aggregate_id for item in app.view_schema.status().quarantined]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_quarantine_the_error_names_table_constraint_aggregate_and_event(
    app: Sequent, kind: str
) -> None:
    ids = place_orders(app, range(8))
    _, table, constraint = KINDS[kind]
    # Two of them, so that in any order of the groups there is one at fault.
    poison(app, kind, ids[3], ids[5])
    with pytest.raises(ConstraintViolated) as caught:
        app.view_schema.online()
    error = caught.value
    assert error.aggregate_id in (ids[3], ids[5])
    assert (error.event_type, error.sequence_number) == ("LineAdded", 5)
    assert (error.table, error.constraint) == (table, constraint)
    assert error.projector == ("PickyProjector" if table == "order_records" else "LineProjector")
    for part in (str(error.aggregate_id), "sequence number 5", table, constraint or "", "--quarantine"):
        assert part in str(error)
    status = app.view_schema.status()
    assert status.state == "online_running"
    assert status.migration is not None
    assert "sequence number 5" in (status.migration.error or "")
    assert set_aside(app) == []


@pytest.mark.parametrize("fails_in", ["the first pass", "a window"])
def test_with_a_quarantine_all_others_are_folded_and_the_cured_are_released(
    app: Sequent, connection: Connection, fails_in: str
) -> None:
    ids = place_orders(app, range(30))
    at_fault = dict(zip([*range(5), *range(7, 9)], KINDS, strict=True))
    own_voucher_and_desk(app)
    if fails_in == "a window":
        app.view_schema.online(quarantine=True)
    prefixes = [
        row for row in expected_rows(connection)["line_records"] if row[0] in {ids[n] for n in at_fault}
    ]
    for number, kind in at_fault.items():
        poison(app, kind, ids[number])
    # One group for each partition, so that some have several at fault.
    app.view_schema.online(quarantine=True)
    found = {item.aggregate_id: item for item in app.view_schema.status().quarantined}
    assert len(found) == len(KINDS)
    for number, kind in at_fault.items():
        item = found.get(ids[number])
        if item is None:
            # Of two with one voucher the one whose group was written later: in the first pass that may be the owner.
            assert (fails_in, "UNIQUE" in kind) == ("the first pass", True)
            continue
        assert (item.event_type, item.sequence_number) == ("LineAdded", 5)
        assert KINDS[kind][1] in item.error
        assert (item.snapshot_since is None) == (fails_in == "the first pass")
    now = actual_rows(connection, "_1")
    assert without(now, *found) == without(expected_rows(connection), *found)
    kept = [row for row in now["line_records"] if row[0] in {ids[n] for n in at_fault} & found.keys()]
    assert kept == (prefixes if fails_in == "a window" else [])
    # Tried again, and set aside again.
    place_orders(app, range(30, 32))
    app.view_schema.online()
    assert len(set_aside(app)) == len(KINDS)
    with pytest.raises(AggregatesQuarantined):
        app.view_schema.offline()
    cure(connection)
    assert app.view_schema.online().quarantined == ()
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_a_mended_handler_releases_too(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(6))
    own_voucher_and_desk(app)
    app.view_schema.online(quarantine=True)
    kinds = ["NOT NULL", "UNIQUE", "deferred UNIQUE", "deferred FOREIGN KEY"]
    for order, kind in zip(ids, kinds, strict=False):
        poison(app, kind, order)
    assert {item.aggregate_id for item in app.view_schema.online().quarantined} == set(ids[:4])
    monkeypatch.setattr(PickyProjector, "is_mended", True)
    assert app.view_schema.online().quarantined == ()
    app.view_schema.offline()
    assert actual_rows(connection) == expected_rows(connection)


def test_the_other_rows_key_is_named(app: Sequent) -> None:
    ids = place_orders(app, range(6))
    app.view_schema.online()
    poison(app, "UNIQUE", ids[2], ids[1])
    with pytest.raises(ConstraintViolated, match=r"Key \(voucher\)=\(taken\) already exists") as caught:
        app.view_schema.online()
    assert caught.value.aggregate_id == ids[1]


def test_of_two_that_exclude_one_another_the_later_is_at_fault(app: Sequent, connection: Connection) -> None:
    first, second, third = place_orders(app, range(3))
    for order in (third, second, first):
        app.store.append(order, [LineAdded(product="voucher a", cents=1)])
    app.view_schema.online(quarantine=True)
    assert set(set_aside(app)) == {second, third}
    assert without(actual_rows(connection, "_1"), second, third) == without(
        expected_rows(connection), second, third
    )


def test_a_voucher_that_one_gives_up_and_another_takes_is_no_violation_beside_one_that_is(
    app: Sequent, connection: Connection
) -> None:
    giver, taker, other = place_orders(app, range(3))
    app.store.append(giver, [LineAdded(product="voucher a", cents=1)])
    app.view_schema.online(quarantine=True)
    # The one who takes it begins in the window before the one who gives it up is seen again.
    app.store.append(taker, [LineAdded(product="hello", cents=1)])
    app.store.append(giver, [LineAdded(product="voucher", cents=1)])
    app.store.append(taker, [LineAdded(product="voucher a", cents=1)])
    app.store.append(other, [LineAdded(product="refund", cents=-100_000)])
    app.view_schema.online()
    assert set_aside(app) == [other]
    assert without(actual_rows(connection, "_1"), other) == without(expected_rows(connection), other)


def test_the_last_window_promotes_nothing_and_accepted_is_promoted(
    app: Sequent, connection: Connection
) -> None:
    ids = place_orders(app, range(6))
    own_voucher_and_desk(app)
    app.view_schema.online(quarantine=True)
    poison(app, "deferred UNIQUE", ids[1])
    with pytest.raises(AggregatesQuarantined, match=str(ids[1])):
        app.view_schema.golive()
    assert app.view_schema.status().state == "online_done"
    app.view_schema.golive(accept_quarantined=[ids[1]])
    assert without(actual_rows(connection), ids[1]) == without(expected_rows(connection), ids[1])
    with pytest.raises(
        ConstraintViolated, match=f"failed on aggregate {ids[1]}: order_records refuses its rows by desk_once"
    ):
        app.aggregates.refold([ids[1]])
    cure(connection)
    assert app.aggregates.refold([ids[1]]).released == 1
    # Whoever has the desk was cured of it in the log only.
    assert [row for row in actual_rows(connection)["line_records"] if row[0] == ids[1]] == [
        row for row in expected_rows(connection)["line_records"] if row[0] == ids[1]
    ]


def test_golive_without_a_quarantine_names_the_event(app: Sequent) -> None:
    ids = place_orders(app, range(6))
    own_voucher_and_desk(app)
    app.view_schema.online()
    poison(app, "deferred UNIQUE", ids[1])
    with pytest.raises(ConstraintViolated, match="sequence number 5") as caught:
        app.view_schema.golive()
    assert (caught.value.aggregate_id, caught.value.constraint) == (ids[1], "desk_once_1")
    assert app.view_schema.status().state == "online_done"


def test_a_dry_run_names_table_and_constraint(app: Sequent) -> None:
    ids = place_orders(app, range(3))
    poison(app, "CHECK", ids[1])
    with pytest.raises(ConstraintViolated, match="order_records refuses its rows by total_is_positive_1"):
        app.view_schema.dry_run()


def test_more_than_the_limit_stops(app: Sequent) -> None:
    ids = place_orders(app, range(6))
    poison(app, "CHECK", *ids[:3])
    with pytest.raises(ConstraintViolated, match="quarantine-limit is 2"):
        app.view_schema.online(quarantine=True, quarantine_limit=2)
    assert len(set_aside(app)) == 2


def test_rows_that_are_written_early_because_memory_is_full_are_traced_as_well(
    store_database_url: str, connection: Connection
) -> None:
    with picky_shop(store_database_url, max_rows_in_memory=8) as app:
        ids = place_orders(app, range(20))
        app.view_schema.online(quarantine=True)
        poison(app, "CHECK", ids[3])
        for order in ids[7:12]:
            app.store.append(order, [LineAdded(product=f"more {n}", cents=1) for n in range(4)])
        app.view_schema.online()
        assert set_aside(app) == [ids[3]]
        assert without(actual_rows(connection, "_1"), ids[3]) == without(expected_rows(connection), ids[3])


@pytest.mark.parametrize("quarantine", [None, True])
def test_workers_of_their_own_do_the_same(
    store_database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, quarantine: bool | None
) -> None:
    with picky_shop(store_database_url, workers=2) as app:
        ids = place_orders(app, range(30))
        own_voucher_and_desk(app)
        poison(app, "CHECK", ids[3])
        poison(app, "deferred UNIQUE", ids[5])
        poison(app, "UNIQUE", ids[8])
        monkeypatch.setattr("sequent_py.replay.replayer.INLINE_EVENTS", 0)
        if not quarantine:
            with pytest.raises(
                ConstraintViolated, match=r"sequence number 5\): order_records refuses its rows by"
            ) as caught:
                app.view_schema.online(group_target_events=20)
            assert "--quarantine" in caught.value.remedy
            return
        app.view_schema.online(quarantine=True, group_target_events=20)
        # Who has a voucher first is who is written first.
        assert ids[3] in set_aside(app)
        assert len(set_aside(app)) == 3
        assert without(actual_rows(connection, "_1"), *set_aside(app)) == without(
            expected_rows(connection), *set_aside(app)
        )


def test_an_edited_aggregate_that_violates_leaves_no_row(app: Sequent, connection: Connection) -> None:
    ids = place_orders(app, range(5))
    app.view_schema.online(quarantine=True)
    connection.execute(
        "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '-100000')"
        " WHERE aggregate_id = %s AND sequence_number = 3",
        (ids[1],),
    )
    [item] = app.view_schema.online().quarantined
    assert (item.aggregate_id, item.sequence_number, item.snapshot_since) == (ids[1], 3, None)
    assert actual_rows(connection, "_1") == without(expected_rows(connection), ids[1])
    cure_cents = "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '5') WHERE (payload ->> 'cents')::int < 0"
    connection.execute(cure_cents)
    app.view_schema.online()
    assert actual_rows(connection, "_1") == expected_rows(connection)


@pytest.mark.parametrize("migrations", [ShopPickyByPartition, ShopPickyInLine])
def test_where_rows_depend_on_several_aggregates_the_event_is_named_too(
    store_database_url: str, migrations: type[Migrations]
) -> None:
    with picky_shop(store_database_url, migrations) as app:
        ids = place_orders(app, range(8))
        poison(app, "UNIQUE", ids[5], ids[3])
        place_orders(app, range(8, 12))
        with pytest.raises(ConstraintViolated, match=r"Key \(voucher\)=\(taken\) already exists") as caught:
            app.view_schema.online()
        error = caught.value
        assert (error.event_type, error.sequence_number) == ("LineAdded", 5)
        if migrations is ShopPickyInLine:
            assert error.aggregate_id == ids[3]
        assert "--quarantine" not in error.remedy
        with pytest.raises(DefinitionError, match="depend on several aggregates"):
            app.view_schema.online(quarantine=True)


def test_a_group_in_position_order_that_is_too_large_to_be_searched_still_names_table_and_constraint(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(violations, "MOST_SERIAL_EVENTS", 0)
    with picky_shop(store_database_url, ShopPickyInLine) as app:
        ids = place_orders(app, range(3))
        poison(app, "CHECK", ids[1])
        with pytest.raises(
            ConstraintViolated, match="PickyInLine failed on several aggregates: order_records"
        ) as caught:
            app.view_schema.online()
        assert caught.value.constraint == "total_is_positive_1"


class TestNoFaultOfTheRows:
    """Errors of the server that say nothing of the rows begin no search."""

    @pytest.fixture(autouse=True)
    def _no_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def search(*_: object) -> None:
            raise AssertionError("nothing is to be searched for")

        monkeypatch.setattr(violations, "_Search", search)

    @pytest.mark.parametrize(
        ("error", "tries"),
        [
            (errors.DiskFull, 1),
            (errors.QueryCanceled, 1),
            (errors.AdminShutdown, 1),
            (errors.OutOfMemory, 1),
            (errors.LockNotAvailable, 1 + MOST_LOCK_RETRIES),
            (errors.DeadlockDetected, 1 + MOST_LOCK_RETRIES),
        ],
    )
    def test_it_comes_through(
        self,
        app: Sequent,
        connection: Connection,
        monkeypatch: pytest.MonkeyPatch,
        error: type[psycopg.Error],
        tries: int,
    ) -> None:
        tried: list[int] = []

        def flush(_: ReplayPersistor) -> None:
            tried.append(1)
            raise error("so says the server")

        place_orders(app, [1])
        with monkeypatch.context() as broken:
            broken.setattr(ReplayPersistor, "flush", flush)
            with pytest.raises(error):
                app.view_schema.online(quarantine=True)
        assert len(tried) == tries
        assert set_aside(app) == []
        app.view_schema.online()
        assert actual_rows(connection, "_1") == expected_rows(connection)

    def test_a_group_that_loses_a_deadlock_is_tried_again(
        self, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flush = ReplayPersistor.flush
        lost: list[int] = []

        def loses_once(persistor: ReplayPersistor) -> Any:
            if not lost:
                lost.append(1)
                raise errors.DeadlockDetected("deadlock detected")
            return flush(persistor)

        place_orders(app, [1])
        monkeypatch.setattr(ReplayPersistor, "flush", loses_once)
        app.view_schema.online()
        assert lost
        assert actual_rows(connection, "_1") == expected_rows(connection)


def test_an_error_of_the_server_ends_a_search_and_the_same_command_goes_on(
    app: Sequent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place_orders(app, range(4))
    poison(app, "CHECK", ids[1])

    def write(*_: object, **__: object) -> None:
        raise errors.DiskFull("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(group_fold.GroupFold, "write", write)
        with pytest.raises(errors.DiskFull):
            app.view_schema.online(quarantine=True)
    assert set_aside(app) == []
    app.view_schema.online()
    assert set_aside(app) == [ids[1]]


def of_one_partition(app: Sequent, connection: Connection, count: int) -> list[UUID]:
    """Place orders whose events are in one partition, and so in one group."""
    placed: list[UUID] = []
    for number in range(7 * 16 * count):
        if number % 7 != 6 and len(placed) < count:
            row = connection.execute(
                "SELECT satisfies_hash_partition('sequent_schema.events'::regclass, 16, 3, %s)",
                (order_id(number),),
            ).fetchone()
            assert row is not None
            if row[0]:
                placed += place_orders(app, [number])
    return placed


def test_all_at_fault_in_a_group_are_found_by_one_search(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = of_one_partition(app, connection, 12)
    poison(app, "CHECK", ids[1], ids[2])
    poison(app, "trigger", ids[7])
    poison(app, "deferred UNIQUE", *ids[9:])
    runs: list[int] = []
    run = group_fold.GroupFold.run

    def counted(group: group_fold.GroupFold) -> Any:
        if group.claimed.group.estimated_events:
            runs.append(1)
        return run(group)

    monkeypatch.setattr(group_fold.GroupFold, "run", counted)
    report = app.view_schema.online(quarantine=True)
    assert {item.aggregate_id for item in report.quarantined} == {ids[n] for n in (1, 2, 7, 10, 11)}
    assert len(runs) == 2
    assert without(actual_rows(connection, "_1"), *set_aside(app)) == without(
        expected_rows(connection), *set_aside(app)
    )


@pytest.mark.parametrize("batch_events", [1, 20_000])
def test_a_primary_key_that_two_aggregates_make_is_the_later_ones_fault(
    store_database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, batch_events: int
) -> None:
    monkeypatch.setattr(group_fold, "BATCH_EVENTS", batch_events)
    with picky_shop(store_database_url, ShopBadges) as app:
        owner, *others = of_one_partition(app, connection, 2)
        others += place_orders(app, [1])
        app.store.append(owner, [LineAdded(product="badge", cents=7)])
        app.view_schema.online(quarantine=True)
        for order in others:
            app.store.append(order, [LineAdded(product="badge", cents=7)])
        # Folded after the one that takes its badge: in batches of one event its row is loaded only now.
        app.store.append(owner, [LineAdded(product="badge", cents=8)])
        app.view_schema.online()
        found = {item.aggregate_id: item for item in app.view_schema.status().quarantined}
        assert found.keys() == set(others)
        assert {item.sequence_number for item in found.values()} == {5}
        assert connection.execute("SELECT count(*) FROM view_schema.badge_records_1").fetchone() == (2,)


def test_where_all_is_well_no_group_costs_a_statement_more(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing has failed")

    monkeypatch.setattr(violations, "failures_of", refuse)
    monkeypatch.setattr(group_fold.GroupFold, "write", refuse)
    with shop(store_database_url) as app:
        place_orders(app, range(5))
        app.view_schema.online()


def test_only_constraints_that_are_deferred_are_checked_before_the_commit(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE plain (id int PRIMARY KEY, n int UNIQUE DEFERRABLE)")
        connection.execute(
            'CREATE TABLE picky (id int PRIMARY KEY, n int CONSTRAINT "Once %" UNIQUE DEFERRABLE INITIALLY DEFERRED)'
        )
        assert deferred_names(connection, "public", ["plain"]) == set()
        assert deferred_names(connection, "public", ["picky"]) == {("public", "Once %")}
        deferred = DeferredConstraints([("public", "Once %")])
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO picky VALUES (1, 1), (2, 1)")
            with pytest.raises(errors.UniqueViolation), connection.transaction():
                deferred.check(connection)
            connection.execute("UPDATE picky SET n = id")
            deferred.check(connection)
            # Deferred again.
            connection.execute("INSERT INTO picky VALUES (3, 1)")
        # Nothing to check is nothing to send: there is no transaction, nor a connection.
        with psycopg.connect(database_url) as idle:
            DeferredConstraints().check(idle)
            assert idle.info.transaction_status == TransactionStatus.IDLE

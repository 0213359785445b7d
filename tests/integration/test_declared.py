"""Declared projections through a view migration: live, replayed, verified, given back to handlers where SQL finds something odd."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from declared_shop import (
    DeclaredPickyShop,
    DeclaredShop1,
    DeclaredShop2,
    KeptPickyShop,
    KeptShop,
    MixedShop,
    UpcastShop,
)
from picky import picky_shop
from shop import LineAdded, OrderCancelled, OrderPlaced, actual_rows, expected_rows, place_orders, shop

from sequent_py import Sequent
from sequent_py.declared import groups
from sequent_py.declared.transfer import transfer
from sequent_py.errors import ConstraintViolated, ProjectionFailed
from sequent_py.native import native
from sequent_py.replay.fold import Fold
from sequent_py.replay.group_fold import GroupFold
from sequent_py.replay.reader import RawEvent


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, DeclaredShop1) as app:
        yield app


def test_replayed_caught_up_and_live_rows_are_the_fold_of_the_events(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    place_orders(app, range(60))
    app.view_schema.online()
    place_orders(app, range(60, 90))
    app.view_schema.offline()
    place_orders(app, range(90, 100))
    assert actual_rows(connection) == expected_rows(connection)
    with shop(store_database_url, DeclaredShop2) as newer:
        newer.view_schema.online()
        place_orders(app, range(100, 110))
        newer.view_schema.golive()
        assert newer.view_schema.verify(is_all=True).is_correct
        assert actual_rows(connection) == expected_rows(connection)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the events that handlers were given while groups ran."""
    types: list[str] = []
    running: list[bool] = []
    run, apply = GroupFold.run, Fold.apply

    def noted_run(group: GroupFold) -> tuple[int, dict[str, int]]:
        running.append(True)
        try:
            return run(group)
        finally:
            running.pop()

    def noted_apply(fold: Fold, raw_events: Sequence[RawEvent]) -> int:
        if running:
            types.extend(fold.event_type(raw[4]) for raw in raw_events)
        return apply(fold, raw_events)

    monkeypatch.setattr(GroupFold, "run", noted_run)
    monkeypatch.setattr(Fold, "apply", noted_apply)
    return types


def counts(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """How many events there are, and how many the groups say they have."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM sequent_schema.events), (SELECT sum(events) FROM sequent_schema.replay_groups)"
    ).fetchone()
    assert row is not None
    return row


def test_a_first_pass_hands_no_event_to_handlers(
    app: Sequent, connection: psycopg.Connection[Any], folded: list[str]
) -> None:
    place_orders(app, range(30))
    app.view_schema.online()
    assert folded == []
    assert actual_rows(connection, "_1") == expected_rows(connection)
    all_events, events = counts(connection)
    assert events == all_events
    place_orders(app, range(30, 31))
    app.view_schema.online()
    assert folded
    assert actual_rows(connection, "_1") == expected_rows(connection)


@pytest.fixture
def transferred(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the C module came to, group by group."""
    outcomes: list[object] = []

    def noted(*arguments: Any) -> object:
        outcomes.append(transfer(*arguments))
        return outcomes[-1]

    monkeypatch.setattr(groups, "transfer", noted)
    return outcomes


KEPT = [number for number in range(40) if number % 7 != 6]
"""Orders that are not cancelled."""


@pytest.mark.skipif(native is None, reason="without the C module SQL does it")
def test_the_c_module_writes_the_rows_of_a_first_pass_where_no_row_is_deleted(
    store_database_url: str,
    connection: psycopg.Connection[Any],
    folded: list[str],
    transferred: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with shop(store_database_url, KeptShop) as app:
        place_orders(app, KEPT)
        app.view_schema.online()
        assert transferred == [(len(KEPT) * 4, {"order_records": len(KEPT), "line_records": len(KEPT) * 3})]
        assert folded == []
        assert actual_rows(connection, "_1") == expected_rows(connection)
        all_events, events = counts(connection)
        assert events == all_events
        app.view_schema.abort()

        monkeypatch.setattr("sequent_py.declared.program.native", None)
        app.view_schema.online()
        assert len(transferred) == 1
        assert folded == []
        assert actual_rows(connection, "_1") == expected_rows(connection)


@pytest.mark.skipif(native is None, reason="without the C module SQL does it")
def test_what_the_c_module_finds_odd_goes_to_the_handlers(
    store_database_url: str,
    connection: psycopg.Connection[Any],
    folded: list[str],
    transferred: list[object],
) -> None:
    with shop(store_database_url, KeptShop) as app:
        ids = place_orders(app, KEPT)
        app.store.append(ids[4], [OrderPlaced(customer="again")])
        with pytest.raises(ProjectionFailed, match="KeptOrderTable") as raised:
            app.view_schema.online()
        assert (raised.value.aggregate_id, raised.value.sequence_number) == (ids[4], 5)
        assert transferred == [None]
        app.view_schema.abort()
        # The reader has met an error in the middle of its COPY, and is used again.
        connection.execute(
            """UPDATE sequent_schema.events SET payload = payload || '{"cents": 1.5}' WHERE aggregate_id = %s AND sequence_number = 3""",
            (ids[5],),
        )
        transferred.clear()
        quarantined = {item.aggregate_id for item in app.view_schema.online(quarantine=True).quarantined}
        assert quarantined == {ids[4], ids[5]}
        assert transferred[0] is None
        assert transferred[-1] is not None
        expected = expected_rows_but(connection, quarantined)
        assert actual_rows(connection, "_1")["line_records"] == expected


def expected_rows_but(connection: psycopg.Connection[Any], left_out: Collection[UUID]) -> list[Any]:
    """The lines of all orders but some."""
    return [
        (aggregate_id, number, payload["product"], payload["cents"])
        for aggregate_id, number, payload in connection.execute(
            "SELECT e.aggregate_id, e.sequence_number, e.payload FROM sequent_schema.events e"
            " JOIN sequent_schema.event_types t ON t.id = e.event_type_id WHERE t.name = 'LineAdded' ORDER BY 1, 2"
        )
        if aggregate_id not in left_out
    ]


def test_beside_handlers_each_event_counts_once(
    store_database_url: str, connection: psycopg.Connection[Any], folded: list[str]
) -> None:
    with shop(store_database_url, MixedShop) as app:
        place_orders(app, range(30))
        app.view_schema.online()
        assert set(folded) == {"LineAdded", "OrderCancelled"}
        assert actual_rows(connection, "_1") == expected_rows(connection)
        all_events, events = counts(connection)
        assert events == all_events
        app.view_schema.offline()


def test_a_group_with_an_odd_payload_goes_to_the_handlers(
    app: Sequent, connection: psycopg.Connection[Any], folded: list[str]
) -> None:
    ids = place_orders(app, range(30))
    # Valid to pydantic, and not how the library stores a number.
    connection.execute(
        """UPDATE sequent_schema.events SET payload = payload || '{"cents": "+17"}' WHERE aggregate_id = %s AND sequence_number = 2""",
        (ids[3],),
    )
    app.view_schema.online()
    assert len(folded) == counts(connection)[0]
    connection.execute(
        """UPDATE sequent_schema.events SET payload = payload || '{"cents": 17}' WHERE aggregate_id = %s AND sequence_number = 2""",
        (ids[3],),
    )
    assert actual_rows(connection, "_1") == expected_rows(connection)


def test_a_rule_that_fails_names_its_event_and_can_be_set_aside(
    app: Sequent, connection: psycopg.Connection[Any], folded: list[str]
) -> None:
    ids = place_orders(app, range(20))
    app.store.append(ids[4], [OrderCancelled(), LineAdded(product="late", cents=1)])
    with pytest.raises(ProjectionFailed, match="OrderTable") as raised:
        app.view_schema.online()
    assert (raised.value.aggregate_id, raised.value.sequence_number) == (ids[4], 6)
    app.view_schema.abort()
    folded.clear()
    [item] = app.view_schema.online(quarantine=True).quarantined
    assert item.aggregate_id == ids[4]
    assert {row[0] for row in actual_rows(connection, "_1")["order_records"]}.isdisjoint({ids[4]})
    # Once that aggregate is left out, SQL takes the group again.
    assert len(folded) <= counts(connection)[0]


REFUSED = {
    "CHECK": (LineAdded(product="refund", cents=-100_000), "PickyOrderTable", "order_records", "total_is_positive_1"),
    "range": (LineAdded(product="gold", cents=40_000), "LineTable", "line_records", None),
    "trigger": (LineAdded(product="forbidden", cents=1), "LineTable", "line_records", None),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "Kept"])
@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_their_table_refuses_are_traced_to_their_event_and_can_be_set_aside(
    store_database_url: str, connection: psycopg.Connection[Any], kind: str, prefix: str
) -> None:
    event, projector, table, constraint = REFUSED[kind]
    projector = prefix + projector
    with picky_shop(store_database_url, KeptPickyShop if prefix else DeclaredPickyShop) as app:
        ids = place_orders(app, [*range(6), *range(7, 13)] if prefix else range(12))
        app.store.append(ids[4], [event, LineAdded(product="later", cents=2)])
        with pytest.raises(ConstraintViolated) as raised:
            app.view_schema.online()
        error = raised.value
        assert (error.projector, error.table, error.constraint) == (projector, table, constraint)
        assert (error.aggregate_id, error.event_type, error.sequence_number) == (ids[4], "LineAdded", 5)
        app.view_schema.abort()
        [item] = app.view_schema.online(quarantine=True).quarantined
        assert (item.aggregate_id, item.sequence_number) == (ids[4], 5)
        expected = [row for row in expected_rows(connection)["line_records"] if row[0] != ids[4]]
        assert actual_rows(connection, "_1")["line_records"] == expected


def test_the_plan_and_the_dry_run_say_what_is_left_to_handlers(store_database_url: str) -> None:
    with shop(store_database_url, UpcastShop) as app:
        place_orders(app, range(3))
        expected = "UpcastTable will be replayed by handlers instead of SQL: OrderReplaced has an upcaster."
        assert app.view_schema.plan().warnings == (expected,)
        assert expected in app.view_schema.dry_run().warnings

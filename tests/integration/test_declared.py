"""Declared projections through a view migration: live, replayed, verified, given back to handlers where SQL finds something odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from declared_shop import DeclaredPickyShop, DeclaredShop1, DeclaredShop2, MixedShop, UpcastShop
from picky import picky_shop
from shop import LineAdded, OrderCancelled, actual_rows, expected_rows, place_orders, shop

from sequent_py import Sequent
from sequent_py.errors import ConstraintViolated, ProjectionFailed
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


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_their_table_refuses_are_traced_to_their_event_and_can_be_set_aside(
    store_database_url: str, connection: psycopg.Connection[Any], kind: str
) -> None:
    event, projector, table, constraint = REFUSED[kind]
    with picky_shop(store_database_url, DeclaredPickyShop) as app:
        ids = place_orders(app, range(12))
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

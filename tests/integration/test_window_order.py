"""In which order a window's events are folded: all together by position, or, where it is cut into groups, one aggregate after another."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from uuid import UUID

import psycopg
import pytest
from picky import BadgeRecord, picky_shop
from shop import (
    FailingProjector,
    LineAdded,
    LineProjector,
    OrderPlaced,
    OrderProjector,
    ShopFailing,
    actual_rows,
    expected_rows,
    order_id,
    shop,
)

from sequent_py import Migrations, Projector, Sequent, on
from sequent_py.errors import ProjectionFailed

Connection = psycopg.Connection[Any]
GROUP_EVENTS = 50
ORDERS = sorted(order_id(number) for number in range(1, 41))


class SeeingProjector(LineProjector):
    """Notes whose lines come, and when."""

    seen: list[UUID]

    @on(LineAdded)
    def sees(self, event: LineAdded) -> None:
        self.seen.append(event.aggregate_id)


class ShopSeeing(Migrations):
    version = 1
    versions = {1: [OrderProjector, SeeingProjector]}


class BadgeProjector(Projector):
    """A badge that one order returns may be another's."""

    manages_tables = (BadgeRecord,)

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if event.product == "badge":
            self.create_record(BadgeRecord, number=event.cents, aggregate_id=event.aggregate_id)
        elif event.product == "return":
            self.delete_all_records(BadgeRecord, aggregate_id=event.aggregate_id)


class ShopBadges(Migrations):
    version = 1
    versions = {1: [BadgeProjector]}


@pytest.fixture(autouse=True)
def small_windows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that there are several groups in a window that is small enough for a test.
    monkeypatch.setattr("sequent_py.replay.estimate.SAMPLE_ROWS", 100)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    found: list[UUID] = []
    monkeypatch.setattr(SeeingProjector, "seen", found, raising=False)
    return found


def write_window(app: Sequent) -> None:
    """Append three lines to each order, in turn, from the highest to the lowest."""
    for number in range(3):
        for order in reversed(ORDERS):
            first = [OrderPlaced(customer="c")] if not number else []
            app.store.append(order, [*first, LineAdded(product=f"p{number}", cents=number)])


def group_count(connection: Connection) -> int:
    """Count the groups of the newest pass."""
    row = connection.execute(
        "SELECT count(*) FROM sequent_schema.replay_groups WHERE (migration_id, pass) ="
        " (SELECT migration_id, max(pass) FROM sequent_schema.replay_groups GROUP BY migration_id)"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_where_a_window_is_cut_each_aggregate_is_folded_by_itself(
    store_database_url: str, connection: Connection, seen: list[UUID]
) -> None:
    with shop(store_database_url, ShopSeeing, group_target_events=GROUP_EVENTS) as app:
        app.view_schema.online()
        write_window(app)
        app.view_schema.online()
    assert group_count(connection) > 1
    assert sorted(order for order, _ in groupby(seen)) == ORDERS
    assert actual_rows(connection, "_1") == expected_rows(connection)


def test_a_window_of_one_group_is_folded_in_position_order(
    store_database_url: str, connection: Connection, seen: list[UUID]
) -> None:
    with shop(store_database_url, ShopSeeing) as app:
        app.view_schema.online()
        write_window(app)
        app.view_schema.online()
    assert group_count(connection) == 1
    assert seen == ORDERS[::-1] * 3
    assert actual_rows(connection, "_1") == expected_rows(connection)


def test_the_event_that_is_named_is_the_first_that_fails_whatever_its_aggregate(
    store_database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(store_database_url, ShopFailing, group_target_events=GROUP_EVENTS) as app:
        app.view_schema.online()
        write_window(app)
        for order in (ORDERS[1], ORDERS[0]):
            app.store.append(order, [LineAdded(product="poison", cents=1)])
        with pytest.raises(ProjectionFailed) as failed:
            app.view_schema.online()
        assert failed.value.aggregate_id == ORDERS[1]
        assert group_count(connection) > 1
        monkeypatch.setattr(FailingProjector, "is_mended", True)
        app.view_schema.online()
    assert actual_rows(connection, "_1") == expected_rows(connection)


def test_a_primary_key_that_one_aggregate_gives_up_and_another_takes_is_no_failure(
    store_database_url: str, connection: Connection
) -> None:
    with picky_shop(store_database_url, ShopBadges, group_target_events=GROUP_EVENTS) as app:
        app.store.append(ORDERS[1], [OrderPlaced(customer="c"), LineAdded(product="badge", cents=7)])
        app.view_schema.online()
        write_window(app)
        app.store.append(ORDERS[1], [LineAdded(product="return", cents=7)])
        app.store.append(ORDERS[0], [LineAdded(product="badge", cents=7)])
        app.view_schema.online(quarantine=True)
        assert app.view_schema.status().quarantined == ()
    assert group_count(connection) > 1
    rows = connection.execute("SELECT number, aggregate_id FROM view_schema.badge_records_1").fetchall()
    assert rows == [(7, ORDERS[0])]

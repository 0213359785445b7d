"""What an append reports when its projection is refused by the server: a fault of the rows, or a matter of trying again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from picky import CrossingProjector, ShopCrossing, picky_shop
from psycopg import errors
from shop import LineAdded, actual_rows, live_shop, place_orders, shop

from sequent_py import Sequent
from sequent_py.errors import ConstraintViolated

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=live_shop(0, ShopCrossing))


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, ShopCrossing) as app:
        yield app


def touch(other: UUID) -> list[Any]:
    return [LineAdded(product=f"touch {other}", cents=1)]


def test_the_loser_of_a_deadlock_is_told_so_and_may_try_again(
    app: Sequent, store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = place_orders(app, range(2))
    both = threading.Barrier(2, timeout=30)
    with monkeypatch.context() as crossing, ThreadPoolExecutor(2) as threads:
        crossing.setattr(CrossingProjector, "half_way", staticmethod(both.wait))
        appends = {
            order: threads.submit(app.store.append, order, touch(second), 4)
            for order, second in ((one, other), (other, one))
        }
        [loser] = [order for order, append in appends.items() if append.exception() is not None]
    assert type(appends[loser].exception()) is errors.DeadlockDetected
    assert app.store.version_of(loser) == 4
    app.store.append(loser, touch(one if loser == other else other), 4)
    with psycopg.connect(store_database_url) as connection:
        assert sorted(row[3] for row in actual_rows(connection)["order_records"]) == [4, 4]


def test_a_serialization_failure_is_told_as_what_it_is(app: Sequent, store_database_url: str) -> None:
    one, other = place_orders(app, range(2))
    with app.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        raw: Connection = connection.connection.driver_connection  # type: ignore[assignment]
        raw.execute("SELECT 1 FROM sequent_schema.events LIMIT 1")
        app.store.append(other, [LineAdded(product="meanwhile", cents=1)])
        with pytest.raises(errors.SerializationFailure):
            app.store.append(one, touch(other), connection=connection)
        connection.rollback()
        app.store.append(one, touch(other), connection=connection)
        connection.commit()


def test_a_lock_that_cannot_be_had_is_not_the_handlers_fault(app: Sequent, store_database_url: str) -> None:
    one, other = place_orders(app, range(2))
    with psycopg.connect(store_database_url) as holder, app.engine.connect() as connection:
        holder.execute("SELECT FROM view_schema.order_records WHERE aggregate_id = %s FOR UPDATE", (other,))
        raw: Connection = connection.connection.driver_connection  # type: ignore[assignment]
        raw.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(errors.LockNotAvailable):
            app.store.append(one, touch(other), connection=connection)
        connection.rollback()


@pytest.mark.store(made_by=None)
def test_a_violated_constraint_is_named_with_its_table_and_nothing_is_recorded(
    store_database_url: str,
) -> None:
    with picky_shop(store_database_url) as app:
        app.view_schema.online()
        app.view_schema.offline()
        one, other = place_orders(app, range(2))
        app.store.append(one, [LineAdded(product="voucher taken", cents=1)])
        refused = {
            "CHECK": (
                LineAdded(product="refund", cents=-100_000),
                "order_records",
                "total_is_positive",
                "PickyProjector",
            ),
            "UNIQUE": (
                LineAdded(product="voucher taken", cents=1),
                "order_records",
                "voucher_once",
                "PickyProjector",
            ),
            "trigger": (LineAdded(product="forbidden", cents=1), None, None, "LineProjector"),
        }
        for event, table, constraint, projector in refused.values():
            with pytest.raises(ConstraintViolated, match="sequence number 5") as caught:
                app.store.append(other, [event])
            error = caught.value
            assert (error.table, error.constraint, error.projector) == (table, constraint, projector)
            assert error.aggregate_id == other
            assert isinstance(error.__cause__, psycopg.Error)
        assert app.store.version_of(other) == 4


@pytest.mark.store(made_by=None)
def test_a_deferred_constraint_speaks_at_the_commit_in_the_servers_words(store_database_url: str) -> None:
    with picky_shop(store_database_url) as app:
        app.view_schema.online()
        app.view_schema.offline()
        one, other = place_orders(app, range(2))
        app.store.append(one, [LineAdded(product="desk 7", cents=1)])
        with pytest.raises(errors.UniqueViolation, match="desk_once"):
            app.store.append(other, [LineAdded(product="desk 7", cents=1)])
        assert app.store.version_of(other) == 4

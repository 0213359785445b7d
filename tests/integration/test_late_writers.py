"""Writers that are early, late, nested, prepared or rolled back, across every phase: each event is folded once, and nobody waits for strangers."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import LineAdded, OrderPlaced, Shop2, actual_rows, expected_rows, place_orders, shop

from sequent_py import Sequent

Connection = psycopg.Connection[Any]


def add_line(app: Sequent, order: UUID, product: str, connection: Connection) -> None:
    app.store.append(order, [LineAdded(product=product, cents=1)], connection=connection)


def is_equal_to_the_log(connection: Connection, suffix: str = "") -> None:
    assert actual_rows(connection, suffix) == expected_rows(connection)


def test_one_transaction_that_writes_across_several_passes_is_folded_once_when_it_commits(
    app: Sequent, connection: Connection, store_database_url: str
) -> None:
    one, two, three = place_orders(app, [1, 2, 3])
    with psycopg.connect(store_database_url) as late:
        add_line(app, one, "before the first pass", late)
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        add_line(app, one, "after it", late)
        add_line(app, two, "after it", late)
        app.store.append(three, [LineAdded(product="meanwhile", cents=2)])
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        late.commit()
    app.view_schema.online()
    is_equal_to_the_log(connection, "_1")
    app.view_schema.offline()
    is_equal_to_the_log(connection)


def test_ids_taken_in_one_order_and_committed_in_the_other(
    app: Sequent, connection: Connection, store_database_url: str
) -> None:
    orders = place_orders(app, [1, 2, 3, 4])
    writers = [psycopg.connect(store_database_url) for _ in orders]
    for writer in writers:
        writer.execute("SELECT pg_current_xact_id()")
    app.view_schema.online()
    for number, (order, writer) in enumerate(zip(reversed(orders), reversed(writers), strict=True)):
        add_line(app, order, f"line {number}", writer)
        writer.commit()
        # The next writer's id is older than this one's.
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        writer.close()
    app.view_schema.offline()
    is_equal_to_the_log(connection)


def test_savepoints_that_are_released_count_and_those_rolled_back_do_not(
    app: Sequent, connection: Connection, store_database_url: str
) -> None:
    one, two, three = place_orders(app, [1, 2, 3])
    with psycopg.connect(store_database_url) as writer, writer.transaction():
        with writer.transaction():
            add_line(app, one, "kept", writer)
            with writer.transaction():
                add_line(app, one, "kept, two levels down", writer)
        with writer.transaction(force_rollback=True):
            add_line(app, two, "taken back", writer)
            with writer.transaction():
                add_line(app, two, "taken back with it", writer)
        app.view_schema.online()
        is_equal_to_the_log(connection, "_1")
        with writer.transaction():
            add_line(app, three, "after the pass", writer)
    app.view_schema.online()
    is_equal_to_the_log(connection, "_1")
    app.view_schema.offline()
    is_equal_to_the_log(connection)
    products = {row[2] for row in actual_rows(connection)["line_records"]}
    assert {"kept", "kept, two levels down", "after the pass"} <= products
    assert not any(product.startswith("taken back") for product in products)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_prepared_transaction_is_folded_when_it_has_committed(
    app: Sequent, connection: Connection, store_database_url: str, ending: str
) -> None:
    if connection.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
        pytest.skip("max_prepared_transactions is 0")
    [order] = place_orders(app, [1])
    name = f"late {uuid4()}"
    with psycopg.connect(store_database_url) as writer:
        add_line(app, order, "prepared", writer)
        writer.execute(f"PREPARE TRANSACTION '{name}'")  # type: ignore[call-overload]
    app.view_schema.online()
    is_equal_to_the_log(connection, "_1")
    app.view_schema.online()
    connection.execute(f"{ending} PREPARED '{name}'")  # type: ignore[call-overload]
    app.view_schema.offline()
    is_equal_to_the_log(connection)
    assert len(actual_rows(connection)["line_records"]) == (4 if ending == "COMMIT" else 3)


@pytest.mark.parametrize("isolation", list(psycopg.IsolationLevel))
def test_long_transactions_elsewhere_delay_nothing(
    app: Sequent, connection: Connection, store_database_url: str, isolation: psycopg.IsolationLevel
) -> None:
    """The writer's transaction is open through both migrations: any wait for it would not end."""
    connection.execute("CREATE TABLE public.elsewhere (x int)")
    orders = place_orders(app, range(10))
    with psycopg.connect(store_database_url) as stranger:
        stranger.isolation_level = isolation
        stranger.execute("INSERT INTO public.elsewhere VALUES (1)")
        app.view_schema.online()
        connection.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (orders[3],))
        app.view_schema.online()
        app.view_schema.offline(drain_timeout_seconds=5, lock_budget_seconds=5)
        is_equal_to_the_log(connection)
        with shop(store_database_url, Shop2) as newer:
            newer.view_schema.online()
            app.store.append(orders[1], [LineAdded(product="between", cents=1)])
            newer.view_schema.offline(drain_timeout_seconds=5, lock_budget_seconds=5)
            is_equal_to_the_log(connection)
            newer.aggregates.refold([orders[2]], lock_budget_seconds=5)
            newer.aggregates.erase([orders[2]], lock_budget_seconds=5)
        is_equal_to_the_log(connection)
        stranger.execute("INSERT INTO public.elsewhere VALUES (2)")


def test_rolled_back_work_of_every_kind_leaves_nothing(
    app: Sequent, connection: Connection, store_database_url: str
) -> None:
    [order] = place_orders(app, [1])
    app.view_schema.online()
    with psycopg.connect(store_database_url) as doomed:
        add_line(app, order, "never", doomed)
        app.store.append(uuid4(), [OrderPlaced(customer="never")], connection=doomed)
        doomed.execute("DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (order,))
        app.view_schema.online()
        doomed.rollback()
    app.view_schema.offline()
    is_equal_to_the_log(connection)
    assert len(actual_rows(connection)["line_records"]) == 3

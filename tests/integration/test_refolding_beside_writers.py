"""Re-folding an aggregate while others, and it itself, are appended to: nobody else waits, and nothing is lost or written twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import (
    LineAdded,
    LineProjector,
    OrderPlaced,
    OrderProjector,
    actual_rows,
    expected_rows,
    live_shop,
    order_id,
    shop,
)
from waiting import wait_until

from sequent_py import Migrations, Sequent, on
from sequent_py.errors import StallLimitExceeded
from sequent_py.event_store.beside_writers import TRIES
from sequent_py.refolding import Refolding, RefoldReport

Connection = psycopg.Connection[Any]
LINE = LineAdded(product="meanwhile", cents=5)


class OnlyLines(Migrations):
    """An append locks no row that there is."""

    version = 1
    versions = {1: [LineProjector]}


@pytest.fixture
def lines(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, OnlyLines) as app:
        yield app


def spoil(connection: Connection, order: UUID) -> None:
    connection.execute("UPDATE view_schema.line_records SET cents = 0 WHERE aggregate_id = %s", (order,))


def during_tries(monkeypatch: pytest.MonkeyPatch, *actions: Callable[[], object]) -> list[int]:
    """Do something in each try, when its rows are written and not committed; return how many tries there were."""
    real, tries = Refolding._refold, []

    def refold(self: Refolding, *arguments: Any, **keywords: Any) -> RefoldReport:
        done = real(self, *arguments, **keywords)
        tries.append(1)
        if len(tries) <= len(actions):
            actions[len(tries) - 1]()
        return done

    monkeypatch.setattr(Refolding, "_refold", refold)
    return tries


def waiting_for_locks(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.store(made_by=live_shop(3))
def test_appends_to_other_aggregates_do_not_wait_while_it_is_folded(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append_elsewhere() -> None:
        app.store.append(order_id(1), [LINE])
        app.store.append(order_id(7), [OrderPlaced(customer="new"), LINE], expected_version=0)
        time.sleep(0.3)

    spoil(connection, order_id(0))
    tries = during_tries(monkeypatch, append_elsewhere)
    report = app.aggregates.refold([order_id(0)])
    assert (len(tries), report.events) == (1, 4)
    # What took 0.3 s and more was no standstill.
    assert 0 < report.stall_seconds < 0.25
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.store(made_by=live_shop(3))
def test_an_append_to_it_that_waits_for_its_rows_goes_first_and_is_folded_too(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(1) as threads:
        appends: list[Future[Any]] = []

        def append() -> None:
            appends.append(threads.submit(app.store.append, order_id(0), [LINE], 4))
            wait_until(lambda: waiting_for_locks(connection) > 0)

        spoil(connection, order_id(0))
        tries = during_tries(monkeypatch, append)
        report = app.aggregates.refold([order_id(0)])
        assert appends[0].result(30)[0].sequence_number == 5
    assert (len(tries), report.events) == (2, 5)
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.store(made_by=live_shop(3, OnlyLines))
@pytest.mark.parametrize("change", ["an append", "an edit", "an erasure"])
def test_what_commits_in_between_is_folded_too(
    lines: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    order = order_id(0)
    changes: dict[str, Callable[[], object]] = {
        "an append": lambda: lines.store.append(order, [LINE]),
        "an edit": lambda: connection.execute(
            "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{cents}', '99')"
            " WHERE aggregate_id = %s AND sequence_number = 2",
            (order,),
        ),
        "an erasure": lambda: connection.execute(
            "DELETE FROM sequent_schema.events WHERE aggregate_id = %s", (order,)
        ),
    }
    spoil(connection, order)
    tries = during_tries(monkeypatch, changes[change])
    lines.aggregates.refold([order])
    assert len(tries) == 2
    found = connection.execute(
        "SELECT aggregate_id, number, product, cents FROM view_schema.line_records"
    ).fetchall()
    assert sorted(found) == expected_rows(connection)["line_records"]


@pytest.mark.store(made_by=live_shop(3))
def test_a_swap_in_between_is_kept_away(
    app: Sequent, store_database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> None:
        locks = connection.execute(
            "SELECT relation::regclass::text FROM pg_locks WHERE mode = 'RowExclusiveLock' AND relation IN"
            " ('view_schema.order_records'::regclass, 'view_schema.line_records'::regclass)"
        ).fetchall()
        assert len(set(locks)) == 2

    tries = during_tries(monkeypatch, look)
    app.aggregates.refold([order_id(0)])
    assert len(tries) == 1


@pytest.mark.store(made_by=live_shop(3))
def test_half_an_edit_that_cannot_be_projected_is_no_failure(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_id(0)
    edits: list[int] = []
    real = OrderProjector.placed

    def placed(self: OrderProjector, event: OrderPlaced) -> None:
        if not edits:
            edits.append(1)
            connection.execute(
                "UPDATE sequent_schema.events SET payload = jsonb_set(payload, '{customer}', '\"mended\"')"
                " WHERE aggregate_id = %s AND sequence_number = 1",
                (order,),
            )
            raise ValueError("a customer that no longer is")
        real(self, event)

    monkeypatch.setattr(OrderProjector, "placed", on(OrderPlaced)(placed))
    app.aggregates.refold([order])
    assert actual_rows(connection) == expected_rows(connection)


@pytest.mark.store(made_by=live_shop(3, OnlyLines))
def test_one_that_is_appended_to_all_the_time_is_folded_while_appends_wait(
    lines: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_id(0)
    tries = during_tries(monkeypatch, *[lambda: lines.store.append(order, [LINE])] * TRIES)
    report = lines.aggregates.refold([order])
    assert (len(tries), report.events) == (TRIES + 1, 3 + TRIES)
    found = connection.execute(
        "SELECT aggregate_id, number, product, cents FROM view_schema.line_records"
    ).fetchall()
    assert sorted(found) == expected_rows(connection)["line_records"]


@pytest.mark.store(made_by=live_shop(3, OnlyLines))
@pytest.mark.parametrize("slow", ["handlers", "the server"])
def test_but_not_for_longer_than_it_may(
    lines: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    order = order_id(0)
    spoil(connection, order)
    before = connection.execute("SELECT * FROM view_schema.line_records ORDER BY 1, 2").fetchall()

    def line_added(self: LineProjector, event: LineAdded) -> None:
        time.sleep(0.06)

    def append() -> None:
        lines.store.append(other, [LINE])
        connection.execute(
            "UPDATE sequent_schema.events SET metadata = jsonb_build_object('at', clock_timestamp()) WHERE aggregate_id = %s AND sequence_number = 1",
            (order,),
        )

    other = order_id(1)
    during_tries(monkeypatch, *[append] * TRIES)
    if slow == "handlers":
        monkeypatch.setattr(LineProjector, "line_added", on(LineAdded)(line_added))
    else:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE TRIGGER slow AFTER INSERT ON view_schema.line_records FOR EACH STATEMENT"
            " WHEN (current_setting('statement_timeout') <> '0') EXECUTE FUNCTION slow()"
        )
    with pytest.raises(StallLimitExceeded, match=str(order)) as caught:
        lines.aggregates.refold([order], longest_stall_seconds=0.1)
    assert f"sequent aggregates refold {order} --max-stall" in caught.value.remedy
    after = connection.execute(
        "SELECT * FROM view_schema.line_records WHERE number < 5 ORDER BY 1, 2"
    ).fetchall()
    assert after == [row for row in before if row[1] < 5]

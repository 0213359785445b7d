"""Deadlocks, serialization failures and lock timeouts in verification: tried again, and never blamed on a handler."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as pg
from shop import (
    LineAdded,
    OrderProjector,
    Shop1,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Sequent, on
from sequent_py.checks import contention
from sequent_py.cli.failures import failure_of
from sequent_py.errors import ProjectionFailed, WorkerFailed

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=live_shop(4))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "BACKOFF_SECONDS", 0.001)


def let_the_server_fail(connection: Connection, sqlstate: str, times: int, suffix: str = "") -> None:
    """Let the first rows that ask for a default meet an error of the server; sequences are not rolled back."""
    connection.execute("CREATE SEQUENCE view_schema.calls")
    connection.execute("GRANT USAGE ON SEQUENCE view_schema.calls TO PUBLIC")
    connection.execute(
        "CREATE FUNCTION view_schema.unlucky() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE call bigint := nextval('view_schema.calls');"
        f" BEGIN IF call <= {times} THEN RAISE 'in the way' USING ERRCODE = '{sqlstate}'; END IF; RETURN call; END $$"
    )
    connection.execute(
        f"ALTER TABLE view_schema.order_records{suffix} ALTER COLUMN id SET DEFAULT view_schema.unlucky()"
    )


def wrap_once(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Let the handler of lines fail so often, by an error of its own around the server's; return what it noted."""
    calls: list[str] = []
    real = OrderProjector.line_added

    def line_added(self: OrderProjector, event: LineAdded) -> None:
        calls.append(event.product)
        if len(calls) <= times:
            try:
                raise pg.DeadlockDetected("in the way")
            except pg.DeadlockDetected as error:
                raise RuntimeError("no line") from error
        real(self, event)

    monkeypatch.setattr(OrderProjector, "line_added", on(LineAdded)(line_added))
    return calls


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "55P03"])
def test_verify_tries_again(app: Sequent, connection: Connection, sqlstate: str) -> None:
    let_the_server_fail(connection, sqlstate, times=2)
    report = app.view_schema.verify(is_all=True, is_once=True)
    assert [table.differences for table in report.tables] == [0, 0]
    assert report.events == 16


def test_an_error_that_a_handler_wrapped_is_tried_again_too(
    app: Sequent, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = wrap_once(monkeypatch, times=1)
    assert app.view_schema.verify(is_all=True).is_correct
    assert len(calls) > 12


def test_the_folds_that_look_for_moods_try_again(app: Sequent, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = wrap_once(monkeypatch, times=1)
    report = app.view_schema.verify(sample=0)
    assert (report.is_correct, report.nondeterminism, calls != []) == (True, (), True)


@pytest.mark.store(made_by=None)
def test_a_promotion_tries_its_comparison_again(app: Sequent, connection: Connection) -> None:
    place_orders(app, range(4))
    app.view_schema.online()
    let_the_server_fail(connection, "40001", times=2, suffix="_1")
    # The function is beside the files; what it does to the comparison is what counts here.
    report = app.view_schema.offline(accept_differences=True)
    assert report.verified_aggregates > 0


def test_what_fails_each_time_comes_out_as_itself(app: Sequent, connection: Connection) -> None:
    let_the_server_fail(connection, "40P01", times=1_000)
    with pytest.raises(pg.DeadlockDetected) as caught:
        app.view_schema.verify(is_all=True)
    failure = failure_of(caught.value)
    assert "in the way" in failure.message
    assert failure.remedy.endswith("Run the same command again.")


def test_a_process_says_so_as_well(
    store_database_url: str, app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_the_server_fail(connection, "40P01", times=1_000)
    # One process per slice at most.
    monkeypatch.setattr("sequent_py.view_schema.comparison.log_comparison.SLICE_EVENTS", 5)
    with (
        shop(store_database_url, Shop1, workers=2) as busy,
        pytest.raises(WorkerFailed, match="DeadlockDetected: in the way") as caught,
    ):
        busy.view_schema.verify(is_all=True)
    assert "sequent migrate verify" in caught.value.remedy


def test_a_handlers_own_fault_is_still_the_handlers(app: Sequent, monkeypatch: pytest.MonkeyPatch) -> None:

    def line_added(self: OrderProjector, event: LineAdded) -> None:
        raise LookupError(event.product)

    monkeypatch.setattr(OrderProjector, "line_added", on(LineAdded)(line_added))
    with pytest.raises(ProjectionFailed, match="LookupError"):
        app.view_schema.verify(is_all=True)

"""The locks of a cut-over: all at once, for a moment, or none; and who is named when they are not to be had."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from shop import OrderPlaced, live_shop

from sequent_py import Sequent
from sequent_py.errors import StallLimitExceeded, SwapLockTimeout
from sequent_py.progress import SILENT
from sequent_py.view_schema.going_live import cut_over as module
from sequent_py.view_schema.going_live.cut_over import Stall, cut_over

TABLES = ("order_records", "line_records")


pytestmark = pytest.mark.store(made_by=live_shop(3))


def nothing() -> None:
    pass


def run(
    app: Sequent,
    *,
    last_window: Callable[[], None] = nothing,
    promote: Callable[[psycopg.Connection[Any]], Any] = lambda connection: None,
    budget_seconds: float = 5.0,
    lock_timeout_seconds: float = 0.05,
) -> tuple[Any, Stall]:
    context = app._context
    with context.connect("migrate golive") as coordinator:
        return cut_over(
            context,
            coordinator,
            tables=TABLES,
            last_window=last_window,
            promote=promote,
            lock_timeout_seconds=lock_timeout_seconds,
            budget_seconds=budget_seconds,
            progress=SILENT,
        )


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(30)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def waiting(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND (database = 0 OR database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()))"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_writers_and_readers_wait_until_the_commit_and_then_go_on(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    done: list[str] = []
    threads: list[threading.Thread] = []

    def append() -> None:
        app.store.append(uuid4(), [OrderPlaced(customer="waited")])
        done.append("append")

    def around() -> None:
        with psycopg.connect(store_database_url) as replica:
            replica.execute("SET session_replication_role = replica")
            replica.execute(
                "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload)"
                ' SELECT gen_random_uuid(), 1, id, \'{"customer": "x"}\' FROM sequent_schema.event_types LIMIT 1'
            )
        done.append("around the gate")

    def read() -> None:
        with psycopg.connect(store_database_url) as reader:
            reader.execute("SELECT count(*) FROM view_schema.order_records")
        done.append("read")

    def last_window() -> None:
        for work in (append, around, read):
            thread = threading.Thread(target=work)
            thread.start()
            threads.append(thread)
        wait_until(lambda: waiting(connection) == 3)
        assert done == []

    def promote(coordinator: psycopg.Connection[Any]) -> str:
        assert done == []
        return "promoted"

    result, stall = run(app, last_window=last_window, promote=promote)
    for thread in threads:
        thread.join(20)
    assert result == "promoted"
    assert sorted(done) == ["append", "around the gate", "read"]
    assert stall.tries >= 1
    assert stall.writers_milliseconds >= stall.readers_milliseconds > 0


def test_an_exception_rolls_back_and_lets_everybody_go_on(
    app: Sequent, connection: psycopg.Connection[Any]
) -> None:
    def promote(coordinator: psycopg.Connection[Any]) -> None:
        coordinator.execute("DELETE FROM view_schema.order_records")
        raise ValueError("not like this")

    with pytest.raises(ValueError, match="not like this"):
        run(app, promote=promote)
    app.store.append(uuid4(), [OrderPlaced(customer="goes on")])
    assert connection.execute("SELECT count(*) FROM view_schema.order_records").fetchone() == (4,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sequent_schema.view_tables SET rows = rows WHERE table_name = 'line_records'",
        "SELECT FROM sequent_schema.view_tables FOR SHARE",
        "UPDATE sequent_schema.view_migrations SET error = error",
        "UPDATE sequent_schema.gate SET maintenance_reason = maintenance_reason",
        "LOCK TABLE sequent_schema.view_tables IN EXCLUSIVE MODE",
    ],
)
def test_who_has_locked_rows_that_the_promotion_writes_is_named(
    app: Sequent, store_database_url: str, statement: Any
) -> None:
    table = next(name for name in ("view_tables", "view_migrations", "gate") if f".{name} " in statement)

    def promote(coordinator: psycopg.Connection[Any]) -> None:
        for name in ("view_tables", "view_migrations", "gate"):
            coordinator.execute(
                psycopg.sql.SQL("SELECT FROM sequent_schema.{} FOR UPDATE").format(
                    psycopg.sql.Identifier(name)
                )
            )

    with psycopg.connect(store_database_url, application_name="by hand") as slow:
        slow.execute(statement)
        with pytest.raises(SwapLockTimeout) as caught:
            run(app, promote=promote, budget_seconds=0.2)
        assert f"rows of {table} held by pid {slow.info.backend_pid}" in str(caught.value)
        assert "by hand" in str(caught.value)
        assert f"pg_terminate_backend({slow.info.backend_pid})" in caught.value.remedy
    run(app, promote=promote)


def test_who_has_locked_rows_that_nobody_needs_is_not_waited_for(
    app: Sequent, store_database_url: str
) -> None:
    with psycopg.connect(store_database_url) as slow:
        slow.execute("UPDATE sequent_schema.view_tables SET rows = rows")
        run(app, budget_seconds=5.0)


@pytest.mark.parametrize("kind", ["writer", "reader", "around the gate", "partition", "prepared"])
def test_a_budget_that_is_spent_names_who_holds_what(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str, kind: str
) -> None:
    promoted: list[bool] = []
    with psycopg.connect(store_database_url, application_name="the slow one") as slow:
        match kind:
            case "writer":
                app.store.append(uuid4(), [OrderPlaced(customer="slow")], connection=slow)
                named = "the gate"
            case "reader":
                slow.execute("SELECT FROM view_schema.line_records")
                named = "line_records"
            case "prepared":
                if connection.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
                    pytest.skip("max_prepared_transactions is 0")
                slow.tpc_begin("a gid")
                app.store.append(uuid4(), [OrderPlaced(customer="slow")], connection=slow)
                slow.tpc_prepare()
                named = "prepared transaction 'a gid'"
            case _:
                table = "events" if kind == "around the gate" else "events_07"
                slow.execute("SET session_replication_role = replica")
                slow.execute(f"DELETE FROM sequent_schema.{table} WHERE false")  # noqa: S608
                named = "events"
        started = time.monotonic()
        with pytest.raises(SwapLockTimeout) as caught:
            run(app, promote=lambda connection: promoted.append(True), budget_seconds=0.4)
        assert time.monotonic() - started < 5
        assert named in str(caught.value)
        if kind != "prepared":
            assert f"pid {slow.info.backend_pid}" in str(caught.value)
            assert "the slow one" in str(caught.value)
        assert "sequent migrate golive" in caught.value.remedy
        # While somebody old is in the way nobody queues behind us.
        assert promoted == []
        if kind == "prepared":
            slow.tpc_rollback()
    app.store.append(uuid4(), [OrderPlaced(customer="goes on")])


def test_vacuum_of_the_events_is_not_waited_for(app: Sequent, store_database_url: str) -> None:
    with psycopg.connect(store_database_url) as vacuum:
        vacuum.execute("LOCK TABLE ONLY sequent_schema.events_03 IN SHARE UPDATE EXCLUSIVE MODE")
        _, stall = run(app, budget_seconds=1.0)
    assert stall.tries == 1


def test_a_long_transaction_that_ends_within_the_budget_is_waited_for_without_holding_others_up(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    slow = psycopg.connect(store_database_url)
    app.store.append(uuid4(), [OrderPlaced(customer="slow")], connection=slow)
    wait_until(
        lambda: (
            connection.execute("SELECT clock_timestamp() - %s > '0.2s'", (started(slow),)).fetchone()
            == (True,)
        )
    )
    longest = 0.0

    def others() -> None:
        nonlocal longest
        for _ in range(20):
            before = time.monotonic()
            app.store.append(uuid4(), [OrderPlaced(customer="meanwhile")])
            longest = max(longest, time.monotonic() - before)
        slow.commit()

    with in_thread(others):
        _, stall = run(app, budget_seconds=20)
    slow.close()
    assert stall.tries >= 1
    assert longest < 0.5
    assert connection.execute("SELECT count(*) FROM view_schema.order_records").fetchone() == (3 + 21,)


def started(connection: psycopg.Connection[Any]) -> Any:
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    return row[0]


def test_reading_a_table_and_then_appending_in_one_transaction_does_not_keep_it_out(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    """Such transactions hold the table while they wait at the gate: a queue there collects them, a gap between them does not."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def command() -> None:
        try:
            with psycopg.connect(store_database_url) as own:
                while not stop.is_set():
                    own.execute("SELECT count(*) FROM view_schema.order_records")
                    app.store.append(uuid4(), [OrderPlaced(customer="c")], connection=own)
                    own.commit()
                    stop.wait(0.005)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        _, stall = run(app, budget_seconds=30)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert stall.tries >= 1


def test_a_lock_that_is_missing_in_the_swap_gives_all_of_them_back_and_is_tried_again(
    app: Sequent, store_database_url: str
) -> None:
    tries: list[int] = []
    with psycopg.connect(store_database_url) as other:
        other.execute("CREATE TABLE public.referenced (); GRANT ALL ON public.referenced TO PUBLIC")
        other.commit()
        other.execute("LOCK TABLE public.referenced IN SHARE MODE")

        def promote(coordinator: psycopg.Connection[Any]) -> None:
            tries.append(1)
            if len(tries) == 3:
                other.rollback()
            coordinator.execute("LOCK TABLE public.referenced IN ACCESS EXCLUSIVE MODE")

        _, stall = run(app, promote=promote, budget_seconds=30)
    assert len(tries) == 3
    assert stall.writers_milliseconds >= 50, "the longest of all tries"


def test_a_window_that_takes_too_long_is_given_up(app: Sequent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_LIMIT_SECONDS", 0.1)
    promoted: list[bool] = []

    def last_window() -> None:
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 0.15)

    with pytest.raises(StallLimitExceeded, match=r"0\.1 s"):
        run(app, last_window=last_window, promote=lambda connection: promoted.append(True))
    assert promoted == []


def test_the_server_ends_a_cut_over_whose_coordinator_hangs(
    app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_LIMIT_SECONDS", 0.2)
    appended: list[float] = []

    def last_window() -> None:
        begun = time.monotonic()
        app.store.append(uuid4(), [OrderPlaced(customer="waited")])
        appended.append(time.monotonic() - begun)

    with pytest.raises((StallLimitExceeded, psycopg.OperationalError)):
        run(app, last_window=last_window)
    assert 0.1 < appended[0] < 5, "the writer went on while the coordinator still hung"
    assert connection.execute("SELECT count(*) FROM view_schema.order_records").fetchone() == (4,)

"""Appending and loading on connections of every make, and what is left of an append that is interrupted."""

from __future__ import annotations

import json
import linecache
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from types import FrameType
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import rows
from psycopg.adapt import Buffer, Loader, PyFormat
from psycopg.pq import Format, TransactionStatus
from psycopg.types.json import JsonbDumper, set_json_loads
from shop import (
    LineAdded,
    OrderPlaced,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Sequent
from sequent_py.errors import StoreError
from sequent_py.events import envelope_of

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=live_shop())


class AsText(Loader):
    """Knows no type."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="replace")


class AsBinaryText(AsText):
    format = Format.BINARY


def with_loaders(url: str) -> Connection:
    connection = psycopg.connect(url)
    for name in ("uuid", "timestamptz", "json", "jsonb", "int4", "int8", "text", "numeric"):
        for loader in (AsText, AsBinaryText):
            connection.adapters.register_loader(name, loader)
    connection.adapters.register_dumper(list, JsonbDumper)
    return connection


def with_options(settings: str, **options: Any) -> Callable[[str], Connection]:
    return lambda url: psycopg.connect(url, options=settings, **options)


MAKES: dict[str, Callable[[str], Connection]] = {
    "dictionaries": lambda url: psycopg.connect(url, row_factory=rows.dict_row),
    "scalars": lambda url: psycopg.connect(url, row_factory=rows.scalar_row),
    "objects": lambda url: psycopg.connect(url, row_factory=rows.class_row(dict)),
    "dictionaries, autocommit": lambda url: psycopg.connect(url, row_factory=rows.dict_row, autocommit=True),
    "raw cursors": lambda url: psycopg.connect(url, cursor_factory=psycopg.RawCursor),
    "client cursors": lambda url: psycopg.connect(url, cursor_factory=psycopg.ClientCursor),
    "loaders and dumpers": with_loaders,
    "German dates": with_options("-c datestyle=German -c intervalstyle=sql_standard"),
    "SQL dates, prepared": with_options("-c datestyle=SQL,DMY", prepare_threshold=0),
    "another time zone": with_options("-c timezone=Asia/Kathmandu -c bytea_output=escape"),
    "few digits": with_options("-c extra_float_digits=-15"),
}


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, as_login=False) as app:
        yield app


def differences(url: str) -> list[Any]:
    """What the tables have that the events do not say, or lack."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        actual, expected = actual_rows(connection), expected_rows(connection)
    return [pair for name in expected for pair in (actual[name], expected[name]) if actual != expected]


def whole(events: list[Any]) -> list[Any]:
    return [(event, envelope_of(event)) for event in events]


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_connection_of_any_make_will_do(
    app: Sequent, store_database_url: str, make: Callable[[str], Connection]
) -> None:
    aggregate_id = uuid4()
    # Another application object: this connection reads the tables' shapes and the aggregates left behind, too.
    with shop(store_database_url, as_login=False) as other, make(store_database_url) as connection:
        recorded = other.store.append(
            aggregate_id,
            [OrderPlaced(customer="x"), LineAdded(product="p", cents=1)],
            0,
            connection=connection,
        )
        recorded += other.store.append(aggregate_id, [LineAdded(product="q", cents=2)], connection=connection)
        assert whole(other.store.load(aggregate_id, connection=connection)) == whole(recorded)
    assert whole(app.store.load(aggregate_id)) == whole(recorded)
    assert not differences(store_database_url)


@pytest.mark.parametrize("moment", [datetime.min, datetime.max], ids=["first", "last"])
def test_the_first_and_the_last_moment_are_read_in_every_time_zone(
    app: Sequent, store_database_url: str, moment: datetime
) -> None:
    aggregate_id = uuid4()
    for zone in ("Asia/Tokyo", "America/New_York"):
        with psycopg.connect(store_database_url, options=f"-c timezone={zone}") as connection:
            [recorded] = app.store.append(
                aggregate_id,
                [LineAdded(product="p", cents=1)] if zone != "Asia/Tokyo" else [OrderPlaced(customer="x")],
                created_at=moment.replace(tzinfo=UTC),
                connection=connection,
            )
            assert recorded.created_at == moment.replace(tzinfo=UTC)
            assert app.store.load(aggregate_id, connection=connection)[-1].created_at == recorded.created_at


def test_another_driver_s_connection_is_refused(app: Sequent) -> None:
    with pytest.raises(StoreError, match="A connection of psycopg 3 is needed"):
        app.store.load(uuid4(), connection=object())  # type: ignore[arg-type]


# What is registered for the whole process


@contextmanager
def lists_are_json() -> Iterator[None]:
    adapters = psycopg.adapters
    before = [adapters.get_dumper(list, form) for form in PyFormat]
    adapters.register_dumper(list, JsonbDumper)
    try:
        yield
    finally:
        for dumper in reversed(before):  # the last one registered is the one for %s
            adapters.register_dumper(list, dumper)
        assert [adapters.get_dumper(list, form) for form in PyFormat] == before


@contextmanager
def moments_are_text() -> Iterator[None]:
    adapters = psycopg.adapters
    oid = adapters.types["timestamptz"].oid
    before = [adapters.get_loader(oid, form) for form in Format]
    for loader in (AsText, AsBinaryText):
        adapters.register_loader(oid, loader)
    try:
        yield
    finally:
        for found in before:
            assert found is not None
            adapters.register_loader(oid, found)


@contextmanager
def objects_are_tuples() -> Iterator[None]:
    set_json_loads(lambda text: json.loads(text, object_pairs_hook=tuple))
    try:
        yield
    finally:
        set_json_loads(json.loads)


@pytest.mark.parametrize("registered", [lists_are_json, moments_are_text, objects_are_tuples])
def test_what_an_application_registers_with_the_driver_does_no_harm(
    store_database_url: str, registered: Callable[[], Any]
) -> None:
    with registered():
        for migrations in (Shop1, Shop2):
            with shop(store_database_url, migrations, as_login=False) as app:
                app.view_schema.online()
                app.view_schema.golive()
                aggregate_id = uuid4()
                recorded = app.store.append(aggregate_id, [OrderPlaced(customer="x")], 0)
                assert whole(app.store.load(aggregate_id)) == whole(recorded)
                assert list(app.store.window(None))[-1] == recorded[-1]
                app.aggregates.refold([aggregate_id])
                with app.engine.begin() as connection:
                    app.store.append(aggregate_id, [LineAdded(product="p", cents=1)], connection=connection)
    assert not differences(store_database_url)


def test_connections_of_the_engine_convert_as_the_application_has_told_the_driver(app: Sequent) -> None:
    with moments_are_text(), app.engine.connect() as connection:
        assert isinstance(connection.exec_driver_sql("SELECT now()").scalar_one(), str)


# Interruptions


class Alarm(BaseException):
    """What a signal's handler raises."""


def _is_block_s_head(frame: FrameType) -> bool:
    """Whether the line is that of a ``with``, to which Python also returns before it releases a lock; signals do not come there."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


@contextmanager
def alarm_at_line(number: int) -> Iterator[list[str]]:
    """Raise at the ``number``-th line that the library runs, from append_events on."""
    reached: list[str] = []
    numbers = count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if "sequent_py" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if event != "line" or reached or _is_block_s_head(frame):
            return trace
        if next(numbers) == number:
            reached.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield reached
    finally:
        sys.settrace(before)


@pytest.mark.slow
@pytest.mark.parametrize("is_autocommit", [False, True])
def test_wherever_an_append_is_interrupted_the_caller_cannot_commit_half_of_it(
    app: Sequent, store_database_url: str, is_autocommit: bool
) -> None:
    places: set[str] = set()
    for line in count(1, 5):
        with psycopg.connect(store_database_url, autocommit=is_autocommit) as connection:
            with suppress(Alarm), alarm_at_line(line) as reached:
                app.store.append(uuid4(), [OrderPlaced(customer="x")], 0, connection=connection)
            if not connection.closed:
                connection.commit()
        places.update(reached)
        if not reached:
            break
    assert len(places) > 50
    assert any("projection.py" in place for place in places)
    assert any("store.py" in place for place in places)
    assert not differences(store_database_url)
    with psycopg.connect(store_database_url) as connection:
        assert len(expected_rows(connection)["order_records"]) == 1


def test_an_alarm_while_the_server_works_leaves_nothing_to_commit(
    app: Sequent, store_database_url: str
) -> None:
    [aggregate_id] = place_orders(app, [1])

    def ring(*_: Any) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with psycopg.connect(store_database_url) as holder:
            holder.execute("SELECT FROM view_schema.order_records FOR UPDATE")
            for connection in (psycopg.connect(store_database_url), None):
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                with pytest.raises(Alarm):
                    app.store.append(aggregate_id, [LineAdded(product="p", cents=1)], connection=connection)
                if connection is not None:
                    assert (
                        connection.closed or connection.info.transaction_status == TransactionStatus.INERROR
                    )
                    connection.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert app.store.version_of(aggregate_id) == 4
    app.store.append(aggregate_id, [LineAdded(product="p", cents=1)], 4)
    assert not differences(store_database_url)

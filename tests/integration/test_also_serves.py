"""A process that carries two versions of the declaration goes on across the cut-over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from parcels import ParcelMoved, ParcelPosted, parcel, parcels
from parcels import actual_rows as parcel_actual_rows
from parcels import expected_rows as parcel_expected_rows
from shop import (
    SQL_DIRECTORY,
    LineAdded,
    LineProjector,
    OrderCancelled,
    OrderPlaced,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    live_shop,
    order_id,
    place_orders,
    shop,
)
from sqlalchemy import BigInteger, Connection, DateTime, text
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Migrations, Projector, Record, Sequent, on
from sequent_py.errors import DefinitionError, VersionMismatch


class WideOrderRecord(Record):
    """The same table, in which a column has become wider."""

    __tablename__ = "order_records"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(BigInteger)
    lines: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    sequence_number: Mapped[int]


class WideOrderProjector(Projector):
    """Counts the lines of version 2 twice, so that each row tells which version wrote it."""

    manages_tables = (WideOrderRecord,)

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.create_record(
            WideOrderRecord,
            aggregate_id=event.aggregate_id,
            customer=event.customer,
            total=0,
            lines=0,
            updated_at=event.created_at,
            sequence_number=event.sequence_number,
        )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with self.update_record(WideOrderRecord, event) as order:
            order.total += event.cents
            order.lines += 2

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(WideOrderRecord, aggregate_id=event.aggregate_id)


class Both(Migrations):
    version = 2
    versions = {1: [LineProjector], 2: [WideOrderProjector]}
    also_serves = (Shop1,)


class ShopOfBoth(Shop2):
    also_serves = (Shop1,)


@pytest.fixture
def wide_sql(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    shutil.copytree(SQL_DIRECTORY, directory)
    file = directory / "order_records.sql"
    before = file.read_text()
    assert "lines           integer" in before
    file.write_text(before.replace("lines           integer", "lines           bigint"))
    return directory


@pytest.fixture
def both(store_database_url: str, wide_sql: Path) -> Iterator[Sequent]:
    with shop(store_database_url, Both, sql_directory=wide_sql) as app:
        yield app


@pytest.mark.store(made_by=live_shop())
def test_appends_go_on_as_the_version_that_is_live(both: Sequent, store_database_url: str) -> None:
    placed = place_orders(both, range(20))
    with closing(psycopg.connect(store_database_url, autocommit=True)) as connection:
        assert actual_rows(connection) == expected_rows(connection)
        both.view_schema.online()
        place_orders(both, range(20, 30))
        assert actual_rows(connection) == expected_rows(connection)
        both.view_schema.offline()
        # The same connections, with statements that were prepared for the narrower column.
        for order in placed[:6]:
            both.store.append(order, [LineAdded(product="late", cents=1)])
        place_orders(both, range(30, 40))
        actual, expected = actual_rows(connection), expected_rows(connection)
        assert actual["line_records"] == expected["line_records"]
        doubled = [(*row[:3], 2 * row[3], *row[4:]) for row in expected["order_records"]]
        assert actual["order_records"] == doubled


@pytest.mark.store(made_by=live_shop())
@pytest.mark.parametrize("command", ["offline", "golive"])
def test_readers_by_the_application_s_engine_see_no_error_where_a_column_changes_its_type(
    both: Sequent, command: str
) -> None:
    """The server refuses to run a statement again that was prepared for the narrower column."""
    placed = place_orders(both, range(3))
    queries = [
        text("SELECT aggregate_id, lines FROM order_records"),
        text("SELECT * FROM order_records WHERE customer = :customer"),
    ]

    def read(connection: Connection) -> list[int]:
        return [len(connection.execute(query, {"customer": "customer 1"}).all()) for query in queries]

    with ExitStack() as stack:
        readers = [stack.enter_context(both.engine.connect()) for _ in range(2)]

        def all_read() -> None:
            for reader in readers:
                assert read(reader) == [3, 1]
                # What the store prepares on a caller's connection must not make the caller's statements last.
                assert both.store.load(placed[0], connection=reader)
                reader.commit()

        for _ in range(8):
            all_read()
        for number in range(8):
            both.store.append(placed[0], [LineAdded(product=f"{number}", cents=1)], connection=readers[0])
            readers[0].commit()
        both.view_schema.online()
        getattr(both.view_schema, command)()
        all_read()
        both.store.append(placed[0], [LineAdded(product="after", cents=1)], connection=readers[0])
        readers[0].commit()


@pytest.mark.store(made_by=live_shop())
def test_what_the_store_executes_on_the_engine_s_connections_is_prepared(both: Sequent) -> None:
    order = place_orders(both, [1])[0]
    with both.engine.connect() as connection:
        for number in range(8):
            both.store.append(order, [LineAdded(product=f"{number}", cents=1)], connection=connection)
            connection.execute(text("SELECT lines FROM order_records WHERE customer = :c"), {"c": "x"}).all()
        prepared = connection.execute(text("SELECT statement FROM pg_prepared_statements")).scalars().all()
        connection.commit()
    assert any("append_events" in statement for statement in prepared)
    assert any("order_records" in statement for statement in prepared)
    assert not any(statement.startswith("SELECT lines FROM") for statement in prepared)


def test_an_append_that_took_no_version_for_live_is_projected_once_one_is(store_database_url: str) -> None:
    with (
        shop(store_database_url) as writer,
        shop(store_database_url) as other,
        closing(psycopg.connect(store_database_url, autocommit=True)) as connection,
    ):
        place_orders(writer, range(5))
        other.view_schema.online()
        other.view_schema.offline()
        place_orders(writer, range(5, 10))
        writer.store.append(place_orders(writer, [10])[0], [LineAdded(product="late", cents=1)])
        assert actual_rows(connection) == expected_rows(connection)


def test_code_of_another_version_is_refused_also_when_it_took_none_for_live(
    store_database_url: str, wide_sql: Path
) -> None:
    class Wide(Both):
        also_serves = ()

    with shop(store_database_url, Wide, sql_directory=wide_sql) as writer, shop(store_database_url) as other:
        place_orders(writer, range(2))
        other.view_schema.online()
        other.view_schema.offline()
        with pytest.raises(VersionMismatch, match="This code is at view-schema version 2, the database at 1"):
            place_orders(writer, [2])
        assert writer.store.version_of(order_id(2)) == 0


@pytest.mark.store(made_by=live_shop())
def test_code_of_one_version_is_refused_after_the_cut_over(both: Sequent, store_database_url: str) -> None:
    both.view_schema.online()
    both.view_schema.offline()
    with shop(store_database_url) as old, pytest.raises(VersionMismatch):
        place_orders(old, [1])
    place_orders(both, [1])


def test_two_declarations_of_one_version_are_refused(store_database_url: str) -> None:
    class Twice(Shop1):
        also_serves = (Shop1,)

    with shop(store_database_url, Twice) as app, pytest.raises(DefinitionError, match="serves already"):
        _ = app.store


def test_a_connection_of_the_pool_appends_across_any_number_of_cut_overs(
    store_database_url: str,
) -> None:
    with (
        psycopg.connect(store_database_url) as connection,
        closing(parcels(store_database_url, 1)) as first,
        closing(parcels(store_database_url, 2)) as second,
    ):
        first.view_schema.online()
        first.view_schema.offline()
        second.store.append(parcel(1), [ParcelPosted(city="Ulm")])
        second.view_schema.online()
        second.view_schema.golive()
        # The first cut-over meets a connection that has prepared nothing yet, the others one that has.
        second.store.append(parcel(1), [ParcelMoved(cents=1)])
        for back_or_forth in (first, second, first, second):
            second.store.append(parcel(1), [ParcelMoved(cents=1)] * 12)
            back_or_forth.view_schema.rollback()
            second.store.append(parcel(1), [ParcelMoved(cents=1)])
        assert parcel_actual_rows(connection) == parcel_expected_rows(connection, 2)


def test_two_applications_append_on_one_connection_across_their_cut_overs(database_url: str) -> None:
    with psycopg.connect(database_url) as connection, ExitStack() as stack:

        def application(name: str, migrations: type[Migrations]) -> Sequent:
            schemas = {"view_schema": f"view_{name}", "event_store_schema": name}
            return stack.enter_context(shop(database_url, migrations, as_login=False, **schemas))

        first = {name: application(name, Shop1) for name in ("books", "tools")}
        second = {name: application(name, ShopOfBoth) for name in ("books", "tools")}
        for app in first.values():
            app.install()
            app.view_schema.online()
            app.view_schema.golive()

        def append(name: str, number: int) -> None:
            events = [OrderPlaced(customer="Ann"), *[LineAdded(product="p", cents=1)] * 8]
            second[name].store.append(order_id(number), events, 0, connection=connection)
            connection.commit()

        for number in range(5):
            for name in second:
                append(name, number)
        for app in second.values():
            app.view_schema.online()
            app.view_schema.golive()
        # A rollback makes the driver forget: the first application has nothing to deallocate, and the driver counts its statement as any other.
        connection.execute("SELECT 1")
        connection.rollback()
        for number, name in enumerate(["books"] * 5 + ["tools", "books", "tools"], start=10):
            append(name, number)
        assert all(app.view_schema.verify(is_all=True).is_correct for app in second.values())

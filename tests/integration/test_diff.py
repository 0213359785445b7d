"""Old against new on a server: what a version changes, and nothing that is merely late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import (
    SQL_DIRECTORY,
    LineAdded,
    LineProjector,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    live_shop,
    place_orders,
    shop,
)

from sequent_py import Migrations, Sequent, on
from sequent_py.errors import ConfigurationError, MigrationNotStarted
from sequent_py.view_schema.comparison.diff import TableDiff

Connection = psycopg.Connection[Any]


class LoudProjector(OrderProjector):
    """Writes customers in capitals, and forgets one."""

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        if event.customer != "customer 2":
            self.create_record(
                OrderRecord,
                aggregate_id=event.aggregate_id,
                customer=event.customer.upper(),
                total=0,
                lines=0,
                updated_at=event.created_at,
                sequence_number=event.sequence_number,
            )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if self.find_record(OrderRecord, aggregate_id=event.aggregate_id) is not None:
            super().line_added(event)


class ShopLoud(Migrations):
    version = 2
    versions = {1: [OrderProjector, LineProjector], 2: [LoudProjector, LineProjector]}


class ShopQuiet(Migrations):
    version = 1
    versions = {1: [OrderProjector, LineProjector]}


pytestmark = pytest.mark.store(made_by=live_shop(5, ShopQuiet))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for file in SQL_DIRECTORY.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


@pytest.fixture
def old(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, ShopQuiet) as app:
        yield app


@pytest.fixture
def new(store_database_url: str, directory: Path, old: Sequent) -> Iterator[Sequent]:
    class ShopNew(ShopLoud):
        versions = {1: [LineProjector], 2: [LoudProjector, LineProjector]}

    with shop(store_database_url, ShopNew, sql_directory=directory) as app:
        yield app


def of(app: Sequent, table: str, **options: Any) -> TableDiff:
    return next(item for item in app.view_schema.diff(**options).tables if item.table_name == table)


def test_changes_are_counted_by_column_and_shown(new: Sequent, old: Sequent) -> None:
    new.view_schema.online()
    found = of(new, "order_records")
    assert (found.old_name, found.new_name) == ("order_records", "order_records_2")
    assert (found.old_rows, found.new_rows) == (5, 4)
    assert (found.only_in_old, found.only_in_new, found.changed) == (1, 0, 4)
    assert found.changed_columns == {"customer": 4}
    assert found.uncompared_columns == ("id",)
    assert found.paired_by == ("aggregate_id",)
    assert any('customer: "customer 3" -> "CUSTOMER 3"' in text for text in found.examples_changed)
    assert 'customer="customer 2"' in found.examples_only_in_old[0]
    assert of(new, "line_records").is_same


def test_aggregates_with_events_since_the_last_pass_are_left_out_and_counted(
    new: Sequent, old: Sequent
) -> None:
    new.view_schema.online()
    late = UUID(int=77)
    old.store.append(late, [OrderPlaced(customer="customer 77"), LineAdded(product="p", cents=1)])
    ids = place_orders(old, [8])
    old.store.append(ids[0], [LineAdded(product="late", cents=1)])
    lines = of(new, "line_records")
    assert (lines.is_same, lines.late_aggregates, lines.old_rows, lines.new_rows) == (True, 2, 15, 15)
    new.view_schema.online()
    lines = of(new, "line_records")
    assert (lines.is_same, lines.late_aggregates, lines.old_rows, lines.new_rows) == (True, 0, 20, 20)


def test_after_the_swap_the_retired_table_is_compared_with_the_live_one(new: Sequent, old: Sequent) -> None:
    new.view_schema.online()
    new.view_schema.offline()
    new.store.append(UUID(int=78), [OrderPlaced(customer="x"), LineAdded(product="p", cents=1)])
    found = of(new, "order_records")
    assert (found.old_name, found.new_name) == ("order_records_1", "order_records")
    assert (found.only_in_old, found.only_in_new, found.changed, found.late_aggregates) == (1, 0, 4, 1)


def test_columns_of_one_side_are_named_and_types_may_differ(
    new: Sequent, old: Sequent, directory: Path
) -> None:
    path = directory / "line_records.sql"
    text = path.read_text()
    path.write_text(
        text.replace("cents        bigint  NOT NULL,", "cents integer NOT NULL, extra text DEFAULT 'x',")
    )
    new.view_schema.online()
    lines = of(new, "line_records")
    assert lines.columns_only_in_new == ("extra",)
    assert lines.is_same


def test_the_number_of_examples_and_the_tables_can_be_chosen(new: Sequent, old: Sequent) -> None:
    new.view_schema.online()
    [found] = new.view_schema.diff(tables=["order_records"], examples=2).tables
    assert (found.changed, len(found.examples_changed)) == (4, 2)
    with pytest.raises(ConfigurationError, match="does not rebuild elsewhere"):
        new.view_schema.diff(tables=["elsewhere"])


def test_without_a_key_rows_are_compared_as_multisets(
    new: Sequent, old: Sequent, connection: Connection, directory: Path
) -> None:
    new.view_schema.online()
    connection.execute("ALTER TABLE view_schema.line_records_2 DROP CONSTRAINT line_records_2_pkey")
    connection.execute("ALTER TABLE view_schema.line_records DROP CONSTRAINT line_records_pkey")
    connection.execute(
        "INSERT INTO view_schema.line_records SELECT * FROM view_schema.line_records WHERE number = 2"
    )
    connection.execute("UPDATE view_schema.line_records_2 SET cents = -1 WHERE number = 3")
    found = of(new, "line_records")
    assert found.paired_by == ("aggregate_id",)
    assert (found.only_in_old, found.only_in_new, found.changed) == (5, 0, 5)


@pytest.mark.store(made_by=None)
def test_without_a_migration_there_is_nothing_to_compare(store_database_url: str) -> None:
    with shop(store_database_url, ShopQuiet) as app, pytest.raises(MigrationNotStarted):
        app.view_schema.diff()

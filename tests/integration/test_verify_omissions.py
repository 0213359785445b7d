"""An aggregate that one table lacks is compared in the others, and what was left out is said table by table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import (
    FailingProjector,
    LineAdded,
    LineProjector,
    LineRecord,
    OrderPlaced,
    OrderProjector,
    OrderRecord,
    ProductProjector,
    order_id,
    place_orders,
    shop,
)

from sequent_py import Migrations, Sequent, on
from sequent_py.checks.omissions import Omissions, find_omissions
from sequent_py.cli.blocks import Line
from sequent_py.cli.verify import describe_verification
from sequent_py.view_schema.comparison.findings import grouped_by_tables
from sequent_py.view_schema.comparison.verify import TableVerification, VerifyReport

Connection = psycopg.Connection[Any]
POISONED = order_id(1)


class Lines1(Migrations):
    version = 1
    versions = {1: [LineProjector, ProductProjector]}


class Orders2(Migrations):
    """The orders are new, and one of them cannot be projected."""

    version = 2
    versions = {1: [LineProjector, ProductProjector], 2: [FailingProjector]}


class ChancyLineProjector(LineProjector):
    """Throws dice over one product."""

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        product = str(random.random()) if event.product == "poison" else event.product
        self.create_record(
            LineRecord,
            aggregate_id=event.aggregate_id,
            number=event.sequence_number,
            product=product,
            cents=event.cents,
        )


class Chancy1(Migrations):
    version = 1
    versions = {1: [ChancyLineProjector]}


class Chancy2(Migrations):
    version = 2
    versions = {1: [ChancyLineProjector], 2: [FailingProjector]}


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    """Order 1 is left behind in the orders, and whole in the other tables."""
    with shop(store_database_url, Lines1) as before:
        place_orders(before, range(4))
        before.store.append(POISONED, [LineAdded(product="poison", cents=1)])
        before.view_schema.online()
        before.view_schema.offline()
    with shop(store_database_url, Orders2) as app:
        app.view_schema.online(quarantine=True)
        app.view_schema.offline(accept_quarantined=[POISONED])
        app.store.append(POISONED, [LineAdded(product="later", cents=1)])
        yield app


def of(report: VerifyReport, table: str) -> TableVerification:
    return next(item for item in report.tables if item.table_name == table)


def first_line(report: VerifyReport) -> str:
    first = next(describe_verification(report))
    assert isinstance(first, Line)
    return first.text


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_compared_where_it_is_whole(
    app: Sequent, connection: Connection, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("sequent_py.view_schema.comparison.log_comparison.SLICE_EVENTS", 8)
    report = app.view_schema.verify(is_all=True, is_once=True, workers=workers)
    assert report.is_correct, report
    assert of(report, "order_records").left_out == (str(POISONED),)
    assert of(report, "line_records").left_out == ()
    assert (report.left_out, report.is_complete) == ((str(POISONED),), False)
    assert {table.table_name: table.method for table in report.tables} == {
        "order_records": "aggregates",
        "line_records": "aggregates",
        "product_records": "whole",
    }
    assert first_line(report).endswith("except 1 aggregate that was left behind in order_records.")
    assert [note for note in report.notes if "order_records" in note and str(POISONED) in note]
    tampered = "UPDATE view_schema.line_records SET cents = cents + 1 WHERE aggregate_id = %s AND number = 2"
    connection.execute(tampered, (POISONED,))
    connection.execute("DELETE FROM view_schema.product_records WHERE order_id = %s", (POISONED,))
    report = app.view_schema.verify(is_all=True, is_once=True, workers=workers)
    assert of(report, "line_records").changed == 1
    assert of(report, "product_records").only_in_log == 5
    assert of(report, "order_records").differences == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_folded_twice_by_the_projectors_of_the_tables_where_it_is_whole(
    store_database_url: str, workers: int
) -> None:
    with shop(store_database_url, Chancy1) as before:
        before.store.append(
            POISONED, [OrderPlaced(customer="c"), *[LineAdded(product="poison", cents=n) for n in range(2)]]
        )
        before.view_schema.online()
        before.view_schema.offline(accept_differences=True)
    with shop(store_database_url, Chancy2) as app:
        app.view_schema.online(quarantine=True)
        app.view_schema.offline(accept_quarantined=[POISONED])
        found = app.view_schema.verify(aggregate_ids=[POISONED], workers=workers).nondeterminism
    assert found is not None
    assert {(item.table, item.column) for item in found} == {("line_records", "product")}


def test_a_diff_compares_it_where_it_is_whole(store_database_url: str, connection: Connection) -> None:
    class Rebuilt(Migrations):
        version = 2
        versions = {1: [], 2: [FailingProjector, LineProjector]}

    class First(Migrations):
        version = 1
        versions = {1: [OrderProjector, LineProjector]}

    with shop(store_database_url, First) as before:
        place_orders(before, range(4))
        before.store.append(POISONED, [LineAdded(product="poison", cents=1)])
        before.view_schema.online()
        before.view_schema.offline()
    with shop(store_database_url, Rebuilt) as app:
        app.view_schema.online(quarantine=True)
        app.view_schema.offline(accept_quarantined=[POISONED])
        assert [(it.late_aggregates, it.is_same) for it in app.view_schema.diff().tables] == [(1, True)] * 2
        # As a re-fold that could fold one of the tables only says it.
        connection.execute(
            "UPDATE sequent_schema.quarantined_aggregates SET whole_tables = ARRAY['line_records']"
        )
        found = {it.table_name: it for it in app.view_schema.diff().tables}
    assert (found["order_records"].late_aggregates, found["order_records"].is_same) == (1, True)
    assert (found["line_records"].late_aggregates, found["line_records"].only_in_old) == (0, 4)


def test_it_counts_as_compared_unless_every_table_lacks_it(app: Sequent, connection: Connection) -> None:
    connection.execute("DELETE FROM view_schema.line_records WHERE aggregate_id = %s", (POISONED,))
    report = app.view_schema.verify(aggregate_ids=[POISONED], is_once=True)
    assert (report.aggregates, of(report, "line_records").only_in_log) == (1, 5)
    report = app.view_schema.verify(aggregate_ids=[POISONED], is_once=True, tables=["order_records"])
    assert (report.aggregates, report.left_out) == (0, (str(POISONED),))


def test_tables_of_one_projector_lack_the_same_aggregates() -> None:
    class Both(LineProjector):
        manages_tables = (OrderRecord, LineRecord)

    one, other = UUID(int=1), UUID(int=2)
    apart = find_omissions({"order_records": frozenset([one])}, [OrderProjector, LineProjector])
    assert (apart.of("order_records"), apart.of("line_records")) == ({one}, frozenset())
    assert apart.projectors(one, [OrderProjector, LineProjector]) == (LineProjector,)
    assert apart.everywhere(["order_records", "line_records"]) == frozenset()
    together = find_omissions(
        {"order_records": frozenset([one]), "product_records": frozenset([other])},
        [OrderProjector, Both, ProductProjector],
    )
    assert (together.of("line_records"), together.of("product_records")) == ({one}, {other})
    assert together.aggregates == {one, other}
    assert find_omissions({}, [Both]).aggregates == frozenset()
    assert together.among([one]).by_table == {"order_records": {one}, "line_records": {one}}
    assert Omissions.from_json(together.to_json()) == together


def test_aggregates_are_named_with_all_the_tables_that_lack_them() -> None:
    assert grouped_by_tables({"a": ["1", "2"], "b": ["2", "3"], "c": ["2"]}) == {
        ("a",): ("1",),
        ("a", "b", "c"): ("2",),
        ("b",): ("3",),
    }

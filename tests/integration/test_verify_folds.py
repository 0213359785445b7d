"""The two folds of a verification: all events in memory, and a sample and whatever differs by statements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from shop import OrderRecord, order_id, place_orders, shop

from sequent_py import Sequent
from sequent_py.checks import plain
from sequent_py.checks.plain import PlainPersistor, PlainTable
from sequent_py.checks.scratch_fold import ScratchFold
from sequent_py.view_schema.comparison.verify import VerifyReport


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url) as app:
        place_orders(app, range(30))
        app.view_schema.online()
        app.view_schema.offline(verify_sample=0)
        yield app


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def by_statements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each fold by statements had."""
    folds: list[int] = []
    real = ScratchFold.apply

    def apply(self: ScratchFold, raw_events: Any) -> int:
        folds.append(real(self, raw_events))
        return folds[-1]

    monkeypatch.setattr(ScratchFold, "apply", apply)
    return folds


def everything(app: Sequent, *, sample: int = 0) -> VerifyReport:
    return app.view_schema.verify(is_all=True, is_once=True, workers=0, sample=sample)


def makes_other_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fold in memory add one to the total of every new order."""
    real = PlainTable.create

    def create(self: PlainTable, rows: Any) -> Any:
        if self.name == OrderRecord.__name__:
            rows = [{**values, "total": values["total"] + 1} for values in rows]
        return real(self, rows)

    monkeypatch.setattr(PlainTable, "create", create)


def test_what_the_fold_in_memory_confirms_is_not_folded_again(app: Sequent, by_statements: list[int]) -> None:
    report = everything(app)
    assert report.is_correct
    assert report.is_complete
    assert report.events > 30
    assert by_statements == []


def test_a_sample_of_it_is_folded_by_statements_too(app: Sequent, by_statements: list[int]) -> None:
    report = everything(app, sample=5)
    assert report.is_correct
    assert 5 <= sum(by_statements) < report.events


def test_where_it_differs_from_the_tables_the_fold_by_statements_counts(
    app: Sequent, by_statements: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_other_totals(monkeypatch)
    report = everything(app)
    assert report.is_correct
    assert sum(by_statements) == report.events
    assert any("not what the plain fold in memory" in note for note in report.notes)


def test_a_difference_is_told_as_the_fold_by_statements_has_it(
    app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_other_totals(monkeypatch)
    connection.execute(
        "UPDATE view_schema.order_records SET total = total + 5 WHERE aggregate_id = %s", [order_id(3)]
    )
    (orders,) = [table for table in everything(app).tables if table.differences]
    assert (orders.changed, orders.changed_columns) == (1, {"total": 1})


def test_a_fault_that_table_and_fold_in_memory_share_is_found_by_the_sample(
    app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_other_totals(monkeypatch)
    connection.execute("UPDATE view_schema.order_records SET total = total + 1")
    assert everything(app).is_correct
    report = everything(app, sample=5)
    (orders,) = [table for table in report.tables if table.differences]
    # Cancelled orders have no row.
    assert 1 <= orders.changed <= 5
    assert not report.is_correct


def test_a_history_of_more_rows_than_memory_takes_is_folded_in_memory_all_the_same(
    app: Sequent, by_statements: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    most: dict[str, int] = {}
    real = PlainTable.insert

    def insert(self: PlainTable, row: Any) -> None:
        real(self, row)
        most[self.name] = max(most.get(self.name, 0), len(self.rows))

    def small(connection: Any, tables: Mapping[Any, Any]) -> PlainPersistor:
        return PlainPersistor(connection, tables, most_rows=50)

    monkeypatch.setattr(PlainTable, "insert", insert)
    monkeypatch.setattr("sequent_py.checks.plain_fold.PlainPersistor", small)
    place_orders(app, [40], lines=300)
    assert everything(app).is_correct
    assert by_statements == []
    assert max(most.values()) == 50


def test_handlers_that_ask_for_more_rows_than_memory_takes_are_folded_by_statements(
    app: Sequent, by_statements: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "MOST_ROUNDS", 0)
    monkeypatch.setattr(
        "sequent_py.checks.plain_fold.PlainPersistor",
        lambda connection, tables: PlainPersistor(connection, tables, most_rows=1),
    )
    report = everything(app)
    assert report.is_correct
    assert sum(by_statements) == report.events

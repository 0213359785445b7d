"""What an event costs in a verification does not depend on how many came before it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from shop import LineAdded, OrderPlaced, shop
from wallets import Deposited, StatementRecord, WalletOpened, WalletsWithoutJournal, wallets

from sequent_py.checks import scratch_fold
from sequent_py.checks.checker import SliceChecker, SliceResult
from sequent_py.persistors.operations import operations_of
from sequent_py.persistors.statements import statements_of
from sequent_py.persistors.tables import read_table_shape
from sequent_py.records import record_shape
from sequent_py.view_schema.comparison.verify import VerifyReport

EVENTS = 3_000


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How large each scratch table is once the fold is done, by table."""
    found: dict[str, int] = {}
    real = SliceChecker._result

    def result(self: SliceChecker, *arguments: Any, **keywords: Any) -> SliceResult:
        for table in self._scratch.values():
            relation = table.relation.as_string(self._connection)
            row = self._connection.execute(
                "SELECT pg_relation_size(%s::regclass) / 8192", (relation,)
            ).fetchone()
            assert row is not None
            found[table.name] = int(row[0])
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(SliceChecker, "_result", result)
    return found


def check(report: VerifyReport, events: int) -> None:
    assert report.is_correct, report
    assert report.events == events


def test_a_row_that_is_updated_all_the_time_leaves_few_versions_in_a_slice(
    store_database_url: str, pages: dict[str, int]
) -> None:
    order = UUID(int=1)
    with shop(store_database_url) as app:
        lines = [LineAdded(product="p", cents=1) for _ in range(EVENTS - 1)]
        app.store.append(order, [OrderPlaced(customer="c"), *lines])
        app.view_schema.online()
        app.view_schema.offline(verify_sample=0)
        check(app.view_schema.verify(aggregate_ids=[order], is_once=True), EVENTS)
    # One row, and what the last commits left of it; all its versions would be some forty pages.
    assert pages["order_records"] <= 5


def test_nor_does_it_in_a_table_that_is_compared_whole(
    store_database_url: str, pages: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_fold, "VACUUMED_EVENTS", 500)
    wallet = UUID(int=1)
    with wallets(store_database_url, WalletsWithoutJournal) as app:
        deposits = [Deposited(owner="ann", cents=1) for _ in range(EVENTS - 1)]
        history = [(wallet, event, None) for event in (WalletOpened(owner="ann"), *deposits)]
        app.store.import_history(history, partition_keys={wallet: "ann"})
        app.view_schema.online()
        app.view_schema.offline(verify_sample=0)
        check(app.view_schema.verify(is_all=True, is_once=True, tables=["wallet_records"]), EVENTS)
    assert pages["wallet_records"] <= 5


def test_vacuuming_is_linear_in_all(store_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_fold, "VACUUMED_EVENTS", 100)
    vacuumed: list[int] = []
    real = scratch_fold.ScratchFold._vacuum

    def vacuum(self: scratch_fold.ScratchFold) -> None:
        vacuumed.append(self._events)
        real(self)

    monkeypatch.setattr(scratch_fold.ScratchFold, "_vacuum", vacuum)
    order = UUID(int=1)
    with shop(store_database_url) as app:
        lines = [LineAdded(product="p", cents=1) for _ in range(EVENTS - 1)]
        app.store.append(order, [OrderPlaced(customer="c"), *lines])
        app.view_schema.online()
        app.view_schema.offline(verify_sample=0)
        check(app.view_schema.verify(aggregate_ids=[order], is_once=True), EVENTS)
    assert len(vacuumed) > 3
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(vacuumed))


DEFERRED = "ALTER TABLE view_schema.line_records ADD CONSTRAINT one_a_product UNIQUE (aggregate_id, product) DEFERRABLE INITIALLY DEFERRED"


def test_deferred_constraints_are_not_checked_where_the_application_did_not_commit(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_fold, "COMMITTED_EVENTS", 1)
    with shop(store_database_url) as app, psycopg.connect(store_database_url, autocommit=True) as connection:
        app.view_schema.online()
        app.view_schema.offline()
        connection.execute(DEFERRED)
        order = UUID(int=1)
        with app.engine.begin() as transaction:
            app.store.append(order, [OrderPlaced(customer="c")], connection=transaction)
            app.store.append(order, [LineAdded(product="p", cents=1)] * 2, connection=transaction)
            # What keeps the constraint, before it is looked at, is no event: it is the fold alone that would break it.
            transaction.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
            transaction.exec_driver_sql("DELETE FROM view_schema.line_records WHERE number = 3")
        report = app.view_schema.verify(is_all=True, is_once=True)
        assert [(table.table_name, table.only_in_log) for table in report.tables if table.differences] == [
            ("line_records", 1)
        ]


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(store_database_url) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute(
            "CREATE TABLE elsewhere.statement_records (owner text NOT NULL, number int NOT NULL, aggregate_id uuid NOT NULL,"
            " cents bigint NOT NULL, total bigint NOT NULL, PRIMARY KEY (owner, number))"
        )
        yield connection


@pytest.mark.parametrize("order", ["ASC", "DESC"])
def test_the_last_row_of_an_owner_is_found_by_the_key_without_sorting_the_others(
    connection: psycopg.Connection[Any], order: str
) -> None:
    connection.execute(
        "INSERT INTO elsewhere.statement_records SELECT 'ann', n, gen_random_uuid(), 1, n FROM generate_series(1, 5000) n"
    )
    connection.execute("ANALYZE elsewhere.statement_records")
    table = read_table_shape(connection, record_shape(StatementRecord), "elsewhere", "statement_records")
    filters = operations_of(table).filters({"owner": "ann"})
    query, parameters = statements_of(table).select(filters, order=order, limit=True)
    plan = connection.execute(sql.SQL("EXPLAIN {}").format(sql.SQL(query.decode())), [*parameters, 1, 0])  # type: ignore[arg-type]
    text = "\n".join(line for (line,) in plan.fetchall())
    assert "Sort" not in text
    row = connection.execute(query, [*parameters, 1, 0]).fetchone()
    assert row is not None
    assert row[1] == (1 if order == "ASC" else 5000)

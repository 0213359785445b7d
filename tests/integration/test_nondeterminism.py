"""Handlers whose rows depend on more than their events are found by folding a sample twice."""

from __future__ import annotations

import datetime
import time

import moody
import psycopg
import pytest
from shop import place_orders, shop

from sequent_py import Migrations
from sequent_py.checks.clock import shifted_clock
from sequent_py.checks.determinism import CAUSES
from sequent_py.errors import OrderingViolated
from sequent_py.view_schema.comparison.verify import VerifyReport


def verified(database_url: str, migrations: type[Migrations], *, workers: int = 0) -> VerifyReport:
    """Build the tables and verify them beside the live ones; what the comparison with the log says does not matter here."""
    with shop(database_url, migrations) as app:
        place_orders(app, range(8))
        app.view_schema.online()
        return app.view_schema.verify(sample=0, workers=workers)


@pytest.mark.parametrize(
    "migrations",
    [
        moody.ShopByMoment,
        moody.ShopByYear,
        moody.ShopByChance,
        moody.ShopByCalls,
    ],
)
def test_each_kind_is_found_and_table_column_and_projector_are_named(
    store_database_url: str, migrations: type[Migrations]
) -> None:
    report = verified(store_database_url, migrations)
    assert report.nondeterminism is not None
    [found] = report.nondeterminism
    projector = migrations.__name__.removeprefix("Shop")
    assert (found.table, found.column, found.projectors) == ("order_records", "customer", (projector,))
    assert found.rows >= 6
    assert f"order_records.customer (written by {projector}) differs" in str(found)
    assert CAUSES in str(found)
    assert "aggregate_id=" in found.example
    assert not report.is_correct


def test_hash_order_is_found_by_processes_with_different_seeds(store_database_url: str) -> None:
    report = verified(store_database_url, moody.ShopByHashOrder, workers=2)
    assert report.nondeterminism is not None
    assert [item.column for item in report.nondeterminism] == ["customer"]


def test_a_connection_of_the_handlers_own_is_found_though_it_reads_the_same_twice(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODY_DATABASE_URL", store_database_url)
    for workers in (0, 2):
        with shop(store_database_url, moody.ShopByOwnConnection) as app:
            if not workers:
                place_orders(app, range(8))
                app.view_schema.online()
            report = app.view_schema.verify(sample=0, workers=workers)
        assert report.nondeterminism is not None
        [found] = report.nondeterminism
        assert "ByOwnConnection.named, which opens a connection of its own" in found.example
        assert found.table == "order_records"


@pytest.mark.parametrize("migrations", [moody.ShopByOthers, moody.ShopOnlyTogether])
def test_rows_that_depend_on_other_aggregates_are_refused_before_there_is_anything_to_verify(
    store_database_url: str, migrations: type[Migrations]
) -> None:
    with shop(store_database_url, migrations) as app:
        place_orders(app, range(8))
        with pytest.raises(OrderingViolated, match="reads the OrderRecord"):
            app.view_schema.online()


@pytest.mark.parametrize("workers", [0, 2])
def test_handlers_that_depend_on_their_events_alone_are_not_blamed(
    store_database_url: str, workers: int
) -> None:
    report = verified(store_database_url, moody.ShopSober, workers=workers)
    assert report.nondeterminism == ()
    assert report.is_correct


def test_looking_for_it_can_be_left_out(store_database_url: str) -> None:
    with shop(store_database_url, moody.ShopByMoment) as app:
        place_orders(app, range(2))
        app.view_schema.online()
        assert app.view_schema.verify(sample=0, is_once=True).nondeterminism is None


def test_a_dry_run_warns(store_database_url: str) -> None:
    with shop(store_database_url, moody.ShopByYear) as app:
        place_orders(app, range(4))
        warnings = app.view_schema.dry_run().warnings
        assert any("order_records.customer (written by ByYear) differs" in text for text in warnings)
    with shop(store_database_url, moody.ShopSober) as app:
        assert app.view_schema.dry_run().warnings == ()


def test_the_clock_is_moved_for_the_modules_of_the_application_only_and_put_back() -> None:
    before = {name: getattr(moody, name) for name in ("datetime", "date", "time", "calendar")}
    with shifted_clock({"moody"}, 400 * 86_400.0):
        moved = moody.datetime.now(datetime.UTC) - datetime.datetime.now(datetime.UTC)
        assert moved > datetime.timedelta(days=399)
        assert moody.date.today() > datetime.date.today()
        assert moody.time.time() > time.time() + 399 * 86_400
        assert moody.calendar.datetime.now().year > datetime.datetime.now().year
        made = moody.datetime(2020, 1, 2, tzinfo=datetime.UTC)
        assert type(made) is datetime.datetime
        assert isinstance(made, moody.datetime)
        assert type(moody.datetime.fromisoformat("2020-01-02")) is datetime.datetime
        assert type(moody.calendar.timedelta(1)) is datetime.timedelta
    assert before == {name: getattr(moody, name) for name in before}
    assert psycopg.connect is not None

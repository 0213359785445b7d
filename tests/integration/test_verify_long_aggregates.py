"""Aggregates whose histories are too long for a sample."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from shop import order_id, place_orders

from sequent_py import Sequent
from sequent_py.errors import VerificationFailed


def test_where_all_aggregates_are_long_the_shortest_is_compared_before_a_promotion(
    app: Sequent, connection: psycopg.Connection[Any]
) -> None:
    place_orders(app, [0], lines=2_050)
    place_orders(app, [1], lines=2_020)
    app.view_schema.online()
    connection.execute(
        "UPDATE view_schema.order_records_1 SET total = total + 1 WHERE aggregate_id = %s", [order_id(1)]
    )
    with pytest.raises(VerificationFailed, match="order_records"):
        app.view_schema.golive()
    connection.execute(
        "UPDATE view_schema.order_records_1 SET total = total - 1 WHERE aggregate_id = %s", [order_id(1)]
    )
    report = app.view_schema.golive()
    assert report.verified_aggregates == 1
    assert any("1 aggregate of the sample was not compared" in line for line in report.warnings)
    assert app.view_schema.verify(sample=10).aggregates == 1


def test_an_aggregate_that_is_too_long_for_the_sample_is_counted_in_a_warning(app: Sequent) -> None:
    place_orders(app, [0], lines=2_050)
    place_orders(app, range(1, 5))
    app.view_schema.online()
    report = app.view_schema.golive()
    assert report.verified_aggregates == 4
    assert any("1 aggregate of the sample was not compared" in line for line in report.warnings)


def test_a_very_long_aggregate_is_compared_without_its_statements(
    app: Sequent, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequent_py.verification.LONG_EVENTS", 2_000)

    def refuse(*_: Any) -> Any:
        raise AssertionError("folded by statements")

    monkeypatch.setattr("sequent_py.verification.LivePersistor", refuse)
    place_orders(app, [0], lines=2_050)
    app.view_schema.online()
    connection.execute("UPDATE view_schema.line_records_1 SET cents = cents + 1 WHERE number = 1999")
    with pytest.raises(VerificationFailed, match="line_records"):
        app.view_schema.offline()
    connection.execute("UPDATE view_schema.line_records_1 SET cents = cents - 1 WHERE number = 1999")
    assert app.view_schema.offline().verified_aggregates == 1

"""Declared projections through a view migration: live, replayed, verified, given back to handlers where SQL finds something odd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from declared_shop import DeclaredShop1, DeclaredShop2
from shop import actual_rows, expected_rows, place_orders, shop

from sequent_py import Sequent


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, DeclaredShop1) as app:
        yield app


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        yield connection


def test_replayed_caught_up_and_live_rows_are_the_fold_of_the_events(
    app: Sequent, connection: psycopg.Connection[Any], store_database_url: str
) -> None:
    place_orders(app, range(60))
    app.view_schema.online()
    place_orders(app, range(60, 90))
    app.view_schema.offline()
    place_orders(app, range(90, 100))
    assert actual_rows(connection) == expected_rows(connection)
    with shop(store_database_url, DeclaredShop2) as newer:
        newer.view_schema.online()
        place_orders(app, range(100, 110))
        newer.view_schema.golive()
        assert newer.view_schema.verify(is_all=True).is_correct
        assert actual_rows(connection) == expected_rows(connection)

"""Going back and forth between versions: nothing written meanwhile is lost, whatever the migration did to the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from shop import (
    LineAdded,
    LineProjector,
    OrderPlaced,
    OrderProjector,
    Shop1,
    Shop2,
    actual_rows,
    expected_rows,
    place_orders,
    shop,
)

from sequent_py import Migrations, Sequent


@pytest.fixture
def connection(store_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(store_database_url, autocommit=True) as connection:
        yield connection


def migrate(app: Sequent) -> None:
    app.view_schema.online()
    app.view_schema.offline()


def test_back(store_database_url: str, connection: psycopg.Connection[Any]) -> None:
    with shop(store_database_url, Shop1) as old, shop(store_database_url, Shop2) as new:
        place_orders(old, range(10))
        migrate(old)
        place_orders(old, range(10, 20))
        migrate(new)
        place_orders(new, range(20, 30))
        for round in range(3):
            report = old.view_schema.rollback()
            print(report)
            assert actual_rows(connection) == expected_rows(connection)
            place_orders(old, range(30 + 20 * round, 40 + 20 * round))
            assert actual_rows(connection) == expected_rows(connection)
            report = new.view_schema.rollback()
            print(report)
            assert actual_rows(connection) == expected_rows(connection)
            place_orders(new, range(40 + 20 * round, 50 + 20 * round))
            assert actual_rows(connection) == expected_rows(connection)

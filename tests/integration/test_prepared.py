"""Plans that outlive what the driver's own prepared statements do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sequent_py.view_schema.tables import prepared


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def plans(connection: psycopg.Connection[Any]) -> int:
    return connection.execute("SELECT FROM pg_prepared_statements WHERE from_sql").rowcount


QUERY = "SELECT relname::text, '100%%' FROM pg_class WHERE relname = ANY (%(names)s) OR relname = %(name)s ORDER BY 1"


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_answer_is_the_same_either_way(connection: psycopg.Connection[Any], is_kept: bool) -> None:
    if is_kept:
        prepared.keep_plans(connection)
    for name in ("pg_proc", "it's"):
        rows = prepared.execute(
            connection, QUERY, {"name": name, "names": ["pg_class", "pg_type"]}
        ).fetchall()
        expected = ["pg_class", *(["pg_proc"] if name == "pg_proc" else []), "pg_type"]
        assert rows == [(found, "100%") for found in expected]
    assert prepared.execute(connection, "SELECT %s::int - %s::int", (3, 1)).fetchone() == (2,)
    assert plans(connection) == (2 if is_kept else 0)


def test_plans_outlive_what_makes_the_driver_forget_its_own(connection: psycopg.Connection[Any]) -> None:
    for _ in range(10):
        connection.execute("SELECT 1 + %s", (1,))
    prepared.keep_plans(connection)
    prepared.execute(connection, "SELECT %s::int", (1,))
    connection.execute("CREATE TABLE t ()")
    for _ in range(10):
        with connection.transaction(force_rollback=True):
            connection.execute("ALTER TABLE t RENAME TO u")
            assert prepared.execute(connection, "SELECT %s::int", (2,)).fetchone() == (2,)
    prepared.keep_plans(connection)
    assert plans(connection) == 1

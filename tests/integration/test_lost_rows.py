"""Rows of our own tables that somebody deleted by hand: the error names table and row, and what looks further."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from shop import (
    LineAdded,
    Shop2,
    built_shop,
    order_id,
    shop,
)

from sequent_py import Sequent
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import SequentError

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=built_shop(4))


@pytest.fixture
def connection(connection: Connection) -> Connection:
    # Whoever deletes rows by hand finds a way around foreign keys, too.
    connection.execute("SET session_replication_role = replica")
    return connection


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    """Version 1 is live; this is the code of version 2, which rebuilds the orders, and has replayed them."""
    with shop(store_database_url, Shop2) as app:
        yield app


LOST: dict[str, tuple[str, str, Callable[[Sequent], object]]] = {
    "a new table, golive": (
        "DELETE FROM sequent_schema.view_tables WHERE role = 'shadow'",
        "view_tables has no row for the new table order_records",
        lambda app: app.view_schema.golive(),
    ),
    "a new table, offline": (
        "DELETE FROM sequent_schema.view_tables WHERE role = 'shadow'",
        "view_tables has no row for the new table order_records",
        lambda app: app.view_schema.offline(),
    ),
    "the passes, online": (
        "DELETE FROM sequent_schema.replay_passes",
        "replay_passes has no row for view migration 2",
        lambda app: app.view_schema.online(),
    ),
    "the passes, golive": (
        "DELETE FROM sequent_schema.replay_passes",
        "replay_passes has no row for view migration 2",
        lambda app: app.view_schema.golive(),
    ),
    "the passes, offline": (
        "DELETE FROM sequent_schema.replay_passes",
        "replay_passes has no row for view migration 2",
        lambda app: app.view_schema.offline(),
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_the_error_names_table_and_row(app: Sequent, connection: Connection, what: str) -> None:
    statement, words, act = LOST[what]
    connection.execute(statement)  # type: ignore[call-overload]
    with pytest.raises(SequentError) as caught:
        act(app)
    assert words in caught.value.message
    assert "sequent doctor" in caught.value.remedy


def test_an_append_without_the_gates_row(
    store_database_url: str, app: Sequent, connection: Connection
) -> None:
    connection.execute("DELETE FROM sequent_schema.gate")
    with shop(store_database_url) as before, pytest.raises(SequentError) as caught:
        before.store.append(order_id(1), [LineAdded(product="p", cents=1)])
    assert "lost the row of its gate" in caught.value.message


def test_doctor_names_a_live_table_without_a_row(
    store_database_url: str, app: Sequent, connection: Connection
) -> None:
    connection.execute("DELETE FROM sequent_schema.view_tables WHERE physical_name = 'line_records'")
    with shop(store_database_url) as before:
        found = [it for it in examine(before).findings if it.verdict is Verdict.PROBLEM]
    assert [it for it in found if "view_tables has no row" in it.message and "line_records" in it.message]

"""Tables of our own that somebody dropped as a whole: the error names the table and what looks further, whatever the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from shop import (
    LineAdded,
    Shop2,
    built_shop,
    order_id,
    shop,
)

from sequent_py import Sequent
from sequent_py.doctor import Verdict, examine
from sequent_py.errors import LostTable, SequentError
from sequent_py.health.store_tables import EVENT_TABLES, STORE_TABLES

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.store(made_by=built_shop(4))
BOOKKEEPING = [name for name in STORE_TABLES if name not in EVENT_TABLES]
GUARDED: dict[str, Callable[[Sequent], object]] = {
    "online": lambda app: app.view_schema.online(),
    "offline": lambda app: app.view_schema.offline(),
    "golive": lambda app: app.view_schema.golive(),
    "rollback": lambda app: app.view_schema.rollback(),
}
OTHERS: dict[str, Callable[[Sequent], object]] = {
    "accept-code": lambda app: app.view_schema.accept_code(),
    "status": lambda app: app.view_schema.status(),
    "plan": lambda app: app.view_schema.plan(),
    "check": lambda app: app.view_schema.check(),
    "dry-run": lambda app: app.view_schema.dry_run(),
    "verify": lambda app: app.view_schema.verify(is_once=True),
    "diff": lambda app: app.view_schema.diff(),
    "prune": lambda app: app.view_schema.prune(),
    "rollback --plan": lambda app: app.view_schema.rollback_plan(),
    "refold": lambda app: app.aggregates.refold([order_id(1)]),
    "erase": lambda app: app.aggregates.erase([order_id(99)]),
    "append": lambda app: app.store.append(order_id(2), [LineAdded(product="p", cents=1)]),
}

NEEDED = ("event_types", "gate", "view_migrations", "view_tables", "replay_groups", "schema_info")
"""By most commands; the others are tried without these alone, for the sake of time."""


@pytest.fixture
def app(store_database_url: str) -> Iterator[Sequent]:
    """Version 1 is live; this is the code of version 2, which rebuilds the orders, and has replayed them."""
    with shop(store_database_url, Shop2) as app:
        yield app


@pytest.fixture
def admin(store_database_url: str) -> Iterator[Sequent]:
    with shop(store_database_url, Shop2, as_login=False) as admin:
        yield admin


@contextmanager
def without(connection: Connection, table: str) -> Iterator[None]:
    """Take a table away for the block, as if it had been dropped."""
    name, away = sql.Identifier("sequent_schema", table), f"{table}_away"
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(name, sql.Identifier(away)))
    yield
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier("sequent_schema", away), sql.Identifier(table)
        )
    )


def failure(app: Sequent, act: Callable[[Sequent], object]) -> SequentError | None:
    try:
        act(app)
    except SequentError as error:
        return error
    return None


def test_the_tables_are_those_that_an_installation_makes(connection: Connection) -> None:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'sequent_schema'")
    partitioned = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sequent_schema'::regnamespace AND relkind = 'p'"
    )
    assert {name for (name,) in [*rows, *partitioned]} == set(STORE_TABLES)


def test_every_command_names_the_table_and_where_to_look_further(
    app: Sequent, admin: Sequent, connection: Connection
) -> None:
    for table in BOOKKEEPING:
        with without(connection, table):
            for command, act in GUARDED.items():
                with pytest.raises(LostTable) as caught:
                    act(app)
                assert caught.value.tables == (table,), (command, table)
                assert "sequent doctor" in caught.value.remedy
            for command, act in OTHERS.items() if table in NEEDED else ():
                error = failure(app, act)
                if isinstance(error, LostTable):
                    assert table in error.message, (command, table)
                elif error is not None and command != "append":
                    # Of the command's own: there is nothing to roll back, for example. An append knows no more than that there is no such table.
                    assert "sequent init" not in error.remedy, (command, table, error)
            with pytest.raises(LostTable, match=f"no table {table}; somebody has dropped it"):
                admin.install()
            if table not in NEEDED:
                continue
            found = [it for it in examine(admin).findings if it.verdict is Verdict.PROBLEM]
            assert any(table in it.message for it in found), (table, found)
    app.view_schema.golive()

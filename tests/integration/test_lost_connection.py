"""Connections that are lost, or that are not finished being made: errors say so, and nothing stays open."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from shop import LineProjector, OrderPlaced, OrderProjector, OrderRecord, shop

from sequent_py import Migrations, database, on
from sequent_py.cli import run
from sequent_py.errors import DatabaseUnavailable
from sequent_py.replay import fence
from sequent_py.replay.group_replayer import connect_worker
from sequent_py.schema_migrations.event_store import require_current_event_store
from sequent_py.view_schema import context


class CutOffProjector(OrderProjector):
    """Its backend is ended by an administrator while it works on one customer's order."""

    @on(OrderPlaced)
    def is_cut_off(self, event: OrderPlaced) -> None:
        if event.customer == "cut off":
            with psycopg.connect(CutOffProjector.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND state = 'idle in transaction'"
                )
            self.find_records(OrderRecord, customer="cut off")

    url = ""


class ShopCutOff(Migrations):
    version = 1
    versions = {1: [CutOffProjector, LineProjector]}


def test_a_lost_connection_is_not_the_handlers_fault(store_database_url: str) -> None:
    CutOffProjector.url = store_database_url
    with shop(store_database_url, ShopCutOff) as app:
        app.view_schema.online()
        app.view_schema.offline()
        with pytest.raises(DatabaseUnavailable, match="nothing was recorded"):
            app.store.append(UUID(int=1), [OrderPlaced(customer="cut off")])
        assert app.store.load(UUID(int=1)) == []
        app.store.append(UUID(int=1), [OrderPlaced(customer="Ann")])


def test_a_worker_that_cannot_connect_leaves_no_connection_open(
    store_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[psycopg.Connection] = []
    connect = database.connect

    def noted(*arguments: object, **options: object) -> psycopg.Connection:
        opened.append(connect(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    def fails(*_: object) -> None:
        raise psycopg.OperationalError("terminated")

    monkeypatch.setattr(database, "connect", noted)
    with monkeypatch.context() as broken:
        broken.setattr(fence, "become_worker", fails)
        with pytest.raises(psycopg.OperationalError):
            connect_worker(store_database_url, "sequent_schema")
    monkeypatch.setattr(database, "MIGRATION_SETTINGS", (("lock_timeout", "no time"),))
    with pytest.raises(psycopg.Error):
        database.connect_for_migration(store_database_url, application_name="test")
    assert len(opened) == 3
    assert all(connection.closed for connection in opened)


def test_a_server_that_goes_away_while_the_stores_version_is_read_is_said_to_be_away(
    store_database_url: str,
) -> None:
    with (
        database.connect(store_database_url, autocommit=True) as connection,
        psycopg.connect(store_database_url, autocommit=True) as other,
    ):
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
        with pytest.raises(DatabaseUnavailable, match="'sequent_schema' was looked at") as caught:
            require_current_event_store(connection, "sequent_schema")
    assert "SEQUENT_DATABASE_URL" in caught.value.remedy


def test_a_command_whose_server_goes_away_exits_with_1_and_says_so(
    store_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEQUENT_DATABASE_URL", store_database_url)
    monkeypatch.setenv("SEQUENT_MIGRATIONS_CLASS", "shop:Shop1")
    assume_role = context.assume

    def assume(connection: psycopg.Connection, *arguments: Any) -> None:
        assume_role(connection, *arguments)
        with psycopg.connect(store_database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))

    monkeypatch.setattr(context, "assume", assume)
    for command in ("status", "plan", "online", "rollback"):
        assert run(["migrate", command, "--project", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert "lost" in said
        assert "Unexpected" not in said
        assert "database_url" in said

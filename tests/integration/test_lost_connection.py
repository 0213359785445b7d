"""Connections that are lost, or that are not finished being made: errors say so, and nothing stays open."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from shop import LineProjector, OrderPlaced, OrderProjector, OrderRecord, shop

from sequent_py import Migrations, database, on
from sequent_py.errors import DatabaseUnavailable
from sequent_py.replay import fence
from sequent_py.replay.worker import connect_worker


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

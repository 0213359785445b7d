"""A connection that is lost while a handler is at work: the append says so, rather than blame the handler."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from shop import LineProjector, OrderPlaced, OrderProjector, OrderRecord, shop

from sequent_py import Migrations, on
from sequent_py.errors import DatabaseUnavailable


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

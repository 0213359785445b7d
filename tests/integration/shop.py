"""A small application for the tests of view migrations: orders, in two versions, and a naive fold as the oracle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from login_roles import login_url
from pydantic import SecretStr
from sqlalchemy import BigInteger, DateTime, Engine
from sqlalchemy.orm import Mapped, mapped_column
from stores import Maker

from sequent_py import Config, Event, Migrations, Projector, Record, Sequent, on
from sequent_py.app import Aggregates
from sequent_py.database import create_engine

SQL_DIRECTORY = Path(__file__).parent / "shop_sql"


class OrderPlaced(Event):
    customer: str


class LineAdded(Event):
    product: str
    cents: int


class OrderCancelled(Event):
    pass


class OrderRecord(Record):
    __tablename__ = "order_records"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(BigInteger)
    lines: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    sequence_number: Mapped[int]


class LineRecord(Record):
    __tablename__ = "line_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str]
    cents: Mapped[int] = mapped_column(BigInteger)


class OrderProjector(Projector):
    manages_tables = (OrderRecord,)

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.create_record(
            OrderRecord,
            aggregate_id=event.aggregate_id,
            customer=event.customer,
            total=0,
            lines=0,
            updated_at=event.created_at,
            sequence_number=event.sequence_number,
        )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with self.update_record(OrderRecord, event) as order:
            order.total += event.cents
            order.lines += 1

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(OrderRecord, aggregate_id=event.aggregate_id)


class LineProjector(Projector):
    manages_tables = (LineRecord,)

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        self.create_record(
            LineRecord,
            aggregate_id=event.aggregate_id,
            number=event.sequence_number,
            product=event.product,
            cents=event.cents,
        )

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(LineRecord, aggregate_id=event.aggregate_id)


class Shop1(Migrations):
    version = 1
    versions = {1: [OrderProjector, LineProjector]}


class Shop2(Migrations):
    """Version 2 rebuilds the orders; lines stay as they are."""

    version = 2
    versions = {1: [OrderProjector, LineProjector], 2: [OrderProjector]}


class Shop1And2(Migrations):
    """Version 2 rebuilds the orders and the lines; its code also serves version 1."""

    version = 2
    versions = {1: [OrderProjector, LineProjector], 2: [OrderProjector, LineProjector]}
    also_serves = (Shop1,)


class FailingProjector(OrderProjector):
    """Refuses one product, until it is mended."""

    is_mended = False

    @on(LineAdded)
    def refuses(self, event: LineAdded) -> None:
        if event.product == "poison" and not self.is_mended:
            raise ValueError("no poison here")


class ShopFailing(Migrations):
    version = 1
    versions = {1: [FailingProjector, LineProjector]}


class ProductRecord(Record):
    """Belongs to no aggregate."""

    __tablename__ = "product_records"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(primary_key=True)


class ProductProjector(Projector):
    manages_tables = (ProductRecord,)

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        if self.find_record(ProductRecord, order_id=event.aggregate_id, product=event.product) is None:
            self.create_record(ProductRecord, order_id=event.aggregate_id, product=event.product)


class ShopCounting(Migrations):
    version = 1
    versions = {1: [OrderProjector, LineProjector, ProductProjector]}


class EndingProjector(LineProjector):
    """Ends the process that runs it."""

    @on(LineAdded)
    def ends(self, event: LineAdded) -> None:
        os._exit(0)


class ShopEnding(Migrations):
    version = 1
    versions = {1: [OrderProjector, EndingProjector]}


class ExitingProjector(LineProjector):
    """Exits as if all were well."""

    @on(LineAdded)
    def exits(self, event: LineAdded) -> None:
        sys.exit(0)


class ShopExiting(Migrations):
    version = 1
    versions = {1: [OrderProjector, ExitingProjector]}


class ForgetfulProjector(OrderProjector):
    """Depends on more than its events: its result differs from one fold to the next."""

    seen = 0

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        type(self).seen += 1
        self.create_record(
            OrderRecord,
            aggregate_id=event.aggregate_id,
            customer=f"{event.customer} {self.seen}",
            total=0,
            lines=0,
            updated_at=event.created_at,
            sequence_number=event.sequence_number,
        )


class ShopForgetful(Migrations):
    version = 1
    versions = {1: [ForgetfulProjector, LineProjector]}


class Shop(Sequent):
    """The application as it is deployed: it appends by a login of the application's role, and migrates by one of the migrator's."""

    @cached_property
    def engine(self) -> Engine:
        engine = create_engine(login_url(self.database_url, "web"), self.config.view_schema)
        self._resources.callback(engine.dispose)
        return engine

    @cached_property
    def aggregates(self) -> Aggregates:
        """By a login of the owner's role: erasing deletes events."""
        url = login_url(self.database_url, "admin")
        config = self.config.model_copy(update={"database_url": SecretStr(url)})
        return Aggregates(Sequent(config, migrations=self.migrations))


def shop(
    database_url: str, migrations: type[Migrations] = Shop1, *, as_login: bool = True, **settings: Any
) -> Sequent:
    """The application on a database of its own; replays in this process unless told otherwise.

    It works by the logins of the store's roles, and by the one of ``database_url`` where there are none, or ``as_login`` is false.
    """
    values = {"workers": 0, "sql_directory": SQL_DIRECTORY} | settings
    if not as_login:
        return Sequent(Config(database_url=database_url, **values), migrations=migrations)
    return Shop(Config(database_url=login_url(database_url, "deploy"), **values), migrations=migrations)


@cache
def live_shop(orders: int = 0, migrations: type[Migrations] = Shop1) -> Maker:
    """The making of a store with that many orders, on which the version is live; for ``@pytest.mark.store(made_by=…)``."""

    def make(database_url: str) -> None:
        with shop(database_url, migrations) as app:
            place_orders(app, range(orders))
            app.view_schema.online()
            app.view_schema.offline()

    return make


@cache
def built_shop(
    orders: int = 0, migrations: type[Migrations] = Shop2, before: type[Migrations] = Shop1
) -> Maker:
    """The making of a store with that many orders, on which the version ``before`` is live and the next one is built beside it."""

    def make(database_url: str) -> None:
        live_shop(orders, before)(database_url)
        with shop(database_url, migrations) as app:
            app.view_schema.online()

    return make


def order_id(number: int) -> UUID:
    """The id of an order, spread over all partitions."""
    return UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)


def place_orders(app: Sequent, numbers: Iterable[int], *, lines: int = 3) -> list[UUID]:
    """Append one aggregate per number, every seventh cancelled."""
    ids = []
    for number in numbers:
        aggregate_id = order_id(number)
        events: list[Event] = [OrderPlaced(customer=f"customer {number}")]
        events += [LineAdded(product=f"p{line}", cents=number * 10 + line) for line in range(lines)]
        if number % 7 == 6:
            events.append(OrderCancelled())
        app.store.append(aggregate_id, events, expected_version=0)
        ids.append(aggregate_id)
    return ids


Rows = dict[str, list[tuple[Any, ...]]]


def expected_rows(connection: psycopg.Connection[Any]) -> Rows:
    """Fold the events naively, straight from the table."""
    orders: dict[UUID, list[Any]] = {}
    lines: dict[tuple[UUID, int], tuple[Any, ...]] = {}
    for aggregate_id, sequence_number, created_at, name, payload in connection.execute(
        "SELECT e.aggregate_id, e.sequence_number, e.created_at, t.name, e.payload FROM sequent_schema.events e"
        " JOIN sequent_schema.event_types t ON t.id = e.event_type_id ORDER BY e.aggregate_id, e.sequence_number"
    ):
        if name == "OrderPlaced":
            orders[aggregate_id] = [payload["customer"], 0, 0, created_at, sequence_number]
        elif name == "LineAdded":
            order = orders[aggregate_id]
            order[1] += payload["cents"]
            order[2] += 1
            order[3:] = [created_at, sequence_number]
            lines[aggregate_id, sequence_number] = (payload["product"], payload["cents"])
        elif name == "OrderCancelled":
            del orders[aggregate_id]
            for key in [key for key in lines if key[0] == aggregate_id]:
                del lines[key]
    return {
        "order_records": sorted((key, *values) for key, values in orders.items()),
        "line_records": sorted((*key, *values) for key, values in lines.items()),
    }


def actual_rows(connection: psycopg.Connection[Any], suffix: str = "") -> Rows:
    """Read the tables, serial ids aside."""
    orders = connection.execute(
        f'SELECT aggregate_id, customer, total, lines, updated_at, sequence_number FROM view_schema."order_records{suffix}"'  # noqa: S608
    ).fetchall()
    lines = connection.execute(
        f'SELECT aggregate_id, number, product, cents FROM view_schema."line_records{suffix}"'  # noqa: S608
    ).fetchall()
    return {"order_records": sorted(orders), "line_records": sorted(lines)}

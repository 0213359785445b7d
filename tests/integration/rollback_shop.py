"""Four versions of the shop, as four deployments of one code base would have them, and what each version's tables must hold.

1. orders and lines;
2. orders get a column, cancellations a table, and nobody manages the lines any more;
3. lines are managed again; orders are rebuilt;
4. nothing changes but that nobody manages the cancellations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from shop import (
    SQL_DIRECTORY,
    LineAdded,
    LineProjector,
    OrderCancelled,
    OrderPlaced,
    OrderProjector,
    expected_rows,
    place_orders,
    shop,
)
from sqlalchemy import BigInteger, DateTime
from sqlalchemy.orm import Mapped, mapped_column
from stores import Maker

from sequent_py import Migrations, Projector, Record, Sequent, on


class PricedOrderRecord(Record):
    __tablename__ = "order_records"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    aggregate_id: Mapped[UUID]
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(BigInteger)
    dearest: Mapped[int] = mapped_column(BigInteger)


class CancellationRecord(Record):
    __tablename__ = "cancellation_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    cancelled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class PricedOrderProjector(Projector):
    manages_tables = (PricedOrderRecord,)

    @on(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        self.create_record(
            PricedOrderRecord, aggregate_id=event.aggregate_id, customer=event.customer, total=0, dearest=0
        )

    @on(LineAdded)
    def line_added(self, event: LineAdded) -> None:
        with self.update_record(PricedOrderRecord, event) as order:
            order.total += event.cents
            order.dearest = max(order.dearest, event.cents)

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.delete_all_records(PricedOrderRecord, aggregate_id=event.aggregate_id)


class CancellationProjector(Projector):
    manages_tables = (CancellationRecord,)

    @on(OrderCancelled)
    def cancelled(self, event: OrderCancelled) -> None:
        self.create_record(CancellationRecord, aggregate_id=event.aggregate_id, cancelled_at=event.created_at)


class V1(Migrations):
    version = 1
    versions = {1: [OrderProjector, LineProjector]}


class V2(Migrations):
    version = 2
    versions = {2: [PricedOrderProjector, CancellationProjector]}


class V3(Migrations):
    version = 3
    versions = {2: [CancellationProjector], 3: [PricedOrderProjector, LineProjector]}


class V4(Migrations):
    version = 4
    versions = {3: [PricedOrderProjector, LineProjector], 4: []}


class V1And2(Migrations):
    """What a process runs that goes on across the cut-overs between versions 1 and 2, in either direction."""

    version = 2
    versions = V2.versions
    also_serves = (V1,)


VERSIONS: Mapping[int, type[Migrations]] = {1: V1, 2: V2, 3: V3, 4: V4}

PRICED_ORDERS_SQL = """
CREATE TABLE order_records%SUFFIX% (
    id bigserial NOT NULL, aggregate_id uuid NOT NULL, customer text NOT NULL, total bigint NOT NULL, dearest bigint NOT NULL);
"""
PRICED_ORDERS_INDEXES_SQL = """
ALTER TABLE order_records%SUFFIX% ADD PRIMARY KEY (id);
CREATE INDEX ON order_records%SUFFIX% (dearest);
CREATE UNIQUE INDEX order_records_aggregate%SUFFIX% ON order_records%SUFFIX% (aggregate_id);
"""
CANCELLATIONS_SQL = """
CREATE TABLE cancellation_records%SUFFIX% (
    aggregate_id uuid CONSTRAINT cancellation_records_pkey%SUFFIX% PRIMARY KEY, cancelled_at timestamptz NOT NULL);
"""

Row = tuple[Any, ...]
Connection = psycopg.Connection[Any]
KINDS: Mapping[str, tuple[str, ...]] = {
    "order_records": ("aggregate_id", "customer", "total", "lines", "updated_at", "sequence_number"),
    "line_records": ("aggregate_id", "number", "product", "cents"),
    "priced": ("aggregate_id", "customer", "total", "dearest"),
    "cancellation_records": ("aggregate_id", "cancelled_at"),
}


def expected(connection: Connection, version: int) -> dict[str, list[Row]]:
    """Fold the log naively into the tables that a version manages."""
    plain = expected_rows(connection)
    if version == 1:
        return plain
    dearest: dict[UUID, int] = {}
    for aggregate_id, *_, cents in plain["line_records"]:
        dearest[aggregate_id] = max(dearest.get(aggregate_id, 0), cents)
    tables = {
        "order_records": [(key, *rest[:2], dearest.get(key, 0)) for key, *rest in plain["order_records"]]
    }
    if version in (2, 3):
        tables["cancellation_records"] = sorted(
            connection.execute(
                "SELECT e.aggregate_id, e.created_at FROM sequent_schema.events e"
                " JOIN sequent_schema.event_types t ON t.id = e.event_type_id WHERE t.name = 'OrderCancelled'"
            ).fetchall()
        )
    if version in (3, 4):
        tables["line_records"] = plain["line_records"]
    return tables


def actual(connection: Connection, version: int) -> dict[str, list[Row]]:
    """Read the tables that a version manages, serial ids aside."""
    found = {}
    for table in expected(connection, version):
        kind = "priced" if table == "order_records" and version > 1 else table
        columns = sql.SQL(", ").join(map(sql.Identifier, KINDS[kind]))
        query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier("view_schema", table))
        found[table] = sorted(connection.execute(query).fetchall())
    return found


@dataclass
class Deployments:
    """The applications of all versions on one database."""

    connection: Connection
    open_version: Callable[[int, bool], Sequent]
    _apps: dict[int, Sequent] = field(default_factory=dict)

    def __getitem__(self, version: int) -> Sequent:
        """Return the application of a version."""
        if version not in self._apps:
            self._apps[version] = self.open_version(version, True)
        return self._apps[version]

    def of_owner(self, version: int) -> Sequent:
        """Return the application of a version, by a login that may do what only the owner of the store may."""
        return self.open_version(version, False)

    def migrate(self, version: int) -> None:
        """Build and promote a version."""
        self[version].view_schema.online()
        self[version].view_schema.offline()

    def tables(self) -> set[str]:
        """Return the names of all tables in the view schema."""
        rows = self.connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'view_schema'")
        return {name for (name,) in rows}

    def check(self, version: int) -> None:
        """Assert that a version serves, that its tables equal the log, and that the records agree with the catalogs."""
        app = self[version]
        assert app.view_schema.current_version() == version
        assert actual(self.connection, version) == expected(self.connection, version)
        assert app.view_schema.check().problems == ()
        assert app.view_schema.plan().plan.is_noop
        rows = self.connection.execute(
            "SELECT physical_name, role, names FROM sequent_schema.view_tables"
        ).fetchall()
        assert {name for name, _, _ in rows} == self.tables()
        for physical_name, role, names in rows:
            assert names["physical_name"] == physical_name
            for item in names["names"]:
                if item["kind"] in ("table", "index", "key", "sequence"):
                    name = item["plain"] if role == "live" else item["name"]
                    found = self.connection.execute(
                        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                        " WHERE n.nspname = 'view_schema' AND c.relname = %s",
                        (name,),
                    ).fetchone()
                    assert found is not None, f"{physical_name} has no {item['kind']} {name}"


@cache
def deployed_at(version: int, orders: int = 0) -> Maker:
    """The making of a store with that many orders, on which the versions up to this one went live; for ``@pytest.mark.store(made_by=…)``."""

    def make(database_url: str) -> None:
        with TemporaryDirectory() as directory, deployments(database_url, Path(directory)) as deployed:
            place_orders(deployed[1], range(orders))
            for each in range(1, version + 1):
                deployed.migrate(each)

    return make


@contextmanager
def deployments(database_url: str, directory: Path, **settings: Any) -> Iterator[Deployments]:
    """Write the table files of every version, and open the applications when they are asked for."""
    old, new = directory / "old_sql", directory / "new_sql"
    for target in (old, new):
        target.mkdir()
        for file in SQL_DIRECTORY.iterdir():
            (target / file.name).write_text(file.read_text())
    (new / "order_records.sql").write_text(PRICED_ORDERS_SQL)
    (new / "order_records.indexes.sql").write_text(PRICED_ORDERS_INDEXES_SQL)
    (new / "cancellation_records.sql").write_text(CANCELLATIONS_SQL)
    with ExitStack() as stack:

        def open_version(version: int, as_login: bool) -> Sequent:
            sql_directory = old if version == 1 else new
            return stack.enter_context(
                shop(
                    database_url,
                    VERSIONS[version],
                    as_login=as_login,
                    sql_directory=sql_directory,
                    **settings,
                )
            )

        connection = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        yield Deployments(connection, open_version)

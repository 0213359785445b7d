"""Every kind of persistor on tables of its own, for suites that must hold for all of them.

The kinds differ in where rows are between two operations: in the table (live, and line, which asks for them by exchanges, and holding, which remembers the last one), in memory (replay), in a temporary table for want of memory
(spill), in the table and in memory both (catch_up), and all of that at once (catch_up_tiny); and, for checks, in plain
dictionaries (plain), of which the table takes what is too much (plain_tiny).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import Computed, Date, DateTime, Enum, Float, Integer, Numeric, SmallInteger, String
from sqlalchemy.dialects.postgresql import CHAR, JSON, JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.checks.plain import PlainPersistor
from sequent_py.events import Event
from sequent_py.exchange import Exchange, Statement
from sequent_py.persistors.holding import holdable_columns
from sequent_py.persistors.lines import Line
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.records import Record, record_shape

Tables = Mapping[type[Record], TableShape]
KINDS: dict[str, Callable[[psycopg.Connection[Any], Tables], Any]] = {
    "live": LivePersistor,
    "plain": PlainPersistor,
    "plain_tiny": lambda connection, tables: PlainPersistor(connection, tables, most_rows=2),
    "line": lambda connection, tables: along_a_line(connection, tables),
    "holding": lambda connection, tables: holding_updates(connection, tables),
    "replay": ReplayPersistor,
    "spill": lambda connection, tables: ReplayPersistor(connection, tables, max_rows_in_memory=3),
    "catch_up": lambda connection, tables: ReplayPersistor(connection, tables, backing="table"),
    "catch_up_tiny": lambda connection, tables: ReplayPersistor(
        connection, tables, backing="table", max_rows_in_memory=2
    ),
}


class Unprepared(Exchange):
    """Prepares nothing: other kinds use the connection too, and a rollback makes the driver deallocate everything. The store would try again."""

    def _ready(self, statement: Statement) -> tuple[bytes | None, int]:
        return None, 0


def along_a_line(connection: psycopg.Connection[Any], tables: Tables) -> LivePersistor:
    """A live persistor as on the store's own connections, in the connection's transaction."""
    connection.execute("SELECT")  # begins it
    return LivePersistor(connection, tables, Line(Unprepared(connection)))


class HoldingLine(Line):
    """As in the middle of a batch, but that the server answers each write at once, in a savepoint: after its refusal a script goes on."""

    def __init__(self, connection: psycopg.Connection[Any], tables: Tables) -> None:
        schema = next(iter(tables.values())).schema
        super().__init__(
            Unprepared(connection), holdable=holdable_columns(connection, schema, tuple(tables.values()))
        )
        self.more_come, self.at = True, (lambda _: None, Event())

    def write(self, *arguments: Any) -> None:
        with self.exchange.connection.transaction():
            super().write(*arguments)
            self._ask()


def holding_updates(connection: psycopg.Connection[Any], tables: Tables) -> LivePersistor:
    """A live persistor in the middle of a batch."""
    connection.execute("SELECT")  # begins it
    return LivePersistor(connection, tables, HoldingLine(connection, tables))


class Color(enum.Enum):
    """Stored by name, as SQLAlchemy does."""

    RED = "r"
    GREEN = "g"


class LedgerRecord(Record):
    """A bit of everything, found by aggregate, with a serial key."""

    __tablename__ = "ledger_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    owner: Mapped[str | None]
    balance: Mapped[int]
    amount: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    anything: Mapped[Decimal | None] = mapped_column(Numeric)
    flag: Mapped[bool]
    seen_at: Mapped[datetime | None]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    tags: Mapped[list[str]]
    renamed: Mapped[str | None] = mapped_column("odd %s \"name'")
    updated_at: Mapped[datetime | None]
    sequence_number: Mapped[int | None]

    kind = "ledger"

    def doubled(self) -> int:
        return self.balance * 2

    @property
    def is_rich(self) -> bool:
        return self.balance > 100


class PlaceRecord(Record):
    """A key of two columns that nothing generates, and no aggregate."""

    __tablename__ = "place records"

    town: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    note: Mapped[str] = mapped_column(String(5), default="none")
    color: Mapped[Color | None] = mapped_column(Enum(Color, name="color"))
    rank: Mapped[int | None] = mapped_column(SmallInteger)


class WideRecord(Record):
    """The remaining types; keyed by aggregate."""

    __tablename__ = "wide_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    code: Mapped[str | None] = mapped_column(CHAR(4))
    email: Mapped[str | None]
    exact: Mapped[float | None] = mapped_column(Float(53))
    rough: Mapped[float | None] = mapped_column(REAL)
    rounded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    local: Mapped[datetime | None] = mapped_column(DateTime)
    day: Mapped[date | None] = mapped_column(Date)
    at: Mapped[time | None]
    lasts: Mapped[timedelta | None]
    raw: Mapped[bytes | None]
    kept: Mapped[Any | None] = mapped_column(JSON)
    many: Mapped[list[int] | None]
    moods: Mapped[list[str] | None]
    doubled: Mapped[int | None] = mapped_column(Computed("many[1] * 2"))


RECORDS: tuple[type[Record], ...] = (LedgerRecord, PlaceRecord, WideRecord)

_TABLES = """
CREATE TYPE {schema}.color AS ENUM ('RED', 'GREEN');
CREATE TYPE {schema}.mood AS ENUM ('so', 'la', 'so la');
CREATE DOMAIN {schema}.short_name AS varchar(8);
CREATE TABLE {schema}.ledger_records (
    id bigserial PRIMARY KEY,
    aggregate_id uuid NOT NULL,
    owner {schema}.short_name,
    balance integer NOT NULL DEFAULT 7,
    amount numeric(10, 2),
    anything numeric,
    flag boolean NOT NULL DEFAULT true,
    seen_at timestamptz,
    data jsonb DEFAULT '{{"a": 1, "b": []}}',
    tags text[] NOT NULL DEFAULT '{{}}',
    "odd %s ""name'" text DEFAULT 'it''s',
    updated_at timestamptz,
    sequence_number bigint,
    unmapped timestamptz NOT NULL DEFAULT '2020-01-01Z'
);
CREATE TABLE {schema}."place records" (
    town text,
    number integer,
    note varchar(5) NOT NULL,
    color {schema}.color,
    rank smallint,
    PRIMARY KEY (town, number)
);
CREATE TABLE {schema}.wide_records (
    aggregate_id uuid PRIMARY KEY,
    code char(4),
    email text,
    exact double precision,
    rough real,
    rounded_at timestamptz(2),
    local timestamp,
    day date,
    at time,
    lasts interval,
    raw bytea,
    kept json,
    many bigint[],
    moods {schema}.mood[],
    doubled bigint GENERATED ALWAYS AS (many[1] * 2) STORED
);
"""


def create_tables(connection: psycopg.Connection[Any], schema: str) -> Tables:
    """Create a schema with every table and return their shapes."""
    name = sql.Identifier(schema)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    connection.execute(sql.SQL(_TABLES).format(schema=name))
    return {
        record: read_table_shape(connection, record_shape(record), schema, record.__tablename__)
        for record in RECORDS
    }


@dataclass
class Subject:
    """A persistor and where its rows end up."""

    kind: str
    persistor: Any
    tables: Tables
    connection: psycopg.Connection[Any]

    def flush(self) -> None:
        """Write what is in memory."""
        if self.kind == "holding":
            self.persistor._line.flush()
        elif self.kind not in ("live", "line"):
            self.persistor.flush()

    def between(self) -> None:
        """End a batch where that changes nothing for the next one."""
        if self.kind.startswith("catch_up"):
            self.persistor.flush()

    def stored(self, record: type[Record]) -> list[tuple[Any, ...]]:
        """Return the table's rows as text, so that nothing is hidden by equality."""
        table = self.tables[record]
        names = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(column.name))
            for column in (*table.record_shape.columns, *table.record_shape.readers_only)
        )
        key = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.record_shape.primary_key
        )
        relation = sql.Identifier(table.schema, table.name)
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(names, relation, key)
        return self.connection.execute(query).fetchall()


def values_of(row: Any) -> dict[str, Any]:
    """Return a row's values by attribute."""
    return {name: getattr(row, name) for name in type(row)._attributes}


def all_values(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the values of several rows."""
    return [values_of(row) for row in rows]

"""Rows that are read in bulk: by COPY and in C they are the very values that the driver gives, and where they would not be, the driver is asked."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.adapt import Loader
from psycopg.pq import Format
from sqlalchemy import CHAR, REAL, BigInteger, DateTime, Double, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Record
from sequent_py.database import connect
from sequent_py.native import IS_NATIVE
from sequent_py.persistors import relations
from sequent_py.persistors.relations import Relation
from sequent_py.persistors.tables import read_table_shape
from sequent_py.records import record_shape
from sequent_py.row_classes import Row

ROWS = 300


class KindRecord(Record):
    __tablename__ = 'kind % "records"'

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    small: Mapped[int | None] = mapped_column(SmallInteger)
    large: Mapped[int | None] = mapped_column(BigInteger)
    flag: Mapped[bool | None]
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    day: Mapped[date | None]
    name: Mapped[str | None]
    short: Mapped[str | None] = mapped_column(String(20))
    padded: Mapped[str | None] = mapped_column(CHAR(6))
    measure: Mapped[float | None] = mapped_column(Double)
    local: Mapped[datetime | None] = mapped_column(DateTime(timezone=False))
    hour: Mapped[time | None]
    lasts: Mapped[timedelta | None]
    seal: Mapped[bytes | None]
    level: Mapped[float | None] = mapped_column(REAL)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database_url, autocommit=True) as connection:
        connection.execute(
            'CREATE TABLE public."kind % ""records""" (id integer PRIMARY KEY, aggregate_id uuid NOT NULL, small smallint, large bigint, flag boolean,'
            " at timestamptz, day date, name text, short varchar(20), padded char(6), measure double precision,"
            " local timestamp, hour time, lasts interval, seal bytea, level real)"
        )
        yield connection


@pytest.fixture
def relation(connection: psycopg.Connection[Any]) -> Relation:
    table = read_table_shape(connection, record_shape(KindRecord), "public", KindRecord.__tablename__)
    return Relation(connection, table, ("public", KindRecord.__tablename__))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[list[Row]]:
    """What was read by COPY."""
    found: list[list[Row]] = []
    load = relations.load_rows

    def noted(*arguments: Any) -> list[Row]:
        found.append(load(*arguments))
        return found[-1]

    monkeypatch.setattr(relations, "load_rows", noted)
    return found


def insert(connection: psycopg.Connection[Any], **values: str | None) -> None:
    """Add a row of values as the server writes them."""
    given = {"aggregate_id": str(UUID(int=random.getrandbits(128))), **values}
    connection.execute(
        'INSERT INTO public."kind %% ""records""" SELECT (SELECT coalesce(max(id), 0) + 1 FROM public."kind %% ""records"""), r.aggregate_id, r.small, r.large, r.flag,'
        " r.at, r.day, r.name, r.short, r.padded, r.measure, r.local, r.hour, r.lasts, r.seal, r.level"
        ' FROM jsonb_populate_record(NULL::public."kind %% ""records""", %s) AS r',
        (psycopg.types.json.Jsonb(given),),
    )


def read(relation: Relation) -> list[Row]:
    """Read all rows by their ids; in a transaction by COPY."""
    return relation.select_keys(relation.shape.key_columns, [(number,) for number in range(ROWS)], "", 1)


def values(relation: Relation, rows: list[Row]) -> list[tuple[Any, ...]]:
    by_id = sorted(rows, key=lambda row: row.id)
    # By their words as well: a zero is equal to a negative one.
    return [
        tuple((type(value), value, repr(value)) for value in relation.shape.values_of(row)) for row in by_id
    ]


def texts(of: str) -> list[str | None]:
    return {
        "small": [None, "0", "-1", "32767", "-32768"],
        "large": [None, "0", "-1", "9223372036854775807", "-9223372036854775808"],
        "flag": [None, "true", "false"],
        "at": [None, "2000-01-01 00:00:00+00", "1999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00", "2024-02-29 12:00:00.5+02",
               "1900-03-01 00:00:00+00", "2100-02-28 23:00:00-03"],
        "day": [None, "2000-01-01", "0001-01-01", "9999-12-31", "2024-02-29", "1600-02-29", "1900-02-28"],
        "name": [None, "", "plain", "Ö € 𝄞", "a,b\"c\\d\n%s"],
        "short": [None, "", "ü"],
        "padded": [None, "", "ab", "äöü"],
        "measure": [None, "0", "-0", "1e-320", "1.7976931348623157e308", "0.1", "Infinity", "-Infinity"],
        "local": [None, "2000-01-01 00:00:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2024-02-29 12:00:00.5"],
        "hour": [None, "00:00:00", "23:59:59.999999", "12:30:00"],
        "lasts": [None, "0", "-1 day +00:00:01", "2 years 3 months -4 days 05:06:07.000008", "-00:00:00.000001"],
        "seal": [None, "\\x", "\\x00ff", "\\x5c78"],
        "level": [None, "0", "-0", "0.1", "3.4028235e38", "1e-45", "NaN", "Infinity"],
    }[of]  # fmt: skip


COLUMNS = (
    *("small", "large", "flag", "at", "day", "name", "short", "padded", "measure"),
    *("local", "hour", "lasts", "seal", "level"),
)


def test_rows_are_those_that_the_driver_makes(
    connection: psycopg.Connection[Any], relation: Relation, copies: list[list[Row]]
) -> None:
    chance = random.Random(7)
    for column in COLUMNS:
        for text in texts(column):
            insert(connection, **{column: text})
    for _ in range(100):
        insert(connection, **{column: chance.choice(texts(column)) for column in COLUMNS})
    by_driver = read(relation)
    assert not copies, "outside a transaction"
    with connection.transaction():
        loaded = read(relation)
    assert len(copies) == IS_NATIVE
    assert values(relation, loaded) == values(relation, by_driver)
    assert {type(row) for row in loaded} == {relation.shape.locked_row_class}
    assert len(loaded) > 100


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("at", "infinity"),
        ("at", "-infinity"),
        ("at", "0044-03-15 00:00:00+00 BC"),
        ("day", "infinity"),
        ("day", "10000-01-01"),
        ("measure", "NaN"),
        ("local", "infinity"),
        ("local", "0044-03-15 00:00:00 BC"),
        ("hour", "24:00:00"),
        ("lasts", "170000000 years"),
    ],
)
def test_what_the_driver_makes_otherwise_or_refuses_is_left_to_it(
    connection: psycopg.Connection[Any], relation: Relation, copies: list[list[Row]], column: str, text: str
) -> None:
    insert(connection, name="before")
    insert(connection, **{column: text})
    insert(connection, name="behind")
    outcomes: list[Any] = []
    for is_begun in (False, True):
        with connection.transaction() if is_begun else nullcontext():
            try:
                rows = read(relation)
            except psycopg.DataError as error:
                outcomes.append(str(error))
            else:
                assert math.isnan(next(row.measure for row in rows if row.measure is not None))
                outcomes.append(len(rows))
            # The transaction goes on.
            connection.execute("SELECT")
    assert outcomes[0] == outcomes[1]
    assert copies == []


class Strange(Loader):
    """An application's own idea of a timestamp."""

    format = Format.BINARY

    def load(self, data: Any) -> str:
        return "strange"


def test_what_was_registered_for_the_whole_process_changes_nothing(
    connection: psycopg.Connection[Any], copies: list[list[Row]]
) -> None:
    usual = psycopg.adapters.get_loader(psycopg.adapters.types["timestamp"].oid, Format.BINARY)
    assert usual is not None
    psycopg.adapters.register_loader("timestamp", Strange)
    try:
        table = read_table_shape(connection, record_shape(KindRecord), "public", KindRecord.__tablename__)
        insert(connection, local="2024-02-29 12:00:00.5")
        with connection.transaction():
            (row,) = read(Relation(connection, table, ("public", KindRecord.__tablename__)))
    finally:
        psycopg.adapters.register_loader("timestamp", usual)
    assert len(copies) == IS_NATIVE
    assert row.local == datetime(2024, 2, 29, 12, 0, 0, 500_000)


def test_an_error_of_the_server_is_the_drivers(
    connection: psycopg.Connection[Any], relation: Relation
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute('DROP TABLE public."kind % ""records"""')
        with pytest.raises(psycopg.errors.UndefinedTable):
            read(relation)
    with connection.transaction():
        assert read(relation) == []

"""What is read from the catalogue, how tables and records may differ, and how defaults are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Computed, Integer
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.errors import TableFileError
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import (
    DefaultSource,
    column_mismatches,
    evaluate,
    read_table_shape,
    reflect_columns,
)
from sequent_py.records import Record, record_shape


class ItemRecord(Record):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    name: Mapped[str]
    price: Mapped[int | None] = mapped_column(Integer)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url) as connection:
        connection.execute("SET search_path = elsewhere, pg_catalog")
        connection.execute('CREATE SCHEMA "a.b"')
        yield connection


def create(connection: psycopg.Connection[Any], columns: str) -> None:
    connection.execute(sql.SQL('CREATE TABLE "a.b".items ({})').format(sql.SQL(columns)))


FITTING = "id bigserial PRIMARY KEY, aggregate_id uuid NOT NULL, name varchar(5) NOT NULL, price smallint"


def test_a_fitting_table_has_no_mismatches_and_decides_types(connection: psycopg.Connection[Any]) -> None:
    create(
        connection,
        f"{FITTING}, more text, filled text NOT NULL DEFAULT 'x', made int GENERATED ALWAYS AS (1) STORED",
    )
    table = read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")

    assert [str(column.type) for column in table.record_shape.columns] == [
        "int8",
        "uuid",
        "varchar(5)",
        "int2",
    ]
    assert table.record_shape.row_class is record_shape(ItemRecord).row_class
    assert dict(table.drawn_defaults) == {"id": "nextval('\"a.b\".items_id_seq'::regclass)"}
    assert connection.execute("SHOW search_path").fetchone() == ("elsewhere, pg_catalog",)
    assert table.key_constraints == {"items_pkey"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("id bigint PRIMARY KEY, aggregate_id uuid, name text", "the table has no column price, which ItemRecord.price"),
        ("id text PRIMARY KEY, aggregate_id uuid, name text, price int", "column id is text, ItemRecord.id is int8"),
        ("id bigint PRIMARY KEY, aggregate_id uuid, name text, price text[]", "price is text[], ItemRecord.price is int4"),
        ("id bigint PRIMARY KEY, aggregate_id uuid, name inet, price int", "name is inet, which records cannot have"),
        ("id bigint, aggregate_id uuid PRIMARY KEY, name text, price int", "primary key is (aggregate_id), ItemRecord's is (id)"),
        (f"{FITTING}, more text NOT NULL", "column more is NOT NULL without a default, and ItemRecord does not have it"),
        ("id bigint PRIMARY KEY, aggregate_id uuid, name text, price int GENERATED ALWAYS AS (1) STORED", "price is generated; declare"),
    ],
)  # fmt: skip
def test_every_mismatch_is_named(connection: psycopg.Connection[Any], columns: str, says: str) -> None:
    create(connection, columns)

    (problem,) = column_mismatches(record_shape(ItemRecord), reflect_columns(connection, "a.b", "items"))
    assert says in problem
    with pytest.raises(TableFileError, match=r"a\.b\.items does not fit ItemRecord"):
        read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")


def test_a_computed_column_must_be_generated(connection: psycopg.Connection[Any]) -> None:
    class ComputedRecord(Record):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        price: Mapped[int] = mapped_column(Computed("1"))

    create(connection, "id bigint PRIMARY KEY, price int")
    (problem,) = column_mismatches(record_shape(ComputedRecord), reflect_columns(connection, "a.b", "items"))
    assert (
        problem == "ComputedRecord.price is declared as computed, the table's column price is not generated"
    )


def test_a_table_that_is_still_without_its_key_fits(connection: psycopg.Connection[Any]) -> None:
    create(connection, FITTING.replace("PRIMARY KEY", ""))

    assert (
        read_table_shape(connection, record_shape(ItemRecord), "a.b", "items").key_constraints == frozenset()
    )


def test_a_missing_table_is_named(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(TableFileError, match=r"There is no table a\.b\.items"):
        read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")


@pytest.mark.parametrize(
    ("default", "value"),
    [
        ("'it''s'", "it's"),
        ("'x::y'::varchar(3)", "x::"),
        ("''", ""),
        ("NULL", None),
    ],
)
def test_literal_defaults_are_evaluated_once(
    connection: psycopg.Connection[Any], default: str, value: Any
) -> None:
    create(connection, FITTING.replace("varchar(5) NOT NULL", f"text DEFAULT {default}"))
    table = read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")

    assert (table.constant_defaults.get("name"), "name" in table.drawn_defaults) == (value, False)


def test_numbers_and_domains_have_defaults_too(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE DOMAIN \"a.b\".word AS varchar(7) NOT NULL DEFAULT 'word'")
    create(
        connection, FITTING.replace("varchar(5) NOT NULL", '"a.b".word').replace("smallint", "int DEFAULT -7")
    )
    table = read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")

    assert dict(table.constant_defaults) == {"name": "word", "price": -7}
    name = table.record_shape.by_attribute["name"]
    assert (str(name.type), name.nullable) == ("varchar(7)", False)


@pytest.mark.parametrize(
    "default", ["lower('AB')", "('2'::text || '100%')", "current_user", "left(now()::text, 2)"]
)
def test_other_defaults_are_drawn(connection: psycopg.Connection[Any], default: str) -> None:
    create(connection, FITTING.replace("varchar(5) NOT NULL", f"text DEFAULT {default}"))
    table = read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")
    source = DefaultSource(connection, table, block_size=2)

    assert "name" in table.drawn_defaults
    assert [source.draw("name") for _ in range(3)] == 3 * evaluate(connection, table, "name", default, 1)


class TokenRecord(Record):
    __tablename__ = "items"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int]
    made_at: Mapped[datetime]
    wave: Mapped[int]


@pytest.mark.parametrize("kind", ["live", "replay"])
@pytest.mark.parametrize("generated", ["ALWAYS", "BY DEFAULT"])
def test_identities_uuids_and_clocks_are_visible_at_once(
    connection: psycopg.Connection[Any], kind: str, generated: str
) -> None:
    create(
        connection,
        "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), made_at timestamptz NOT NULL DEFAULT now(), wave int DEFAULT 5,"
        f" number bigint GENERATED {generated} AS IDENTITY (START 10 INCREMENT 5)",
    )
    table = read_table_shape(connection, record_shape(TokenRecord), "a.b", "items")
    build: Any = {"live": LivePersistor, "replay": ReplayPersistor}[kind]
    persistor = build(connection, {TokenRecord: table})
    rows = [persistor.create_record(TokenRecord, {}) for _ in range(2)]
    rows.append(persistor.create_record(TokenRecord, {"number": 99}))
    with persistor.update_record(TokenRecord, {"number": 99}, {}) as changed:
        changed.wave = 6
    if kind == "replay":
        persistor.flush()

    assert [row.number for row in rows] == [10, 15, 99]
    assert len({row.id for row in rows}) == 3
    assert {type(row.id) for row in rows} == {UUID}
    assert rows[0].made_at.tzinfo is UTC
    stored = connection.execute(
        'SELECT id, number, made_at, wave FROM "a.b".items ORDER BY number'
    ).fetchall()
    assert stored == [
        (row.id, row.number, row.made_at, wave) for row, wave in zip(rows, (5, 5, 6), strict=True)
    ]


def test_a_draw_after_a_failure_draws_again(connection: psycopg.Connection[Any]) -> None:
    create(connection, FITTING)
    table = read_table_shape(connection, record_shape(ItemRecord), "a.b", "items")
    source = DefaultSource(connection, table, block_size=1)
    connection.commit()
    connection.execute('ALTER SEQUENCE "a.b".items_id_seq RENAME TO gone')
    with pytest.raises(psycopg.errors.UndefinedTable):
        source.draw("id")
    connection.rollback()
    assert source.draw("id") == 1

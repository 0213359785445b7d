"""What indexes say of look-ups: which columns' values are of one row at most, and by which rows can be found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Record
from sequent_py.database import connect
from sequent_py.persistors.relations import Relation
from sequent_py.persistors.tables import read_table_shape
from sequent_py.records import record_shape


class SeatRecord(Record):
    __tablename__ = "seat %s records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    town: Mapped[str]
    number: Mapped[int | None]


AGGREGATES = [UUID(int=number) for number in range(50)]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database_url, autocommit=True) as connection:
        connection.execute(
            'CREATE TABLE public."seat %s records" (id integer PRIMARY KEY, aggregate_id uuid NOT NULL, town text NOT NULL, number integer)'
        )
        yield connection


@pytest.fixture
def relation(connection: psycopg.Connection[Any]) -> Relation:
    table = read_table_shape(connection, record_shape(SeatRecord), "public", SeatRecord.__tablename__)
    return Relation(connection, table, ("public", SeatRecord.__tablename__))


UNIQUE = 'CREATE UNIQUE INDEX ON public."seat %s records" '
PLAIN = 'CREATE INDEX ON public."seat %s records" '


@pytest.mark.parametrize(
    ("index", "columns", "expected"),
    [
        (None, ("town",), (False, False)),
        (None, ("id",), (True, True)),
        (None, ("town", "id"), (True, True)),
        (UNIQUE + "(town)", ("town",), (True, True)),
        (UNIQUE + "(town)", ("town", "number"), (True, True)),
        (PLAIN + "(town)", ("town",), (True, False)),
        (UNIQUE + "(town, number)", ("town",), (True, False)),
        (UNIQUE + "(town, number)", ("number",), (False, False)),
        (UNIQUE + "(town, number)", ("number", "town"), (True, True)),
        (UNIQUE + "(town) INCLUDE (number)", ("town",), (True, True)),
        (UNIQUE + "(town) WHERE number > 0", ("town",), (False, False)),
        (UNIQUE + "(lower(town))", ("town",), (False, False)),
        (UNIQUE + "(town, (number % 2))", ("town", "number"), (True, False)),
    ],
    ids=str,
)
def test_an_index_tells_how_rows_are_found(
    connection: psycopg.Connection[Any],
    relation: Relation,
    index: Any,
    columns: tuple[str, ...],
    expected: tuple[bool, bool],
) -> None:
    if index is not None:
        connection.execute(index)
    found = [relation.shape.by_attribute[name] for name in columns]
    assert relation._index_on(found) == expected
    assert relation.is_unique(found) is expected[1]


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize("is_copied", [True, False], ids=["COPY", "driver"])
def test_every_row_that_has_one_of_many_values_is_read_once(
    connection: psycopg.Connection[Any], relation: Relation, is_indexed: bool, is_copied: bool
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO public."seat %%s records" VALUES (%s, %s, %s, %s)',
            [
                (number, AGGREGATES[number % 40], f"town '{number % 7}'", number % 3 or None)
                for number in range(120)
            ],
        )
    if is_indexed:
        connection.execute(PLAIN + "(aggregate_id)")
        connection.execute(PLAIN + "(town)")
    aggregate_id, town = (relation.shape.by_attribute[name] for name in ("aggregate_id", "town"))
    with connection.transaction() if is_copied else nullcontext():
        by_aggregate = relation.select_keys([aggregate_id], [(each,) for each in AGGREGATES[20:]], "", 1)
        by_town = relation.select_keys([town], [("town '3'",), ("town '5'",), ("nowhere",)], "", 1)
    assert sorted(row.id for row in by_aggregate) == [
        number for number in range(120) if 20 <= number % 40 < 40
    ]
    assert sorted(row.id for row in by_town) == [number for number in range(120) if number % 7 in (3, 5)]

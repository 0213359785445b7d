"""What events will look up is told for many events as for each of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Record
from sequent_py.persistors.ahead import Path, Source
from sequent_py.records import record_shape


class ShelfRecord(Record):
    __tablename__ = "shelf_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    number: Mapped[int] = mapped_column(SmallInteger)
    label: Mapped[str]


COLUMNS = record_shape(ShelfRecord).by_attribute
A, B = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("column", "source", "asked", "expected"),
    [
        ("aggregate_id", Source("asked"), [A, B], [(A,), (B,)]),
        ("aggregate_id", Source("asked"), [A, None, B], [(A,), (B,)]),
        ("aggregate_id", Source("asked"), [str(A), B], [(A,), (B,)]),
        ("aggregate_id", Source("asked"), ["none", 7], []),
        ("number", Source("asked"), [1, 2], [(1,), (2,)]),
        ("number", Source("asked", -1), [1, 2], [(0,), (1,)]),
        ("number", Source("asked", 1), [32_766, 32_767], [(32_767,)]),
        ("number", Source("asked", -1), [-32_768, 0], [(-1,)]),
        ("number", Source("asked"), [1, True], [(1,)]),
        ("number", Source("asked", 1), [1, True, "2", None], [(2,)]),
        ("label", Source("asked"), ["a", 1, A], [("a",), ("1",), (str(A),)]),
        ("label", Source(None, constant="b"), [1, 2], [("b",), ("b",)]),
    ],
)
def test_what_many_events_look_up_is_what_each_of_them_does(
    column: str, source: Source, asked: list[Any], expected: list[Any]
) -> None:
    path = Path((COLUMNS[column],), [[source]])
    events = [SimpleNamespace(asked=each) for each in asked]
    assert path.guesses(events) == expected
    assert [values for event in events if (values := path.guess(event)) is not None] == expected


def test_values_of_several_columns_stay_with_their_event() -> None:
    path = Path((COLUMNS["aggregate_id"], COLUMNS["number"]), [[Source("where")], [Source("number", -1)]])
    events = [SimpleNamespace(where=where, number=number) for where, number in [(A, 3), (None, 4), (B, 5)]]
    assert path.guesses(events) == [(A, 2), (B, 4)]

"""What is done in C is what the generated Python does: rows, keys, conversions, refusals, and the bytes of COPY."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import BigInteger, Date, Integer, Numeric, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.native import IS_NATIVE
from sequent_py.persistors.indexes import CONVERT, Bucket, Index, Lookup
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.operations import RowOperations, Storing
from sequent_py.persistors.tables import TableShape
from sequent_py.records import Record, record_shape

pytestmark = pytest.mark.skipif(
    not IS_NATIVE, reason="built without the C module, or SEQUENT_PURE_PYTHON is set"
)


class TicketRecord(Record):
    """A column of every type that C knows, and two that it does not."""

    __tablename__ = "ticket_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    large: Mapped[int] = mapped_column(BigInteger)
    flag: Mapped[bool]
    holder: Mapped[str | None]
    code: Mapped[str] = mapped_column(String(3))
    weight: Mapped[float]
    price: Mapped[Any] = mapped_column(Numeric(6, 2))
    day: Mapped[date | None] = mapped_column(Date)
    seen_at: Mapped[datetime | None]
    made_by: Mapped[str] = mapped_column(default=lambda: "default")
    serial: Mapped[int]
    state: Mapped[str]


ATTRIBUTES = [column.attribute for column in record_shape(TicketRecord).columns]


def ticket_table() -> TableShape:
    """The table of tickets as the database would describe it: ``serial`` is drawn, ``state`` has a constant default."""
    return TableShape(
        record_shape=record_shape(TicketRecord),
        schema="view_schema",
        name="ticket_records",
        constant_defaults=MappingProxyType({"state": "new"}),
        drawn_defaults=MappingProxyType({"serial": "nextval('s')"}),
        type_texts=MappingProxyType({}),
        always_identities=frozenset(),
        key_constraints=frozenset(),
    )


def in_python() -> RowOperations:
    """The operations with nothing in C."""
    table = ticket_table()
    operations = RowOperations(table)
    operations.native, operations.clone = None, table.record_shape.clone
    operations.finish = operations.compile_finish(operations.key_attributes)
    return operations


def in_c() -> RowOperations:
    operations = RowOperations(ticket_table())
    assert operations.native is not None
    return operations


class Numbered(int):
    """An int that is not exactly one."""


instants = st.datetimes(
    min_value=datetime(1, 1, 3),
    max_value=datetime(9999, 12, 28),
    timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30))]),
)
NASTY_TEXTS = ["", "a\0b", "\ud800", "é", "日本", "abcd", "new"]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**15, -(2**15), -(2**15) - 1, 2**31, -(2**31), 2**63, -(2**63), -(2**63) - 1, 2**70]),
    st.builds(Numbered, st.integers(-5, 5)),
    st.sampled_from(NASTY_TEXTS),
    st.text(max_size=5),
    st.floats(),
    st.dates(),
    instants,
    st.uuids(),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-1000, max_value=1000),
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "aggregate_id": st.sampled_from([UUID(int=1), UUID(int=2**128 - 1)]),
    "number": st.integers(1, 3),
    "small": st.none() | st.integers(-(2**15), 2**15 - 1),
    "large": st.integers(-(2**63), 2**63 - 1),
    "flag": st.booleans(),
    "holder": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    "code": st.text("abcé", max_size=3),
    "weight": st.floats(),
    "price": st.decimals(min_value=-9999, max_value=9999, places=2),
    "day": st.none() | st.dates(),
    "seen_at": st.none() | instants.filter(lambda value: value.tzinfo is not None),
    "made_by": st.text("xyz"),
    "serial": st.integers(1, 100),
    "state": st.just("old"),
}
REQUIRED = ["aggregate_id", "number", "large", "flag", "code", "weight", "price"]
good_rows = st.fixed_dictionaries(
    {name: GOOD[name] for name in REQUIRED},
    optional={name: values for name, values in GOOD.items() if name not in REQUIRED},
)
rows_of_anything = st.one_of(
    good_rows,
    st.builds(
        lambda row, name, value: {**row, name: value}, good_rows, st.sampled_from(ATTRIBUTES), ANYTHING
    ),
    st.builds(
        lambda row, name: {k: v for k, v in row.items() if k != name}, good_rows, st.sampled_from(REQUIRED)
    ),
)


def outcome(function: Callable[[], Any]) -> Any:
    """What it returns, or what it raises and says."""
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


def shown(operations: RowOperations, row: Any) -> Any:
    """Values and their types: 1 and True are different; -0.0 and nan are themselves."""
    if isinstance(row, tuple):
        return row
    return [(type(value), repr(value)) for value in operations.shape.values_of(row)], type(row)


class Draws:
    """Numbers for ``serial``, counted."""

    def __init__(self) -> None:
        self.drawn = 0

    def drawer(self, attribute: str) -> Callable[[], int]:
        assert attribute == "serial"
        return self._draw

    def _draw(self) -> int:
        self.drawn += 1
        return self.drawn


@given(st.lists(rows_of_anything, max_size=6), st.sampled_from([None, 0, 1]))
def test_rows_are_made_stored_and_refused_alike(rows: list[dict[str, Any]], gone: int | None) -> None:
    results = []
    for operations in (in_python(), in_c()):
        stored: dict[Any, Any] = {}
        changes = None
        if gone is not None:
            # A relation is behind the rows, from which some were deleted.
            changes = ({}, {(UUID(int=1).int, number): {} for number in range(1, 1 + gone)})
        index = Index(("large", "holder"), operations.compile_key(("large", "holder")))
        draws, seen = Draws(), []
        for values in rows:
            indexes = [(index.attributes, index.entries, index.collide)]
            storing = Storing(stored, indexes, changes)
            creator = operations.compile_create(tuple(values), draws.drawer, storing)
            seen.append(shown(operations, outcome(lambda made=creator, given=values: made(given))))  # type: ignore[misc]
        entries = [(repr(k), list(v.keys) if isinstance(v, Bucket) else v) for k, v in index.entries.items()]
        results.append((seen, [repr(key) for key in stored], repr(entries), draws.drawn, repr(changes)))
    assert results[0] == results[1]


@given(good_rows, st.dictionaries(st.sampled_from(ATTRIBUTES), ANYTHING, max_size=4))
def test_what_a_block_has_set_is_converted_and_refused_alike(
    values: dict[str, Any], changes: dict[str, Any]
) -> None:
    results = []
    for operations in (in_python(), in_c()):
        before = operations.compile_create(tuple(values), Draws().drawer)(values)
        after = operations.clone(before)
        assert type(after) is operations.shape.row_class
        for name, value in changes.items():
            setattr(after, name, value)
        results.append(
            (outcome(lambda a=after, b=before, o=operations: o.finish(a, b)), shown(operations, after))
        )  # type: ignore[misc]
    assert results[0] == results[1]


@given(
    good_rows,
    st.lists(st.sampled_from(["aggregate_id", "number", "holder", "weight"]), unique=True, max_size=4),
    st.data(),
)
def test_look_ups_find_the_same(values: dict[str, Any], names: list[str], data: st.DataObject) -> None:
    where = {name: data.draw(st.just(values.get(name)) | GOOD[name] | ANYTHING, name) for name in names}
    found = []
    for operations in (in_python(), in_c()):
        row = operations.compile_create(tuple(values), Draws().drawer)(values)
        key = operations.key_of(row)
        rows = {key: row}
        index = None
        if sorted(names) != sorted(operations.key_attributes):
            index = Index(tuple(sorted(names)), operations.compile_key(tuple(sorted(names))))
            index.add(row, key)
        found.append(Lookup(operations, tuple(names), index, rows).probe(where))
    # C knows one type more, floats; what has to be converted is asked for in the general way.
    if found[0] is CONVERT:
        assert found[1] is CONVERT or "weight" in where
    else:
        assert found[0] == found[1]


class PlainRecord(Record):
    """The types whose binary form C writes."""

    __tablename__ = "plain_records"

    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    large: Mapped[int] = mapped_column(BigInteger)
    flag: Mapped[bool]
    holder: Mapped[str | None]
    code: Mapped[str] = mapped_column(String(3))
    weight: Mapped[float]
    day: Mapped[date | None] = mapped_column(Date)
    seen_at: Mapped[datetime | None]


PLAIN = {
    "aggregate_id": "uuid", "number": "int4", "small": "int2", "large": "int8", "flag": "bool", "holder": "text", "code": "text",
    "weight": "float8", "day": "date", "seen_at": "timestamptz",
}  # fmt: skip


@given(st.lists(st.fixed_dictionaries({name: GOOD[name] for name in PLAIN}), max_size=5))
def test_rows_are_copied_as_the_driver_writes_them(rows: list[dict[str, Any]]) -> None:
    table = TableShape(
        record_shape(PlainRecord), "view_schema", "plain_records", {}, {}, {}, frozenset(), frozenset()
    )
    operations = RowOperations(table)
    assert operations.native is not None
    assert operations.native.can_dump
    made = [operations.compile_create(tuple(row), Draws().drawer)(row) for row in rows]
    expected = b"".join(packed(list(operations.shape.values_of(row))) for row in made)
    assert operations.native.layout.dump(made) == expected


def packed(row: list[Any]) -> bytes:
    """A row of binary COPY as the driver writes it."""
    transformer = Transformer()
    registry = psycopg.adapters.types
    transformer.set_dumper_types([registry[name].oid for name in PLAIN.values()], psycopg.pq.Format.BINARY)
    fields = transformer.dump_sequence(row, [PyFormat.BINARY] * len(row))
    parts = [
        b"\xff\xff\xff\xff" if item is None else len(item).to_bytes(4, "big") + bytes(item) for item in fields
    ]
    return len(row).to_bytes(2, "big") + b"".join(parts)


def test_tables_with_values_that_can_change_in_place_are_left_to_python() -> None:
    class ListRecord(Record):
        __tablename__ = "list_records"
        id: Mapped[int] = mapped_column(primary_key=True)
        tags: Mapped[list[str]]

    table = TableShape(record_shape(ListRecord), "v", "list_records", {}, {}, {}, frozenset(), frozenset())
    assert RowOperations(table).native is None


@pytest.fixture
def memory() -> MemoryTable:
    return MemoryTable(ticket_table(), _Defaults())  # type: ignore[arg-type]


class _Defaults(Draws):
    def draw(self, attribute: str) -> int:
        return self._draw()


VALUES: dict[str, Any] = {
    "aggregate_id": UUID(int=1), "number": 1, "large": 5, "flag": True, "code": "a", "weight": 1.0, "price": 1
}  # fmt: skip


def test_a_block_that_raises_changes_nothing_and_leaves_its_copy_read_only(memory: MemoryTable) -> None:
    stored = memory.create(VALUES)
    block = memory.update({"aggregate_id": UUID(int=1)}, {})
    row = block.__enter__()
    row.large = 6
    assert not block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert memory.rows[memory.first({"aggregate_id": UUID(int=1)})] is stored
    assert type(row) is memory.locked_row_class


def test_a_value_that_a_block_deletes_is_an_error_and_changes_nothing(memory: MemoryTable) -> None:
    stored = memory.create(VALUES)
    with pytest.raises(AttributeError), memory.update({"aggregate_id": UUID(int=1)}, {}) as row:
        del row.large
    assert memory.rows[memory.operations.key_of(stored)] is stored


def test_blocks_within_blocks_merge_what_each_has_changed(memory: MemoryTable) -> None:
    memory.create(VALUES)
    where = {"aggregate_id": UUID(int=1)}
    with memory.update(where, {"seen_at": datetime(2026, 1, 1, tzinfo=UTC)}) as outer:
        with memory.update(where, {}) as inner:
            inner.holder = "inner"
        outer.large = 7
    row = memory.rows[memory.first(where)]
    assert (row.holder, row.large, row.seen_at) == ("inner", 7, datetime(2026, 1, 1, tzinfo=UTC))


def test_references_are_given_back(memory: MemoryTable) -> None:
    memory.create(VALUES)
    where = {"aggregate_id": UUID(int=1)}
    value = "a text of its own " + str(len(VALUES))
    before = sys.getrefcount(value)
    for _ in range(50):
        with memory.update(where, {}) as row:
            row.holder = value
    with memory.update(where, {}) as row:
        row.holder = None
    del row
    gc.collect()
    assert sys.getrefcount(value) == before

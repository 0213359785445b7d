"""What is done in C is what the generated Python does: rows, keys, conversions, refusals, and the bytes of COPY."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Json, Jsonb
from pydantic_core import TzInfo
from sqlalchemy import (
    ARRAY,
    CHAR,
    JSON,
    REAL,
    BigInteger,
    Date,
    DateTime,
    Integer,
    Numeric,
    SmallInteger,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.native import IS_NATIVE
from sequent_py.persistors.generators import Storing
from sequent_py.persistors.indexes import CONVERT, Bucket, Index, Lookup
from sequent_py.persistors.memory import MemoryTable
from sequent_py.persistors.operations import RowOperations
from sequent_py.persistors.tables import TableShape
from sequent_py.records import Record, record_shape

pytestmark = pytest.mark.skipif(
    not IS_NATIVE, reason="built without the C module, or SEQUENT_PURE_PYTHON is set"
)


class State(StrEnum):
    """Texts that are not exactly ones."""

    NEW = "new"
    LONG = "längst"


class TicketRecord(Record):
    """A column of every type that C knows, and of those that it leaves to the driver."""

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
    padded: Mapped[str | None] = mapped_column(CHAR(4))
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    extra: Mapped[dict[str, Any] | None]
    spelt: Mapped[Any | None] = mapped_column(JSON)
    tags: Mapped[list[str] | None]
    codes: Mapped[list[str] | None] = mapped_column(ARRAY(String(3)))
    prices: Mapped[list[Decimal] | None] = mapped_column(ARRAY(Numeric(6, 2)))
    seats: Mapped[list[int] | None]
    phase: Mapped[State | None]
    local: Mapped[datetime | None] = mapped_column(DateTime(timezone=False))
    hour: Mapped[time | None]
    lasts: Mapped[timedelta | None]
    seal: Mapped[bytes | None]
    level: Mapped[float | None] = mapped_column(REAL)


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
).map(lambda value: value.replace(fold=0))
from_payloads = st.datetimes(timezones=st.sampled_from([TzInfo(0), TzInfo(3600)]))
"""As pydantic reads them from JSON: in zones of its own."""
NASTY_TEXTS = ["", "a\0b", "\ud800", "é", "日本", "abcd", "new"]
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
decimals = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-20_000, max_value=20_000),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.sampled_from(
        [
            Decimal(text)
            for text in (
                "0",
                "-0",
                "-0.00",
                "0.5",
                "1E+3",
                "1E-7",
                "0E-20",
                "1E+999999",
                "9999.99",
                "9999.995",
                "-10000",
                "sNaN",
            )
        ]
    ),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: number.scaleb(-400)),
)
values_of_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(NASTY_TEXTS), texts,
        st.sampled_from([1e16, -0.0, 1e15, -1e16, Decimal(1), Numbered(3)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(st.sampled_from([*NASTY_TEXTS, "bb", "a", "zz", "ccc"]) | texts, inner, max_size=4),
        st.dictionaries(st.integers(), inner, max_size=1),
    ),
    max_leaves=6,
)  # fmt: skip
good_json = st.dictionaries(
    st.sampled_from(["b", "a", "ccc", "aa", "é"]),
    st.recursive(st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(-1e20, 1e20) | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2), max_leaves=5),
    max_size=4,
)  # fmt: skip
ANYTHING = st.one_of(
    values_of_json,
    from_payloads,
    decimals,
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**15, -(2**15), -(2**15) - 1, 2**31, -(2**31), 2**63, -(2**63), -(2**63) - 1, 2**70]),
    st.builds(Numbered, st.integers(-5, 5)),
    st.sampled_from(NASTY_TEXTS),
    st.sampled_from(State),
    st.text(max_size=5),
    st.floats(),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.binary(max_size=5),
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
    "holder": st.none() | texts,
    "code": st.text("abcé", max_size=3),
    "weight": st.floats(),
    "price": st.decimals(min_value=-9999, max_value=9999, places=2) | st.decimals(-9, 9, places=1),
    "day": st.none() | st.dates(),
    "seen_at": st.none() | instants.filter(lambda value: value.tzinfo is not None) | from_payloads,
    "made_by": st.text("xyz"),
    "serial": st.integers(1, 100),
    "state": st.just("old"),
    "padded": st.none() | st.text("ab ", max_size=4),
    "rate": st.none() | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30) | st.sampled_from([Decimal("NaN"), Decimal("-Infinity"), Decimal("0E-9")]),
    "extra": st.none() | good_json,
    "spelt": st.none() | good_json,
    "tags": st.none() | st.lists(texts | st.none(), max_size=3),
    "codes": st.none() | st.lists(st.text("abcé", max_size=3), max_size=3),
    "prices": st.none() | st.lists(st.decimals(-9, 9, places=2) | st.decimals(-9, 9, places=1), max_size=3),
    "phase": st.none() | st.sampled_from(State) | st.sampled_from(["NEW"]),
    "seats": st.none() | st.lists(st.integers(-5, 5) | st.none(), max_size=3),
    "local": st.none() | st.datetimes(),
    "hour": st.none() | st.times(),
    "lasts": st.none() | st.timedeltas(),
    "seal": st.none() | st.binary(max_size=5),
    "level": st.none() | st.floats(width=32),
}  # fmt: skip
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


@pytest.mark.parametrize("depth", [10, 25, 26, 200])
def test_json_within_json_is_stored_however_deep_it_is(depth: int) -> None:
    value: Any = {"b": -0.0, "a": 1e20}
    for _ in range(depth):
        value = {"b": [value], "a": 1}
    row = {"large": 1, "number": 1, "weight": 1, "price": 1, "aggregate_id": UUID(int=1), "flag": True}
    row |= {"code": "c", "extra": value, "spelt": value}
    python, native = (
        operations.compile_create(tuple(row), Draws().drawer, Storing({}, [], None))(row)
        for operations in (in_python(), in_c())
    )
    assert repr(native.extra) == repr(python.extra)
    assert repr(native.spelt) == repr(python.spelt)
    assert list(native.extra) == ["a", "b"]


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


@given(good_rows, st.dictionaries(st.sampled_from(ATTRIBUTES), ANYTHING, max_size=4))
def test_a_new_row_is_converted_and_refused_alike(values: dict[str, Any], changes: dict[str, Any]) -> None:
    results = []
    for operations in (in_python(), in_c()):
        row = operations.clone(operations.compile_create(tuple(values), Draws().drawer)(values))
        for name, value in changes.items():
            setattr(row, name, value)
        results.append((outcome(lambda r=row, o=operations: o.check_draft(r)), shown(operations, row)))  # type: ignore[misc]
    assert results[0] == results[1]


@given(
    good_rows,
    st.lists(
        st.sampled_from(["aggregate_id", "number", "holder", "weight", "phase", "price"]),
        unique=True,
        max_size=4,
    ),
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
    if found[0] is not CONVERT:
        assert found[0] == found[1]
    elif found[1] is not CONVERT:
        # C decides more without a conversion; then it is what the conversion would have led to.
        lookup = Lookup(operations, tuple(names), index, rows)
        (value,) = lookup.values(operations.filters(where))
        assert found[1] == (rows and value if index is None else index.entries.get(value)) or (
            index is None and found[1] is None and value not in rows
        )


WIRES = {
    "aggregate_id": "uuid", "number": "int4", "small": "int2", "large": "int8", "flag": "bool", "holder": "text", "code": "text",
    "weight": "float8", "price": "numeric", "day": "date", "seen_at": "timestamptz", "made_by": "text", "serial": "int8", "state": "text",
    "padded": "text", "rate": "numeric", "extra": "jsonb", "spelt": "json", "tags": "text[]", "codes": "varchar[]", "prices": "numeric[]",
    "seats": "int8[]",
    "phase": "text", "local": "timestamp", "hour": "time", "lasts": "interval", "seal": "bytea", "level": "float4",
}  # fmt: skip


@given(st.lists(st.fixed_dictionaries({name: GOOD[name] for name in WIRES}), max_size=5))
def test_rows_are_copied_as_the_driver_writes_them(rows: list[dict[str, Any]]) -> None:
    operations = in_c()
    assert operations.native is not None
    assert operations.native.can_dump
    made = [operations.compile_create(tuple(row), Draws().drawer)(row) for row in rows]
    expected = b"".join(packed(list(operations.shape.values_of(row))) for row in made)
    assert operations.native.layout.dump(made) == expected


@given(st.fixed_dictionaries({name: GOOD[name] for name in WIRES}))
def test_rows_come_back_as_they_were_copied(values: dict[str, Any]) -> None:
    operations = in_c()
    assert operations.native is not None
    if values["seen_at"] is not None:
        values = {**values, "seen_at": values["seen_at"].replace(fold=0)}
    row = operations.compile_create(tuple(values), Draws().drawer)(values)
    found = operations.native.layout.load(operations.native.layout.dump([row]))
    is_left_to_the_driver = any(
        number != number or (isinstance(number, Decimal) and number.is_infinite())
        for number in (row.weight, row.rate)
    )
    if is_left_to_the_driver:
        assert found is None
    else:
        assert shown(operations, found) == shown(operations, row)


def packed(row: list[Any]) -> bytes:
    """A row of binary COPY as the driver writes it."""
    for name, wrap in (("extra", Jsonb), ("spelt", Json), ("phase", lambda member: member.name)):
        place = list(WIRES).index(name)
        row[place] = None if row[place] is None else wrap(row[place])
    transformer = Transformer()
    registry = psycopg.adapters.types
    transformer.set_dumper_types(
        [registry.get_oid(name) for name in WIRES.values()], psycopg.pq.Format.BINARY
    )
    fields = transformer.dump_sequence(row, [PyFormat.BINARY] * len(row))
    parts = [
        b"\xff\xff\xff\xff" if item is None else len(item).to_bytes(4, "big") + bytes(item) for item in fields
    ]
    return len(row).to_bytes(2, "big") + b"".join(parts)


def test_nobody_shares_values_that_can_change_in_place(memory: MemoryTable) -> None:
    """Neither the giver of a value nor a reader nor a block that has ended changes what is stored."""
    where = {"aggregate_id": UUID(int=1)}
    given_tags, given_extra = ["a"], {"list": [1]}
    made = memory.create({**VALUES, "tags": given_tags, "extra": given_extra})
    given_tags.append("given")
    given_extra["list"].append(2)
    made.tags.append("made")
    made.extra["list"].append(3)
    with memory.update(where, {}) as untouched:
        kept = untouched.tags
    kept.append("kept")
    untouched.extra["list"].append(4)
    assigned = ["a"]
    with memory.update(where, {}) as row:
        row.tags = assigned
    assigned.append("assigned")
    row.tags.append("row")
    read = memory.read(memory.first(where))
    assert (read.tags, read.extra) == (["a"], {"list": [1]})
    with memory.update(where, {}) as row:
        row.tags.append("b")
        row.extra["list"].append(5)
    row.tags.append("late")
    read = memory.read(memory.first(where))
    assert (read.tags, read.extra) == (["a", "b"], {"list": [1, 5]})


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
    memory.create(VALUES)
    stored = memory.rows[memory.first({"aggregate_id": UUID(int=1)})]
    block = memory.update({"aggregate_id": UUID(int=1)}, {})
    row = block.__enter__()
    row.large = 6
    assert not block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert memory.rows[memory.first({"aggregate_id": UUID(int=1)})] is stored
    assert type(row) is memory.locked_row_class


def test_a_value_that_a_block_deletes_is_an_error_and_changes_nothing(memory: MemoryTable) -> None:
    stored = memory.operations.key_of(memory.create(VALUES))
    before = memory.rows[stored]
    with pytest.raises(AttributeError), memory.update({"aggregate_id": UUID(int=1)}, {}) as row:
        del row.large
    assert memory.rows[stored] is before


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

"""Shapes, row classes and the definition errors of records."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    ARRAY,
    Computed,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Text,
    func,
    types,
)
from sqlalchemy.dialects.postgresql import CITEXT, INET, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py.column_types import simple_type
from sequent_py.conversions import converter, is_same, loader
from sequent_py.errors import DefinitionError, InvalidValue
from sequent_py.records import Record, record_shape


class Named(Record):
    """An abstract base of an application's own."""

    __abstract__ = True

    def shout(self) -> str:
        return self.name.upper()  # type: ignore[attr-defined,no-any-return]


class PersonRecord(Named):
    __tablename__ = "person_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    name: Mapped[str] = mapped_column("full name; DROP TABLE x --")
    tags: Mapped[list[str]] = mapped_column(default=list)
    level: Mapped[int] = mapped_column(SmallInteger, default=3)
    upper: Mapped[str | None] = mapped_column(Computed("upper(name)"))
    updated_at: Mapped[datetime | None]

    MOST = 9

    @cached_property
    def initial(self) -> str:
        return self.name[:1]

    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(value: int) -> int:
        return value * 2

    def __str__(self) -> str:
        return f"<{self.name}>"


def person(**values: Any) -> Any:
    shape = record_shape(PersonRecord)
    return shape.new_row([values.get(column.attribute) for column in shape.columns])


def test_a_shape_names_columns_types_and_key() -> None:
    shape = record_shape(PersonRecord)

    assert [(column.attribute, column.type_name) for column in shape.columns] == [
        ("id", "int8"),
        ("aggregate_id", "uuid"),
        ("name", "text"),
        ("tags", "text[]"),
        ("level", "int2"),
        ("updated_at", "timestamptz"),
    ]
    assert shape.columns[2].name == "full name; DROP TABLE x --"
    assert [column.attribute for column in shape.readers_only] == ["upper"]
    assert (shape.table_name, shape.primary_key, shape.name) == ("person_records", ("id",), "PersonRecord")
    assert (shape.has_aggregate_id, shape.has_updated_at, shape.has_sequence_number) == (True, True, False)
    assert [column.attribute for column in shape.columns if column.mutable] == ["tags"]
    assert {name: default() for name, default in shape.python_defaults.items()} == {"tags": [], "level": 3}
    assert record_shape(PersonRecord) is shape


def test_rows_have_the_records_attributes_methods_and_constants() -> None:
    row = person(id=1, name="ann")

    assert (row.shout(), row.initial, row.kind(), row.twice(2), row.MOST, str(row)) == ("ANN", "a", "PersonRecord", 4, 9, "<ann>")  # fmt: skip
    assert repr(row) == (
        "PersonRecord(id=1, aggregate_id=None, name='ann', tags=None, level=None, updated_at=None)"
    )
    assert not isinstance(row, PersonRecord)
    assert not hasattr(row, "upper")
    assert not hasattr(row, "__dict__")


def test_rows_are_equal_by_value_and_hashed_by_key() -> None:
    one, same, other = person(id=1, name="a"), person(id=1, name="a"), person(id=1, name="b")

    assert one == same
    assert one != other
    assert one != 1
    assert len({one, same, other}) == 2


def test_a_clone_is_writable_until_it_is_locked_and_shares_nothing() -> None:
    shape = record_shape(PersonRecord)
    row = person(id=1, tags=["a"])
    copied = shape.clone(row)
    copied.id = 2
    copied.tags.append("b")

    assert (row.id, row.tags, copied.id, copied.tags) == (1, ["a"], 2, ["a", "b"])
    assert shape.lock(copied) is copied
    attempts: list[Callable[[], None]] = [lambda: setattr(copied, "id", 3), lambda: delattr(copied, "id")]
    for act in attempts:
        with pytest.raises(
            DefinitionError, match=r"PersonRecord\.id cannot be set: rows are read-only"
        ) as raised:
            act()
    assert raised.value.remedy.startswith("with self.update_record(PersonRecord, event)")
    with pytest.raises(AttributeError):
        shape.clone(row).nmae = "x"
    assert shape.values_of(shape.lock(copied))[0] == 2


def test_a_table_may_be_declared_again() -> None:
    def declare() -> type[Record]:
        class PersonRecord(Record):
            __tablename__ = "person_records"
            id: Mapped[int] = mapped_column(primary_key=True)

        return PersonRecord

    again, once_more = declare(), declare()

    assert [column.attribute for column in record_shape(again).columns] == ["id"]
    assert record_shape(again) is not record_shape(once_more)
    assert isinstance(again.metadata, MetaData)
    assert len(record_shape(PersonRecord).columns) == 6


def declare(*, base: type = Record, name: str = "things", **members: Any) -> type[Record]:
    annotations = {key: members.pop(key) for key in list(members) if not hasattr(members[key], "column")}
    body = {"__module__": __name__, **members, "__annotations__": annotations}
    if name:
        body["__tablename__"] = name
    return type("ThingRecord", (base,), body)


KEY = mapped_column(Integer, primary_key=True)


def key() -> Any:
    return mapped_column(Integer, primary_key=True)


class Doubled(types.TypeDecorator[int]):
    impl = Integer
    cache_ok = True


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"x": lambda: mapped_column(INET)}, "x has the type INET"),
        ({"x": lambda: mapped_column(Doubled)}, "x has the type Doubled"),
        ({"x": lambda: mapped_column(ARRAY(Text, dimensions=2))}, "x has the type ARRAY"),
        ({"x": lambda: mapped_column(ARRAY(JSONB))}, "x has the type ARRAY"),
        ({"x": lambda: mapped_column(Numeric(asdecimal=False))}, "x has the type Numeric"),
        ({"x": lambda: mapped_column(types.Time(timezone=True))}, "x has the type Time"),
        ({"x": lambda: mapped_column(Integer, onupdate=1)}, "onupdate of x would not run in a replay"),
        ({"x": lambda: mapped_column(Integer, default=func.now())}, "the default of x is SQL"),
        ({"touch": lambda: mapped_column(Text)}, "the attribute 'touch' is reserved"),
        ({"ﬁx": lambda: mapped_column(Text)}, "is not a Python name"),
        ({"a b": lambda: mapped_column(Text)}, "'a b' is not a Python name"),
        ({"class": lambda: mapped_column(Text)}, "'class' is not a Python name"),
        ({"id": lambda: mapped_column(JSONB, primary_key=True)}, "jsonb column cannot be part of the primary key"),
        ({"id": lambda: mapped_column(CITEXT, primary_key=True)}, "citext column cannot be part of the primary key"),
    ],
)  # fmt: skip
def test_records_that_cannot_work_are_refused(members: dict[str, Any], says: str) -> None:
    columns = {name: make() for name, make in {"id": key, **members}.items()}
    with pytest.raises(DefinitionError, match=says):
        record_shape(declare(**columns))


def test_records_need_a_table_of_their_own() -> None:
    class Base(Record):
        __tablename__ = "bases"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind"}

    class Derived(Base):
        __mapper_args__ = {"polymorphic_identity": "derived"}

    class Joined(Base):
        __tablename__ = "joined"
        __mapper_args__ = {"polymorphic_identity": "joined"}
        id: Mapped[int] = mapped_column(ForeignKey("bases.id"), primary_key=True)

    for record, says in ((Derived, "inherits the table of Base"), (Joined, "inherits"), (Record, "it has no table"), (int, "not a Record")):  # fmt: skip
        with pytest.raises(DefinitionError, match=says):
            record_shape(record)
    with pytest.raises(DefinitionError, match="1 to 63 bytes"):
        record_shape(declare(name="é" * 32, id=key()))


def test_invalid_values_name_record_column_and_type_of_value() -> None:
    column = record_shape(PersonRecord).by_attribute["level"]

    with pytest.raises(InvalidValue, match=r"^PersonRecord\.level is int2 and does not take int 32768: out of range\.$"):  # fmt: skip
        column.coerce(2**15)
    with pytest.raises(InvalidValue, match=r"does not take NoneType None: it is NOT NULL"):
        column.coerce(None)
    assert record_shape(PersonRecord).by_attribute["updated_at"].coerce(None) is None


class Rank(enum.IntEnum):
    LOW = 1


class Title(enum.StrEnum):
    SIR = "sir"


@pytest.mark.parametrize(
    ("column_type", "given", "kept"),
    [
        (simple_type("int8"), Rank.LOW, 1),
        (simple_type("text"), Title.SIR, "sir"),
        (simple_type("float8"), 3, 3.0),
        (simple_type("float4"), 0.1, 0.10000000149011612),
        (simple_type("numeric"), Decimal("1E+2"), Decimal("100")),
        (simple_type("numeric"), Decimal("-0.0"), Decimal("0.0")),
        (simple_type("numeric", precision=4, scale=2), Decimal("0.125"), Decimal("0.13")),
        (simple_type("numeric", precision=4, scale=2), Decimal("-0.125"), Decimal("-0.13")),
        (simple_type("numeric", precision=2, scale=-2), 1250, Decimal("1300")),
        (simple_type("numeric", precision=2, scale=4), Decimal("0.00994"), Decimal("0.0099")),
        (simple_type("varchar", length=3), "日本語", "日本語"),
        (simple_type("bpchar", length=3), "a   ", "a  "),
        (simple_type("timestamp", precision=0), datetime(1999, 12, 31, 23, 59, 59, 500000), datetime(1999, 12, 31, 23, 59, 59)),
        (simple_type("timestamp", precision=0), datetime(2000, 1, 1, 0, 0, 0, 500000), datetime(2000, 1, 1, 0, 0, 1)),
        (simple_type("time", precision=3), time(1, 2, 3, 4500), time(1, 2, 3, 5000)),
        (simple_type("bytea"), memoryview(b"x"), b"x"),
        (simple_type("jsonb"), {"bb": 1, "a": (1e16, -0.0, 1e-7), "": {}}, {"": {}, "a": [10**16, 0.0, 1e-7], "bb": 1}),
        (simple_type("json"), {"bb": 1, "a": (1e16, -0.0)}, {"bb": 1, "a": [1e16, -0.0]}),
    ],
)  # fmt: skip
def test_values_become_what_postgresql_would_return(column_type: Any, given: Any, kept: Any) -> None:
    converted = converter(column_type)(given)

    assert repr(converted) == repr(kept)
    assert type(converted) is type(kept)


@pytest.mark.parametrize(
    ("column_type", "given"),
    [
        (simple_type("int8"), True),
        (simple_type("int8"), 2**63),
        (simple_type("int4"), -(2**31) - 1),
        (simple_type("bool"), 1),
        (simple_type("float8"), "1"),
        (simple_type("float8"), 10**400),
        (simple_type("float4"), 1e39),
        (simple_type("float4"), 1e-60),
        (simple_type("numeric"), 1.5),
        (simple_type("numeric"), "1"),
        (simple_type("numeric"), Decimal("1E+131072")),
        (simple_type("numeric"), Decimal("1E-16384")),
        (simple_type("numeric", precision=4, scale=2), Decimal("99.995")),
        (simple_type("numeric", precision=4, scale=2), Decimal("1E+999999")),
        (simple_type("numeric", precision=2, scale=4), Decimal("0.01")),
        (simple_type("varchar", length=3), "abcd"),
        (simple_type("text"), b"x"),
        (simple_type("uuid"), 5),
        (simple_type("date"), datetime(2024, 1, 1)),
        (simple_type("timestamptz"), datetime(2024, 1, 1)),
        (simple_type("timestamptz"), date(2024, 1, 1)),
        (simple_type("timestamp"), datetime(2024, 1, 1, tzinfo=UTC)),
        (simple_type("time"), time(0, tzinfo=UTC)),
        (simple_type("time", precision=0), time(23, 59, 59, 999999)),
        (simple_type("interval"), 5),
        (simple_type("bytea"), "x"),
        (simple_type("jsonb"), {"a": {1, 2}}),
        (simple_type("jsonb"), [float("inf")]),
        (simple_type("json"), {b"a": 1}),
    ],
)  # fmt: skip
def test_values_that_postgresql_would_refuse_or_change_are_refused(column_type: Any, given: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        converter(column_type)(given)


def test_there_is_one_nan_so_that_dictionaries_find_it() -> None:
    for name, given in (("float8", float("nan")), ("float4", -float("nan")), ("numeric", Decimal("NaN"))):
        load = loader(simple_type(name))
        assert load is not None
        assert converter(simple_type(name))(given) is load(given)


def test_same_means_same_bytes() -> None:
    assert is_same({"a": [1]}, {"a": [1]})
    for one, other in (
        (1, True),
        (1.0, 1),
        (0.0, -0.0),
        (Decimal("1.0"), Decimal("1.00")),
        ([1], [True]),
        (None, 0),
    ):
        assert one == other or other == 0
        assert not is_same(one, other)


def test_a_json_value_that_holds_itself_is_refused() -> None:
    column = record_shape(declare(id=key(), data=mapped_column(JSONB), length=mapped_column(String(3)))).by_attribute["data"]  # fmt: skip
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(InvalidValue):
        column.coerce(endless)


def test_intervals_stay_exact() -> None:
    value = timedelta(days=-1, microseconds=1)

    assert converter(simple_type("interval"))(value) is value

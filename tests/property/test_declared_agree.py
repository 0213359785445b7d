"""Declared projections give the same rows whichever way they are run, whatever is declared and whatever has happened.

Six ways: a naive fold written here, handlers live, handlers in a replay, SQL, the C module between two COPYs, and SQL for a beginning and handlers for
the rest. Where handlers raise, SQL and the C module give the events back; where they answer, they are right.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import event as note
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import Field as Limits
from sqlalchemy import DateTime, Enum, Integer, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

from sequent_py import Event, Record, TableProjection
from sequent_py.declared import (
    Field,
    Rule,
    count,
    delete,
    delete_all,
    field,
    first,
    increment,
    insert,
    last,
    running,
    update,
    upsert,
)
from sequent_py.declared.groups import compile_tables, fold_in_sql
from sequent_py.declared.program import program_of
from sequent_py.declared.rules import ChangeKind, RuleKind
from sequent_py.declared.transfer import transfer
from sequent_py.errors import InvalidPayload, InvalidValue, ProjectionFailed
from sequent_py.event_classes import EventTypes
from sequent_py.events import event_type_of
from sequent_py.native import native
from sequent_py.persistors.live import LivePersistor
from sequent_py.persistors.replay import ReplayPersistor
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.records import record_shape
from sequent_py.replay.fold import Fold
from sequent_py.replay.reader import RawEvent, in_position_order, read_events
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.testing.server import fresh_database

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
LOCAL = MOMENT.replace(tzinfo=None)
EAST = timezone(timedelta(hours=5, minutes=30))


class Mood(enum.Enum):
    GOOD = "g"
    BAD = "b"


class Grade(enum.StrEnum):
    HIGH = "high"
    LOW = "low"


class Base(Event):
    product: str
    amount: int
    price: Decimal
    size: Annotated[int | None, Limits(ge=-5, le=99)] = None
    label: Annotated[str | None, Limits(max_length=6)] = None
    at: datetime | None = None
    ref: UUID | None = None
    flag: bool = False
    mood: Mood = Mood.GOOD
    grade: Grade = Grade.LOW
    ratio: float = 0.5
    day: date = MOMENT.date()
    local: datetime = LOCAL


# What they have in common besides is a name.


class Alpha(Base):
    tag: UUID = UUID(int=9)
    code: Annotated[int, Limits(gt=-3, le=50)]


class Beta(Base):
    tag: int = 12
    code: UUID


class Gamma(Base):
    tag: str = "t"


class Delta(Base, aliases=("Echo",)):
    pass


CLASSES: tuple[type[Base], ...] = (Alpha, Beta, Gamma, Delta)
NAMES = ("Alpha", "Beta", "Gamma", "Delta", "Echo")


class ThingColumns:
    big: Mapped[int | None]
    small: Mapped[int | None] = mapped_column(Integer)
    money: Mapped[Decimal | None] = mapped_column(Numeric(8, 2))
    exact: Mapped[Decimal | None] = mapped_column(Numeric)
    text: Mapped[str | None]
    short: Mapped[str | None] = mapped_column(String(5))
    at: Mapped[datetime | None]
    ref: Mapped[UUID | None]
    flag: Mapped[bool | None]
    mood: Mapped[Mood | None] = mapped_column(Enum(Mood, name="mood"))
    ratio: Mapped[float | None]
    day: Mapped[date | None]
    local: Mapped[datetime | None] = mapped_column(DateTime(timezone=False))
    total: Mapped[int]
    """NOT NULL DEFAULT 7."""
    updated_at: Mapped[datetime | None]
    sequence_number: Mapped[int | None]


class OneRecord(ThingColumns, Record):
    __tablename__ = "one_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)


class SerialRecord(ThingColumns, Record):
    __tablename__ = "serial_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]


class KeyedRecord(ThingColumns, Record):
    __tablename__ = "keyed_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(primary_key=True)


class SerialKeyedRecord(ThingColumns, Record):
    __tablename__ = "serial_keyed_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    aggregate_id: Mapped[UUID]
    product: Mapped[str]


class LineRecord(ThingColumns, Record):
    __tablename__ = "line_records"
    aggregate_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


KEYS: dict[type[Record], dict[str, Field]] = {
    OneRecord: {},
    SerialRecord: {},
    KeyedRecord: {"product": field("product")},
    SerialKeyedRecord: {"product": field("product")},
    LineRecord: {"number": field("sequence_number")},
}
_COLUMNS = """
    big bigint, small integer, money numeric(8,2), exact numeric, text text, short varchar(5), at timestamptz, ref uuid, flag boolean,
    mood view_schema.mood, ratio double precision, day date, local timestamp, total bigint NOT NULL DEFAULT 7, updated_at timestamptz, sequence_number bigint
"""
TABLES = f"""
    CREATE SCHEMA view_schema;
    CREATE TYPE view_schema.mood AS ENUM ('GOOD', 'BAD');
    CREATE TABLE view_schema.one_records (aggregate_id uuid PRIMARY KEY, {_COLUMNS});
    CREATE TABLE view_schema.serial_records (id bigserial PRIMARY KEY, aggregate_id uuid NOT NULL UNIQUE, {_COLUMNS});
    CREATE TABLE view_schema.keyed_records (aggregate_id uuid, product text, PRIMARY KEY (aggregate_id, product), {_COLUMNS});
    CREATE TABLE view_schema.serial_keyed_records (id bigserial PRIMARY KEY, aggregate_id uuid NOT NULL, product text NOT NULL, {_COLUMNS});
    CREATE TABLE view_schema.line_records (aggregate_id uuid, number integer, PRIMARY KEY (aggregate_id, number), {_COLUMNS});
"""

# What may go into which column.
SOURCES: dict[str, st.SearchStrategy[Any]] = {
    "big": st.sampled_from([field("amount"), -field("amount"), field("size"), field("position"), 2**62, 0, None]),
    "small": st.sampled_from([field("amount"), field("size"), field("sequence_number"), -1, 2**31 - 1, None]),
    "money": st.sampled_from([field("price"), -field("price"), field("amount"), Decimal("0.01"), 0, None]),
    "exact": st.sampled_from([field("price"), -field("price"), field("amount"), Decimal("1.50"), None]),
    "text": st.sampled_from([field("product"), field("label"), field("grade"), "a'\\", None]),
    "short": st.sampled_from([field("label"), field("grade"), "x", None]),
    "at": st.sampled_from([field("at"), field("created_at"), MOMENT, None]),
    "ref": st.sampled_from([field("ref"), field("aggregate_id"), UUID(int=7), None]),
    "flag": st.sampled_from([field("flag"), True, None]),
    "mood": st.sampled_from([field("mood"), Mood.BAD, None]),
    "ratio": st.sampled_from([field("ratio"), -field("ratio"), field("amount"), 0.1, None]),
    "day": st.sampled_from([field("day"), date(1999, 12, 31), None]),
    "local": st.sampled_from([field("local"), LOCAL, None]),
    "total": st.sampled_from([field("amount"), field("size"), 0, 3]),
    "updated_at": st.sampled_from([field("created_at"), MOMENT]),
    "sequence_number": st.sampled_from([field("sequence_number"), 0]),
}  # fmt: skip
TAGGED: dict[type[Event], str] = {Alpha: "ref", Beta: "big", Gamma: "text"}
CODED: dict[type[Event], tuple[str, ...]] = {Alpha: ("big", "small", "total"), Beta: ("ref",)}
"""Which columns take the field that must be there."""
CODES: dict[str, Callable[[int], Any]] = {"Alpha": lambda number: number - 2, "Beta": lambda number: UUID(int=number << 100)}  # fmt: skip
WHOLE_NUMBERS = ("big", "small", "total")
NUMBERS = (*WHOLE_NUMBERS, "money", "exact")


@st.composite
def courses(draw: st.DrawFn) -> dict[str, ChangeKind]:
    """What updates do to each column: mostly one thing, as declarations do."""
    kinds = st.sampled_from([ChangeKind.ASSIGN, ChangeKind.FIRST, ChangeKind.LAST])
    summed = draw(st.sampled_from([NUMBERS, WHOLE_NUMBERS]))
    return {
        name: draw(st.one_of(st.just(ChangeKind.INCREMENT), kinds) if name in summed else kinds)
        for name in SOURCES
    }


@st.composite
def changes(
    draw: st.DrawFn, course: dict[str, ChangeKind], event_class: type[Event], *, is_insert: bool
) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(SOURCES)), unique=True, max_size=5))
    found: dict[str, Any] = {}
    for name in names:
        source = draw(SOURCES[name])
        if TAGGED.get(event_class) == name and draw(st.booleans()):
            source = field("tag")
        if name in CODED.get(event_class, ()) and draw(st.booleans()):
            source = -field("code") if event_class is Alpha and draw(st.booleans()) else field("code")
        kind = course[name] if draw(st.integers(0, 19)) else ChangeKind.ASSIGN
        if is_insert or kind is ChangeKind.ASSIGN:
            found[name] = source
        elif kind is ChangeKind.INCREMENT:
            found[name] = count() if source is None else increment(source)
        elif source is not None:
            found[name] = first(source) if kind is ChangeKind.FIRST else last(source)
    return found


@st.composite
def rules(draw: st.DrawFn, record: type[Record]) -> dict[type[Event], Rule]:
    course = draw(courses())
    totals = record is LineRecord and draw(st.booleans())
    exact = {"exact": running(field("price"))} if draw(st.booleans()) else {}
    usual: list[RuleKind] = [RuleKind.INSERT, RuleKind.UPDATE, RuleKind.UPDATE, RuleKind.UPSERT, RuleKind.DELETE, RuleKind.DELETE_ALL]  # fmt: skip
    if record is LineRecord:
        usual = [RuleKind.INSERT] * 4 + [RuleKind.DELETE_ALL] + ([] if totals else [RuleKind.UPSERT])
    if draw(st.booleans()):
        usual = [kind for kind in usual if kind not in (RuleKind.DELETE, RuleKind.DELETE_ALL)]
    found: dict[type[Event], Rule] = {}
    for number, event_class in enumerate(CLASSES):
        kind = draw(
            st.sampled_from([RuleKind.INSERT, RuleKind.INSERT, RuleKind.UPSERT] if not number else usual)
        )
        if totals and kind is RuleKind.UPSERT:
            kind = RuleKind.INSERT
        if draw(st.integers(0, 9)) == 0 and number:
            continue
        match kind:
            case RuleKind.INSERT:
                values = draw(changes(course, event_class, is_insert=True))
                if totals:
                    values |= {"total": running(draw(st.sampled_from([field("amount"), field("size"), 2])))} | exact  # fmt: skip
                found[event_class] = insert(**values)
            case RuleKind.UPDATE:
                found[event_class] = update(
                    touch=draw(st.booleans()), **draw(changes(course, event_class, is_insert=False))
                )
            case RuleKind.UPSERT:
                found[event_class] = upsert(
                    touch=draw(st.booleans()), **draw(changes(course, event_class, is_insert=False))
                )
            case RuleKind.DELETE:
                found[event_class] = delete()
            case RuleKind.DELETE_ALL:
                found[event_class] = delete_all()
    return found


PAYLOADS = st.fixed_dictionaries(
    {
        "product": st.sampled_from(["p", "q", "é", "longer than sixteen bytes"]),
        "amount": st.sampled_from([0, 1, 5, -3, 2**31, 2**53 + 1, -(2**62)]) | st.integers(-9, 9),
        "price": st.sampled_from([Decimal(0), Decimal("1.5"), Decimal("1.50"), Decimal("-0.05"), Decimal("0.005"), Decimal("99999.99")]),
    },
    optional={
        "size": st.sampled_from([None, 1, 99, -5]),
        "label": st.sampled_from([None, "", "a", "日本", "sixsix"]),
        "at": st.sampled_from([None, MOMENT, MOMENT.astimezone(EAST), MOMENT.replace(microsecond=0), MOMENT.replace(tzinfo=None)]),
        "ref": st.sampled_from([None, UUID(int=1), UUID(int=2**127)]),
        "flag": st.booleans(),
        "mood": st.sampled_from(list(Mood)),
        "grade": st.sampled_from(list(Grade)),
        "ratio": st.sampled_from([0.0, -0.0, 0.1, 1e300, -2.0, 5e-324]),
        "day": st.sampled_from([date(2024, 2, 29), date(2, 1, 1), date(9998, 12, 31)]),
        "local": st.sampled_from([LOCAL, LOCAL.replace(microsecond=1), LOCAL.replace(microsecond=0)]),
    },
)  # fmt: skip
# What somebody may have stored by hand: some of it valid to pydantic, some not.
TAMPERED = st.sampled_from(
    [
        ("amount", "12"), ("amount", "-7"), ("amount", "+5"), ("amount", " 6"), ("amount", "0x10"), ("amount", "1_0"), ("amount", "-0"), ("amount", "007"), ("amount", 1.0), ("amount", 1.5), ("amount", None), ("amount", True), ("amount", 2**70), ("price", 1.5), ("price", 2),
        ("price", "NaN"), ("price", "1e3"), ("price", " 1"), ("size", 100), ("size", "1"), ("size", "0x1"), ("size", "0b1"), ("label", "seven77"), ("label", 7), ("flag", "true"),
        ("flag", 1), ("ref", "00000000000000000000000000000001"), ("ref", "{00000000-0000-0000-0000-000000000001}"), ("ref", "x"),
        ("ref", "0000-00000000-0000-0000-0000-00000001"), ("at", "2024-02-30T00:00:00Z"), ("at", "2024-02-29"), ("at", 7), ("at", "2024-02-29T24:00:00Z"),
        ("at", "0001-01-01T00:00:00+05:00"), ("at", "2024-02-29T12:00:00.1234567Z"), ("at", "2024-02-29T23:59:60Z"), ("mood", "x"), ("mood", "GOOD"), ("grade", None), ("unknown", [1]),
        ("ratio", 3), ("ratio", "NaN"), ("ratio", "0.5"), ("day", "2023-02-29"), ("day", "2024-02-29T00:00:00"), ("day", 0), ("local", "2024-02-29T12:30:15Z"),
        ("code", -3), ("code", "50"), ("code", 51), ("code", "1.0"), ("code", None), ("code", ...), ("code", [1]), ("code", "0123ABCD-ef45-6789-abcd-ef0123456789"),
        ("code", "{0123abcdef4567890abcdef01234567890}"), ("code", "0123abcd-ef45-6789-abcd-ef012345678g"), ("code", "0123abcd-ef45-6789-abcd-ef01234567é"), ("code", {"a": 1}),
        ("tag", "nothing"), ("tag", 1.5), ("tag", None),
        ("amount", ...), ("price", ...), ("product", ...), ("product", 5), ("at", ...), ("grade", ...),
    ]
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, str, dict[str, Any], tuple[str, Any] | None, int]]:
    """Events as (aggregate, type, payload, tampering, how unlikely to be kept where it does not fit)."""
    return [
        (
            draw(st.integers(0, 2)),
            draw(st.sampled_from(NAMES)),
            draw(PAYLOADS),
            draw(TAMPERED) if draw(st.integers(0, 59)) == 0 else None,
            draw(st.integers(0, 39)),
        )
        for _ in range(draw(st.integers(1, 14)))
    ]


def fitting(
    projection: type[TableProjection], history: Sequence[tuple[int, str, dict[str, Any], Any, int]]
) -> list[tuple[UUID, str, dict[str, Any], Any]]:
    """Leave out most events for which there is no row to change, or one too many to create; what is left is mostly projected."""
    alive: set[tuple[int, Any]] = set()
    found = []
    classes = {"Echo": Delta} | {event_type_of(cls): cls for cls in CLASSES}
    for aggregate, name, payload, tampering, luck in history:
        rule = projection.declaration.rules.get(classes[name])
        key = (aggregate, payload["product"] if "product" in KEYS[projection.table] else len(found) if projection.table is LineRecord else None)  # fmt: skip
        if rule is not None and luck:
            if rule.kind is RuleKind.INSERT and key in alive:
                continue
            if rule.kind is RuleKind.UPDATE and key not in alive:
                continue
        if rule is not None and rule.kind in (RuleKind.INSERT, RuleKind.UPSERT):
            alive.add(key)
        if rule is not None and rule.kind is RuleKind.DELETE:
            alive.discard(key)
        if rule is not None and rule.kind is RuleKind.DELETE_ALL:
            alive = {item for item in alive if item[0] != aggregate}
        found.append((UUID(int=(aggregate + 1) << 90), name, payload, tampering))
    return found


class Store:
    """A database with the events of one example at a time."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.stored_types: dict[str, int] = {}
        self.event_types = EventTypes(CLASSES)
        self.tables: dict[type[Record], TableShape] = {}
        self.ways: Counter[str] = Counter()

    def write(self, events: Sequence[tuple[UUID, str, dict[str, Any], Any]]) -> list[int]:
        sequence_numbers: Counter[UUID] = Counter()
        classes = {"Echo": Delta} | {event_type_of(cls): cls for cls in CLASSES}
        positions = []
        for number, (aggregate_id, name, payload, tampering) in enumerate(events):
            sequence_numbers[aggregate_id] += 1
            coded = {"code": CODES[name](number)} if name in CODES else {}
            stored = json.loads(self.event_types.encode(classes[name](**payload, **coded)))
            if not payload.keys() & {"size"}:
                # As if it had been stored before the field was there.
                stored.pop("size")
                stored.pop("grade", None) if "grade" not in payload else None
            if tampering is not None:
                field_name, value = tampering
                stored.pop(field_name, None) if value is ... else stored.update({field_name: value})
            row = self.connection.execute(
                "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, created_at, payload)"
                " VALUES (%s, %s, %s, %s, %s) RETURNING position",
                (aggregate_id, sequence_numbers[aggregate_id], self.stored_types[name], MOMENT - timedelta(seconds=number), Jsonb(stored)),
            ).fetchone()  # fmt: skip
            assert row is not None
            positions.append(row[0])
        return positions

    def source(self, *, after: int | None = None, until: int | None = None) -> Any:
        def compose(event_type_ids: Sequence[int]) -> sql.Composed:
            return sql.SQL(
                "FROM sequent_schema.events AS e WHERE position > {} AND position <= {} AND event_type_id = ANY({}::int[])"
            ).format(sql.Literal(after or 0), sql.Literal(until or 2**60), sql.Literal(list(event_type_ids)))

        return compose

    def raw(self, fold: Fold, **window: int | None) -> list[RawEvent]:
        query = in_position_order(self.source(**window)(fold.event_type_ids))
        return list(read_events(self.connection, query))

    def rows(self, projection: type[TableProjection]) -> list[tuple[str, ...]]:
        """Every column but a drawn key, as the server prints it: 1.50 is not 1.5."""
        shape = record_shape(projection.table)
        names = [sql.Identifier(column.name) for column in shape.columns if column.attribute != "id"]
        query = sql.SQL("SELECT {} FROM view_schema.{}").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in names),
            sql.Identifier(shape.table_name),
        )
        return sorted(map(repr, self.connection.execute(query).fetchall()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(server_url: str, database_prefix: str) -> Iterator[Store]:
    with fresh_database(server_url, f"{database_prefix}_declared") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            install_event_store(connection, "sequent_schema")
            connection.execute(TABLES)
        with psycopg.connect(url) as connection:
            connection.execute("SET TIME ZONE 'Asia/Kolkata'")
            store = Store(connection)
            for name in NAMES:
                row = connection.execute(
                    "INSERT INTO sequent_schema.event_types (name) VALUES (%s) RETURNING id", (name,)
                ).fetchone()
                assert row is not None
                store.stored_types[name] = row[0]
            for record in KEYS:
                shape = record_shape(record)
                store.tables[record] = read_table_shape(connection, shape, "view_schema", shape.table_name)
            connection.commit()
            yield store
    # The test would be worthless if SQL always gave up.
    ways = store.ways
    assert not ways or ways["sql"] > max(ways["given back"] / 2, ways["not compiled"]), ways
    assert not ways or native is None or ways["transferred"] > ways["sql"] / 8, ways


EXAMPLES = int(os.environ.get("DECLARED_EXAMPLES", "200"))
"""Others in every run; ``make test-all`` tries more of them."""


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data(), record=st.sampled_from(list(KEYS)), history=histories())
def test_handlers_live_replay_and_sql_give_the_same_rows(
    store: Store, data: st.DataObject, record: type[Record], history: list[Any]
) -> None:
    connection = store.connection
    connection.rollback()
    on_event = data.draw(rules(record))
    projection = type(
        "Declared", (TableProjection,), {"table": record, "key": KEYS[record], "on_event": on_event}
    )
    events = fitting(projection, history)
    positions = store.write(events)
    other_record = data.draw(st.sampled_from([item for item in KEYS if item is not record]))
    other = type(
        "Other", (TableProjection,), {"table": other_record, "key": KEYS[other_record], "on_event": data.draw(rules(other_record))}
    )  # fmt: skip

    expected = _replayed(store, projection)
    assert _live(store, projection) == expected
    oracle = _naive(store, projection)
    if expected is not None:
        assert oracle == expected
    in_sql, is_compiled = _in_sql(store, projection)
    if in_sql is not None:
        assert in_sql == expected
    transferred, is_program = _transferred(store, projection)
    if transferred is not None:
        assert transferred == [expected]
        note("transferred")
        store.ways["transferred"] += 1
    elif is_program:
        # What SQL makes of these events, the C module can make, too.
        assert in_sql is None
        note("transfer given back")
    both, _ = _transferred(store, projection, other)
    assert both is None or both == [expected, _replayed(store, other)]
    alone, together = [in_sql, _in_sql(store, other)[0]], _both_in_sql(store, projection, other)
    assert together is None or together == [expected, _replayed(store, other)]
    if None not in alone:
        note("two tables")
        assert together == alone
    way = "sql" if in_sql is not None else "given back" if is_compiled else "not compiled"
    if expected is None:
        note("failing")
    else:
        store.ways[way] += 1
        note(way)
    if in_sql is not None and positions:
        cut = data.draw(st.sampled_from(positions))
        assert _caught_up(store, projection, cut) == expected


def test_a_field_is_read_of_the_classes_that_have_it_alone(store: Store) -> None:
    store.connection.rollback()
    on_event = {
        Alpha: insert(ref=field("tag")),
        Beta: update(big=field("tag")),
        Gamma: update(text=field("tag")),
        Delta: update(flag=True),
    }
    projection = type("Tagged", (TableProjection,), {"table": OneRecord, "on_event": on_event})
    payload = {"product": "p", "amount": 1, "price": Decimal(1)}
    # Delta has no such field: what is stored under its name is of no interest.
    names = [("Alpha", None), ("Beta", None), ("Gamma", None), ("Echo", ("tag", [1]))]
    store.write([(UUID(int=1), name, payload, tampering) for name, tampering in names])
    in_sql, _ = _in_sql(store, projection)
    assert in_sql is not None
    assert in_sql == _replayed(store, projection)


@pytest.mark.skipif(native is None, reason="without the C module SQL does it")
@pytest.mark.parametrize("column", ["big", "small", "money", "text"])
@pytest.mark.parametrize(
    ("name", "tampering", "is_sound"),
    [
        ("Alpha", None, True),
        ("Alpha", ("code", "50"), True),
        ("Alpha", ("code", -3), False),
        ("Alpha", ("code", 51), False),
        ("Alpha", ("code", "7 "), False),
        ("Alpha", ("code", ...), False),
        ("Alpha", ("amount", 2**63), False),
        ("Beta", None, True),
        ("Beta", ("code", "0123ABCD-ef45-6789-abcd-ef0123456789"), True),
        ("Beta", ("code", "0123abcd-ef45-6789-abcd-ef012345678g"), False),
        ("Beta", ("code", None), False),
    ],
)
def test_fields_are_checked_whether_rules_read_them_or_not(
    store: Store, column: str, name: str, tampering: tuple[str, Any] | None, is_sound: bool
) -> None:
    """``money`` takes amounts that the server casts, ``text`` none at all."""
    store.connection.rollback()
    source = field("product") if column == "text" else field("amount")
    on_event = {Alpha: insert(**{column: source}), Beta: insert(**{column: source})}
    projection = type("Coded", (TableProjection,), {"table": OneRecord, "on_event": on_event})
    payload = {"product": "p", "amount": 7, "price": Decimal(1)}
    store.write([(UUID(int=1), name, payload, tampering)])
    transferred, is_program = _transferred(store, projection)
    assert is_program
    assert (transferred is not None, _in_sql(store, projection)[0] is not None) == (is_sound, is_sound)
    if transferred is not None:
        assert transferred == [_replayed(store, projection)]


@pytest.mark.skipif(native is None, reason="without the C module SQL does it")
def test_the_server_casts_nothing_of_which_the_text_tells_all(store: Store) -> None:
    store.connection.rollback()
    for columns, is_cast in (("big", "small"), False), (("big", "money"), True):
        on_event = {
            Alpha: insert(**{name: field("amount") for name in columns}),
            Beta: update(ref=field("code")),
        }
        projection = type("Cast", (TableProjection,), {"table": OneRecord, "on_event": on_event})
        compiled, _ = compile_tables([projection], store.tables, store.stored_types)
        program = program_of(compiled, store.connection)
        assert program is not None
        query = program.query(store.source()).as_string(None)
        texts = {
            name: re.findall(rf"""->>'{name}'[^"]* AS ("t[0-9]+")""", query) for name in ("amount", "code")
        }
        assert [f"{text}::" in query for text in texts["amount"]] == [is_cast]
        assert [f"{text}::" in query for text in texts["code"]] == [False, False]


@pytest.mark.parametrize("beginning", ["insert", "upsert"])
def test_every_change_is_made_in_every_way(store: Store, beginning: str) -> None:
    store.connection.rollback()
    changes: dict[str, Any] = {"text": first(field("label")), "short": last(field("label")), "big": increment(field("size")), "small": count(), "ref": field("ref"), "at": last(field("at")), "total": increment(-field("amount")), "flag": field("flag")}  # fmt: skip
    begin = insert(text=field("label"), big=3, small=0, money=field("price")) if beginning == "insert" else upsert(**changes, mood=Mood.BAD)  # fmt: skip
    on_event = {
        Alpha: begin,
        Beta: update(**changes),
        Gamma: update(touch=False, ref=None, text=first("late")),
    }
    projection = type("Changed", (TableProjection,), {"table": OneRecord, "on_event": on_event})
    plain = {"product": "p", "amount": 7, "price": Decimal("1.50")}
    full = plain | {"size": 5, "label": "a", "at": MOMENT, "ref": UUID(int=1), "flag": True}
    other = plain | {"size": None, "label": "b", "at": None, "ref": UUID(int=2), "amount": -9}
    histories = [
        [("Alpha", plain), ("Beta", plain), ("Beta", full), ("Beta", other), ("Beta", plain)],
        [("Alpha", full), ("Beta", other), ("Gamma", plain), ("Beta", plain)],
        [("Alpha", plain), ("Gamma", full), ("Beta", other)],
        [("Alpha", other)],
    ]
    store.write(
        [
            (UUID(int=number), name, payload, None)
            for number, history in enumerate(histories)
            for name, payload in history
        ]
    )
    expected = _replayed(store, projection)
    assert expected is not None
    assert len(expected) == len(histories)
    assert _naive(store, projection) == expected
    assert _in_sql(store, projection) == (expected, True)
    assert native is None or _transferred(store, projection) == ([expected], True)


def test_running_totals_over_edited_positions_are_left_to_handlers(store: Store) -> None:
    store.connection.rollback()
    rule = insert(total=running(field("amount")))
    projection = type(
        "Lines", (TableProjection,), {"table": LineRecord, "key": KEYS[LineRecord], "on_event": {Alpha: rule}}
    )
    payload = {"product": "p", "amount": 1, "price": Decimal(1)}
    positions = store.write([(UUID(int=1), "Alpha", payload | {"amount": 10**number}, None) for number in range(4)])  # fmt: skip
    assert _in_sql(store, projection)[0] == _replayed(store, projection)
    for number, position in ((2, positions[2]), (3, positions[1])):
        store.connection.execute(
            "UPDATE sequent_schema.events SET position = %s WHERE sequence_number = %s", (position, number)
        )
    assert _replayed(store, projection) is not None
    assert _in_sql(store, projection) == (None, True)
    assert _transferred(store, projection) == (None, native is not None)


def _replayed(store: Store, projection: type[TableProjection]) -> list[Any] | None:
    """Rows by handlers in memory; None where they raise."""
    with store.connection.transaction(force_rollback=True):
        persistor = ReplayPersistor(store.connection, {projection.table: store.tables[projection.table]})
        fold = Fold([projection], persistor, store.event_types, store.stored_types)
        try:
            fold.apply(store.raw(fold))
        except (ProjectionFailed, InvalidPayload):
            return None
        persistor.flush()
        return store.rows(projection)
    return None


def _live(store: Store, projection: type[TableProjection]) -> list[Any] | None:
    with suppress(psycopg.errors.InFailedSqlTransaction), store.connection.transaction(force_rollback=True):
        persistor = LivePersistor(store.connection, {projection.table: store.tables[projection.table]})
        fold = Fold([projection], persistor, store.event_types, store.stored_types)
        try:
            fold.apply(store.raw(fold))
        except (ProjectionFailed, InvalidPayload):
            return None
        return store.rows(projection)
    return None


def _in_sql(store: Store, projection: type[TableProjection]) -> tuple[list[Any] | None, bool]:
    compiled, _ = compile_tables([projection], store.tables, store.stored_types)
    with store.connection.transaction(force_rollback=True):
        if projection not in compiled.by_projector:
            return None, False
        done = fold_in_sql(store.connection, compiled, store.source())
        rows = store.rows(projection)
        if done is None:
            assert rows == []
            return None, True
        ids = compiled.by_projector[projection].type_ids
        (counted,) = store.connection.execute(
            "SELECT count(*) FROM sequent_schema.events WHERE event_type_id = ANY(%s)", (list(ids),)
        ).fetchone() or (None,)
        assert done.events == counted
        assert sum(done.row_changes.values()) == len(rows)
        return rows, True
    raise AssertionError


def _both_in_sql(store: Store, *projections: type[TableProjection]) -> list[list[Any]] | None:
    """Rows of all of them by one statement; None where one is not compiled, or the statement gives up."""
    compiled, _ = compile_tables(projections, store.tables, store.stored_types)
    if len(compiled.by_projector) < len(projections):
        return None
    with store.connection.transaction(force_rollback=True):
        done = fold_in_sql(store.connection, compiled, store.source())
        if done is None:
            return None
        rows = [store.rows(projection) for projection in projections]
        names = [record_shape(projection.table).table_name for projection in projections]
        written = {name: len(found) for name, found in zip(names, rows, strict=True)}
        assert {name: done.row_changes.get(name, 0) for name in names} == written
        return rows
    raise AssertionError


def _transferred(store: Store, *projections: type[TableProjection]) -> tuple[list[Any] | None, bool]:
    """Rows of all of them by the C module, and whether it has a program."""
    compiled, _ = compile_tables(projections, store.tables, store.stored_types)
    if len(compiled.by_projector) < len(projections):
        return None, False
    with store.connection.transaction(force_rollback=True):
        program = program_of(compiled, store.connection)
        if program is None:
            return None, False
        type_ids = compiled.events.type_ids
        # On one connection, because nobody else sees these events: they are few enough to have been read when rows are written.
        done = transfer(store.connection, store.connection, program, store.source(), type_ids)
        rows = [store.rows(projection) for projection in projections]
        if done is None:
            assert not any(rows)
            return None, True
        events, row_changes = done
        (counted,) = store.connection.execute(
            "SELECT count(*) FROM sequent_schema.events WHERE event_type_id = ANY(%s)", (list(type_ids),)
        ).fetchone() or (None,)
        assert events == counted
        names = [record_shape(projection.table).table_name for projection in projections]
        written = {name: len(found) for name, found in zip(names, rows, strict=True)}
        assert {name: row_changes.get(name, 0) for name in names} == written
        return rows, True
    raise AssertionError


def _caught_up(store: Store, projection: type[TableProjection], cut: int) -> list[Any] | None:
    """Rows by SQL up to a position, and by handlers on top of them from there."""
    compiled, _ = compile_tables([projection], store.tables, store.stored_types)
    with store.connection.transaction(force_rollback=True):
        assert fold_in_sql(store.connection, compiled, store.source(until=cut)) is not None
        persistor = ReplayPersistor(
            store.connection, {projection.table: store.tables[projection.table]}, backing="table"
        )
        fold = Fold([projection], persistor, store.event_types, store.stored_types)
        fold.apply(store.raw(fold, after=cut))
        persistor.flush()
        return store.rows(projection)
    return None


def _naive(store: Store, projection: type[TableProjection]) -> list[Any] | None:
    """The rules by their plain meaning, in dictionaries; rows are put into the table by one INSERT each, for the server to print."""
    found = projection.declaration
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    persistor = ReplayPersistor(store.connection, {projection.table: store.tables[projection.table]})
    fold = Fold([projection], persistor, store.event_types, store.stored_types)
    columns = {column.attribute: column for column in store.tables[projection.table].record_shape.columns}
    by_id = {type_id: name for name, type_id in store.stored_types.items()}
    for position, created_at, aggregate, number, type_id, payload, _ in store.raw(fold):
        try:
            event = store.event_types.decoder(by_id[type_id])(payload)
        except Exception:
            return None
        envelope = {
            "aggregate_id": UUID(bytes=bytes(aggregate)),
            "sequence_number": number,
            "created_at": datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=created_at),
            "position": position,
        }

        def value(source: Any, event: Any = event, envelope: dict[str, Any] = envelope) -> Any:
            if not isinstance(source, Field):
                return source
            plain = envelope[source.name] if source.name in envelope else getattr(event, source.name)
            return plain if plain is None or not source.is_negated else plain * -1

        rule = found.rules[type(event)]  # type: ignore[index]
        key = (envelope["aggregate_id"], *(value(source) for source in found.key.values()))
        if rule.kind is RuleKind.DELETE_ALL:
            rows = {other: row for other, row in rows.items() if other[0] != key[0]}
            continue
        if rule.kind is RuleKind.DELETE:
            rows.pop(key, None)
            continue
        if (key in rows) is (rule.kind is RuleKind.INSERT) and rule.kind is not RuleKind.UPSERT:
            return None
        if key not in rows:
            previous = [row for other, row in rows.items() if other[0] == key[0]]
            rows[key] = dict.fromkeys(columns) | {"aggregate_id": key[0], "total": 7}
            rows[key].update(zip(found.key, key[1:], strict=True))
            rows[key]["before"] = previous[-1] if previous else {}
        row = rows[key]
        if rule.kind is not RuleKind.INSERT and rule.touch:
            row |= {"updated_at": envelope["created_at"], "sequence_number": number}
        for name, change in rule.changes.items():
            new, old = value(change.source), row[name]
            if change.kind is ChangeKind.RUNNING:
                old = row["before"].get(name)
            if change.kind in (ChangeKind.INCREMENT, ChangeKind.RUNNING):
                new = old if new is None else new if old is None else old + new
            if change.kind is ChangeKind.FIRST:
                new = new if old is None else old
            if change.kind is ChangeKind.LAST:
                new = old if new is None else new
            try:
                row[name] = columns[name].coerce(new)
            except InvalidValue:
                return None
    with store.connection.transaction(force_rollback=True):
        for row in rows.values():
            row.pop("before", None)
            row.pop("id", None)
            with_defaults = {
                name: item.name if isinstance(item, enum.Enum) else item for name, item in row.items()
            }
            query = sql.SQL("INSERT INTO view_schema.{} ({}) VALUES ({})").format(
                sql.Identifier(projection.table.__tablename__),
                sql.SQL(", ").join(map(sql.Identifier, with_defaults)),
                sql.SQL(", ").join(sql.Placeholder() * len(with_defaults)),
            )
            store.connection.execute(query, list(with_defaults.values()))
        return store.rows(projection)
    return None

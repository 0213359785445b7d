"""All persistors answer the same operations alike: rows, returned values, counts, errors, and what is stored in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from foresight import Foresight
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from persistor_kinds import (
    KINDS,
    RECORDS,
    Color,
    LedgerRecord,
    PlaceRecord,
    Subject,
    Tables,
    WideRecord,
    create_tables,
)
from psycopg import sql
from psycopg.pq import TransactionStatus

from sequent_py.errors import DefinitionError, SequentError
from sequent_py.persistors import DuplicateRecord, live
from sequent_py.persistors.ahead import AccessPaths
from sequent_py.persistors.live_tables import LiveTable
from sequent_py.persistors.replay import ReplayPersistor

AHEAD: dict[str, dict[str, Any]] = {
    "catch_up_ahead": {"backing": "table"},
    "catch_up_ahead_small": {"backing": "table", "max_rows_in_memory": 15},
    "spill_ahead": {"max_rows_in_memory": 9},
}
"""Kinds that read ahead what the coming operations filter by."""

AGGREGATES = [UUID(int=number) for number in (1, 2, 3 << 64, 2**128 - 1)]
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))

# Small pools, so that filters find something; a few values that no column of the kind takes.
NUMBERS = st.sampled_from([-1, 0, 1, 2, 7, 2**31 - 1, 2**15])
TEXTS = st.sampled_from(["", "a", "A", "é", "日本", "z ", "\n\"'\\", "𝕏", "none"])
DECIMALS = st.sampled_from([0, 1, Decimal("1.005"), Decimal("-1.005"), Decimal("1.00"), Decimal("1E+3"), Decimal("-0.0")])  # fmt: skip
FLOATS = st.sampled_from([0.0, -0.0, 0.1, 1e300, float("nan"), float("inf"), 3])
MOMENTS = st.sampled_from([MOMENT, MOMENT.astimezone(EAST), MOMENT + timedelta(microseconds=7)])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, -0.0, 1e20, 1e-7, 2**70, "", "é", "bb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "bb", "é", ""]), inner),
    max_leaves=5,
)
WRONG = st.sampled_from([object, 1.5, "\0", "\ud800", 2**64, True, [1], b"x", date(2024, 1, 1), {"a": float("nan")}, "x" * 50])  # fmt: skip

COLUMNS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    LedgerRecord: {
        "aggregate_id": st.sampled_from([*AGGREGATES, str(AGGREGATES[0])]),
        "owner": TEXTS | st.none(),
        "balance": NUMBERS,
        "amount": DECIMALS | st.none() | st.just(Decimal("NaN")) | st.just(Decimal("99999999.995")),
        "anything": DECIMALS | st.none() | st.just(Decimal("Infinity")),
        "flag": st.booleans(),
        "seen_at": MOMENTS | st.none(),
        "data": JSON_VALUES,
        "tags": st.lists(TEXTS | st.none(), max_size=3) | st.just(("a",)),
        "renamed": TEXTS | st.none(),
        "sequence_number": NUMBERS | st.none(),
    },
    PlaceRecord: {
        "town": TEXTS,
        "number": st.integers(-2, 2),
        "note": st.sampled_from(["", "a", "é", "none", "longer"]),
        "color": st.sampled_from([*Color, "RED", None]),
        "rank": NUMBERS | st.none(),
    },
    WideRecord: {
        "aggregate_id": st.sampled_from(AGGREGATES),
        "code": st.sampled_from(["", "ab", "ab  ", "abcd", "é"]) | st.none(),
        "email": TEXTS | st.none(),
        "exact": FLOATS | st.none(),
        "rough": FLOATS | st.none(),
        "rounded_at": MOMENTS | st.none(),
        "local": st.sampled_from([MOMENT.replace(tzinfo=None), datetime(1, 1, 1), None]),
        "day": st.sampled_from([date(2024, 2, 29), date(1, 1, 1), None]),
        "at": st.sampled_from([time(0), time(23, 59, 59, 999999), None]),
        "lasts": st.sampled_from([timedelta(0), timedelta(days=-1, seconds=5), None]),
        "raw": st.sampled_from([b"", b"\0\xff", bytearray(b"x"), None]),
        "kept": JSON_VALUES,
        "many": st.lists(st.integers(-3, 3) | st.none(), max_size=3) | st.none(),
        "moods": st.lists(st.sampled_from(["so", "la", "so la", None, "?"]), max_size=2) | st.none(),
    },
}  # fmt: skip
REQUIRED = {LedgerRecord: ("aggregate_id",), PlaceRecord: ("town", "number"), WideRecord: ("aggregate_id",)}
KEYS = {LedgerRecord: {"id": st.integers(1, 6)}, PlaceRecord: {}, WideRecord: {}}
UNFILTERABLE = ("data", "tags", "kept", "many", "moods")


@st.composite
def some_values(draw: st.DrawFn, record: type[Any], most: int = 4) -> dict[str, Any]:
    columns = COLUMNS[record]
    names = draw(st.lists(st.sampled_from(sorted(columns)), unique=True, max_size=most))
    values = {name: draw(columns[name]) for name in names}
    if names and draw(st.integers(0, 15)) == 0:
        values[names[0]] = draw(WRONG)
    if draw(st.integers(0, 30)) == 0:
        values["nonsense"] = 1
    return values


@st.composite
def new_values(draw: st.DrawFn, record: type[Any]) -> dict[str, Any]:
    values = draw(some_values(record))
    if draw(st.integers(0, 15)):
        values = {name: draw(COLUMNS[record][name]) for name in REQUIRED[record]} | values
    return values


@st.composite
def filters(draw: st.DrawFn, record: type[Any]) -> dict[str, Any]:
    columns = {**COLUMNS[record], **KEYS[record]}
    usable = sorted(name for name in columns if name not in UNFILTERABLE)
    usual = st.sampled_from([REQUIRED[record], tuple(KEYS[record]) or REQUIRED[record], REQUIRED[record][:1]])
    names = draw(usual | st.lists(st.sampled_from(usable), unique=True, max_size=2))
    where: dict[str, Any] = {}
    for name in names:
        value = columns[name]
        where[name] = draw(st.one_of(value, value, st.lists(value | st.none(), max_size=3), st.none()))
    if draw(st.integers(0, 30)) == 0:
        where[draw(st.sampled_from([*columns, "nonsense"]))] = draw(WRONG)
    return where


@st.composite
def simple_operations(draw: st.DrawFn, record: type[Any]) -> tuple[Any, ...]:
    name = draw(
        st.sampled_from(
            ["create_record"] * 4
            + [
                "create_records",
                "find_record",
                "find_records",
                "last_record",
                "get_record",
                "update_all_records",
            ]
            + ["delete_record", "delete_all_records", "delete_held", "flush"]
        )
    )
    match name:
        case "create_record":
            return name, record, draw(new_values(record))
        case "create_records":
            return name, record, draw(st.lists(new_values(record), max_size=3))
        case "update_all_records":
            return name, record, draw(filters(record)), draw(some_values(record, 2))
        case "delete_held":
            return name, record, draw(st.integers(0, 9))
        case "flush":
            return name, record
    return name, record, draw(filters(record))


@st.composite
def operations(draw: st.DrawFn) -> tuple[Any, ...]:
    record = draw(st.sampled_from([LedgerRecord, LedgerRecord, PlaceRecord, WideRecord]))
    if draw(st.booleans()):
        return draw(simple_operations(record))
    name = draw(st.sampled_from(["update_record", "update_record", "create_or_update_record"]))
    changes = {**draw(some_values(record, 3)), **draw(st.fixed_dictionaries({}, optional=KEYS[record]))}
    changes.pop("nonsense", None)
    touched = (
        {"updated_at": MOMENT, "sequence_number": 3} if record is LedgerRecord and draw(st.booleans()) else {}
    )
    inner = draw(st.none() | simple_operations(record) | operations())
    ending = draw(st.sampled_from(["", "", "", "", "raise"]))
    return name, record, draw(filters(record)), changes, touched, inner, ending


def filtered_by(operation: tuple[Any, ...]) -> dict[str, Any]:
    """Return the filters of an operation, or the values of a row that it creates."""
    return operation[2] if len(operation) > 2 and isinstance(operation[2], dict) else {}


class Interrupted(Exception):
    """What blocks raise."""


class GuardedTable(LiveTable):
    """Runs every statement in a savepoint, so that a script can go on after an error of the server."""

    def run(self, query: bytes, parameters: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        with self.connection.transaction():
            return super().run(query, parameters)


class Driver:
    """Applies operations to one persistor and writes down what happens."""

    def __init__(self, subject: Subject, foresight: Foresight | None = None) -> None:
        self.subject, self.foresight = subject, foresight
        self.held: list[tuple[Any, str]] = []
        self.errors: list[str] = []

    def apply(self, operation: tuple[Any, ...]) -> str:
        """Return the outcome as text, in which 1, 1.0 and True differ. Errors of ours are outcomes; others are faults."""
        try:
            return self._apply(operation)
        except (SequentError, Interrupted) as error:
            self.errors.append(type(error).__name__)
            return f"{type(error).__name__}: {error if isinstance(error, DefinitionError) else ''}"
        except psycopg.errors.InFailedSqlTransaction:
            return "after an error of the server"

    def is_lost(self, is_as_expected: bool) -> bool:
        """Whether the transaction has failed, or would with the flush."""
        if self.subject.connection.info.transaction_status is TransactionStatus.INERROR:
            return True
        if is_as_expected:
            return False
        try:
            self.subject.flush()
        except DuplicateRecord:
            return True
        return False

    def _apply(self, operation: tuple[Any, ...]) -> str:
        name, record, *arguments = operation
        persistor = self.subject.persistor
        match name:
            case "flush":
                self.subject.between()
                return "flushed"
            case "delete_held":
                rows = [row for row, _ in self.held if type(row).__name__ == record.__name__]
                return str(persistor.delete_record(record, rows[arguments[0] % len(rows)]) if rows else None)
            case "delete_record":
                row = persistor.find_record(record, *arguments)
                return str(None if row is None else persistor.delete_record(record, row))
            case "update_record" | "create_or_update_record":
                return self._block(name, record, *arguments)
        result = getattr(persistor, name)(record, *arguments)
        if isinstance(result, list):
            return f"[{', '.join(self._hold(row) for row in result)}]"
        return str(result) if result is None or isinstance(result, int) else self._hold(result)

    def _block(
        self,
        name: str,
        record: type[Any],
        where: dict[str, Any],
        changes: dict[str, Any],
        touched: dict[str, Any],
        inner: tuple[Any, ...] | None,
        ending: str,
    ) -> str:
        with getattr(self.subject.persistor, name)(record, where, touched) as row:
            outcome = repr(row)
            for column, value in changes.items():
                setattr(row, column, value)
            if inner is not None:
                outcome += self.apply(inner)
            if ending:
                raise Interrupted
        return outcome + self._hold(row)

    def _hold(self, row: Any) -> str:
        self.held.append((row, repr(row)))
        return repr(row)

    def check_held(self) -> None:
        """Rows keep the values they had when they were returned, and take no others."""
        for row, text in self.held:
            assert repr(row) == text
            with pytest.raises(DefinitionError, match="read-only"):
                row.number = 1


class Prepared:
    """A connection and the tables of every kind; no dataclass, whose fields Hypothesis would print with every failure."""

    def __init__(self, connection: psycopg.Connection[Any], tables: dict[str, Tables]) -> None:
        self.connection, self.tables = connection, tables


@pytest.fixture(scope="module")
def prepared(server_url: str, database_prefix: str) -> Iterator[Prepared]:
    patch = pytest.MonkeyPatch()
    patch.setattr(live, "LiveTable", GuardedTable)
    from sequent_py.testing.server import fresh_database

    with (
        fresh_database(server_url, f"{database_prefix}_agree") as url,
        psycopg.connect(url) as connection,
    ):
        # A zone with an offset in minutes: rows must be in UTC in spite of it.
        connection.execute("SET TIME ZONE 'Asia/Kolkata'")
        tables = {kind: create_tables(connection, kind) for kind in (*KINDS, *AHEAD)}
        connection.commit()
        yield Prepared(connection, tables)
    patch.undo()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=st.lists(operations(), min_size=1, max_size=14))
@example(
    # A row whose key is taken by one that had to leave memory meanwhile.
    script=[
        ("create_or_update_record", WideRecord, {"aggregate_id": UUID(int=1)}, {}, {},
         ("create_record", WideRecord, {"aggregate_id": UUID(int=2)}), ""),
        ("create_record", WideRecord, {"aggregate_id": UUID(int=1)}),
    ]
)  # fmt: skip
@example(
    # Updates that one who holds them has to let go of: somebody asks in another way, and what rows are found by changes.
    script=[
        ("create_record", LedgerRecord, {"aggregate_id": AGGREGATES[0], "balance": 1}),
        ("update_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}, {"balance": 2}, {}, None, ""),
        ("find_records", LedgerRecord, {"balance": 2}),
        ("update_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}, {"balance": 0}, {}, None, ""),
        ("update_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}, {"aggregate_id": AGGREGATES[1]}, {}, None, ""),
        ("update_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}, {"balance": 1}, {}, None, ""),
        ("create_or_update_record", PlaceRecord, {"town": "a", "number": 1}, {"rank": 7}, {}, None, ""),
        ("update_record", PlaceRecord, {"town": "a", "number": 1}, {"rank": 1}, {},
         ("find_record", PlaceRecord, {"town": "a", "number": 1}), ""),
        ("update_record", PlaceRecord, {"town": "a", "number": 1}, {"rank": 2, "number": 2}, {}, None, ""),
        ("find_record", PlaceRecord, {"town": "a", "number": 1}),
        ("update_record", PlaceRecord, {"town": "a", "number": 2}, {"rank": 7}, {}, None, ""),
        ("delete_all_records", PlaceRecord, {"rank": 7}),
        ("find_record", PlaceRecord, {"town": "a", "number": 2}),
    ]
)  # fmt: skip
@example(
    # The first of several rows is refused: who had drawn numbers for all of them has used up more than who had not.
    script=[
        ("create_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}),
        ("update_record", LedgerRecord, {"aggregate_id": AGGREGATES[0]}, {"id": 2}, {}, None, ""),
        ("create_records", LedgerRecord, [{"aggregate_id": AGGREGATES[1]}, {"aggregate_id": AGGREGATES[2], "balance": 1}]),
        ("create_record", LedgerRecord, {"aggregate_id": AGGREGATES[1]}),
    ]
)  # fmt: skip
def test_every_persistor_gives_the_same_rows_values_and_errors(
    prepared: Prepared, script: list[tuple[Any, ...]]
) -> None:
    connection, tables = prepared.connection, prepared.tables
    connection.rollback()
    drivers = {}
    for kind in (*KINDS, *AHEAD):
        sequence = sql.Identifier(kind, "ledger_records_id_seq").as_string(connection)
        connection.execute("SELECT setval(%s::regclass, 1, false)", (sequence,))
    for kind, build in KINDS.items():
        drivers[kind] = Driver(Subject(kind, build(connection, tables[kind]), tables[kind], connection))
    for kind, settings_ in AHEAD.items():
        persistor = ReplayPersistor(connection, tables[kind], **settings_)
        foresight = Foresight([filtered_by(operation) for operation in script])
        persistor.read_ahead(foresight, AccessPaths())
        drivers[kind] = Driver(Subject(kind, persistor, tables[kind], connection), foresight)
    for place, operation in enumerate(script):
        for driver in drivers.values():
            driver.errors.clear()
            if driver.foresight is not None:
                driver.foresight.place = place
        expected = drivers["live"].apply(operation)
        for kind in [kind for kind in drivers if kind != "live"]:
            connection.execute("SAVEPOINT before")
            outcome = drivers[kind].apply(operation)
            # Only the relation behind memory may have the key that the live persistor found taken. Then the server refuses it, now or when
            # the batch is written, and the batch is lost with its transaction; as a live one is.
            is_key_taken = kind != "replay" and "DuplicateRecord" in drivers["live"].errors
            if is_key_taken and drivers[kind].is_lost(
                outcome == expected and drivers[kind].errors == drivers["live"].errors
            ):
                connection.execute("ROLLBACK TO before")
                del drivers[kind]
                continue
            assert outcome == expected, kind
        if "DuplicateRecord" in drivers["live"].errors and "create_records" in str(operation):
            # How many numbers have been drawn behind it is open: in memory all rows' are drawn at once. A live append does not go on there, for its transaction has failed.
            break
    for kind, driver in drivers.items():
        driver.check_held()
        driver.subject.flush()
        for record in RECORDS:
            assert driver.subject.stored(record) == drivers["live"].subject.stored(record), (kind, record)

"""The event store against a real server: appending, versions, transactions, loading, windows, importing."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy
from psycopg import sql

from sequent_py.database import connect, create_engine
from sequent_py.errors import (
    DatabaseUnavailable,
    ImportRefused,
    InvalidEvent,
    InvalidPayload,
    MaintenanceModeActive,
    StoreError,
    StoreNotInstalled,
    UnknownEventType,
    VersionMismatch,
    WrongExpectedVersion,
)
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.gate import Gate
from sequent_py.event_store.own_connections import OwnConnections
from sequent_py.event_store.store import EventStore
from sequent_py.event_store.transaction_ids import foreign_transaction_ids, repair_transaction_ids
from sequent_py.events import Envelope, Event, envelope_of, is_recorded
from sequent_py.schema_migrations.event_store import install_event_store

SCHEMA = "sequent_schema"


class Opened(Event, type_name="StoreTestOpened"):
    owner: str
    extra: Any = None


class Deposited(Event, type_name="StoreTestDeposited"):
    amount: int


class NeverStored(Event, type_name="StoreTestNever"):
    pass


@pytest.fixture
def store(store_database_url: str) -> Iterator[EventStore]:
    engine = create_engine(store_database_url, "view_schema")
    yield EventStore(engine, SCHEMA, EventTypes([Opened, Deposited]))
    engine.dispose()


@pytest.fixture
def admin(store_database_url: str) -> Iterator[psycopg.Connection]:
    with closing(connect(store_database_url, view_schema=SCHEMA, autocommit=True)) as connection:
        yield connection


def deposits(*amounts: int) -> list[Event]:
    return [Deposited(amount=amount) for amount in amounts]


def whole(events: Iterable[Event]) -> list[tuple[Event, Envelope]]:
    """Events with their envelopes: equality of events is that of payloads."""
    return [(event, envelope_of(event)) for event in events]


def amounts(events: Sequence[Event]) -> list[int]:
    return [event.amount for event in events if isinstance(event, Deposited)]


# Appending and loading


def test_what_append_returns_is_what_load_returns(store: EventStore) -> None:
    aggregate_id = uuid4()
    events = [
        Opened(
            owner="O'Neil \"\\\n\t😀 %s $1 \\u0000",
            extra={"bb": date(2024, 1, 1), "a": [1.5, None, {"z": 1, "b": 2}]},
        ),
        Deposited(amount=2**62),
    ]
    recorded = store.append(aggregate_id, events, 0, metadata={"user": "Ann", "nested": {"x": [1, "é"]}})
    assert whole(store.load(aggregate_id)) == whole(recorded)
    assert [event.sequence_number for event in recorded] == [1, 2]
    assert recorded[0].position < recorded[1].position
    assert recorded[0].metadata == {"user": "Ann", "nested": {"x": [1, "é"]}}
    assert recorded[0].aggregate_id == aggregate_id
    assert list(recorded[0].extra) == list(store.load(aggregate_id)[0].extra) == ["a", "bb"]  # type: ignore[attr-defined]
    assert not is_recorded(events[0])
    assert store.version_of(aggregate_id) == 2


def test_texts_that_arrays_quote_come_back_as_they_were(store: EventStore) -> None:
    owners = ["", " ", "NULL", '"', '\\"', "\\", "{}", "{,}", "a,b", "\\\\u0041", "\n", "😀", "%s %b $1", "'"]
    aggregate_id = uuid4()
    store.append(aggregate_id, [Opened(owner=owner, extra=[owner]) for owner in owners], 0)
    assert [event.owner for event in store.load(aggregate_id) if isinstance(event, Opened)] == owners


def test_payloads_are_stored_as_objects(store: EventStore, admin: psycopg.Connection) -> None:
    store.append(uuid4(), [Opened(owner="Ann")])
    row = admin.execute("SELECT payload ->> 'owner', jsonb_typeof(payload), metadata FROM events").fetchone()
    assert row == ("Ann", "object", {})


@pytest.mark.parametrize(
    "created_at",
    [
        datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    ],
)
def test_a_given_time_is_kept_to_the_microsecond(store: EventStore, created_at: datetime) -> None:
    aggregate_id = uuid4()
    recorded = store.append(aggregate_id, deposits(1, 2), created_at=created_at)
    assert {event.created_at for event in recorded} == {created_at}
    assert {event.created_at.utcoffset() for event in store.load(aggregate_id)} == {timedelta(0)}
    assert whole(store.load(aggregate_id)) == whole(recorded)


def test_the_server_s_time_is_used_otherwise(store: EventStore, admin: psycopg.Connection) -> None:
    before, recorded, after = (
        admin.execute("SELECT clock_timestamp()").fetchone(),
        store.append(uuid4(), deposits(1)),
        admin.execute("SELECT clock_timestamp()").fetchone(),
    )
    assert before is not None
    assert after is not None
    assert before[0] <= recorded[0].created_at <= after[0]


def test_equal_on_a_connection_in_another_time_zone(store: EventStore, store_database_url: str) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as connection:
        connection.execute("SET TimeZone = 'Asia/Kathmandu'")
        recorded = store.append(aggregate_id, deposits(1), connection=connection)
        assert whole(store.load(aggregate_id, connection=connection)) == whole(recorded)
        connection.commit()
    assert whole(store.load(aggregate_id)) == whole(recorded)
    assert recorded[0].created_at.tzinfo is UTC


@pytest.fixture
def latin_url(store_database_url: str, admin: psycopg.Connection) -> str:
    """A database whose sessions do not speak UTF-8 unless they ask for it."""
    admin.execute(
        sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'").format(sql.Identifier(admin.info.dbname))
    )
    return store_database_url


def test_payloads_do_not_depend_on_the_client_encoding(latin_url: str, admin: psycopg.Connection) -> None:
    engine = create_engine(latin_url, "view_schema")
    EventStore(engine, SCHEMA, EventTypes([Opened])).append(uuid4(), [Opened(owner="Zoë €")])
    engine.dispose()
    row = admin.execute("SELECT payload ->> 'owner' FROM sequent_schema.events").fetchone()
    assert row == ("Zoë €",)


def test_a_caller_s_connection_in_another_encoding_is_refused(store: EventStore, latin_url: str) -> None:
    with psycopg.connect(latin_url) as connection:
        with pytest.raises(StoreError, match="client encoding"):
            store.append(uuid4(), [Opened(owner="Zoë")], connection=connection)
        connection.execute("SET client_encoding = 'UTF8'")
        store.append(uuid4(), [Opened(owner="Zoë")], connection=connection)


def test_parts_of_an_aggregate(store: EventStore) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(1, 2, 3, 4, 5))
    assert amounts(store.load(aggregate_id, after=2)) == [3, 4, 5]
    assert amounts(store.load(aggregate_id, until=2)) == [1, 2]
    assert amounts(store.load(aggregate_id, after=1, until=3)) == [2, 3]
    assert store.load(uuid4()) == []
    assert store.version_of(uuid4()) == 0


def test_ranges_by_position_and_type(store: EventStore) -> None:
    for number in range(1, 11):
        store.append(uuid4(), [Opened(owner="A"), Deposited(amount=number)])
    everything = store.load_range(limit=100)
    assert len(everything) == 20
    assert [event.position for event in everything] == sorted(event.position for event in everything)
    page = store.load_range(after_position=everything[4].position, limit=3)
    assert page == everything[5:8]
    assert amounts(store.load_range(event_types=[Deposited])) == list(range(1, 11))
    assert store.load_range(event_types=[NeverStored]) == []


def test_one_round_trip_per_append(store: EventStore, admin: psycopg.Connection) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, [Opened(owner="A"), Deposited(amount=1)])
    with OwnConnections(store.engine).lend_exchange() as exchange:
        assert exchange is not None
        pid = exchange.connection.info.backend_pid
    store.append(aggregate_id, deposits(2), 2)
    row = admin.execute("SELECT query, state FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    assert row is not None
    # Neither BEGIN nor COMMIT came after it.
    assert "append_events_v3" in row[0]
    assert row[1] == "idle"


# Versions


@pytest.mark.parametrize("expected", [0, 1, 3, 99])
def test_a_wrong_expected_version_appends_nothing(store: EventStore, expected: int) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(1, 2), 0)
    with pytest.raises(
        WrongExpectedVersion, match=rf"{aggregate_id} is at version 2, expected {expected}\."
    ) as caught:
        store.append(aggregate_id, deposits(3), expected)
    assert (caught.value.actual, caught.value.expected) == (2, expected)
    assert amounts(store.load(aggregate_id)) == [1, 2]


def test_eight_events_then_two_more(store: EventStore) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(*range(1, 9)), 0)
    recorded = store.append(aggregate_id, deposits(9, 10), 8)
    assert [event.sequence_number for event in recorded] == [9, 10]


@pytest.mark.parametrize("expected", [-1, 1.0, True, "1"])
def test_what_is_no_version_is_refused(store: EventStore, expected: Any) -> None:
    with pytest.raises(StoreError, match="expected_version is a number of events"):
        store.append(uuid4(), deposits(1), expected)


def test_refusals_need_no_server(store: EventStore) -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/none", "v")
    offline = EventStore(engine, SCHEMA, EventTypes())
    with pytest.raises(InvalidEvent, match="empty"):
        offline.append(uuid4(), [])
    with pytest.raises(InvalidEvent, match="NUL"):
        offline.append(uuid4(), [Opened(owner="\0")])
    with pytest.raises(DatabaseUnavailable, match=r"Cannot connect to nobody@127\.0\.0\.1:1/none"):
        offline.append(uuid4(), deposits(1))
    stored = store.append(uuid4(), deposits(1))
    with pytest.raises(InvalidEvent, match="already recorded"):
        store.append(uuid4(), stored)
    store.append(uuid4(), [stored[0].model_copy()])


ISOLATION_LEVELS = [
    psycopg.IsolationLevel.READ_COMMITTED,
    psycopg.IsolationLevel.REPEATABLE_READ,
    psycopg.IsolationLevel.SERIALIZABLE,
]


@pytest.mark.parametrize("level", ISOLATION_LEVELS)
def test_a_version_taken_meanwhile_is_noticed_in_every_isolation_level(
    store: EventStore, store_database_url: str, level: psycopg.IsolationLevel
) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as connection:
        connection.isolation_level = level
        assert store.load(aggregate_id, connection=connection) == []
        store.append(aggregate_id, deposits(1))
        # With an older snapshot it shows only as a violation of the unique key.
        refused: tuple[type[Exception], ...] = (WrongExpectedVersion,)
        if level == psycopg.IsolationLevel.SERIALIZABLE:
            refused = (WrongExpectedVersion, psycopg.errors.SerializationFailure)
        with pytest.raises(refused):
            store.append(aggregate_id, deposits(2), 0, connection=connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        connection.rollback()
        with pytest.raises(WrongExpectedVersion):
            store.append(aggregate_id, deposits(2), 0, connection=connection)
        connection.rollback()
        store.load(aggregate_id, connection=connection)
        store.append(aggregate_id, deposits(2))
        if level == psycopg.IsolationLevel.READ_COMMITTED:
            store.append(aggregate_id, deposits(3), connection=connection)
        else:
            # Nothing was expected, but this transaction cannot see where the end is.
            with pytest.raises((WrongExpectedVersion, psycopg.errors.SerializationFailure)):
                store.append(aggregate_id, deposits(3), connection=connection)
    assert amounts(store.load(aggregate_id)) == [1, 2]


def test_of_two_concurrent_appends_of_one_version_exactly_one_commits(
    store: EventStore, store_database_url: str
) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as first, ThreadPoolExecutor(1) as pool:
        store.append(aggregate_id, deposits(1), 0, connection=first)
        second = pool.submit(store.append, aggregate_id, deposits(2), 0)
        wait_for_lock(first)
        first.commit()
        with pytest.raises(WrongExpectedVersion, match="is at version 1, expected 0"):
            second.result(10)
    assert amounts(store.load(aggregate_id)) == [1]


def test_appends_without_a_version_queue_and_leave_no_gap(store: EventStore) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(0))
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda n: store.append(aggregate_id, deposits(n, -n)), range(1, 61)))
    events = store.load(aggregate_id)
    assert [event.sequence_number for event in events] == list(range(1, 122))
    assert [event.position for event in events] == sorted(event.position for event in events)
    assert sorted(amounts(events)) == sorted([0, *range(1, 61), *range(-60, 0)])
    assert all(second.sequence_number == first.sequence_number + 1 for first, second in results)


def test_appends_with_and_without_a_version_meet(store: EventStore) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(0))
    refused = Counter[str]()

    def append(number: int) -> None:
        if number % 2:
            store.append(aggregate_id, deposits(number))
        else:
            try:
                store.append(aggregate_id, deposits(number), store.version_of(aggregate_id))
            except WrongExpectedVersion:
                refused["versions"] += 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(append, range(1, 101)))
    assert [e.sequence_number for e in store.load(aggregate_id)] == list(range(1, 102 - refused["versions"]))


def test_other_aggregates_do_not_wait(store: EventStore, store_database_url: str) -> None:
    with closing(psycopg.connect(store_database_url)) as first:
        store.append(uuid4(), deposits(1), connection=first)
        with closing(psycopg.connect(store_database_url)) as second:
            second.execute("SET lock_timeout = '100ms'")
            store.append(uuid4(), deposits(1), connection=second)
            second.commit()


# The caller's transaction


def test_a_caller_s_transaction_is_neither_committed_nor_rolled_back(
    store: EventStore, store_database_url: str
) -> None:
    kept, dropped = uuid4(), uuid4()
    with closing(psycopg.connect(store_database_url)) as connection:
        store.append(dropped, deposits(1), connection=connection)
        assert store.load(dropped) == []
        connection.rollback()
        store.append(kept, deposits(1), connection=connection)
        store.append(kept, deposits(2), 1, connection=connection)
        assert amounts(store.load(kept, connection=connection)) == [1, 2]
        assert store.load(kept) == []
        connection.commit()
    assert amounts(store.load(kept)) == [1, 2]
    assert store.load(dropped) == []


def test_sqlalchemy_connections(store: EventStore) -> None:
    begun, committed, abandoned = uuid4(), uuid4(), uuid4()
    with store.engine.begin() as connection:
        store.append(begun, deposits(1), connection=connection)
        connection.execute(sqlalchemy.text("SELECT 1"))
    with store.engine.connect() as connection:
        # SQLAlchemy did not see the append: its commit() must not be a no-op.
        store.append(committed, deposits(1), connection=connection)
        connection.commit()
    with store.engine.connect() as connection:
        store.append(abandoned, deposits(1), connection=connection)
    assert [len(store.load(which)) for which in (begun, committed, abandoned)] == [1, 1, 0]


def test_an_error_leaves_the_caller_s_transaction_aborted(store: EventStore, store_database_url: str) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as connection:
        store.append(aggregate_id, deposits(1), connection=connection)
        with pytest.raises(WrongExpectedVersion):
            store.append(aggregate_id, deposits(2), 5, connection=connection)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        # A savepoint confines it.
        store.append(aggregate_id, deposits(1), connection=connection)
        with pytest.raises(WrongExpectedVersion), connection.transaction():
            store.append(aggregate_id, deposits(2), 5, connection=connection)
        connection.commit()
    assert amounts(store.load(aggregate_id)) == [1]


def test_a_rolled_back_first_use_of_a_type_does_no_harm(store: EventStore, store_database_url: str) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as connection:
        store.append(aggregate_id, [Opened(owner="A")], connection=connection)
        connection.rollback()
    recorded = store.append(aggregate_id, [Opened(owner="B")])
    other = EventStore(store.engine, SCHEMA, EventTypes([Opened]))
    assert whole(other.load(aggregate_id)) == whole(recorded)


def test_types_are_stored_once_whoever_comes_first(store: EventStore, admin: psycopg.Connection) -> None:
    stores = [EventStore(store.engine, SCHEMA, EventTypes([Opened, Deposited])) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda each: each.append(uuid4(), [Opened(owner="A"), Deposited(amount=1)]), stores))
    assert admin.execute("SELECT count(*), count(DISTINCT name) FROM event_types").fetchone() == (
        2,
        2,
    )
    assert len(store.load_range()) == 12


# Live projections


class Recording:
    """A projection that notes what it is given, in a table."""

    def __init__(self, *versions: int) -> None:
        self.versions = versions or (1,)
        self.seen: list[Event] = []
        self.error: BaseException | None = None

    def project(
        self, connection: psycopg.Connection, events: Sequence[Event], live_version: int, cut_overs: int
    ) -> None:
        self.live_version = live_version
        for event in events:
            connection.execute("INSERT INTO seen VALUES (%s)", [event.position])
        self.seen.extend(events)
        if self.error is not None:
            raise self.error


@pytest.fixture
def projected(store: EventStore, admin: psycopg.Connection) -> EventStore:
    admin.execute("CREATE TABLE public.seen (position bigint)")
    Gate(SCHEMA).set_live_version(admin, 1)
    return EventStore(store.engine, SCHEMA, store.event_types, Recording())


def seen(connection: psycopg.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT position FROM public.seen ORDER BY position")]


def test_projections_get_the_recorded_events_in_the_same_transaction(
    projected: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    projection = projected.projection
    assert isinstance(projection, Recording)
    recorded = projected.append(uuid4(), deposits(1, 2))
    assert whole(projection.seen) == whole(recorded)
    with closing(psycopg.connect(store_database_url)) as connection:
        recorded += projected.append(uuid4(), deposits(3), connection=connection)
        assert len(seen(admin)) == 2
        connection.commit()
    with closing(psycopg.connect(store_database_url, autocommit=True)) as connection:
        recorded += projected.append(uuid4(), deposits(4), connection=connection)
    with projected.engine.begin() as alchemy:
        recorded += projected.append(uuid4(), deposits(5), connection=alchemy)
    assert seen(admin) == [event.position for event in recorded]


def test_nothing_is_projected_while_no_version_is_live(store: EventStore, admin: psycopg.Connection) -> None:
    projection = Recording(7)
    EventStore(store.engine, SCHEMA, store.event_types, projection).append(uuid4(), deposits(1))
    assert projection.seen == []


@pytest.mark.parametrize("error", [ValueError("handler"), KeyboardInterrupt()])
def test_a_failing_handler_undoes_the_append_however_the_caller_goes_on(
    projected: EventStore, admin: psycopg.Connection, store_database_url: str, error: BaseException
) -> None:
    projection = projected.projection
    assert isinstance(projection, Recording)
    projection.error = error
    with pytest.raises(type(error)):
        projected.append(uuid4(), deposits(1))
    with (
        closing(psycopg.connect(store_database_url, autocommit=True)) as connection,
        pytest.raises(type(error)),
    ):
        projected.append(uuid4(), deposits(1), connection=connection)
    with closing(psycopg.connect(store_database_url)) as connection:
        with pytest.raises(type(error)):
            projected.append(uuid4(), deposits(1), connection=connection)
        # A caller that swallows the exception and commits.
        connection.commit()
    assert projected.load_range() == []
    assert seen(admin) == []


def test_code_of_another_version_is_refused(projected: EventStore, admin: psycopg.Connection) -> None:
    newer = EventStore(projected.engine, SCHEMA, projected.event_types, Recording(2))
    with pytest.raises(VersionMismatch, match="This code is at view-schema version 2, the database at 1"):
        newer.append(uuid4(), deposits(1))
    blind = EventStore(projected.engine, SCHEMA, projected.event_types)
    with pytest.raises(VersionMismatch, match="version 0, the database at 1"):
        blind.append(uuid4(), deposits(1))
    assert projected.load_range() == []


# What is stored badly


def test_unknown_types_and_invalid_payloads_name_the_event(
    store: EventStore, admin: psycopg.Connection
) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, [Opened(owner="A"), Deposited(amount=1), Deposited(amount=2)])
    admin.execute('UPDATE events SET payload = \'{"amount": "x"}\' WHERE sequence_number = 3')
    fresh = EventStore(store.engine, SCHEMA, EventTypes([Opened, Deposited]))
    with pytest.raises(
        InvalidPayload, match=rf"StoreTestDeposited \(aggregate {aggregate_id}, sequence number 3\).*amount"
    ):
        fresh.load(aggregate_id)
    admin.execute("UPDATE event_types SET name = 'StoreTestGone' WHERE name = 'StoreTestDeposited'")
    fresh = EventStore(store.engine, SCHEMA, EventTypes([Opened, Deposited]))
    with pytest.raises(
        UnknownEventType, match=rf"'StoreTestGone' \(aggregate {aggregate_id}, sequence number 2\)"
    ):
        fresh.load(aggregate_id)


@pytest.mark.parametrize("schema", ["nowhere", 'no"where%s'])
def test_a_missing_store_is_named(store: EventStore, schema: str) -> None:
    missing = EventStore(store.engine, schema, EventTypes([Opened]))
    for call in (
        lambda: missing.append(uuid4(), [Opened(owner="A")]),
        lambda: missing.load(uuid4()),
        lambda: missing.version_of(uuid4()),
        lambda: list(missing.window(None)),
        lambda: missing.import_history([]),
    ):
        with pytest.raises(StoreNotInstalled, match=r"does not exist.*sequent init|is older.*sequent init"):
            call()


def test_a_missing_function_means_an_older_store(store: EventStore, admin: psycopg.Connection) -> None:
    store.append(uuid4(), deposits(1))
    admin.execute("ALTER FUNCTION append_events_v3 RENAME TO append_events_v0")
    with pytest.raises(StoreNotInstalled, match="older than this library"):
        store.append(uuid4(), deposits(1))


def test_one_event_at_the_expected_version_is_appended_without_the_second_version_of_the_function(
    store: EventStore, admin: psycopg.Connection
) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, deposits(1, 2), 0)
    admin.execute("ALTER FUNCTION append_events_v2 RENAME TO append_events_v0")
    recorded = store.append(aggregate_id, deposits(3), 2)
    assert whole(store.load(aggregate_id, after=2)) == whole(recorded)
    for uncommon in (
        lambda: store.append(aggregate_id, deposits(4, 5), 3),
        lambda: store.append(aggregate_id, deposits(4), 2),
        lambda: store.append(aggregate_id, deposits(4)),
        lambda: store.append(uuid4(), deposits(4), 0, partition_key="a"),
    ):
        with pytest.raises(StoreNotInstalled):
            uncommon()
    assert store.version_of(aggregate_id) == 3


@pytest.mark.parametrize("schema", ['a"b', "a%s b", "é😀", "a'b\\c", "a$body$b{0}", "UPPER", "x" * 63])
def test_hostile_schema_names(database_url: str, schema: str) -> None:
    with closing(connect(database_url, autocommit=True)) as connection:
        install_event_store(connection, schema)
        engine = create_engine(database_url, schema)
        try:
            store = EventStore(engine, schema, EventTypes([Opened, Deposited]))
            aggregate_id = uuid4()
            recorded = store.append(aggregate_id, deposits(1), 0) + store.append(aggregate_id, deposits(2))
            assert whole(store.load(aggregate_id)) == whole(recorded)
            assert whole(store.window(None)) == whole(store.load_range()) == whole(recorded)
            assert store.import_history([(uuid4(), Opened(owner="A"), None)]) == 1
            gate = Gate(schema)
            gate.maintenance_on(connection, "100% 'sure'")
            with pytest.raises(MaintenanceModeActive, match="100% 'sure'"):
                store.append(aggregate_id, deposits(1))
            gate.drain(connection, 1)
            assert gate.maintenance_off(connection).is_closed is False
            assert foreign_transaction_ids(connection, schema) is None
            assert engine.connect().closed is False
        finally:
            engine.dispose()


def test_two_stores_in_one_database_do_not_share_a_gate(store: EventStore, admin: psycopg.Connection) -> None:
    install_event_store(admin, "second")
    Gate("second").maintenance_on(admin, "busy")
    store.append(uuid4(), deposits(1))
    with pytest.raises(MaintenanceModeActive):
        EventStore(store.engine, "second", store.event_types).append(uuid4(), deposits(1))


def test_a_lost_connection_is_reported_and_the_pool_recovers(
    store: EventStore, admin: psycopg.Connection
) -> None:
    store.append(uuid4(), deposits(1))
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(DatabaseUnavailable, match="not known"):
        store.append(uuid4(), deposits(2))
    store.append(uuid4(), deposits(3))


# Snapshot windows


def test_windows_hold_each_event_once_whatever_is_in_flight(
    store: EventStore, store_database_url: str
) -> None:
    with ExitStack() as stack:
        in_flight, rolled_back, saved, prepared, unrelated = (
            stack.enter_context(closing(psycopg.connect(store_database_url))) for _ in range(5)
        )
        unrelated.execute("SELECT pg_current_xact_id()")
        store.append(uuid4(), deposits(1))
        store.append(uuid4(), deposits(2), connection=in_flight)
        store.append(uuid4(), deposits(3), connection=rolled_back)
        store.append(uuid4(), deposits(4), connection=saved)
        with saved.transaction(force_rollback=True):
            store.append(uuid4(), deposits(5), connection=saved)
        with saved.transaction():
            store.append(uuid4(), deposits(6), connection=saved)
        prepared.tpc_begin(prepared.xid(1, "window", "test"))
        store.append(uuid4(), deposits(7), connection=prepared)
        prepared.tpc_prepare()
        first = store.snapshot()
        assert amounts(list(store.window(None, first))) == [1]
        in_flight.commit()
        rolled_back.rollback()
        saved.commit()
        store.append(uuid4(), deposits(8))
        second = store.snapshot()
        assert amounts(list(store.window(None, first))) == [1]
        assert amounts(list(store.window(first, second))) == [2, 4, 6, 8]
        prepared.tpc_commit()
        third = store.snapshot()
        assert amounts(list(store.window(second, third))) == [7]
        assert list(store.window(third)) == []
        assert amounts(list(store.window(first))) == [2, 4, 6, 7, 8]
        unrelated.rollback()


def test_an_old_transaction_that_appends_late_keeps_the_order(
    store: EventStore, store_database_url: str
) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as old:
        old.execute("SELECT pg_current_xact_id()")
        store.append(aggregate_id, deposits(1, 2))
        first = store.snapshot()
        # Its transaction id is lower than that of the events before it.
        store.append(aggregate_id, deposits(3), 2, connection=old)
        old.commit()
        second = store.snapshot()
    assert amounts(list(store.window(None, first))) == [1, 2]
    assert amounts(list(store.window(first, second))) == [3]
    assert amounts(list(store.window(None, second))) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(6))
def test_random_schedules_are_cut_into_exact_windows(
    store: EventStore, store_database_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    aggregates = [uuid4() for _ in range(5)]
    owner: dict[UUID, int] = {}
    windows: list[list[Event]] = []
    previous: str | None = None
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(psycopg.connect(store_database_url))) for _ in range(4)]
        for step in range(120):
            number = chance.randrange(len(connections))
            connection = connections[number]
            match chance.choices(
                ["append", "roll back part", "xid", "commit", "roll back", "cut"], [8, 2, 2, 4, 1, 2]
            )[0]:
                case "append" | "roll back part" as what:
                    # An aggregate with an open append would make the next one wait for it.
                    free = [each for each in aggregates if owner.get(each, number) == number]
                    if free:
                        aggregate_id = chance.choice(free)
                        with connection.transaction(force_rollback=what == "roll back part"):
                            store.append(aggregate_id, deposits(step), connection=connection)
                        owner[aggregate_id] = number
                case "xid":
                    connection.execute("SELECT pg_current_xact_id()")
                case "cut":
                    until = store.snapshot()
                    windows.append(list(store.window(previous, until)))
                    previous = until
                case ending:
                    connection.commit() if ending == "commit" else connection.rollback()
                    owner = {each: holder for each, holder in owner.items() if holder != number}
        for connection in connections:
            connection.commit()
    windows.append(list(store.window(previous)))
    events = [event for window in windows for event in window]
    assert Counter(event.position for event in events) == Counter(
        event.position for event in store.load_range(limit=1000)
    )
    for aggregate_id in aggregates:
        assert [event for event in events if event.aggregate_id == aggregate_id] == store.load(aggregate_id)


def test_windows_can_be_narrowed_to_types_and_left_early(store: EventStore) -> None:
    for number in range(20):
        store.append(uuid4(), [Opened(owner="A"), Deposited(amount=number)])
    assert amounts(list(store.window(None, event_types=[Deposited]))) == list(range(20))
    window = store.window(None)
    next(window)
    window.close()  # type: ignore[attr-defined]
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_window_of_something_else_is_refused(store: EventStore) -> None:
    with pytest.raises(StoreError, match="not a PostgreSQL snapshot"):
        store.window("1:2")


# Importing


def test_history_is_imported_whole(store: EventStore, admin: psycopg.Connection) -> None:
    moment = datetime(2020, 5, 17, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=9)))
    first, second = uuid4(), uuid4()
    reports: list[int] = []
    history = [
        (first, Opened(owner='A\n"\\😀'), moment),
        (second, Opened(owner="B", extra={"b": [1]}), None),
        (first, Deposited(amount=1), None),
        (first, Deposited(amount=2), moment),
        (second, Deposited(amount=3), None),
    ]
    assert store.import_history(iter(history), batch_events=2, progress=reports.append) == 5
    assert reports == [2, 4, 5]
    assert [event.sequence_number for event in store.load(first)] == [1, 2, 3]
    assert store.load(first)[0].created_at == moment
    assert store.load(first)[0].model_dump() == history[0][1].model_dump()
    assert store.load(second)[1].metadata == {}
    assert [event.aggregate_id for event in store.load_range()] == [each[0] for each in history]
    assert len(list(store.window(None, store.snapshot()))) == 5
    store.append(first, deposits(4), 3)


def test_an_import_is_all_or_nothing(store: EventStore, admin: psycopg.Connection) -> None:
    known = uuid4()
    store.append(known, deposits(1))

    def breaks() -> Iterator[tuple[UUID, Event, datetime | None]]:
        for number in range(50):
            yield uuid4(), Deposited(amount=number), None
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.import_history(breaks(), batch_events=5)
    with pytest.raises(ImportRefused, match=rf"has events already; nothing was imported: .*{known}"):
        store.import_history([(uuid4(), Opened(owner="A"), None), (known, Opened(owner="A"), None)])
    for bad in ((known, "x", None), ("x", Opened(owner="A"), None)):
        with pytest.raises(InvalidEvent, match="Item 1 of the history"):
            store.import_history([bad])  # type: ignore[list-item]
    with pytest.raises(InvalidEvent, match="NUL"):
        store.import_history([(uuid4(), Opened(owner="\0"), None)])
    with pytest.raises(InvalidEvent, match="aware"):
        store.import_history([(uuid4(), Opened(owner="A"), datetime(2024, 1, 1))])
    with pytest.raises(StoreError, match="batch_events"):
        store.import_history([], batch_events=0)
    assert len(store.load_range()) == 1
    Gate(SCHEMA).maintenance_on(admin, "busy")
    with pytest.raises(MaintenanceModeActive):
        store.import_history([(uuid4(), Opened(owner="A"), None)])
    Gate(SCHEMA).maintenance_off(admin)
    Gate(SCHEMA).set_live_version(admin, 1)
    with pytest.raises(ImportRefused, match="version 1 is live"):
        store.import_history([(uuid4(), Opened(owner="A"), None)])
    assert len(store.load_range()) == 1


# A store from another cluster


def test_transaction_ids_of_another_cluster_are_found(store: EventStore, admin: psycopg.Connection) -> None:
    assert foreign_transaction_ids(admin, SCHEMA) is None
    store.append(uuid4(), deposits(1))
    assert foreign_transaction_ids(admin, SCHEMA) is None
    admin.execute("UPDATE events SET xact_id = '900000000000'")
    assert foreign_transaction_ids(admin, SCHEMA) == 900000000000
    with pytest.raises(StoreNotInstalled):
        foreign_transaction_ids(admin, "nowhere")


def test_ids_of_another_cluster_leave_the_rows_that_appends_queue_for(
    store: EventStore, admin: psycopg.Connection
) -> None:
    store.append(uuid4(), deposits(1), partition_key="here")
    for table in ("events", "append_order", "partitions"):
        admin.execute(sql.SQL("UPDATE {} SET xact_id = '900000000000'").format(sql.Identifier(SCHEMA, table)))
    assert repair_transaction_ids(admin, SCHEMA) == 1
    rows = admin.execute(
        "SELECT xact_id::text FROM append_order UNION ALL SELECT xact_id::text FROM partitions"
    )
    assert rows.fetchall() == [("3",), ("3",)]


def wait_for_lock(connection: psycopg.Connection) -> None:
    """Wait until some backend waits for a lock that this connection's transaction holds."""
    query = sql.SQL(
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    ticker = threading.Event()
    for _ in range(1000):
        row = connection.execute(query).fetchone()
        if row and row[0]:
            return
        ticker.wait(0.01)
    raise AssertionError("nobody waits")

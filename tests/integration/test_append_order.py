"""Appending in a line: partition keys, serial appends, and processes that serve two versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import IsolationLevel
from waiting import wait_until

from sequent_py.database import connect, create_engine
from sequent_py.errors import ImportRefused, PartitionKeyConflict, StoreError, VersionMismatch
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.gate import Gate
from sequent_py.event_store.store import EventStore
from sequent_py.events import Event

SCHEMA = "sequent_schema"


class Counted(Event, type_name="AppendOrderCounted"):
    number: int


@pytest.fixture
def store(store_database_url: str) -> Iterator[EventStore]:
    engine = create_engine(store_database_url, "view_schema")
    yield EventStore(engine, SCHEMA, EventTypes([Counted]))
    engine.dispose()


@pytest.fixture
def admin(store_database_url: str) -> Iterator[psycopg.Connection]:
    with closing(connect(store_database_url, view_schema=SCHEMA, autocommit=True)) as connection:
        yield connection


def counted(number: int = 1) -> list[Event]:
    return [Counted(number=number)]


def is_waiting(admin: psycopg.Connection, application: str) -> bool:
    row = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
        [application],
    ).fetchone()
    return row == (1,)


def append_beside(
    store: EventStore, url: str, admin: psycopg.Connection, append: Callable[[psycopg.Connection], object]
) -> tuple[threading.Thread, list[BaseException]]:
    """Start an append on a connection of its own and return once it waits for a lock."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with closing(psycopg.connect(url, application_name="beside")) as connection:
                append(connection)
                connection.commit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: is_waiting(admin, "beside"))
    return thread, errors


def test_an_aggregate_keeps_its_partition_key(store: EventStore) -> None:
    keyed, unkeyed = uuid4(), uuid4()
    store.append(keyed, counted(), 0, partition_key="a")
    store.append(keyed, counted(), 1, partition_key="a")
    store.append(keyed, counted())
    with pytest.raises(PartitionKeyConflict, match="has the partition key 'a'; nothing was appended"):
        store.append(keyed, counted(), partition_key="b")
    store.append(unkeyed, counted())
    with pytest.raises(PartitionKeyConflict, match="has events, and no partition key"):
        store.append(unkeyed, counted(), partition_key="a")
    assert (store.version_of(keyed), store.version_of(unkeyed)) == (3, 1)
    for key in ("", 7):
        with pytest.raises(StoreError, match="partition_key is a text"):
            store.append(uuid4(), counted(), partition_key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_repeated", [True, False])
def test_appends_to_one_partition_wait_for_each_other_and_others_do_not(
    store: EventStore, admin: psycopg.Connection, store_database_url: str, is_repeated: bool
) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    store.append(first, counted(), partition_key="a")
    store.append(second, counted(), partition_key="a")
    key = "a" if is_repeated else None
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(first, counted(), connection=held, partition_key=key)
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: store.append(second, counted(), connection=connection, partition_key=key),
        )
        store.append(third, counted(), partition_key="b")
        store.append(uuid4(), counted())
        held.commit()
    thread.join()
    assert errors == []
    assert store.load(first)[-1].position < store.load(second)[-1].position


def test_transactions_over_the_same_aggregates_of_a_partition_do_not_deadlock(
    store: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    first, second = uuid4(), uuid4()
    for aggregate_id in (first, second):
        store.append(aggregate_id, counted(), partition_key="a")
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(first, counted(), connection=held)
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: store.append(second, counted(), connection=connection),
        )
        store.append(second, counted(), connection=held)
        held.commit()
    thread.join()
    assert errors == []
    assert store.version_of(second) == 3


def test_positions_of_a_partition_rise_in_the_order_of_the_commits(
    store: EventStore, admin: psycopg.Connection
) -> None:
    """However many append at once, what a snapshot holds of a key is a prefix."""
    aggregates = [uuid4() for _ in range(8)]
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            positions = [row[0] for row in admin.execute("SELECT position FROM events ORDER BY position")]
            assert positions[: len(seen)] == seen
            seen[:] = positions

    watcher = ThreadPoolExecutor(1).submit(watch)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda each: [store.append(each, counted(), partition_key="k") for _ in range(20)], aggregates
            )
        )
    stop.set()
    watcher.result()
    assert len(store.load_range()) == 160


def test_a_partition_that_was_appended_to_meanwhile_fails_a_repeatable_read_caller(
    store: EventStore, store_database_url: str
) -> None:
    first, second = uuid4(), uuid4()
    store.append(first, counted(), partition_key="a")
    with closing(psycopg.connect(store_database_url)) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM sequent_schema.events")
        store.append(first, counted())
        with pytest.raises(psycopg.errors.SerializationFailure):
            store.append(second, counted(), connection=connection, partition_key="a")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT sequent_schema.append_events_v2('{id}', NULL, ARRAY[1], ARRAY['{{}}'::jsonb], '{{}}', NULL, '{{}}', NULL)",
        "SELECT sequent_schema.append_events_v1('{id}', NULL, ARRAY[1], ARRAY['{{}}'::jsonb], '{{}}', NULL, 0)",
        "INSERT INTO sequent_schema.events (aggregate_id, sequence_number, event_type_id, payload) VALUES ('{id}', 1, 1, '{{}}')",
    ],
)
def test_serial_appends_form_one_line_whoever_writes(
    store: EventStore, admin: psycopg.Connection, store_database_url: str, statement: str
) -> None:
    Gate(SCHEMA).set_serial_appends(admin, True)
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(uuid4(), counted(), connection=held)
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: connection.execute(statement.format(id=uuid4()).encode()),
        )
        held.commit()
    thread.join()
    assert errors == []
    Gate(SCHEMA).set_serial_appends(admin, False)
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(uuid4(), counted(), connection=held)
        store.append(uuid4(), counted())


def test_two_first_appends_with_different_keys_leave_one(
    store: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(aggregate_id, counted(), connection=held, partition_key="a")
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: store.append(
                aggregate_id, counted(), connection=connection, partition_key="b"
            ),
        )
        held.commit()
    thread.join()
    assert [type(error) for error in errors] == [PartitionKeyConflict]
    assert admin.execute("SELECT aggregate_id, partition_key FROM aggregate_partitions").fetchall() == [
        (aggregate_id, "a")
    ]


def test_a_first_append_without_a_key_joins_the_partition_that_was_given_meanwhile(
    store: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    aggregate_id = uuid4()
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(aggregate_id, counted(), 0, connection=held, partition_key="a")
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: store.append(aggregate_id, counted(2), connection=connection),
        )
        held.commit()
    thread.join()
    assert errors == []
    row = admin.execute(
        "SELECT p.xact_id = (SELECT max(e.xact_id) FROM events e) FROM partitions p WHERE partition_key = 'a'"
    ).fetchone()
    assert row == (True,)


class TwoVersions:
    """A projection that notes the version it was asked for."""

    versions = (2, 1)

    def __init__(self) -> None:
        self.projected: list[int] = []

    def project(
        self, connection: psycopg.Connection, events: object, live_version: int, cut_overs: int
    ) -> None:
        self.projected.append(live_version)


def test_a_process_that_serves_two_versions_projects_as_the_live_one(
    store: EventStore, admin: psycopg.Connection
) -> None:
    projection = TwoVersions()
    serving = EventStore(store.engine, SCHEMA, store.event_types, projection)
    aggregate_id = uuid4()
    for live_version in (0, 1, 2, 1):
        Gate(SCHEMA).set_live_version(admin, live_version)
        serving.append(aggregate_id, counted())
    assert projection.projected == [1, 2, 1]
    Gate(SCHEMA).set_live_version(admin, 3)
    with pytest.raises(VersionMismatch, match="at view-schema version 2 and 1, the database at 3") as caught:
        serving.append(aggregate_id, counted())
    assert caught.value.code_versions == (2, 1)
    assert store.version_of(aggregate_id) == 4


def test_an_append_that_waited_at_the_gate_projects_as_the_version_that_came_meanwhile(
    store: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    Gate(SCHEMA).set_live_version(admin, 1)
    projection = TwoVersions()
    serving = EventStore(store.engine, SCHEMA, store.event_types, projection)
    aggregate_id = UUID(int=1)
    serving.append(aggregate_id, counted())
    with closing(psycopg.connect(store_database_url)) as held:
        held.execute("SELECT pg_advisory_xact_lock(sequent_schema.gate_key())")
        thread, errors = append_beside(
            store,
            store_database_url,
            admin,
            lambda connection: serving.append(aggregate_id, counted(), connection=connection),
        )
        Gate(SCHEMA).set_live_version(held, 2)
        held.commit()
    thread.join()
    assert errors == []
    assert projection.projected == [1, 2]


def test_an_import_gives_partition_keys_and_takes_their_place_in_line(
    store: EventStore, admin: psycopg.Connection, store_database_url: str
) -> None:
    keyed, unkeyed, other = uuid4(), uuid4(), uuid4()
    store.append(other, counted(), partition_key="a")
    history = [(keyed, Counted(number=number), None) for number in range(5)]
    history[2:2] = [(unkeyed, Counted(number=9), None)]
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(other, counted(), connection=held)
        importing = ThreadPoolExecutor(1).submit(
            store.import_history, history, batch_events=2, partition_keys={keyed: "a", uuid4(): "b"}
        )
        wait_until(
            lambda: (
                admin.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).fetchone()
                == (1,)
            )
        )
        held.commit()
    assert importing.result() == 6
    assert min(event.position for event in store.load(keyed)) > store.load(other)[-1].position
    assert set(admin.execute("SELECT aggregate_id, partition_key FROM aggregate_partitions")) == {
        (other, "a"),
        (keyed, "a"),
    }
    with pytest.raises(PartitionKeyConflict):
        store.append(keyed, counted(), partition_key="b")


def test_an_import_asks_for_partition_keys_when_it_comes_to_their_aggregates(
    store: EventStore, admin: psycopg.Connection
) -> None:
    keys: dict[UUID, str] = {}

    def history() -> Iterator[tuple[UUID, Event, None]]:
        for number in range(2):
            aggregate_id = uuid4()
            keys[aggregate_id] = f"key {number}"
            yield aggregate_id, Counted(number=number), None

    assert store.import_history(history(), partition_keys=keys) == 2
    assert (
        dict(admin.execute("SELECT aggregate_id, partition_key FROM aggregate_partitions").fetchall()) == keys
    )


def test_an_import_of_aggregates_that_have_events_leaves_no_keys(
    store: EventStore, admin: psycopg.Connection
) -> None:
    known, new = uuid4(), uuid4()
    store.append(known, counted())
    history = [(new, Counted(number=1), None), (known, Counted(number=1), None)]
    for keys in ({new: "a"}, {new: "a", known: "a"}):
        with pytest.raises(ImportRefused):
            store.import_history(history, partition_keys=keys)
    with pytest.raises(StoreError, match="partition_key is a text"):
        store.import_history(history, partition_keys={new: ""})
    assert admin.execute("SELECT count(*) FROM partitions").fetchone() == (0,)


@pytest.mark.parametrize("expected_version", ["NULL", "1"])
def test_a_process_of_the_release_before_takes_its_place_in_the_partitions_line(
    store: EventStore, admin: psycopg.Connection, store_database_url: str, expected_version: str
) -> None:
    first, second = uuid4(), uuid4()
    for aggregate_id in (first, second):
        store.append(aggregate_id, counted(), partition_key="a")
    statement = (
        f"SELECT sequent_schema.append_events_v1('{second}', {expected_version}, ARRAY[1], ARRAY['{{\"number\": 1}}'::jsonb],"
        " '{}', NULL, 0)"
    )
    with closing(psycopg.connect(store_database_url)) as held:
        store.append(first, counted(), connection=held)
        thread, errors = append_beside(
            store, store_database_url, admin, lambda connection: connection.execute(statement.encode())
        )
        held.commit()
    thread.join()
    assert errors == []
    assert store.load(first)[-1].position < store.load(second)[-1].position

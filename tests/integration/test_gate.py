"""The gate against a real server: what it refuses, whom draining waits for, and who reopens it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import IsolationLevel, sql

from sequent_py.database import connect, create_engine
from sequent_py.errors import (
    ConcurrentMigration,
    DrainTimeout,
    MaintenanceModeActive,
    MigrationError,
    StoreNotInstalled,
)
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.gate import Gate
from sequent_py.event_store.store import EventStore
from sequent_py.events import Event

SCHEMA = "sequent_schema"
GATE = Gate(SCHEMA)


class Ticked(Event, type_name="GateTestTicked"):
    secret: str = "tick"


@pytest.fixture
def store(store_database_url: str) -> Iterator[EventStore]:
    engine = create_engine(store_database_url, "view_schema")
    yield EventStore(engine, SCHEMA, EventTypes([Ticked]))
    engine.dispose()


@pytest.fixture
def open_connection(store_database_url: str) -> Iterator[Callable[..., psycopg.Connection]]:
    with ExitStack() as stack:

        def opened(*, autocommit: bool = False, name: str = "test") -> psycopg.Connection:
            connection = connect(
                store_database_url, view_schema=SCHEMA, autocommit=autocommit, application_name=name
            )
            return stack.enter_context(closing(connection))

        yield opened


@pytest.fixture
def admin(open_connection: Callable[..., psycopg.Connection]) -> psycopg.Connection:
    return open_connection(autocommit=True, name="admin")


def hold_migration_lock(connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_advisory_lock(migration_key())")


# Maintenance mode


def test_maintenance_mode_refuses_appends_and_not_reads(store: EventStore, admin: psycopg.Connection) -> None:
    aggregate_id = uuid4()
    store.append(aggregate_id, [Ticked()])
    assert GATE.read(admin).is_closed is False
    state = GATE.maintenance_on(admin, "upgrading\nthe disks")
    assert (state.is_closed, state.maintenance, state.reason) == (True, True, "upgrading the disks")
    with pytest.raises(
        MaintenanceModeActive, match=r"maintenance mode \(upgrading the disks\); nothing was appended"
    ):
        store.append(aggregate_id, [Ticked()])
    assert len(store.load(aggregate_id)) == len(list(store.window(None))) == 1
    again = GATE.maintenance_on(admin, "still")
    assert (again.reason, again.since) == ("still", state.since)
    state = GATE.maintenance_off(admin)
    assert (state.is_closed, state.reason, state.since) == (False, None, None)
    store.append(aggregate_id, [Ticked()])
    assert GATE.maintenance_off(admin).is_closed is False


def test_maintenance_needs_a_reason(admin: psycopg.Connection) -> None:
    with pytest.raises(MigrationError, match="needs a reason"):
        GATE.maintenance_on(admin, "  \n")


def test_a_closing_belongs_to_the_caller_s_transaction(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    connection = open_connection()
    connection.execute("SELECT 1")
    GATE.maintenance_on(connection, "perhaps")
    assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    store.append(uuid4(), [Ticked()])
    connection.rollback()
    assert GATE.read(admin).is_closed is False


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {} SELECT * FROM events",
        "UPDATE {} SET metadata = '{{}}'",
        "UPDATE {} SET metadata = '{{}}' WHERE false",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "COPY {} FROM STDIN",
        "MERGE INTO {} e USING (SELECT 1) x ON false WHEN MATCHED THEN DELETE",
    ],
)
def test_writers_that_bypass_the_library_are_refused(
    store: EventStore, admin: psycopg.Connection, statement: str
) -> None:
    store.append(UUID(int=1), [Ticked()])
    partitions = admin.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
    )
    tables = ["events", *(row[0] for row in partitions)]
    assert len(tables) == 17
    GATE.maintenance_on(admin, "closed")
    for table in tables:
        query = sql.SQL(statement).format(sql.Identifier(table))
        with pytest.raises(psycopg.DatabaseError, match="maintenance mode") as caught:
            execute_or_copy(admin, query)
        assert caught.value.diag.sqlstate == "SQ002"
        assert "(closed); nothing was written" in str(caught.value)
    GATE.maintenance_off(admin)
    assert len(store.load(UUID(int=1))) == 1
    admin.execute("TRUNCATE events")
    assert store.load(UUID(int=1)) == []


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_snapshot_older_than_the_closing_does_not_slip_through(
    store: EventStore,
    admin: psycopg.Connection,
    open_connection: Callable[..., psycopg.Connection],
    level: IsolationLevel,
) -> None:
    store.append(uuid4(), [Ticked()])
    writer = open_connection()
    writer.isolation_level = level
    writer.execute("SELECT count(*) FROM gate")
    GATE.maintenance_on(admin, "closed")
    GATE.drain(admin, 1)
    with pytest.raises(psycopg.errors.SerializationFailure):
        store.append(uuid4(), [Ticked()], connection=writer)
    writer.rollback()
    with pytest.raises(MaintenanceModeActive):
        store.append(uuid4(), [Ticked()], connection=writer)
    writer.rollback()
    GATE.maintenance_off(admin)
    store.append(uuid4(), [Ticked()], connection=writer)
    store.append(uuid4(), [Ticked()], connection=writer)
    writer.commit()
    assert len(store.load_range()) == 3


def test_writers_that_lock_the_row_are_named_when_it_cannot_be_closed(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    writer = open_connection(name="slow importer")
    writer.isolation_level = IsolationLevel.REPEATABLE_READ
    store.append(uuid4(), [Ticked()], connection=writer)
    with pytest.raises(DrainTimeout, match=rf"pid {writer.info.backend_pid} \(postgres, slow importer\)"):
        GATE.maintenance_on(admin, "closed", lock_timeout_seconds=0.05)
    assert GATE.read(admin).is_closed is False
    writer.commit()
    assert GATE.maintenance_on(admin, "closed").is_closed


# Draining


def test_draining_waits_for_writers_in_flight_and_not_for_later_ones(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    aggregate_id = uuid4()
    in_flight, idle, reading = open_connection(), open_connection(), open_connection()
    store.append(aggregate_id, [Ticked()], connection=in_flight)
    idle.execute("SELECT pg_current_xact_id()")
    store.load(aggregate_id, connection=reading)
    GATE.maintenance_on(admin, "closed")
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(GATE.drain, admin, 30)
        assert not wait_until(drained.done, seconds=0.3)
        with pytest.raises(MaintenanceModeActive):
            store.append(uuid4(), [Ticked()])
        with pytest.raises(MaintenanceModeActive):
            # It has passed the gate once and may not again: what it wrote before is waited for.
            store.append(uuid4(), [Ticked()], connection=idle)
        in_flight.commit()
        drained.result(5)
    assert len(store.load(aggregate_id)) == 1


def test_what_drains_in_time_leaves_the_connection_as_it_was(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    GATE.maintenance_on(admin, "closed")
    connection = open_connection()
    GATE.drain(connection, 0)
    assert connection.autocommit is False
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_drain_that_times_out_names_the_writers(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    first, second = open_connection(name="shop web"), open_connection(name="")
    store.append(uuid4(), [Ticked()], connection=first)
    store.append(uuid4(), [Ticked()], connection=second)
    second.execute("SELECT 'the secret token', 'it''s', " + ", ".join(map(str, range(100))))
    GATE.maintenance_on(admin, "closed")
    with pytest.raises(DrainTimeout) as caught:
        GATE.drain(admin, 0.05)
    message = str(caught.value)
    first_pid, second_pid = first.info.backend_pid, second.info.backend_pid
    assert (
        f"pid {first_pid} (postgres, shop web), in a transaction for 0 s, idle in transaction: SELECT * FROM"
        in message
    )
    assert f"pid {second_pid} (postgres, no application name)" in message
    assert "SELECT '…', '…', 0, 1" in message
    assert "secret" not in message
    assert ", 99" not in message
    assert f"SELECT pg_terminate_backend({first_pid}); SELECT pg_terminate_backend({second_pid});" in message
    assert GATE.read(admin).is_closed
    first.rollback()
    second.rollback()
    GATE.drain(admin, 1)


def test_a_prepared_transaction_is_waited_for_and_named(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    aggregate_id = uuid4()
    writer = open_connection()
    store.append(uuid4(), [Ticked()])
    store.append(aggregate_id, [Ticked()], connection=writer)
    writer.execute("PREPARE TRANSACTION 'it''s prepared'")
    GATE.maintenance_on(admin, "closed")
    with pytest.raises(
        DrainTimeout,
        match=r"prepared transaction \"it's prepared\" of postgres.*COMMIT PREPARED 'it''s prepared'; \(or ROLLBACK PREPARED\)",
    ):
        GATE.drain(admin, 0.05)
    admin.execute("COMMIT PREPARED 'it''s prepared'")
    GATE.drain(admin, 1)
    assert len(store.load(aggregate_id)) == 1


def test_draining_needs_a_committed_closing(
    admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    with pytest.raises(MigrationError, match="it is open"):
        GATE.drain(admin, 1)
    connection = open_connection()
    connection.execute("SELECT 1")
    GATE.maintenance_on(connection, "closed")
    with pytest.raises(MigrationError, match="in a transaction"):
        GATE.drain(connection, 1)
    connection.rollback()


def test_after_a_drain_no_event_is_written_until_the_gate_opens(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    stop = threading.Event()
    levels = [
        IsolationLevel.READ_COMMITTED,
        IsolationLevel.READ_COMMITTED,
        IsolationLevel.REPEATABLE_READ,
        IsolationLevel.SERIALIZABLE,
    ]
    appended = [0] * len(levels)
    store.append(uuid4(), [Ticked()])

    def write(number: int) -> None:
        connection = open_connection()
        connection.isolation_level = levels[number]
        while not stop.is_set():
            try:
                for _ in range(1 + number % 2):
                    store.append(uuid4(), [Ticked()], connection=connection)
                connection.commit()
                appended[number] += 1
            except (MaintenanceModeActive, psycopg.errors.SerializationFailure):
                connection.rollback()

    with ThreadPoolExecutor(len(levels)) as pool:
        writers = [pool.submit(write, number) for number in range(len(levels))]
        try:
            for _ in range(15):
                target = sum(appended) + 1
                assert wait_until(lambda target=target: sum(appended) >= target)  # type: ignore[misc]
                GATE.maintenance_on(admin, "closed")
                GATE.drain(admin, 10)
                snapshot = store.snapshot()
                time.sleep(0.01)
                assert list(store.window(snapshot)) == []
                GATE.maintenance_off(admin)
        finally:
            stop.set()
        for writer in writers:
            writer.result(10)
    assert all(appended)


# Closed by a view migration


def test_a_migration_s_closing_counts_only_while_its_coordinator_lives(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    coordinator = open_connection(autocommit=True)
    hold_migration_lock(coordinator)
    GATE.close_for_migration(coordinator, 7)
    state = GATE.read(admin)
    assert (state.is_closed, state.maintenance, state.closed_by_migration) == (True, False, 7)
    GATE.drain(coordinator, 1)
    with pytest.raises(MaintenanceModeActive, match="view migration 7 is being promoted"):
        store.append(uuid4(), [Ticked()])
    with pytest.raises(psycopg.DatabaseError, match="view migration 7"):
        admin.execute("DELETE FROM events")
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", [coordinator.info.backend_pid])
    state = GATE.read(admin)
    assert (state.is_closed, state.closed_by_migration) == (False, 7)
    store.append(uuid4(), [Ticked()])
    hold_migration_lock(admin)
    with pytest.raises(MaintenanceModeActive, match="view migration 7"):
        store.append(uuid4(), [Ticked()])
    GATE.reopen(admin)
    assert GATE.read(admin).closed_by_migration is None
    store.append(uuid4(), [Ticked()])


@pytest.mark.parametrize("is_promoted", [True, False])
def test_a_coordinator_that_is_through_is_not_taken_for_dead(
    store: EventStore, open_connection: Callable[..., psycopg.Connection], is_promoted: bool
) -> None:
    coordinator, writer, stopper = (
        open_connection(autocommit=True, name=name) for name in ("coordinator", "writer", "stopper")
    )
    GATE.set_live_version(coordinator, 1)
    hold_migration_lock(coordinator)
    GATE.close_for_migration(coordinator, 7)
    with ThreadPoolExecutor(1) as pool:
        with stopper.transaction():
            # Whoever looks for the coordinator's lock reads pg_database, too, and has to wait here: it has read that the gate is closed.
            stopper.execute("LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
            passing = pool.submit(
                lambda: writer.execute("SELECT live_version FROM check_gate_v2()").fetchone()
            )
            assert wait_until(
                lambda: (
                    stopper.execute(
                        "SELECT FROM pg_locks WHERE pid = %s AND NOT granted AND relation = 'pg_database'::regclass",
                        [writer.info.backend_pid],
                    ).rowcount
                )
            )
            if is_promoted:
                GATE.go_live(coordinator, 2)
            else:
                GATE.reopen(coordinator)
            coordinator.execute("SELECT pg_advisory_unlock(migration_key())")
        assert passing.result(10) == (2 if is_promoted else 1,)


def test_other_locks_do_not_close_the_gate(
    store: EventStore, admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    holder = open_connection(autocommit=True)
    hold_migration_lock(holder)
    GATE.close_for_migration(holder, 7)
    holder.execute("SELECT pg_advisory_unlock_all()")
    for lock in (
        "pg_advisory_lock_shared(migration_key())",
        "pg_advisory_lock(worker_key())",
        "pg_advisory_lock((migration_key() >> 32)::int, (migration_key() & 2147483647)::int)",
    ):
        holder.execute(f"SELECT {lock}")
        store.append(uuid4(), [Ticked()])


def test_closing_without_the_lock_or_over_another_migration_is_refused(
    admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    with pytest.raises(ConcurrentMigration, match="the migration lock is not held"):
        GATE.close_for_migration(admin, 1)
    assert GATE.read(admin).closed_by_migration is None
    coordinator = open_connection(autocommit=True)
    hold_migration_lock(coordinator)
    GATE.close_for_migration(coordinator, 1)
    GATE.close_for_migration(coordinator, 1)
    with pytest.raises(ConcurrentMigration, match="view migration 1"):
        GATE.close_for_migration(admin, 2)
    assert GATE.read(admin).closed_by_migration == 1


def test_maintenance_mode_outlives_a_migration(admin: psycopg.Connection) -> None:
    hold_migration_lock(admin)
    GATE.maintenance_on(admin, "closed")
    GATE.close_for_migration(admin, 1)
    GATE.reopen(admin)
    state = GATE.read(admin)
    assert (state.is_closed, state.maintenance, state.closed_by_migration) == (True, True, None)


def test_the_live_version_is_kept(admin: psycopg.Connection) -> None:
    assert GATE.read(admin).live_version == 0
    GATE.set_live_version(admin, 3)
    assert GATE.read(admin).live_version == 3


def test_without_a_store_the_gate_says_so(database_url: str) -> None:
    with closing(connect(database_url, autocommit=True)) as connection:
        for call in (
            lambda: GATE.read(connection),
            lambda: GATE.maintenance_on(connection, "x"),
            lambda: GATE.writers(connection),
            lambda: GATE.drain(connection, 0),
        ):
            with pytest.raises(StoreNotInstalled, match="sequent init"):
                call()


def test_reading_the_gate_waits_for_nobody(
    admin: psycopg.Connection, open_connection: Callable[..., psycopg.Connection]
) -> None:
    backup = open_connection()
    backup.execute("LOCK TABLE gate, events, event_types IN ACCESS SHARE MODE")
    changing = open_connection()
    changing.execute("UPDATE gate SET maintenance = maintenance")
    admin.execute("SET lock_timeout = '50ms'")
    assert GATE.read(admin).is_closed is False


def execute_or_copy(connection: psycopg.Connection, query: sql.Composed) -> None:
    """Execute a statement; give COPY nothing."""
    if query.as_string(None).startswith("COPY"):
        with connection.cursor() as cursor, cursor.copy(query):
            pass
    else:
        connection.execute(query)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll until the condition holds; return whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True

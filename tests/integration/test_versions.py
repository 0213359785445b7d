"""The rows of view migrations, against a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from migration_rows import FIRST, RELATIONS, SCHEMA, VERSIONS, Connection, S, begin, begin_in
from psycopg.rows import dict_row
from waiting import wait_until

from sequent_py.errors import ConcurrentMigration, InvalidTransition, PlanChanged, StoreNotInstalled
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.view_schema.bookkeeping.relations import Relations, TableRole
from sequent_py.view_schema.bookkeeping.statements import Bookkeeping
from sequent_py.view_schema.bookkeeping.versions import Versions
from sequent_py.view_schema.plans import Plan
from sequent_py.view_schema.states import TRANSITIONS, MigrationState, state_check


@pytest.fixture
def connection(connection: Connection) -> Connection:
    connection.execute("SET lock_timeout = '10s'")
    return connection


# -- migrations ----------------------------------------------------------------------------------------------------------------------


def test_before_the_first_migration_there_is_nothing(connection: Connection) -> None:
    assert VERSIONS.current(connection) is None
    assert VERSIONS.latest_state(connection) is None
    assert VERSIONS.unfinished(connection) is None
    assert VERSIONS.history(connection) == []
    assert RELATIONS.live_tables(connection) == {}


def test_a_migration_begins_online_with_its_plan(connection: Connection) -> None:
    migration = VERSIONS.begin(connection, FIRST, files_fingerprint="abc")
    assert migration.state is S.ONLINE_RUNNING
    assert migration.plan == FIRST
    assert (migration.from_version, migration.target_version) == (0, 1)
    assert (migration.epoch, migration.files_fingerprint, migration.error) == (1, "abc", None)
    assert VERSIONS.current(connection) == VERSIONS.unfinished(connection) == migration
    assert VERSIONS.history(connection) == [migration]


def test_a_second_unfinished_migration_is_refused_and_the_transaction_goes_on(connection: Connection) -> None:
    first = VERSIONS.begin(connection, FIRST, files_fingerprint="abc")
    with connection.transaction():
        with pytest.raises(ConcurrentMigration, match=f"migration {first.id} to version 1"):
            VERSIONS.begin(connection, Plan(0, 2), files_fingerprint="def")
        assert VERSIONS.history(connection) == [first]


def test_of_two_that_begin_at_the_same_moment_one_is_refused(
    connection: Connection, store_database_url: str
) -> None:
    refusals: list[BaseException] = []

    def begin_too() -> None:
        with psycopg.connect(store_database_url) as second:
            try:
                VERSIONS.begin(second, FIRST, files_fingerprint="def")
            except ConcurrentMigration as error:
                refusals.append(error)

    with connection.transaction():
        VERSIONS.begin(connection, FIRST, files_fingerprint="abc")
        thread = threading.Thread(target=begin_too)
        thread.start()
        wait_for_a_blocked_backend(connection)
    thread.join(timeout=30)
    assert len(refusals) == 1
    assert len(VERSIONS.history(connection)) == 1


def wait_for_a_blocked_backend(connection: Connection) -> None:
    """Return once another backend waits for this one."""
    query = "SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    wait_until(lambda: connection.execute(query).rowcount > 0)


@pytest.mark.parametrize("state", [state for state in S if state.is_finished])
def test_after_a_finished_migration_another_may_begin(connection: Connection, state: MigrationState) -> None:
    first = begin_in(connection, state)
    assert VERSIONS.unfinished(connection) is None
    assert VERSIONS.current(connection) == first
    assert VERSIONS.latest_state(connection) is state
    second = VERSIONS.begin(connection, Plan(1, 2), files_fingerprint="abc")
    assert VERSIONS.current(connection) == second
    assert VERSIONS.history(connection) == [second, first]
    assert VERSIONS.history(connection, limit=1) == [second]


@pytest.mark.parametrize("state", list(S))
def test_every_state_can_be_reached_and_has_its_timestamps(
    connection: Connection, state: MigrationState
) -> None:
    migration = begin_in(connection, state)
    assert migration.state is state
    assert (migration.finished_at is not None) == state.is_finished
    assert (migration.online_done_at is not None) == (state not in (S.ONLINE_RUNNING, S.ABORTED))
    assert (migration.rolled_back_at is not None) == (state is S.ROLLED_BACK)
    assert VERSIONS.current(connection) == migration


def test_exactly_the_edges_of_the_transition_table_are_taken(connection: Connection) -> None:
    allowed = {(edge.from_state, edge.to_state) for edge in TRANSITIONS if not edge.is_beginning}
    for from_state in S:
        for to_state in S:
            with connection.transaction(force_rollback=True):
                migration = begin_in(connection, from_state)
                if (from_state, to_state) in allowed:
                    moved = VERSIONS.transition(connection, migration.id, [from_state], to_state)
                    assert moved.state is to_state
                else:
                    with pytest.raises(InvalidTransition, match="No transition leads"):
                        VERSIONS.transition(connection, migration.id, [from_state], to_state)


def test_a_transition_from_another_state_is_refused_with_both(connection: Connection) -> None:
    migration = begin_in(connection, S.ONLINE_RUNNING)
    with pytest.raises(
        InvalidTransition, match="is online_running; only online_done can become offline_running"
    ):
        VERSIONS.transition(connection, migration.id, [S.ONLINE_DONE], S.OFFLINE_RUNNING)
    with pytest.raises(InvalidTransition, match="There is no view migration 4711"):
        VERSIONS.transition(connection, 4711, [S.ONLINE_DONE], S.OFFLINE_RUNNING)
    assert VERSIONS.current(connection) == migration


def test_one_transition_serves_several_states(connection: Connection) -> None:
    migration = begin_in(connection, S.ONLINE_DONE)
    moved = VERSIONS.transition(connection, migration.id, [S.ONLINE_RUNNING, S.ONLINE_DONE], S.ABORTED)
    assert moved.state is S.ABORTED
    assert moved.online_done_at == migration.online_done_at


def test_an_error_is_kept_until_a_transition_clears_it(connection: Connection) -> None:
    migration = begin_in(connection, S.OFFLINE_RUNNING)
    failed = VERSIONS.transition(
        connection, migration.id, [S.OFFLINE_RUNNING], S.ONLINE_DONE, error="it broke"
    )
    assert failed.error == "it broke"
    assert failed.online_done_at == migration.online_done_at
    VERSIONS.record_error(connection, migration.id, "it broke again")
    current = VERSIONS.current(connection)
    assert current is not None
    assert current.error == "it broke again"
    assert VERSIONS.transition(connection, migration.id, [S.ONLINE_DONE], S.OFFLINE_RUNNING).error is None


def test_a_transition_of_a_run_that_was_taken_over_is_refused(connection: Connection) -> None:
    migration = begin_in(connection, S.ONLINE_RUNNING)
    assert VERSIONS.bump_epoch(connection, migration.id) == 2
    with pytest.raises(ConcurrentMigration, match=r"epoch 2, not 1"):
        VERSIONS.transition(connection, migration.id, [S.ONLINE_RUNNING], S.ONLINE_DONE, epoch=1)
    assert (
        VERSIONS.transition(connection, migration.id, [S.ONLINE_RUNNING], S.ONLINE_DONE, epoch=2).epoch == 2
    )


def test_a_finished_migration_cannot_be_taken_over(connection: Connection) -> None:
    migration = begin_in(connection, S.ABORTED)
    with pytest.raises(InvalidTransition, match="is finished"):
        VERSIONS.bump_epoch(connection, migration.id)


@pytest.mark.parametrize("state", [S.OFFLINE_RUNNING, S.GOLIVE_RUNNING])
def test_a_cut_over_that_died_is_settled_as_online_done(
    connection: Connection, state: MigrationState
) -> None:
    migration = begin_in(connection, state)
    settled = VERSIONS.settle(connection, migration)
    assert settled.state is S.ONLINE_DONE
    assert settled.error == "The process that ran it ended."
    assert settled.online_done_at == migration.online_done_at
    assert VERSIONS.current(connection) == settled


def test_settling_any_other_state_changes_nothing(connection: Connection) -> None:
    migration = begin_in(connection, S.ONLINE_RUNNING)
    assert VERSIONS.settle(connection, migration) is migration


def test_the_stall_of_writers_is_recorded(connection: Connection) -> None:
    migration = begin_in(connection, S.LIVE)
    VERSIONS.record_stall(connection, migration.id, 12.5)
    current = VERSIONS.current(connection)
    assert current is not None
    assert current.stall_milliseconds == 12.5


def test_a_plan_of_another_release_does_not_keep_the_row_from_being_read(connection: Connection) -> None:
    migration = begin_in(connection, S.ONLINE_RUNNING)
    connection.execute(f"UPDATE {SCHEMA}.view_migrations SET plan = '{{}}'")  # noqa: S608
    found = VERSIONS.unfinished(connection)
    assert found is not None
    with pytest.raises(PlanChanged):
        _ = found.plan
    assert VERSIONS.transition(connection, migration.id, [S.ONLINE_RUNNING], S.ABORTED).state is S.ABORTED


def test_nothing_is_committed_for_the_caller(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        begin(connection)
    assert VERSIONS.history(connection) == []
    assert RELATIONS.tables(connection, TableRole.SHADOW) == []


# -- constraints -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "state = 'almost'",
        "state = 'live'",
        "finished_at = now()",
        "online_done_at = now()",
        "state = 'aborted'",
        "state = 'online_done'",
        "rolled_back_at = now()",
        "target_version = from_version",
    ],
)
def test_a_state_without_its_timestamps_cannot_be_stored(connection: Connection, change: str) -> None:
    begin_in(connection, S.ONLINE_RUNNING)
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE {SCHEMA}.view_migrations SET {change}")  # noqa: S608


def test_the_state_constraint_is_there_after_any_number_of_migrations(connection: Connection) -> None:
    for version in range(3):
        begin_in(connection, S.LIVE, Plan(version, version + 1))
    found = connection.execute(
        "SELECT count(*) FROM pg_constraint WHERE conname = 'view_migrations_state_check' AND contype = 'c' AND convalidated"
    ).fetchone()
    assert found == (1,)
    for state in S:
        assert f"'{state}'" in state_check()


# -- around ----------------------------------------------------------------------------------------------------------------------------

READERS: list[tuple[type[Bookkeeping], Callable[[Any, Connection], object]]] = [
    (Versions, Versions.current),
    (Versions, Versions.unfinished),
    (Versions, Versions.history),
    (Versions, Versions.latest_state),
    (Relations, Relations.live_tables),
    (Relations, Relations.retired),
    (Relations, lambda relations, connection: relations.shadows(connection, 1)),
    (Relations, lambda relations, connection: relations.unindexed(connection, 1)),
]


@pytest.mark.parametrize(("owner", "read"), READERS)
def test_without_a_store_readers_say_so_and_the_transaction_goes_on(
    connection: Connection, owner: type[Bookkeeping], read: Callable[[Any, Connection], object]
) -> None:
    rows = owner("elsewhere")
    with connection.transaction():
        with pytest.raises(StoreNotInstalled, match="'elsewhere' does not exist") as caught:
            read(rows, connection)
        assert caught.value.remedy == "Run: sequent init"
        connection.execute("CREATE SCHEMA elsewhere")
        with pytest.raises(StoreNotInstalled, match="has no tables of view migrations"):
            read(rows, connection)


def test_readers_do_not_wait_for_a_backup_nor_for_a_writer(
    connection: Connection, store_database_url: str
) -> None:
    migration = begin(connection)
    with psycopg.connect(store_database_url) as other:
        other.execute(f"LOCK TABLE {SCHEMA}.view_migrations, {SCHEMA}.view_tables IN ACCESS SHARE MODE")
        VERSIONS.bump_epoch(other, migration.id)
        RELATIONS.record_rows(other, "accounts_1", 7)
        connection.execute("SET lock_timeout = '1ms'; SET default_transaction_read_only = on")
        for owner, read in READERS:
            read(owner(SCHEMA), connection)
        other.rollback()


def test_any_row_factory_will_do(store_database_url: str) -> None:
    with psycopg.connect(store_database_url, row_factory=dict_row) as connection:
        migration = begin(connection)
        assert VERSIONS.current(connection) == migration
        assert VERSIONS.bump_epoch(connection, migration.id) == 2
        assert len(RELATIONS.shadows(connection, migration.id)) == 2


@pytest.mark.parametrize(
    "schema", ['quote"d', "per%cent %s", "brace{0}d {x}", "Ünïcode", "select", "semi;colon'"]
)
def test_any_schema_name_will_do(connection: Connection, schema: str) -> None:
    with connection.transaction(force_rollback=True):
        install_event_store(connection, schema)
        migration = begin(connection, schema=schema)
        assert Versions(schema).current(connection) == migration
        assert len(Relations(schema).shadows(connection, migration.id)) == 2

"""The rows of view migrations and their relations, against a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from waiting import wait_until

from sequent_py.errors import ConcurrentMigration, InvalidTransition, PlanChanged, StoreNotInstalled
from sequent_py.schema_migrations.event_store import install_event_store
from sequent_py.view_schema.blueprints import ObjectName, TableBlueprint
from sequent_py.view_schema.plans import AlterStep, LiveTable, Plan, ReplayStep
from sequent_py.view_schema.states import TRANSITIONS, MigrationState, state_check
from sequent_py.view_schema.versions import TableRole, Versions, ViewMigration

S = MigrationState
Connection = psycopg.Connection[Any]
SCHEMA = "sequent_schema"
VERSIONS = Versions(SCHEMA)


@pytest.fixture
def connection(store_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(store_database_url, autocommit=True) as opened:
        opened.execute("SET lock_timeout = '10s'")
        yield opened


def replay(name: str, target: int, retired: int | None = None) -> ReplayStep:
    retired_name = None if retired is None else f"{name}_{retired}"
    return ReplayStep(name, f"{name}_{target}", retired_name, (f"On{name}",), ("Happened",), "listed")


FIRST = Plan(
    0, 1, replays=(replay("accounts", 1), replay("messages", 1)), projectors=("Onaccounts", "Onmessages")
)


def begin(connection: Connection, plan: Plan = FIRST, versions: Versions = VERSIONS) -> ViewMigration:
    migration = versions.begin(connection, plan, files_fingerprint="abc")
    for step in plan.replays:
        blueprint = TableBlueprint(step.table_name, step.shadow_name, ())
        versions.record_shadow(connection, migration.id, blueprint, plan.target_version)
    return migration


WAYS: dict[MigrationState, list[MigrationState]] = {
    S.ONLINE_RUNNING: [],
    S.ONLINE_DONE: [S.ONLINE_DONE],
    S.OFFLINE_RUNNING: [S.ONLINE_DONE, S.OFFLINE_RUNNING],
    S.GOLIVE_RUNNING: [S.ONLINE_DONE, S.GOLIVE_RUNNING],
    S.LIVE: [S.ONLINE_DONE, S.OFFLINE_RUNNING, S.LIVE],
    S.ABORTED: [S.ABORTED],
    S.ROLLED_BACK: [S.ONLINE_DONE, S.OFFLINE_RUNNING, S.LIVE, S.ROLLED_BACK],
}


def begin_in(connection: Connection, state: MigrationState, plan: Plan = FIRST) -> ViewMigration:
    migration = VERSIONS.begin(connection, plan, files_fingerprint="abc")
    for to_state in WAYS[state]:
        migration = VERSIONS.transition(connection, migration.id, [migration.state], to_state)
    return migration


# -- migrations ----------------------------------------------------------------------------------------------------------------------


def test_before_the_first_migration_there_is_nothing(connection: Connection) -> None:
    assert VERSIONS.is_installed(connection)
    assert VERSIONS.current(connection) is None
    assert VERSIONS.latest_state(connection) is None
    assert VERSIONS.unfinished(connection) is None
    assert VERSIONS.history(connection) == []
    assert VERSIONS.live_tables(connection) == {}


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
    assert VERSIONS.tables(connection, TableRole.SHADOW) == []


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


@pytest.mark.parametrize(
    "change",
    [
        "role = 'spare'",
        "role = 'live'",
        "physical_name = table_name",
        "promoted_at = now()",
        "retired_at = now()",
        "role = 'retired'",
    ],
)
def test_a_role_that_contradicts_the_name_or_the_timestamps_cannot_be_stored(
    connection: Connection, change: str
) -> None:
    begin(connection)
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE {SCHEMA}.view_tables SET {change} WHERE physical_name = 'accounts_1'")  # noqa: S608


# -- tables ----------------------------------------------------------------------------------------------------------------------------


def promoted(connection: Connection, plan: Plan) -> ViewMigration:
    """A migration that is live."""
    migration = begin(connection, plan)
    for state in WAYS[S.LIVE]:
        migration = VERSIONS.transition(connection, migration.id, [migration.state], state)
    VERSIONS.promote(connection, migration.id, plan)
    return migration


ACCOUNTS = TableBlueprint(
    "accounts", "accounts_1", (ObjectName("key", "accounts_1_pkey", "accounts_pkey", "accounts"),)
)


def test_shadow_tables_are_recorded_by_their_exact_names(connection: Connection) -> None:
    migration = begin(connection)
    VERSIONS.record_rows(connection, "accounts_1", 7)
    accounts, messages = VERSIONS.shadows(connection, migration.id)
    assert (accounts.physical_name, accounts.table_name, accounts.role) == (
        "accounts_1",
        "accounts",
        TableRole.SHADOW,
    )
    assert (accounts.version, accounts.built_version, accounts.migration_id) == (1, 1, migration.id)
    assert TableBlueprint.from_json(accounts.names) == TableBlueprint("accounts", "accounts_1", ())
    assert (accounts.rows, messages.rows) == (7, None)
    assert messages.physical_name == "messages_1"
    assert VERSIONS.shadows(connection, migration.id + 1) == []
    assert VERSIONS.live_tables(connection) == {}


def test_shadow_tables_are_unindexed_until_they_are_marked(connection: Connection) -> None:
    migration = begin(connection)
    assert VERSIONS.unindexed(connection, migration.id) == {"accounts", "messages"}
    VERSIONS.mark_indexed(connection, migration.id, ACCOUNTS)
    assert VERSIONS.unindexed(connection, migration.id) == {"messages"}
    accounts, _ = VERSIONS.shadows(connection, migration.id)
    assert accounts.indexed_at is not None
    assert TableBlueprint.from_json(accounts.names) == ACCOUNTS


def test_a_shadow_table_that_was_dropped_meanwhile_cannot_be_marked_as_indexed(
    connection: Connection,
) -> None:
    migration = begin(connection)
    with pytest.raises(InvalidTransition, match="has no shadow table accounts_1"):
        VERSIONS.mark_indexed(connection, migration.id + 1, ACCOUNTS)
    VERSIONS.forget(connection, ["accounts_1"])
    with pytest.raises(InvalidTransition, match="has no shadow table accounts_1"):
        VERSIONS.mark_indexed(connection, migration.id, ACCOUNTS)


def test_the_names_that_a_swap_leaves_are_recorded(connection: Connection) -> None:
    promoted(connection, FIRST)
    VERSIONS.record_names(connection, "accounts", {"x": "y"})
    accounts, _ = VERSIONS.tables(connection, TableRole.LIVE)
    assert accounts.names == {"x": "y"}


def test_the_first_promotion_makes_shadow_tables_live_and_retires_nothing(connection: Connection) -> None:
    migration = promoted(connection, FIRST)
    assert VERSIONS.live_tables(connection) == {
        "accounts": LiveTable("accounts", 1),
        "messages": LiveTable("messages", 1),
    }
    assert VERSIONS.retired(connection) == []
    assert VERSIONS.shadows(connection, migration.id) == []


def test_a_promotion_retires_what_it_replaces_and_leaves_the_rest(connection: Connection) -> None:
    first = promoted(connection, FIRST)
    second = promoted(connection, Plan(1, 2, replays=(replay("messages", 2, retired=1),)))
    promoted(connection, Plan(2, 3, replays=(replay("accounts", 3, retired=2),)))
    assert VERSIONS.live_tables(connection) == {
        "accounts": LiveTable("accounts", 3),
        "messages": LiveTable("messages", 2),
    }
    accounts, messages = VERSIONS.retired(connection)
    assert (messages.physical_name, messages.table_name, messages.version) == ("messages_1", "messages", 1)
    assert (messages.migration_id, messages.retired_by) == (first.id, second.id)
    assert messages.retired_at is not None
    # Built at 1, served until 2.
    assert (accounts.physical_name, accounts.version, accounts.built_version) == ("accounts_2", 2, 1)


def test_a_promotion_marks_altered_tables(connection: Connection) -> None:
    promoted(connection, FIRST)
    promoted(
        connection,
        Plan(
            1,
            3,
            alters=(
                AlterStep("accounts", 2, "accounts_2.sql", "listed"),
                AlterStep("accounts", 3, "accounts_3.sql", "listed"),
                AlterStep("elsewhere", 3, "elsewhere_3.sql", "listed"),
            ),
        ),
    )
    assert VERSIONS.live_tables(connection) == {
        "accounts": LiveTable("accounts", 1, 3),
        "messages": LiveTable("messages", 1),
    }


@pytest.mark.parametrize(
    "changed",
    [
        Plan(1, 2, replays=(replay("messages", 2),)),
        Plan(1, 2, replays=(replay("accounts", 2, retired=1),)),
        Plan(1, 2, replays=(replay("messages", 3, retired=1),)),
        Plan(1, 2, replays=(replay("others", 2, retired=1),)),
    ],
)
def test_a_promotion_of_other_tables_than_recorded_is_refused(connection: Connection, changed: Plan) -> None:
    promoted(connection, FIRST)
    migration = begin(connection, Plan(1, 2, replays=(replay("messages", 2, retired=1),)))
    before = VERSIONS.live_tables(connection)
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        VERSIONS.promote(connection, migration.id, changed)
    assert VERSIONS.live_tables(connection) == before
    assert VERSIONS.retired(connection) == []


def test_a_promotion_that_finds_no_live_table_to_retire_is_refused(connection: Connection) -> None:
    migration = begin(connection)
    changed = Plan(0, 1, replays=(replay("accounts", 1, retired=0),))
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        VERSIONS.promote(connection, migration.id, changed)
    assert VERSIONS.live_tables(connection) == {}


def test_another_migrations_shadow_table_is_not_promoted(connection: Connection) -> None:
    migration = begin(connection)
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        VERSIONS.promote(connection, migration.id + 1, FIRST)
    assert VERSIONS.live_tables(connection) == {}


def test_shadow_tables_of_finished_migrations_are_left_over(connection: Connection) -> None:
    migration = begin(connection)
    assert VERSIONS.leftovers(connection) == []
    VERSIONS.transition(connection, migration.id, [S.ONLINE_RUNNING], S.ABORTED)
    assert [table.physical_name for table in VERSIONS.leftovers(connection)] == ["accounts_1", "messages_1"]
    assert VERSIONS.forget(connection, ["accounts_1", "messages_1", "unknown"]) == 2
    assert VERSIONS.leftovers(connection) == []


def test_a_live_table_is_never_forgotten(connection: Connection) -> None:
    promoted(connection, FIRST)
    assert VERSIONS.forget(connection, ["accounts", "messages"]) == 0
    assert set(VERSIONS.live_tables(connection)) == {"accounts", "messages"}


# -- around ----------------------------------------------------------------------------------------------------------------------------

READERS: list[Callable[[Versions, Connection], object]] = [
    Versions.current,
    Versions.unfinished,
    Versions.history,
    Versions.latest_state,
    Versions.live_tables,
    Versions.retired,
    Versions.leftovers,
    lambda versions, connection: versions.shadows(connection, 1),
    lambda versions, connection: versions.unindexed(connection, 1),
]


@pytest.mark.parametrize("reader", READERS)
def test_without_a_store_readers_say_so_and_the_transaction_goes_on(
    connection: Connection, reader: Callable[[Versions, Connection], object]
) -> None:
    versions = Versions("elsewhere")
    with connection.transaction():
        assert not versions.is_installed(connection)
        with pytest.raises(StoreNotInstalled, match="'elsewhere' does not exist") as caught:
            reader(versions, connection)
        assert caught.value.remedy == "Run: sequent init"
        connection.execute("CREATE SCHEMA elsewhere")
        with pytest.raises(StoreNotInstalled, match="has no tables of view migrations"):
            reader(versions, connection)


def test_readers_do_not_wait_for_a_backup_nor_for_a_writer(
    connection: Connection, store_database_url: str
) -> None:
    migration = begin(connection)
    with psycopg.connect(store_database_url) as other:
        other.execute(f"LOCK TABLE {SCHEMA}.view_migrations, {SCHEMA}.view_tables IN ACCESS SHARE MODE")
        Versions(SCHEMA).bump_epoch(other, migration.id)
        connection.execute("SET lock_timeout = '1ms'; SET default_transaction_read_only = on")
        for reader in READERS:
            reader(VERSIONS, connection)
        other.rollback()


def test_any_row_factory_will_do(store_database_url: str) -> None:
    with psycopg.connect(store_database_url, row_factory=dict_row) as connection:
        migration = begin(connection)
        assert VERSIONS.is_installed(connection)
        assert VERSIONS.current(connection) == migration
        assert VERSIONS.bump_epoch(connection, migration.id) == 2
        assert len(VERSIONS.shadows(connection, migration.id)) == 2


@pytest.mark.parametrize(
    "schema", ['quote"d', "per%cent %s", "brace{0}d {x}", "Ünïcode", "select", "semi;colon'"]
)
def test_any_schema_name_will_do(connection: Connection, schema: str) -> None:
    versions = Versions(schema)
    with connection.transaction(force_rollback=True):
        install_event_store(connection, schema)
        migration = begin(connection, versions=versions)
        assert versions.current(connection) == migration
        assert len(versions.shadows(connection, migration.id)) == 2


def test_a_table_without_projectors_is_marked_once_and_forgotten_when_it_is_rebuilt(
    connection: Connection,
) -> None:
    promoted(connection, FIRST)
    promoted(connection, Plan(1, 2, orphaned=("accounts",)))
    promoted(connection, Plan(2, 3, orphaned=("accounts",)))
    assert VERSIONS.live_tables(connection)["accounts"] == LiveTable("accounts", 1, None, 2)
    promoted(connection, Plan(3, 4, replays=(replay("accounts", 4, retired=3),)))
    assert VERSIONS.live_tables(connection)["accounts"] == LiveTable("accounts", 4)

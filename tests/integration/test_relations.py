"""The rows of the relations that view migrations made, against a server."""

from __future__ import annotations

import psycopg
import pytest
from migration_rows import FIRST, RELATIONS, SCHEMA, VERSIONS, WAYS, Connection, S, begin, replay

from sequent_py.errors import InvalidTransition
from sequent_py.view_schema.bookkeeping.relations import TableRole
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.plans import AlterStep, LiveTable, Plan
from sequent_py.view_schema.tables.blueprints import ObjectName, TableBlueprint


@pytest.fixture
def connection(connection: Connection) -> Connection:
    connection.execute("SET lock_timeout = '10s'")
    return connection


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


def promoted(connection: Connection, plan: Plan) -> ViewMigration:
    """A migration that is live."""
    migration = begin(connection, plan)
    for state in WAYS[S.LIVE]:
        migration = VERSIONS.transition(connection, migration.id, [migration.state], state)
    RELATIONS.promote(connection, migration.id, plan)
    return migration


ACCOUNTS = TableBlueprint(
    "accounts", "accounts_1", (ObjectName("key", "accounts_1_pkey", "accounts_pkey", "accounts"),)
)


def test_shadow_tables_are_recorded_by_their_exact_names(connection: Connection) -> None:
    migration = begin(connection)
    RELATIONS.record_rows(connection, "accounts_1", 7)
    accounts, messages = RELATIONS.shadows(connection, migration.id)
    assert (accounts.physical_name, accounts.table_name, accounts.role) == (
        "accounts_1",
        "accounts",
        TableRole.SHADOW,
    )
    assert (accounts.version, accounts.built_version, accounts.migration_id) == (1, 1, migration.id)
    assert TableBlueprint.from_json(accounts.names) == TableBlueprint("accounts", "accounts_1", ())
    assert (accounts.rows, messages.rows) == (7, None)
    assert messages.physical_name == "messages_1"
    assert RELATIONS.shadows(connection, migration.id + 1) == []
    assert RELATIONS.live_tables(connection) == {}


def test_shadow_tables_are_unindexed_until_they_are_marked(connection: Connection) -> None:
    migration = begin(connection)
    assert RELATIONS.unindexed(connection, migration.id) == {"accounts", "messages"}
    RELATIONS.mark_indexed(connection, migration.id, ACCOUNTS)
    assert RELATIONS.unindexed(connection, migration.id) == {"messages"}
    accounts, _ = RELATIONS.shadows(connection, migration.id)
    assert accounts.indexed_at is not None
    assert TableBlueprint.from_json(accounts.names) == ACCOUNTS


def test_a_shadow_table_that_was_dropped_meanwhile_cannot_be_marked_as_indexed(
    connection: Connection,
) -> None:
    migration = begin(connection)
    with pytest.raises(InvalidTransition, match="has no shadow table accounts_1"):
        RELATIONS.mark_indexed(connection, migration.id + 1, ACCOUNTS)
    RELATIONS.forget(connection, ["accounts_1"])
    with pytest.raises(InvalidTransition, match="has no shadow table accounts_1"):
        RELATIONS.mark_indexed(connection, migration.id, ACCOUNTS)


def test_the_names_that_a_swap_leaves_are_recorded(connection: Connection) -> None:
    promoted(connection, FIRST)
    RELATIONS.record_names(connection, "accounts", {"x": "y"})
    accounts, _ = RELATIONS.tables(connection, TableRole.LIVE)
    assert accounts.names == {"x": "y"}


def test_the_first_promotion_makes_shadow_tables_live_and_retires_nothing(connection: Connection) -> None:
    migration = promoted(connection, FIRST)
    assert RELATIONS.live_tables(connection) == {
        "accounts": LiveTable("accounts", 1),
        "messages": LiveTable("messages", 1),
    }
    assert RELATIONS.retired(connection) == []
    assert RELATIONS.shadows(connection, migration.id) == []


def test_a_promotion_retires_what_it_replaces_and_leaves_the_rest(connection: Connection) -> None:
    first = promoted(connection, FIRST)
    second = promoted(connection, Plan(1, 2, replays=(replay("messages", 2, retired=1),)))
    promoted(connection, Plan(2, 3, replays=(replay("accounts", 3, retired=2),)))
    assert RELATIONS.live_tables(connection) == {
        "accounts": LiveTable("accounts", 3),
        "messages": LiveTable("messages", 2),
    }
    accounts, messages = RELATIONS.retired(connection)
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
    assert RELATIONS.live_tables(connection) == {
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
    before = RELATIONS.live_tables(connection)
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        RELATIONS.promote(connection, migration.id, changed)
    assert RELATIONS.live_tables(connection) == before
    assert RELATIONS.retired(connection) == []


def test_a_promotion_that_finds_no_live_table_to_retire_is_refused(connection: Connection) -> None:
    migration = begin(connection)
    changed = Plan(0, 1, replays=(replay("accounts", 1, retired=0),))
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        RELATIONS.promote(connection, migration.id, changed)
    assert RELATIONS.live_tables(connection) == {}


def test_another_migrations_shadow_table_is_not_promoted(connection: Connection) -> None:
    migration = begin(connection)
    with pytest.raises(InvalidTransition, match="are not those of the plan"), connection.transaction():
        RELATIONS.promote(connection, migration.id + 1, FIRST)
    assert RELATIONS.live_tables(connection) == {}


def test_relations_are_forgotten_by_their_exact_names(connection: Connection) -> None:
    migration = begin(connection)
    assert RELATIONS.forget(connection, ["accounts_1", "accounts", "unknown"]) == 1
    assert [table.physical_name for table in RELATIONS.shadows(connection, migration.id)] == ["messages_1"]


def test_a_live_table_is_never_forgotten(connection: Connection) -> None:
    promoted(connection, FIRST)
    assert RELATIONS.forget(connection, ["accounts", "messages"]) == 0
    assert set(RELATIONS.live_tables(connection)) == {"accounts", "messages"}


def test_a_table_without_projectors_is_marked_once_and_forgotten_when_it_is_rebuilt(
    connection: Connection,
) -> None:
    promoted(connection, FIRST)
    promoted(connection, Plan(1, 2, orphaned=("accounts",)))
    promoted(connection, Plan(2, 3, orphaned=("accounts",)))
    assert RELATIONS.live_tables(connection)["accounts"] == LiveTable("accounts", 1, None, 2)
    promoted(connection, Plan(3, 4, replays=(replay("accounts", 4, retired=3),)))
    assert RELATIONS.live_tables(connection)["accounts"] == LiveTable("accounts", 4)

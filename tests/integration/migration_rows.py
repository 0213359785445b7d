"""Rows of view migrations and of their relations, written without a view schema."""

from __future__ import annotations

from typing import Any

import psycopg

from sequent_py.view_schema.bookkeeping.relations import Relations
from sequent_py.view_schema.bookkeeping.versions import Versions, ViewMigration
from sequent_py.view_schema.plans import Plan, ReplayStep
from sequent_py.view_schema.states import MigrationState
from sequent_py.view_schema.tables.blueprints import TableBlueprint

S = MigrationState
Connection = psycopg.Connection[Any]
SCHEMA = "sequent_schema"
VERSIONS = Versions(SCHEMA)
RELATIONS = Relations(SCHEMA)


def replay(name: str, target: int, retired: int | None = None) -> ReplayStep:
    retired_name = None if retired is None else f"{name}_{retired}"
    return ReplayStep(name, f"{name}_{target}", retired_name, (f"On{name}",), ("Happened",), "listed")


FIRST = Plan(
    0, 1, replays=(replay("accounts", 1), replay("messages", 1)), projectors=("Onaccounts", "Onmessages")
)


def begin(connection: Connection, plan: Plan = FIRST, schema: str = SCHEMA) -> ViewMigration:
    """Record a migration and its shadow tables."""
    migration = Versions(schema).begin(connection, plan, files_fingerprint="abc")
    for step in plan.replays:
        blueprint = TableBlueprint(step.table_name, step.shadow_name, ())
        Relations(schema).record_shadow(connection, migration.id, blueprint, plan.target_version)
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

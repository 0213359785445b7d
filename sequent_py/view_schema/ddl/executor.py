"""The executor: runs the DDL of a plan in earnest, after a trial has shown that it works.

Owns no table. Shadow tables are created in the caller's transaction, together with the rows that record them; their keys and indexes are the matter of
:mod:`sequent_py.view_schema.ddl.index_builds`. Nothing but shadow tables is locked, save what a file refers to without a suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from sequent_py.records import RecordShape
from sequent_py.view_schema.ddl.alter_trial import AlterScript
from sequent_py.view_schema.ddl.file_runs import run_files
from sequent_py.view_schema.ddl.table_files import TableFiles
from sequent_py.view_schema.ddl.trial import TrialResult, trial
from sequent_py.view_schema.tables import catalog, foreign_keys
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.drops import drop_blueprints, drop_tables, lock_holders
from sequent_py.view_schema.tables.outside_tables import OutsideTable, late_locks
from sequent_py.view_schema.tables.script import lock_timeout
from sequent_py.view_schema.tables.short_tries import in_short_tries

__all__ = [
    "AlterScript",
    "TrialResult",
    "analyse",
    "create_shadow_tables",
    "drop_blueprints",
    "drop_tables",
    "lock_holders",
    "trial",
]

Connection = psycopg.Connection[Any]


def create_shadow_tables(
    connection: Connection,
    *,
    view_schema: str,
    replays: Sequence[tuple[RecordShape, TableFiles]],
    blueprints: Mapping[str, TableBlueprint],
    target_version: int,
    outside: Sequence[OutsideTable] = (),
    lock_timeout_seconds: float = 5.0,
) -> list[TableBlueprint]:
    """Create the shadow tables in the caller's transaction, and the view schema if it is missing.

    Returns the trial's blueprints with the names that the objects really got, and without foreign keys to tables that stay: those are
    put back by the swap. ``outside`` are the tables that those refer to, as the trial found them.

    Raises
    ------
    TableFileError
        A file fails now, though it did not in the trial.
    psycopg.errors.LockNotAvailable
        A file refers to a table that somebody holds.
    """

    def attempt(lock_timeout_seconds: float) -> list[TableBlueprint]:
        with connection.transaction(), lock_timeout(connection, lock_timeout_seconds):
            # Putting a key on and taking it off locks them twice, the second time harder; who asks for that in two steps makes PostgreSQL end others
            # who do, too: those who append, which reads the table, and then write to it.
            for statement in late_locks(outside):
                connection.execute(statement)
            return _create_shadow_tables(connection, view_schema, replays, blueprints, target_version)

    return in_short_tries(connection, attempt, seconds=lock_timeout_seconds)


def _create_shadow_tables(
    connection: Connection,
    view_schema: str,
    replays: Sequence[tuple[RecordShape, TableFiles]],
    blueprints: Mapping[str, TableBlueprint],
    target_version: int,
) -> list[TableBlueprint]:
    catalog.ensure_schema(connection, view_schema)
    created = run_files(
        connection,
        [files for _, files in replays],
        f"_{target_version}",
        schema=view_schema,
        view_schema=view_schema,
        search_path=(view_schema, "public"),
        with_indexes=False,
    )
    named = [blueprints[table].named_as(objects) for table, objects in created.items()]
    tables = [name for blueprint in named for name in blueprint.tables]
    suspended = foreign_keys.suspend(
        connection, view_schema, foreign_keys.outgoing(connection, view_schema, tables)
    )
    return [blueprint.without(suspended) for blueprint in named]


def analyse(connection: Connection, view_schema: str, tables: Iterable[str]) -> None:
    """Gather planner statistics, so that the first queries after the swap are planned as well as the last before it."""
    for table in tables:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(view_schema, table)))

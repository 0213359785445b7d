"""The executor: runs the DDL of a plan in earnest, after a trial has shown that it works.

Owns no table. Shadow tables are created in the caller's transaction, together with the rows that record them; keys and indexes are built
one table per transaction, each together with the caller's mark, so that a killed build is repeated for the unfinished tables only.
Nothing but shadow tables is locked, save what a file refers to without a suffix.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import errors, sql

from sequent_py.errors import TableFileError
from sequent_py.records import RecordShape
from sequent_py.view_schema import catalog, foreign_keys, table_files
from sequent_py.view_schema.alter_trial import AlterScript
from sequent_py.view_schema.blueprints import (
    HOLDER_KINDS,
    SHARABLE_KINDS,
    CatalogObject,
    Key,
    SuspendedConstraint,
    TableBlueprint,
)
from sequent_py.view_schema.drops import drop_blueprints, drop_tables, lock_holders
from sequent_py.view_schema.file_runs import run_files
from sequent_py.view_schema.outside_tables import OutsideTable, late_locks
from sequent_py.view_schema.script import lock_timeout, run_script
from sequent_py.view_schema.short_tries import in_short_tries
from sequent_py.view_schema.table_files import TableFiles, with_suffix
from sequent_py.view_schema.trial import TrialResult, trial

__all__ = [
    "AlterScript",
    "TrialResult",
    "analyse",
    "build_indexes",
    "build_indexes_here",
    "create_shadow_tables",
    "drop_blueprints",
    "drop_tables",
    "lock_holders",
    "trial",
]

Connection = psycopg.Connection[Any]

MAINTENANCE_WORK_MEM_MB = 256
"""For each index build that runs at once; more than this hardly shortens a sort, and several builds add up."""


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
    named = {table: _with_actual_names(blueprints[table], objects) for table, objects in created.items()}
    outgoing = foreign_keys.outgoing(connection, view_schema, _physical_tables(named.values()))
    suspended = foreign_keys.suspend(connection, view_schema, outgoing)
    return [_without(blueprint, suspended) for blueprint in named.values()]


def build_indexes(
    connect: Callable[[], Connection],
    *,
    view_schema: str,
    files: Sequence[TableFiles],
    blueprints: Mapping[str, TableBlueprint],
    target_version: int,
    on_built: Callable[[Connection, TableBlueprint], None],
    beside_others: Callable[[Connection, TableBlueprint], None] = lambda _connection, _blueprint: None,
    meanwhile: Callable[[], object] | None = None,
    parallel: int = 1,
    maintenance_work_mem_mb: int = MAINTENANCE_WORK_MEM_MB,
    lock_timeout_seconds: float = 5.0,
) -> list[TableBlueprint]:
    """Build the keys and indexes of the given tables, several tables at once.

    ``connect`` opens an autocommit connection, which is closed here; it is called from several threads. ``on_built`` runs in the
    transaction that builds the table's indexes, and gets the blueprint with the names that the objects really got. ``beside_others`` runs behind that transaction, where
    other tables, or ``meanwhile``, may still be at it; not where they are built one after the other. ``meanwhile`` is called once, in the calling thread, which has
    nothing to do while the server builds; what it raises ends the builds. Tables that are
    already built must be left out by the caller. A table that fails is tried once more, alone and in the given order, since its file
    may need a key of another table, or have met it in a deadlock.

    Raises
    ------
    TableFileError
        A file fails, also for the rows that are now in the table: duplicate keys, for example. Tables that are done stay done.
    """

    at_work: list[Connection] = []
    is_given_up = threading.Event()

    def build(item: TableFiles, *, is_alone: bool = True) -> TableBlueprint:
        connection = connect()
        at_work.append(connection)
        try:
            if is_given_up.is_set():
                raise errors.QueryCanceled("the builds were interrupted")
            with connection.transaction(), lock_timeout(connection, lock_timeout_seconds):
                _raise_work_mem(connection, maintenance_work_mem_mb)
                blueprint = _build_indexes(connection, view_schema, item, blueprints, target_version)
                on_built(connection, blueprint)
            if not is_alone:
                beside_others(connection, blueprint)
            return blueprint
        finally:
            at_work.remove(connection)
            connection.close()

    def attempt(item: TableFiles) -> TableBlueprint | None:
        try:
            return build(item, is_alone=False)
        except (TableFileError, errors.DeadlockDetected, errors.LockNotAvailable):
            return None

    if meanwhile is None and (len(files) == 1 or parallel <= 1):
        return [build(item) for item in files]
    with ThreadPoolExecutor(max_workers=min(parallel, len(files))) as threads:
        try:
            attempts = threads.map(attempt, files)
            if meanwhile is not None:
                with _short_turns():
                    meanwhile()
            built = list(attempts)
        except BaseException:
            # Ctrl-C reaches this thread only, and leaving the pool would wait for the builds, for hours perhaps.
            is_given_up.set()
            threads.shutdown(wait=False, cancel_futures=True)
            # A copy: each build takes itself off the list when it ends, and the loop would pass over the next one.
            for connection in at_work.copy():
                connection.cancel_safe(timeout=5.0)
            raise
    return [done or build(item) for done, item in zip(built, files, strict=True)]


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that the server has answered wait for a fraction of a millisecond until they may go on, instead of 5 ms for each of some forty short statements."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(min(interval, 0.0005))
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def analyse(connection: Connection, view_schema: str, tables: Iterable[str]) -> None:
    """Gather planner statistics, so that the first queries after the swap are planned as well as the last before it."""
    for table in tables:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(view_schema, table)))


def build_indexes_here(
    connection: Connection,
    *,
    view_schema: str,
    files: Sequence[TableFiles],
    target_version: int,
) -> None:
    """Build the keys and indexes of tables in the transaction that created them, which will be rolled back: no names are noted.

    Raises
    ------
    TableFileError
        A file fails for the rows that are in its table.
    """
    for item in files:
        if item.indexes_sql is not None:
            run_script(
                connection,
                with_suffix(item.indexes_sql, f"_{target_version}"),
                source=table_files.indexes_file_name(item.table),
                search_path=(view_schema, "public"),
            )


def _build_indexes(
    connection: Connection,
    view_schema: str,
    files: TableFiles,
    blueprints: Mapping[str, TableBlueprint],
    target_version: int,
) -> TableBlueprint:
    blueprint = blueprints[files.table]
    if files.indexes_sql is None:
        return blueprint
    source = table_files.indexes_file_name(files.table)
    before = catalog.take_inventory(connection, view_schema)
    text = with_suffix(files.indexes_sql, f"_{target_version}")
    run_script(connection, text, source=source, search_path=(view_schema, "public"))
    created = catalog.created_since(
        connection,
        before,
        schema=view_schema,
        view_schema=view_schema,
        source=source,
        tables=[item.name for item in blueprint.names if item.kind in HOLDER_KINDS],
    )
    named = _with_actual_names(blueprint, created)
    # References to the other tables of the plan stay.
    staying = foreign_keys.outgoing(connection, view_schema, _physical_tables(blueprints.values()))
    own = [item for item in staying if item.table in _physical_tables([blueprint])]
    return _without(named, foreign_keys.suspend(connection, view_schema, own))


def _physical_tables(blueprints: Iterable[TableBlueprint]) -> list[str]:
    return [item.name for blueprint in blueprints for item in blueprint.names if item.kind == "table"]


def _without(blueprint: TableBlueprint, suspended: Iterable[SuspendedConstraint]) -> TableBlueprint:
    """Move suspended foreign keys from a blueprint's names to where the swap finds them, under their plain names."""
    plain_tables = {item.name: item.plain for item in blueprint.names if item.kind == "table"}
    moved: dict[Key, SuspendedConstraint] = {}
    for item in suspended:
        if item.table in plain_tables:
            table = plain_tables[item.table]
            plain = {known.name: known.plain for known in blueprint.names if known.table == table}
            moved["constraint", table, item.name] = replace(
                item, table=table, name=plain.get(item.name, item.name)
            )
    names = tuple(item for item in blueprint.names if (item.kind, item.table, item.name) not in moved)
    return replace(blueprint, names=names, suspended=(*blueprint.suspended, *moved.values()))


def _with_actual_names(blueprint: TableBlueprint, created: Sequence[CatalogObject]) -> TableBlueprint:
    """Take over the names that objects got in earnest.

    They are those of the trial unless a name that the server chose has been taken meanwhile; then the next free one was chosen, and
    what the trial had at its place in the order of creation is meant.
    """
    plain_tables = {item.name: item.plain for item in blueprint.names if item.kind in HOLDER_KINDS}
    expected = {(item.kind, item.table, item.name): item for item in blueprint.names}
    found = {(item.kind, plain_tables.get(item.table, item.table), item.name) for item in created}
    unexpected = sorted(found - expected.keys())
    if not unexpected:
        return blueprint
    shared_kinds = {key for key in unexpected if key[0] in SHARABLE_KINDS}
    renamed: dict[Key, str] = {}
    for kind, table, name in (item for item in unexpected if item not in shared_kinds):
        missing = [
            key for key in expected if key[:2] == (kind, table) and key not in found and key not in renamed
        ]
        if not missing:
            raise TableFileError(
                f"The files of {blueprint.table} create the {kind} {name}, which they did not in the trial.",
                remedy="Begin anew: sequent migrate abort, then sequent migrate online",
            )
        renamed[missing[0]] = name
    names = tuple(
        replace(item, name=renamed.get((item.kind, item.table, item.name), item.name))
        for item in blueprint.names
    )
    return replace(blueprint, names=names)


def _raise_work_mem(connection: Connection, megabytes: int) -> None:
    """Give index builds more memory; never less than the server is set to."""
    row = connection.execute(
        "SELECT setting::int8 / 1024 FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'"
    ).fetchone()
    if row is not None and megabytes > row[0]:
        connection.execute(
            "SELECT pg_catalog.set_config('maintenance_work_mem', %s, true)", (f"{megabytes}MB",)
        )

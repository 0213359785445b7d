"""Index builds: the keys and indexes of shadow tables, once their rows are there.

One table per transaction, each together with the caller's mark, so that a killed build is repeated for the unfinished tables only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from sequent_py.errors import TableFileError
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.table_files import TableFiles, with_suffix
from sequent_py.view_schema.tables import catalog, foreign_keys
from sequent_py.view_schema.tables.blueprints import HOLDER_KINDS, TableBlueprint
from sequent_py.view_schema.tables.script import lock_timeout, run_script

Connection = psycopg.Connection[Any]

MAINTENANCE_WORK_MEM_MB = 256
"""For each index build that runs at once; more than this hardly shortens a sort, and several builds add up."""


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
    builds = _Builds(
        connect,
        view_schema,
        blueprints,
        target_version,
        maintenance_work_mem_mb,
        lock_timeout_seconds,
        on_built,
        beside_others,
    )
    if meanwhile is None and (len(files) == 1 or parallel <= 1):
        return [builds.build(item) for item in files]
    built = builds.attempt_all(files, parallel, meanwhile)
    return [done or builds.build(item) for done, item in zip(built, files, strict=True)]


@dataclass(frozen=True)
class _Builds:
    """Builds that may run beside each other, each on a connection of its own."""

    connect: Callable[[], Connection]
    view_schema: str
    blueprints: Mapping[str, TableBlueprint]
    target_version: int
    maintenance_work_mem_mb: int
    lock_timeout_seconds: float
    on_built: Callable[[Connection, TableBlueprint], None]
    beside_others: Callable[[Connection, TableBlueprint], None]
    at_work: list[Connection] = field(default_factory=list)
    is_given_up: threading.Event = field(default_factory=threading.Event)

    def build(self, item: TableFiles) -> TableBlueprint:
        """Build one table's."""
        with self._connection() as connection:
            return self._build(connection, item)

    def attempt_all(
        self, files: Sequence[TableFiles], parallel: int, meanwhile: Callable[[], object] | None
    ) -> list[TableBlueprint | None]:
        """Build several at once; None of a table whose build did not work beside the others'."""
        with ThreadPoolExecutor(max_workers=min(parallel, len(files))) as threads:
            try:
                attempts = threads.map(self._attempt, files)
                if meanwhile is not None:
                    with _short_turns():
                        meanwhile()
                return list(attempts)
            except BaseException:
                # Ctrl-C reaches this thread only, and leaving the pool would wait for the builds, for hours perhaps.
                self.is_given_up.set()
                threads.shutdown(wait=False, cancel_futures=True)
                # A copy: each build takes itself off the list when it ends, and the loop would pass over the next one.
                for connection in self.at_work.copy():
                    connection.cancel_safe(timeout=5.0)
                raise

    def _attempt(self, item: TableFiles) -> TableBlueprint | None:
        try:
            with self._connection() as connection:
                blueprint = self._build(connection, item)
                self.beside_others(connection, blueprint)
                return blueprint
        except (TableFileError, errors.DeadlockDetected, errors.LockNotAvailable):
            return None

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = self.connect()
        self.at_work.append(connection)
        try:
            if self.is_given_up.is_set():
                raise errors.QueryCanceled("the builds were interrupted")
            yield connection
        finally:
            self.at_work.remove(connection)
            connection.close()

    def _build(self, connection: Connection, item: TableFiles) -> TableBlueprint:
        with connection.transaction(), lock_timeout(connection, self.lock_timeout_seconds):
            _raise_work_mem(connection, self.maintenance_work_mem_mb)
            blueprint = self._build_indexes(connection, item)
            self.on_built(connection, blueprint)
        return blueprint

    def _build_indexes(self, connection: Connection, item: TableFiles) -> TableBlueprint:
        blueprint = self.blueprints[item.table]
        if item.indexes_sql is None:
            return blueprint
        before = catalog.take_inventory(connection, self.view_schema)
        _run_file(connection, self.view_schema, item, self.target_version)
        created = catalog.created_since(
            connection,
            before,
            schema=self.view_schema,
            view_schema=self.view_schema,
            source=table_files.indexes_file_name(item.table),
            tables=[found.name for found in blueprint.names if found.kind in HOLDER_KINDS],
        )
        named = blueprint.named_as(created)
        # References to the other tables of the plan stay.
        every = [name for each in self.blueprints.values() for name in each.tables]
        staying = foreign_keys.outgoing(connection, self.view_schema, every)
        own = [found for found in staying if found.table in blueprint.tables]
        return named.without(foreign_keys.suspend(connection, self.view_schema, own))


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
            _run_file(connection, view_schema, item, target_version)


def _run_file(connection: Connection, view_schema: str, item: TableFiles, target_version: int) -> None:
    assert item.indexes_sql is not None
    run_script(
        connection,
        with_suffix(item.indexes_sql, f"_{target_version}"),
        source=table_files.indexes_file_name(item.table),
        search_path=(view_schema, "public"),
    )


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that the server has answered wait for a fraction of a millisecond until they may go on, instead of 5 ms for each of some forty short statements."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(min(interval, 0.0005))
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _raise_work_mem(connection: Connection, megabytes: int) -> None:
    """Give index builds more memory; never less than the server is set to."""
    row = connection.execute(
        "SELECT setting::int8 / 1024 FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'"
    ).fetchone()
    if row is not None and megabytes > row[0]:
        connection.execute(
            "SELECT pg_catalog.set_config('maintenance_work_mem', %s, true)", (f"{megabytes}MB",)
        )

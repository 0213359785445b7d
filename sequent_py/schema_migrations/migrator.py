"""What both migrators share: options, the order of a run, and the running of one migration.

Order of a run: list and check the files (nothing is created if they are wrong), advisory lock, tracking table, plan, load every file
of the plan, run. Each migration and the write of its version are one transaction, unless it or the migrator opts out.
A run that dies leaves exactly the migrations that are recorded, and perhaps the work of one that opted out of its transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from psycopg import sql

from sequent_py.schema_migrations.connections import (
    LOCK_TIMEOUT_SECONDS,
    Database,
    advisory_lock,
    ask,
    connect,
    is_committing,
    scope,
    settings,
)
from sequent_py.schema_migrations.errors import IrreversibleMigration, NotCurrent, TransactionEnded
from sequent_py.schema_migrations.files import (
    Direction,
    Migration,
    MigrationFile,
    list_names,
    load,
    near_misses,
    parse_names,
)
from sequent_py.schema_migrations.operations import Schema
from sequent_py.schema_migrations.plans import Plan, Step
from sequent_py.schema_migrations.reversal import reversed_operations
from sequent_py.schema_migrations.sql_log import SqlLog

LOCK_KEY = 4966325471869609408
"""Sequel's own advisory lock, so that both tools may be pointed at one database."""

Record = Callable[[sa.Connection], None]


class Migrator(ABC):
    """Migrations of one directory on one database.

    ``schema`` is where the tracking table is; absent, the search path decides. ``search_path`` holds while migrations run.
    ``use_transactions`` overrides what each migration says. ``lock_timeout_seconds`` applies to migrations in a transaction whose
    connection sets no ``lock_timeout`` of its own; 0 waits for ever.
    """

    default_table: str
    default_column: str

    def __init__(
        self,
        database: Database,
        directory: Path | str,
        *,
        schema: str | None = None,
        table: str | None = None,
        column: str | None = None,
        search_path: Sequence[str] = (),
        create_schema: bool = False,
        allow_missing_migration_files: bool = False,
        use_transactions: bool | None = None,
        lock_key: int = LOCK_KEY,
        lock_wait_seconds: float = 0.0,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        log: SqlLog | None = None,
    ) -> None:
        self.database = database
        self.directory = Path(directory)
        self.schema = schema
        self.table = table or self.default_table
        self.column = column or self.default_column
        self.search_path = tuple(search_path)
        self.create_schema = create_schema
        self.allow_missing_migration_files = allow_missing_migration_files
        self.use_transactions = use_transactions
        self.lock_key = lock_key
        self.lock_wait_seconds = lock_wait_seconds
        self.lock_timeout_seconds = lock_timeout_seconds
        self.log = log or SqlLog(())

    @property
    def files(self) -> tuple[MigrationFile, ...]:
        """The directory's migration files as they are now; the directory is listed anew by every question and run."""
        return self._list()[0]

    @abstractmethod
    def run(self, target: int | None = None) -> object:
        """Migrate to ``target``; absent, to the latest version."""

    @abstractmethod
    def plan(self, target: int | None = None) -> Plan:
        """Return what :meth:`run` would do. Creates and locks nothing; checks the files as a run does, but loads none."""

    def is_current(self, target: int | None = None) -> bool:
        """Whether a run would have nothing to do. Writes nothing, takes no lock; loads the files that a run would run."""
        plan = self.plan(target)
        self._load(plan.steps)
        return self.is_reached(plan)

    def check_current(self, target: int | None = None) -> None:
        """Return if :meth:`is_current`.

        Raises
        ------
        NotCurrent
            Migrations are pending, or the database is past the target.
        """
        plan = self.plan(target)
        self._load(plan.steps)
        if not self.is_reached(plan):
            raise NotCurrent(_difference(plan))

    @abstractmethod
    def is_reached(self, plan: Plan) -> bool:
        """Whether the database is where the plan leads."""

    def _list(self) -> tuple[tuple[MigrationFile, ...], tuple[str, ...]]:
        names = list_names(self.directory)
        return parse_names(names, self.directory), near_misses(names)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with connect(self.database) as connection, scope(connection, transactional=True):
            yield connection

    @contextmanager
    def _migrating(self) -> Iterator[sa.Connection]:
        """Yield the run's connection, locked; nothing has been created yet but the schema that was asked for."""
        with (
            connect(self.database) as connection,
            advisory_lock(connection, self.lock_key, wait_seconds=self.lock_wait_seconds),
            self.log.listening(connection),
        ):
            if self.create_schema and self.schema is not None:
                self._create_schema(connection, self.schema)
            yield connection

    def _create_schema(self, connection: sa.Connection, schema: str) -> None:
        # Asked first: a role that may not create schemas may well use one that an administrator made for it.
        known = sa.text("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :schema)")
        with scope(connection, transactional=True):
            if not ask(connection, known, schema=schema)[0][0]:
                connection.execute(sa.schema.CreateSchema(schema))

    def _load(self, steps: Sequence[Step]) -> list[Migration]:
        return [load(step.file) for step in steps]

    def _apply(
        self,
        connection: sa.Connection,
        migration: Migration,
        direction: Direction,
        label: str,
        record: Record,
    ) -> None:
        """Run one direction of one migration and record it, in one transaction unless opted out of."""
        transactional = next(
            choice for choice in (self.use_transactions, migration.transaction, True) if choice is not None
        )
        self.log.begin(label, direction)
        with scope(connection, transactional=transactional):
            with settings(connection, self._settings(connection)):
                transaction = _transaction_id(connection)
                self._run_block(connection, migration, direction)
                if _transaction_id(connection) != transaction:
                    raise TransactionEnded(migration.file.path)
            record(connection)
        self.log.finish(label, direction)

    def _run_block(self, connection: sa.Connection, migration: Migration, direction: Direction) -> None:
        block, is_reversed = migration.block(direction)
        if block is None:
            if direction is Direction.DOWN:
                raise IrreversibleMigration(migration.file.path, "No down or change defined")
            return
        op = Schema(MigrationContext.configure(connection), event_store_schema=self._quoted_schema)
        if not is_reversed:
            block(op)
            return
        for operation in reversed_operations(block, migration.file.path, self._quoted_schema):
            op.invoke(operation)

    @property
    def _quoted_schema(self) -> str | None:
        return None if self.schema is None else sql.Identifier(self.schema).as_string()

    def _settings(self, connection: sa.Connection) -> dict[str, str]:
        chosen = {}
        if self.search_path:
            chosen["search_path"] = sql.SQL(", ").join(map(sql.Identifier, self.search_path)).as_string()
        # Not outside of transactions: CREATE INDEX CONCURRENTLY waits by design, and leaves an invalid index if it is stopped.
        if self.lock_timeout_seconds and not is_committing(connection):
            own = ask(connection, sa.select(sa.func.current_setting("lock_timeout")))[0][0]
            if own == "0":
                chosen["lock_timeout"] = f"{round(self.lock_timeout_seconds * 1000)}ms"
        return chosen


def _transaction_id(connection: sa.Connection) -> str | None:
    """Return the id of the transaction that the migration was given; None where it was given none."""
    if is_committing(connection):
        return None
    return str(ask(connection, sa.text("SELECT pg_catalog.pg_current_xact_id()::text"))[0][0])


def _difference(plan: Plan) -> str:
    count = len(plan.steps)
    if not count:
        return f"at {plan.current}, target {plan.target}"
    first = plan.steps[0]
    return f"{count} migration{'s' if count > 1 else ''} to run, next {first.file.name} {first.direction}"

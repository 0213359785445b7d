"""What every command of a view migration works with: names, code, and the owners of the tables. Opens connections, holds none."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg.pq import TransactionStatus

from sequent_py import database
from sequent_py.config import Config
from sequent_py.errors import DefinitionError, MigrationError, SequentError, StoreNotInstalled
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.gate import Gate
from sequent_py.event_store.home import Home
from sequent_py.events import aliases_of, event_type_of
from sequent_py.health.store_tables import naming_lost_tables
from sequent_py.ordering import Ordering
from sequent_py.persistors.tables import TableShape, read_table_shape
from sequent_py.projectors import Projector, projector_definition
from sequent_py.records import Record, RecordShape, record_shape
from sequent_py.replay import fence
from sequent_py.replay.control import Control
from sequent_py.replay.ledger import Connection, Ledger
from sequent_py.replay.limits import UNLIMITED, Limits
from sequent_py.replay.pools import LocalPool, PoolFactory
from sequent_py.replay.quarantine import Quarantine
from sequent_py.replay.task import ReplayTask
from sequent_py.roles.assume import assume
from sequent_py.roles.rules import RoleKind
from sequent_py.schema_migrations.event_store import (
    event_store_version,
    latest_event_store_version,
    require_current_event_store,
)
from sequent_py.view_schema import guards
from sequent_py.view_schema.bookkeeping.recorded import Recorded
from sequent_py.view_schema.bookkeeping.relations import Relations, TableRole
from sequent_py.view_schema.bookkeeping.versions import Versions, ViewMigration
from sequent_py.view_schema.ddl import table_files
from sequent_py.view_schema.ddl.alter_trial import AlterScript
from sequent_py.view_schema.migrations import Migrations, MigrationsDefinition, definition
from sequent_py.view_schema.plans import Plan, ResolvedPlan
from sequent_py.view_schema.tables.blockers import listed, row_holders
from sequent_py.view_schema.tables.blueprints import TableBlueprint


@dataclass(frozen=True)
class Replaying:
    """How a command replays, beyond the number of workers."""

    pool: PoolFactory = LocalPool
    limits: Limits = UNLIMITED
    standby_url: str | None = field(default=None, repr=False)
    """Where workers read events; None: from the primary. May hold a password."""


@dataclass(frozen=True)
class Context:
    """One application's view schema."""

    config: Config
    find_database: Callable[[], str | None]
    """Returns the database's URL; None where there is no server yet, which only ``sequent init`` creates."""
    migrations: type[Migrations]
    event_types: EventTypes
    sys_path: tuple[str, ...] = ()
    accepts_differences: bool = False
    """Whether this command may promote tables that fail a verification, on the record; see :mod:`sequent_py.view_schema.comparison.acceptance`."""
    replaying: Replaying = Replaying()

    @property
    def database_url(self) -> str:
        """The database's URL.

        Raises
        ------
        StoreNotInstalled
            There is no server yet.
        """
        url = self.find_database()
        if url is None:
            raise StoreNotInstalled(self.schema)
        return url

    @property
    def schema(self) -> str:
        """The event store's schema."""
        return self.config.event_store_schema

    @property
    def definition(self) -> MigrationsDefinition:
        """The checked declaration."""
        return definition(self.migrations)

    @property
    def ledger(self) -> Ledger:
        """The replay ledger."""
        return Ledger(self.schema)

    @property
    def control(self) -> Control:
        """Pause and limits of replays."""
        return Control(self.schema)

    @property
    def quarantine(self) -> Quarantine:
        """The aggregates that replays have set aside."""
        return Quarantine(self.schema)

    @property
    def gate(self) -> Gate:
        """The gate."""
        return Gate(self.schema)

    @property
    def home(self) -> Home:
        """The cluster and the view schema that the bookkeeping belongs to."""
        return Home(self.schema)

    @property
    def versions(self) -> Versions:
        """The bookkeeping of migrations."""
        return Versions(self.schema)

    @property
    def relations(self) -> Relations:
        """The bookkeeping of the relations that they made."""
        return Relations(self.schema)

    def connect(self, purpose: str, *, role: RoleKind = RoleKind.MIGRATOR) -> Connection:
        """Open an autocommit connection whose name says what it is for; works as the store's role where it has roles and the login may.

        Raises
        ------
        ConfigurationError
            The tables of the store are in another view schema.
        """
        connection = database.connect_for_migration(
            self.database_url,
            application_name=f"sequent {purpose} ({socket.gethostname()}:{os.getpid()})",
        )
        try:
            assume(connection, self.schema, role)
            # Here, for whatever a command goes on to do would be done to other tables, or to none.
            self.home.require_view_schema(connection, self.config.view_schema)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def connected(self, purpose: str, *, role: RoleKind = RoleKind.MIGRATOR) -> Iterator[Connection]:
        """Open a command's own connection, as :meth:`connect` does.

        Raises
        ------
        LostTable
            The block missed a table of ours that somebody dropped.
        """
        with self.connect(purpose, role=role) as connection, naming_lost_tables(connection, self.schema):
            yield connection

    def connect_builder(self) -> Connection:
        """Open a connection for building indexes: one that the next coordinator ends, as it does with those of workers."""
        connection = self.connect("indexing")
        fence.become_worker(connection, self.schema)
        return connection

    @contextmanager
    def reading(self, purpose: str) -> Iterator[Connection]:
        """Open a connection that cannot write."""
        with self.connected(purpose) as connection:
            connection.execute("SET default_transaction_read_only = on")
            yield connection

    @contextmanager
    def reporting(self, purpose: str) -> Iterator[Connection | None]:
        """Open a connection that cannot write, for commands that only report; None where no store is installed that they could report on.

        A missing server and an empty database are the same to them.
        """
        if self.find_database() is None:
            yield None
            return
        with self.reading(purpose) as connection:
            yield connection if self._is_installed(connection) else None

    @contextmanager
    def coordinating(
        self,
        command: str,
        *,
        needs_own_transaction_ids: bool = True,
        role: RoleKind = RoleKind.MIGRATOR,
    ) -> Iterator[Connection]:
        """Open the coordinator's connection; it holds the migration lock until the end.

        Before anything else the guards of ``command`` are asked, see :mod:`sequent_py.view_schema.guards`.

        Raises
        ------
        StoreNotInstalled
            ``sequent init`` has not been run, or the store is older than this library.
        ConcurrentMigration
            Another process holds the lock; nothing was changed.
        MigrationError
            Somebody else has locked the records of migrations; names who.
        ForeignTransactionIds, InsufficientPrivileges, UnsoundInstallation
            The store came from another cluster, the login may not finish the command, or it could not come out right.
        """
        with self.connected(f"migrate {command}", role=role) as connection:
            self.require_installed(connection)
            fence.become_coordinator(connection, self.schema)
            try:
                guards.require_sound(
                    connection,
                    command=command,
                    schema=self.schema,
                    view_schema=self.config.view_schema,
                )
                if needs_own_transaction_ids:
                    guards.require_own_transaction_ids(connection, self.schema)
                yield connection
            except psycopg.errors.LockNotAvailable as error:
                self._name_holders(connection, command, error)
                raise
            finally:
                fence.resign(connection, self.schema)

    def _name_holders(
        self, connection: Connection, command: str, error: psycopg.errors.LockNotAvailable
    ) -> None:
        """Say who may have locked rows of the bookkeeping, if anybody has; else the caller raises the error as it is."""
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            return
        found = row_holders(connection, event_store_schema=self.schema)
        if found:
            raise MigrationError(
                f"A lock was not to be had: {error.diag.message_primary or error}. In the way may be: {listed(found)}.",
                remedy=f"Let them finish, or end them (SELECT pg_terminate_backend(pid)); then: sequent migrate {command}",
            ) from error

    @contextmanager
    def noting_errors(self, connection: Connection, migration_id: int) -> Iterator[None]:
        """Note on the migration's row why its command failed, for ``status`` to show."""
        try:
            yield
        except SequentError as error:
            # Where the connection is the trouble there is nobody to tell but the caller.
            with suppress(psycopg.Error):
                self.versions.record_error(connection, migration_id, str(error))
            raise

    def require_installed(self, connection: Connection) -> None:
        """Refuse a store that is missing or older than this library.

        Raises
        ------
        StoreNotInstalled
            With what to run.
        """
        require_current_event_store(connection, self.schema)

    def _is_installed(self, connection: Connection) -> bool:
        version = event_store_version(connection, self.schema)
        return version is not None and version >= latest_event_store_version()

    def table_files(self, resolved: ResolvedPlan) -> list[tuple[RecordShape, table_files.TableFiles]]:
        """Read the table files of a plan's replays."""
        return [
            (
                record_shape(resolved.records[step.table_name]),
                table_files.read_table_files(self.config.sql_path, step.table_name),
            )
            for step in resolved.plan.replays
        ]

    def alter_scripts(self, resolved: ResolvedPlan) -> list[AlterScript]:
        """Read the alter files of a plan."""
        return [
            AlterScript(
                shape=record_shape(resolved.records[step.table_name]),
                version=step.version,
                sql=table_files.read_alter_file(self.config.sql_path, step.table_name, step.version),
                files=table_files.read_table_files(self.config.sql_path, step.table_name),
            )
            for step in resolved.plan.alters
        ]

    def fingerprint(self, plan: Plan) -> str:
        """Return a digest of every file that the plan uses."""
        return table_files.plan_fingerprint(self.config.sql_path, plan)

    def task(self, migration: ViewMigration, plan: Plan, *, epoch: int) -> ReplayTask:
        """Describe a migration's replay to workers.

        Raises
        ------
        DefinitionError
            The migrations class cannot be imported by name, which worker processes need.
        """
        return ReplayTask(
            database_url=self.database_url,
            event_store_schema=self.schema,
            view_schema=self.config.view_schema,
            migrations_class=self.migrations_reference,
            sys_path=self.sys_path,
            migration_id=migration.id,
            epoch=epoch,
            projectors=plan.projectors,
            physical_tables={step.table_name: step.shadow_name for step in plan.replays},
            max_rows_in_memory=self.config.max_rows_in_memory,
            quarantine_limit=migration.quarantine_limit,
            standby_url=self.replaying.standby_url,
        )

    @property
    def migrations_reference(self) -> str:
        """The migrations class as worker processes import it: ``module:Class``."""
        return f"{self.migrations.__module__}:{self.migrations.__qualname__}"

    def require_importable(self) -> None:
        """Refuse a migrations class that worker processes could not import.

        Raises
        ------
        DefinitionError
            It is defined inside a function, or in the script that is being run.
        """
        if "<locals>" in self.migrations.__qualname__ or self.migrations.__module__ == "__main__":
            raise DefinitionError(
                f"{self.migrations.__qualname__} cannot be imported by worker processes.",
                remedy="Define it at the top level of a module, or replay in this process: workers=0.",
            )

    def shadow_tables(self, connection: Connection, resolved: ResolvedPlan) -> dict[type[Record], TableShape]:
        """Read the shapes of a plan's shadow tables."""
        return {
            resolved.records[step.table_name]: read_table_shape(
                connection,
                record_shape(resolved.records[step.table_name]),
                self.config.view_schema,
                step.shadow_name,
            )
            for step in resolved.plan.replays
        }


def replayed_projectors(resolved: ResolvedPlan) -> list[type[Projector]]:
    """Return the projector classes of a plan."""
    return [item.projector for item in resolved.projectors]


def replayed_event_names(resolved: ResolvedPlan, ordering: Ordering | None = None) -> tuple[str, ...]:
    """Return the stored names, aliases included, of every event type that the plan's projectors handle, or those of one ordering."""
    classes = [
        cls
        for item in resolved.projectors
        if ordering in (None, item.ordering)
        for cls in projector_definition(item.projector).event_classes
    ]
    return tuple(dict.fromkeys(name for cls in classes for name in (event_type_of(cls), *aliases_of(cls))))


def live_blueprints(context: Context, connection: Connection) -> dict[str, TableBlueprint]:
    """Return what a swap renames along with each live table, by plain name."""
    return Recorded(
        f"{context.schema}.view_tables",
        "live table",
        {
            table.table_name: TableBlueprint.from_json(table.names)
            for table in context.relations.tables(connection, TableRole.LIVE)
        },
    )


def retired_blueprints(
    context: Context, connection: Connection, migration_id: int
) -> dict[str, TableBlueprint]:
    """Return what a swap renames along with each table that a migration retired, by plain name."""
    return Recorded(
        f"{context.schema}.view_tables",
        "retired table",
        {
            table.table_name: TableBlueprint.from_json(table.names)
            for table in context.relations.retired(connection)
            if table.retired_by == migration_id
        },
    )


def shadow_blueprints(
    context: Context, connection: Connection, migration_id: int
) -> dict[str, TableBlueprint]:
    """Return what a swap renames along with each shadow table of a migration, by plain name."""
    return Recorded(
        f"{context.schema}.view_tables",
        "new table",
        {
            table.table_name: TableBlueprint.from_json(table.names)
            for table in context.relations.shadows(connection, migration_id)
        },
    )

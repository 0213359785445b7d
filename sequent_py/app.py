"""The application object: configuration, engine, store, view schema. Nothing is global; two of them live side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from uuid import UUID

import psycopg
from sqlalchemy import Engine

from sequent_py import database
from sequent_py.arguments import checked_aggregate_ids
from sequent_py.config import Config
from sequent_py.embedded import EmbeddedServer, directory_of, is_created
from sequent_py.erasure import Erasure, ErasureReport
from sequent_py.errors import ConfigurationError, StoreNotInstalled
from sequent_py.event_classes import EventTypes
from sequent_py.event_store.gate import Gate, GateState
from sequent_py.event_store.home import Home
from sequent_py.event_store.store import EventStore
from sequent_py.events import Event
from sequent_py.health.store_tables import naming_lost_tables, require_tables, require_version_table
from sequent_py.projection import LiveProjection
from sequent_py.refolding import LONGEST_STALL_SECONDS, Refolding, RefoldReport
from sequent_py.replay.loading import event_types_of, load_migrations
from sequent_py.replay.quarantine import Quarantine
from sequent_py.roles.assume import assume
from sequent_py.roles.catalog import recorded_roles
from sequent_py.roles.rules import RoleKind
from sequent_py.roles.setup import RolesReport, set_up_roles
from sequent_py.schema_migrations.event_store import install_event_store, require_current_event_store
from sequent_py.view_schema.context import Context
from sequent_py.view_schema.guards import require_owner
from sequent_py.view_schema.lost_rows import restore_lost_rows
from sequent_py.view_schema.migrations import Migrations, served_definitions
from sequent_py.view_schema.rebuild import ViewSchema


class Sequent:
    """One application on one database.

    ``Sequent.load()`` reads ``[tool.sequent]`` of the nearest ``pyproject.toml`` and ``SEQUENT_*``; ``Sequent(Config(...))`` takes exactly
    what it is given. ``migrations`` overrides ``config.migrations_class``. Without a ``database_url`` an embedded PostgreSQL is started
    when the database is first needed, and ends with the last process that uses it.
    """

    def __init__(
        self,
        config: Config,
        *,
        migrations: type[Migrations] | None = None,
        event_types: Sequence[type[Event]] = (),
    ) -> None:
        self.config = config
        self._given_migrations = migrations
        self._given_event_types = event_types
        self._resources = ExitStack()

    @classmethod
    def load(cls, start: Path | str | None = None) -> Sequent:
        """Read the configuration at or above ``start`` (default: the working directory) and put the project on ``sys.path``.

        Raises
        ------
        ConfigurationError
            A setting is unknown or malformed.
        """
        config = Config.load(Path(start) if start is not None else None)
        project = str(config.project_directory)
        if project not in sys.path:
            sys.path.insert(0, project)
        return cls(config)

    def __enter__(self) -> Sequent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every pooled connection, and leave the embedded server if this process uses it."""
        self._resources.close()

    @cached_property
    def migrations(self) -> type[Migrations]:
        """The application's declaration.

        Raises
        ------
        ConfigurationError
            None is configured, or it cannot be imported.
        """
        if self._given_migrations is not None:
            return self._given_migrations
        if self.config.migrations_class is None:
            raise ConfigurationError(
                "No migrations_class is configured.",
                remedy='Put it into pyproject.toml: [tool.sequent] migrations_class = "package.module:Class"',
            )
        return load_migrations(self.config.migrations_class)

    @property
    def has_migrations(self) -> bool:
        """Whether a declaration is configured; a store can be used without any projection."""
        return self._given_migrations is not None or self.config.migrations_class is not None

    @cached_property
    def event_types(self) -> EventTypes:
        """The registry of event classes."""
        types = event_types_of(self.migrations) if self.has_migrations else EventTypes()
        for cls in self._given_event_types:
            types.register(cls)
        return types

    @property
    def embedded_directory(self) -> Path | None:
        """Where the embedded server keeps its data; None when a ``database_url`` is configured."""
        if self.config.database_url is not None:
            return None
        return directory_of(self.config.project_directory)

    @property
    def has_database(self) -> bool:
        """Whether there is a database to ask: one is configured, or the embedded server has been created. Creates nothing."""
        directory = self.embedded_directory
        return directory is None or is_created(directory)

    def find_database(self) -> str | None:
        """Return ``database_url``, or None where asking for it would create a server: nothing can be installed there."""
        return self.database_url if self.has_database else None

    @cached_property
    def database_url(self) -> str:
        """The libpq URL; creates and starts the embedded server when none is configured. Holds the password: never print it."""
        if self.config.database_url is not None:
            return self.config.database_url.get_secret_value()
        server = EmbeddedServer.join(directory_of(self.config.project_directory))
        self._resources.callback(server.release)
        return server.url

    @cached_property
    def engine(self) -> Engine:
        """The SQLAlchemy engine; its connections look unqualified names up in the view schema first."""
        engine = database.create_engine(self.database_url, self.config.view_schema)
        self._resources.callback(engine.dispose)
        return engine

    @cached_property
    def store(self) -> EventStore:
        """The event store; appends project into the live tables."""
        projection = (
            LiveProjection(
                served_definitions(self.migrations),
                self.config.view_schema,
                Quarantine(self.config.event_store_schema),
                Home(self.config.event_store_schema),
            )
            if self.has_migrations
            else None
        )
        return EventStore(self.engine, self.config.event_store_schema, self.event_types, projection)

    @cached_property
    def view_schema(self) -> ViewSchema:
        """View migrations."""
        return ViewSchema(self._context)

    @cached_property
    def maintenance(self) -> Maintenance:
        """The gate, by hand."""
        return Maintenance(self.find_database, self.config.event_store_schema)

    @cached_property
    def aggregates(self) -> Aggregates:
        """Single aggregates: erasing them, folding them anew."""
        return Aggregates(self)

    @property
    def _context(self) -> Context:
        return Context(
            config=self.config,
            find_database=self.find_database,
            migrations=self.migrations,
            event_types=self.event_types,
            sys_path=tuple(entry for entry in sys.path if entry),
        )

    def install(self) -> list[str]:
        """Create or upgrade the event store's schema; return the schema migrations that were applied, none when it was current.

        Raises
        ------
        LostTable
            Somebody dropped a table of it, which no migration brings back.
        """
        schema = self.config.event_store_schema
        with database.connect(self.database_url, autocommit=True) as connection:
            require_version_table(connection, schema)
            applied = install_event_store(connection, schema)
            require_tables(connection, schema)
            if applied and recorded_roles(connection, schema) is not None:
                # What an upgrade created belongs to whoever ran it, and everybody may call its functions.
                self.set_up_roles()
            return applied

    def restore_lost_rows(self) -> tuple[str, ...]:
        """Put the store's own rows back that somebody deleted; say what that was. See :mod:`sequent_py.view_schema.lost_rows` for guarantees and errors."""
        schema = self.config.event_store_schema
        with database.connect_for_migration(self.database_url, application_name="sequent init") as connection:
            assume(connection, schema, RoleKind.OWNER)
            return restore_lost_rows(connection, schema)

    def set_up_roles(self, *, prefix: str | None = None, reader_events: bool | None = None) -> RolesReport:
        """Create the store's roles, or bring them up to date; see :func:`sequent_py.roles.setup.set_up_roles`."""
        with database.connect_for_migration(self.database_url, application_name="sequent init") as connection:
            # Before it is created, and its tables, which may be others', are given away.
            Home(self.config.event_store_schema).require_view_schema(connection, self.config.view_schema)
            return set_up_roles(
                connection,
                schema=self.config.event_store_schema,
                view_schema=self.config.view_schema,
                prefix=prefix,
                reader_events=reader_events,
            )


class Aggregates:
    """What is done to single aggregates, beside appending. Each ends at a standstill: writers wait for some milliseconds, they don't fail."""

    def __init__(self, sequent: Sequent) -> None:
        self._sequent = sequent

    def erase(
        self,
        aggregate_ids: Sequence[UUID],
        *,
        is_dry_run: bool = False,
        lock_budget_seconds: float | None = None,
    ) -> ErasureReport:
        """Delete the aggregates' events, and their rows wherever they are kept; see :mod:`sequent_py.erasure` for places, guarantees and errors."""
        aggregate_ids = checked_aggregate_ids(aggregate_ids)
        config = self._sequent.config
        with self._connected("aggregates erase", RoleKind.OWNER) as connection:
            if not is_dry_run:
                require_owner(connection, config.event_store_schema)
            return Erasure(
                connection,
                event_store_schema=config.event_store_schema,
                view_schema=config.view_schema,
                budget_seconds=config.lock_budget_seconds
                if lock_budget_seconds is None
                else lock_budget_seconds,
            ).run(aggregate_ids, is_dry_run=is_dry_run)

    def refold(
        self,
        aggregate_ids: Sequence[UUID],
        *,
        lock_budget_seconds: float | None = None,
        longest_stall_seconds: float = LONGEST_STALL_SECONDS,
    ) -> RefoldReport:
        """Make the aggregates' live rows the fold of their events; see :mod:`sequent_py.refolding` for guarantees and errors."""
        aggregate_ids = checked_aggregate_ids(aggregate_ids)
        config = self._sequent.config
        with self._connected("aggregates refold") as connection:
            return Refolding(
                connection,
                event_store_schema=config.event_store_schema,
                view_schema=config.view_schema,
                definitions=served_definitions(self._sequent.migrations),
                event_types=self._sequent.event_types,
                budget_seconds=config.lock_budget_seconds
                if lock_budget_seconds is None
                else lock_budget_seconds,
                longest_stall_seconds=longest_stall_seconds,
            ).run(aggregate_ids)

    @contextmanager
    def _connected(self, purpose: str, role: RoleKind = RoleKind.MIGRATOR) -> Iterator[psycopg.Connection]:
        url, schema = self._sequent.find_database(), self._sequent.config.event_store_schema
        if url is None:
            raise StoreNotInstalled(schema)
        with (
            database.connect_for_migration(url, application_name=f"sequent {purpose}") as connection,
            naming_lost_tables(connection, schema),
        ):
            assume(connection, schema, role)
            require_current_event_store(connection, schema)
            Home(schema).require_view_schema(connection, self._sequent.config.view_schema)
            yield connection


class Maintenance:
    """Maintenance mode: the gate closed to writers until it is opened again. Reads go on.

    All methods raise ``StoreNotInstalled`` where there is no gate, and create no server to look for one.
    """

    def __init__(self, find_database: Callable[[], str | None], event_store_schema: str) -> None:
        self._find_database = find_database
        self._gate = Gate(event_store_schema)

    def on(self, reason: str) -> GateState:
        """Close the gate; appends raise ``MaintenanceModeActive``. Writers in flight finish."""
        with self._connect() as connection:
            self._gate.maintenance_on(connection, reason)
            return self._gate.read(connection)

    def off(self) -> GateState:
        """Open the gate again."""
        with self._connect() as connection:
            self._gate.maintenance_off(connection)
            return self._gate.read(connection)

    def status(self) -> GateState:
        """Read the gate; writes nothing."""
        with self._connect() as connection:
            return self._gate.read(connection)

    def _connect(self) -> psycopg.Connection:
        url = self._find_database()
        if url is None:
            raise StoreNotInstalled(self._gate.schema)
        return database.connect(url, autocommit=True)

"""The event store's own schema: the package's migrations, run by the integer migrator.

They are kept apart from a project's own: their tracking table lies in the event store schema. Installing twice does nothing, installing over an older
store upgrades it in place, and two processes that install at once take turns. The questions write nothing and may be asked before there is a store.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from sequent_py.database import is_lost
from sequent_py.errors import (
    DatabaseUnavailable,
    InsufficientPrivileges,
    SchemaMigrationError,
    SequentError,
    StoreNotInstalled,
)
from sequent_py.roles.lacking import PAGE, Deed, lacking
from sequent_py.schema_migrations.connections import Database, connect, scope
from sequent_py.schema_migrations.errors import MissingMigrationFiles
from sequent_py.schema_migrations.files import list_files
from sequent_py.schema_migrations.tracking import VersionTable

if TYPE_CHECKING:
    from sequent_py.schema_migrations.sql_log import SqlLog

LOCK_WAIT_SECONDS = 60.0
"""How long to wait for another process that is installing: longer than any installation takes."""


def event_store_migrations() -> Path:
    """Return the directory of the package's migrations: in a wheel within the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def install_event_store(database: Database, schema: str, *, log: SqlLog | None = None) -> list[str]:
    """Create the event store in ``schema``, or bring an older one up to date; return the names of the migrations applied.

    Idempotent. The schema is created if it is missing. A connection that is in a transaction is used as it is, and the caller commits.

    Raises
    ------
    SchemaMigrationError
        The store was made by a newer version of this library.
    """
    # Imported here: whoever only asks for the version need not load Alembic.
    from sequent_py.schema_migrations.integer import IntegerMigrator

    migrator = IntegerMigrator(
        database,
        event_store_migrations(),
        schema=schema,
        search_path=(schema, "pg_catalog"),
        create_schema=True,
        lock_key=_lock_key(schema),
        lock_wait_seconds=LOCK_WAIT_SECONDS,
        log=log,
    )
    try:
        return [step.file.name for step in migrator.migrate().steps]
    except MissingMigrationFiles as error:
        raise SchemaMigrationError(
            f"The event store in schema {schema!r} was made by a newer version of sequent-py: {error.message}",
            remedy="Upgrade sequent-py.",
        ) from error


def event_store_version(database: Database, schema: str) -> int | None:
    """Return the version of the event store in ``schema``; None where there is none. Writes nothing.

    Raises
    ------
    DatabaseUnavailable
        The connection is lost.
    InsufficientPrivileges
        The login may not look; names the roles that may.
    """
    try:
        with connect(database) as connection, scope(connection, transactional=True):
            return VersionTable(schema=schema).read(connection) or None
    except sa.exc.DBAPIError as error:
        # SQLAlchemy is how it is asked, and no business of whoever asks.
        if not isinstance(error.orig, psycopg.Error):
            raise
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege) and isinstance(
            database, psycopg.Connection
        ):
            raise _refused(database, schema, error.orig) from error
        if error.connection_invalidated or is_lost(error.orig):
            raise DatabaseUnavailable(
                f"The connection was lost while the event store {schema!r} was looked at: {' '.join(str(error.orig).split())}",
                remedy="Check that the server runs, and database_url (SEQUENT_DATABASE_URL). Then run the same command again.",
            ) from error
        raise


def _refused(
    connection: psycopg.Connection[Any], schema: str, error: psycopg.errors.InsufficientPrivilege
) -> SequentError:
    if connection.info.transaction_status is TransactionStatus.INERROR:
        return InsufficientPrivileges(
            f"{connection.info.user} may not look at the event store: {error.diag.message_primary}.",
            remedy=PAGE,
        )
    return lacking(connection, schema, Deed.LOOK, error)


def require_current_event_store(database: Database, schema: str) -> None:
    """Refuse an event store that is missing or older than this library. Writes nothing.

    Raises
    ------
    StoreNotInstalled
        With what to run.
    DatabaseUnavailable, InsufficientPrivileges
        As :func:`event_store_version`.
    """
    version = event_store_version(database, schema)
    if version is None:
        raise StoreNotInstalled(schema)
    if version < latest_event_store_version():
        raise StoreNotInstalled(
            schema, f"is at version {version}, this library needs {latest_event_store_version()}"
        )


def latest_event_store_version() -> int:
    """Return the version that this library installs."""
    return max((file.version for file in list_files(event_store_migrations())), default=0)


def is_installed(database: Database, schema: str) -> bool:
    """Whether ``schema`` holds an event store that this library can use as it is. Writes nothing.

    False before the installation, and for an older store that has to be upgraded.
    """
    return event_store_version(database, schema) == latest_event_store_version()


def _lock_key(schema: str) -> int:
    digest = hashlib.blake2b(schema.encode(), digest_size=8, person=b"sequent-install").digest()
    return int.from_bytes(digest, "big", signed=True)

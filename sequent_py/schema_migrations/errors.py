"""What can be wrong with schema migrations, one class per cause.

::

    SchemaMigrationError                 (sequent_py.errors)
     |__ MigrationFilesError             found while listing or loading: nothing has been applied
     |    |__ InvalidMigrationsDirectory, NoMigrationFiles, BrokenMigrationFile
     |    |__ DuplicateMigrationVersion, MissingMigrationVersion, MigrationVersionTooLarge
     |    |__ MissingMigrationFiles      the database knows migrations that the directory lacks
     |__ IrreversibleMigration           no way back; raised before any SQL of that migration runs
     |__ MissingObject                   what a reversal has to drop is gone, or there are several
     |__ TrackingTableError              the tracking table does not hold what only the migrators write
     |__ MigrationLockHeld               another run is under way
     |__ TransactionEnded                a migration committed or rolled back the transaction it was given
     |__ NotCurrent                      migrations are pending, or the database is past the target
     |__ DumpFailed                      pg_dump is missing, too old or failed

An error that a migration raises itself, the database's included, reaches the caller as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sequent_py.errors import SchemaMigrationError


class MigrationFilesError(SchemaMigrationError):
    """The migration files cannot be run as they are; nothing was applied."""


class InvalidMigrationsDirectory(MigrationFilesError):
    """The path of the migrations is missing or is not a directory."""

    def __init__(self, path: Path) -> None:
        why = "is not a directory" if path.exists() else "does not exist"
        super().__init__(f"Must supply a valid migration path: {path} {why}.")
        self.path = path


class NoMigrationFiles(MigrationFilesError):
    """The directory has no file that follows the naming convention."""

    def __init__(self, directory: Path, near_misses: Sequence[str] = ()) -> None:
        seen = f" It has {', '.join(near_misses)}." if near_misses else ""
        super().__init__(
            f"No target and/or latest version available, probably because no migration files found in {directory} or"
            f" filenames don't follow the migration filename convention (001_create_artists.py).{seen}",
            remedy="Make one: sequent schema new NAME",
        )
        self.directory, self.near_misses = directory, tuple(near_misses)


class DuplicateMigrationVersion(MigrationFilesError):
    """Two files have one version, or names that differ by case alone."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        super().__init__(
            f"Duplicate migration version: {what} ({', '.join(names)}).", remedy="Renumber one of them."
        )
        self.names = tuple(names)


class MissingMigrationVersion(MigrationFilesError):
    """Integer versions have a gap; names the lowest that is missing."""

    def __init__(self, version: int, near_misses: Sequence[str] = ()) -> None:
        seen = f" These do not follow the convention: {', '.join(near_misses)}." if near_misses else ""
        super().__init__(
            f"Missing migration version: {version}.{seen}",
            remedy="Restore the file, or allow missing files (--allow-missing).",
        )
        self.version = version


class MigrationVersionTooLarge(MigrationFilesError):
    """A timestamp among integer versions."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Migration number too large, must use TimestampMigrator: {name}.")
        self.name = name


class MissingMigrationFiles(MigrationFilesError):
    """The database is ahead of the files in the directory."""


class BrokenMigrationFile(MigrationFilesError):
    """A migration file that does not load, or does not define a migration."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"Migration file {path} {why}.")
        self.path = path


class IrreversibleMigration(SchemaMigrationError):
    """The direction that was asked for is not defined and cannot be derived; nothing of it was run."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(f"{why} in {path}, you may need to write your own down method.")
        self.path, self.why = path, why


class MissingObject(SchemaMigrationError):
    """What a reversal must drop is not there, or is not the only one of its kind."""


class TrackingTableError(SchemaMigrationError):
    """The tracking table holds something that no migrator wrote."""


class MigrationLockHeld(SchemaMigrationError):
    """Another process is running schema migrations on this database; nothing was done."""

    def __init__(self, key: int) -> None:
        super().__init__(
            f"Unable to acquire advisory lock {key}: another run of schema migrations is under way; nothing was done.",
            remedy="Try again when it has ended.",
        )
        self.key = key


class TransactionEnded(SchemaMigrationError):
    """A migration ended its own transaction; what it committed is not recorded."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} ended the transaction that it was run in: its work may be committed without being recorded.",
            remedy="Remove COMMIT and ROLLBACK from it, or set transaction = False; then compare the schema by hand.",
        )
        self.path = path


class NotCurrent(SchemaMigrationError):
    """The database is not at the target version."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"Current migration version does not match latest available version: {detail}.",
            remedy="Run: sequent schema migrate",
        )
        self.detail = detail


class DumpFailed(SchemaMigrationError):
    """``pg_dump`` is missing, older than the server, or failed."""

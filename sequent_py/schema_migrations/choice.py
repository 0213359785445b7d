"""Which migrator a directory asks for, and the whole of schema migrations in four functions.

A directory with any version above 20000101 is for the timestamp migrator, any other for the integer migrator. Either class can be used directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequent_py.schema_migrations.connections import Database
from sequent_py.schema_migrations.files import Direction, list_files, list_names, near_misses
from sequent_py.schema_migrations.integer import IntegerMigrator
from sequent_py.schema_migrations.migrator import Migrator
from sequent_py.schema_migrations.timestamp import TimestampMigrator


def migrator_class(directory: Path | str) -> type[IntegerMigrator] | type[TimestampMigrator]:
    """Return the class that the directory's file names ask for; executes no file.

    Raises
    ------
    InvalidMigrationsDirectory
        The path is missing or is not a directory.
    """
    if any(file.is_timestamp for file in list_files(Path(directory))):
        return TimestampMigrator
    return IntegerMigrator


def migrator_for(
    database: Database, directory: Path | str, **options: Any
) -> IntegerMigrator | TimestampMigrator:
    """Return the migrator that the directory asks for; ``options`` are those of :class:`~.migrator.Migrator`."""
    return migrator_class(directory)(database, directory, **options)


def run(
    database: Database,
    directory: Path | str,
    target: int | None = None,
    *,
    relative: int | None = None,
    current: int | None = None,
    **options: Any,
) -> int | None:
    """Migrate ``database`` to ``target``, or to the latest version; return the version reached by integer files.

    ``relative`` and ``current`` are for integer files; timestamp files ignore them.
    """
    migrator = migrator_for(database, directory, **options)
    if isinstance(migrator, IntegerMigrator):
        return migrator.run(target, relative=relative, current=current)
    migrator.run(target)
    return None


def run_single(
    database: Database, path: Path | str, direction: Direction | str = Direction.UP, **options: Any
) -> None:
    """Apply or undo one file and record it by name, whatever else is pending; loads no other file."""
    path = Path(path)
    TimestampMigrator(database, path.parent, **options).run_single(path.name, direction)


def is_current(database: Database, directory: Path | str, target: int | None = None, **options: Any) -> bool:
    """Whether a run would have nothing to do. Writes nothing."""
    migrator: Migrator = migrator_for(database, directory, **options)
    return migrator.is_current(target)


def check_current(
    database: Database, directory: Path | str, target: int | None = None, **options: Any
) -> None:
    """Return if :func:`is_current`.

    Raises
    ------
    NotCurrent
        Migrations are pending, or the database is past the target.
    """
    migrator: Migrator = migrator_for(database, directory, **options)
    migrator.check_current(target)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands against a directory."""

    directory: Path
    migrator: str
    """``integer`` or ``timestamp``."""
    version: int | None
    """The recorded version of integer files."""
    latest: int | None
    applied: tuple[str, ...]
    pending: tuple[str, ...]
    ignored: tuple[str, ...]
    """Names in the directory that look like migrations but do not follow the convention."""
    is_current: bool


def status(database: Database, directory: Path | str, **options: Any) -> Status:
    """Return where ``database`` stands. Writes nothing and loads no file.

    Raises
    ------
    MigrationFilesError
        A run would refuse the files as they are.
    """
    migrator = migrator_for(database, directory, **options)
    plan = migrator.plan()
    files = migrator.files
    pending = {step.file for step in plan.steps if step.direction is Direction.UP}
    if isinstance(migrator, IntegerMigrator):
        files = tuple(file for file in files if file.version)
        undone = {file for file in files if file.version > (plan.current or 0)}
        latest = max((file.version for file in files), default=0)
    else:
        undone, latest = pending, None
    return Status(
        migrator.directory,
        "integer" if isinstance(migrator, IntegerMigrator) else "timestamp",
        plan.current,
        latest,
        tuple(file.name for file in files if file not in undone),
        tuple(file.name for file in files if file in pending),
        near_misses(list_names(migrator.directory)),
        migrator.is_reached(plan),
    )

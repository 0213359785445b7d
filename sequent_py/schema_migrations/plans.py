"""What a run will do, decided from file names and the recorded state alone. Pure.

The integer plan keeps one number, so its files must be complete: 1, 2, 3… The timestamp plan keeps the set of applied names, so
files may arrive in any order. Both give a :class:`Plan`, which can be printed or run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sequent_py.schema_migrations.errors import (
    DuplicateMigrationVersion,
    MigrationVersionTooLarge,
    MissingMigrationFiles,
    MissingMigrationVersion,
    NoMigrationFiles,
)
from sequent_py.schema_migrations.files import Direction, MigrationFile


@dataclass(frozen=True, slots=True)
class Step:
    """One migration to run. ``version_after`` is what integer bookkeeping holds once it is done."""

    file: MigrationFile
    direction: Direction
    version_after: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run, in order.

    ``current`` and ``target`` are versions for integer files; a timestamp plan has no ``current``, and no ``target`` unless one
    was asked for. ``final_version`` is what integer bookkeeping will hold: it can differ from the last step's version where files are missing.
    """

    steps: tuple[Step, ...]
    current: int | None = None
    target: int | None = None
    direction: Direction = Direction.UP
    final_version: int | None = None
    converted: tuple[MigrationFile, ...] = ()
    """Files that integer bookkeeping knows as applied, to be recorded by name without being run."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is to be done, to the schema or to the bookkeeping."""
        return not self.steps and not self.converted and self.final_version == self.current


def check_number(name: str, value: object) -> None:
    """Refuse what is not a whole number: a target of "1" would otherwise compare in surprising ways."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be an int, not {type(value).__name__} {value!r}")


def check_integer_files(
    files: Sequence[MigrationFile],
    directory: Path,
    *,
    allow_missing: bool = False,
    near_misses: Sequence[str] = (),
) -> None:
    """Refuse files that cannot be numbered 1, 2, 3….

    Raises
    ------
    NoMigrationFiles, MigrationVersionTooLarge, DuplicateMigrationVersion, MissingMigrationVersion
    """
    if not files:
        raise NoMigrationFiles(directory, near_misses)
    seen: dict[int, str] = {}
    for file in files:
        if file.is_timestamp:
            raise MigrationVersionTooLarge(file.name)
        if file.version in seen:
            raise DuplicateMigrationVersion(str(file.version), [seen[file.version], file.name])
        seen[file.version] = file.name
    if not allow_missing:
        for version in range(1, max(seen) + 1):
            if version not in seen:
                raise MissingMigrationVersion(version, near_misses)


def integer_plan(
    files: Sequence[MigrationFile],
    current: int,
    *,
    target: int | None = None,
    relative: int | None = None,
    allow_missing: bool = False,
) -> Plan:
    """Plan a run of checked integer files from version ``current``.

    ``target`` wins over ``relative``; either is clamped to the versions there are. A file of version 0 is never run.

    Raises
    ------
    MissingMigrationFiles
        ``current`` is above the latest file and ``allow_missing`` is not given.
    """
    check_number("target", target)
    check_number("relative", relative)
    latest = max(file.version for file in files)
    if target is None:
        target = latest if relative is None else current + relative
    target = min(max(target, 0), latest)
    if current > latest and not allow_missing:
        raise MissingMigrationFiles(
            f"Missing migration version(s) needed to migrate down to target version (current: {current}, target: {target}).",
            remedy="Restore the files, or allow missing files (--allow-missing).",
        )
    if target > current:
        wanted = [file for file in files if current < file.version <= target]
        steps = [Step(file, Direction.UP, file.version) for file in wanted]
        direction = Direction.UP
    else:
        wanted = [file for file in reversed(files) if target < file.version <= current]
        steps = [Step(file, Direction.DOWN, file.version - 1) for file in wanted]
        direction = Direction.UP if target == current else Direction.DOWN
    # Where files are missing, what is stored is the target reached and not the last file's version. But nothing was reached if the
    # database is above all files and none could be undone: lowering the version would claim that they had been.
    final = current if current > latest and not steps else target
    if steps:
        steps[-1] = Step(steps[-1].file, steps[-1].direction, final)
    return Plan(tuple(steps), current, target, direction, final)


def converted_files(files: Sequence[MigrationFile], integer_version: int | None) -> tuple[MigrationFile, ...]:
    """Return the files that integer bookkeeping at ``integer_version`` knows as applied."""
    if integer_version is None:
        return ()
    return tuple(file for file in files if file.version <= integer_version)


def timestamp_plan(
    files: Sequence[MigrationFile],
    applied: Collection[str],
    *,
    target: int | None = None,
    allow_missing: bool = False,
    converted: tuple[MigrationFile, ...] = (),
) -> Plan:
    """Plan a run of timestamp files. ``applied`` holds the recorded names.

    Files up to the target that are not applied go up; then applied ones above it go down, latest first. Any target will do, also one
    that is no file's version.

    Raises
    ------
    MissingMigrationFiles
        A recorded file is not in the directory and ``allow_missing`` is not given.
    """
    check_number("target", target)
    done = {name.lower() for name in applied} | {file.key for file in converted}
    missing = sorted(done - {file.key for file in files})
    if missing and not allow_missing:
        raise MissingMigrationFiles(
            f"Applied migration files not in file system: {', '.join(missing)}.",
            remedy="Restore them, or allow missing files (--allow-missing).",
        )
    down = [
        Step(file, Direction.DOWN)
        for file in reversed(files)
        if file.key in done and target is not None and file.version > target
    ]
    up = [
        Step(file, Direction.UP)
        for file in files
        if file.key not in done and (target is None or file.version <= target)
    ]
    direction = Direction.DOWN if down and not up else Direction.UP
    return Plan((*up, *down), None, target, direction, None, converted)

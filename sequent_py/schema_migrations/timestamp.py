"""The timestamp migrator: files in any order, of which ``schema_migrations`` remembers the names.

Where a project has outgrown integer versions, its first timestamp run takes over what ``schema_info`` says: the files up to that version are recorded
as applied, without being run. ``schema_info`` itself stays as it is; going back to integer versions afterwards is not supported.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import sqlalchemy as sa

from sequent_py.schema_migrations.errors import BrokenMigrationFile, InvalidMigrationsDirectory
from sequent_py.schema_migrations.files import FILE_NAME, Direction, MigrationFile, load, parse_names
from sequent_py.schema_migrations.migrator import Migrator, Record
from sequent_py.schema_migrations.plans import Plan, Step, check_number, converted_files, timestamp_plan
from sequent_py.schema_migrations.tracking import FILENAME_TABLE, FilenameTable, VersionTable


class TimestampMigrator(Migrator):
    """Files with versions of any kind, gaps and repetitions included; the database knows each by name.

    A file that appears late is applied by the next run, wherever its version stands.
    """

    default_table = FILENAME_TABLE
    default_column = "filename"

    def run(self, target: int | None = None) -> None:
        """Apply what is not applied, up to ``target``, and undo what is applied beyond it.

        Where a migration fails, those before it stay applied and recorded, and the error is the migration's own.

        Raises
        ------
        MissingMigrationFiles
            A recorded file is missing; nothing was done.
        MigrationLockHeld
            Another run is under way; nothing was done.
        IrreversibleMigration
            A migration on the way has no way back; nothing of it was run.
        """
        self.migrate(target)

    def migrate(self, target: int | None = None) -> Plan:
        """Do what :meth:`run` does, and return the plan that was carried out."""
        check_number("target", target)
        files = self.files
        with self._migrating() as connection:
            # Planned before anything is created or converted: a missing file refuses the whole run.
            plan = self._plan(connection, files, target)
            self._tracking.prepare(connection, [file.key for file in plan.converted])
            for step, migration in zip(plan.steps, self._load(plan.steps), strict=True):
                self._apply(connection, migration, step.direction, step.file.name, self._record(step))
        return plan

    def run_single(self, file: Path | str, direction: Direction | str = Direction.UP) -> None:
        """Apply one file, or undo it, and record that; nothing happens if it is so already. No other file is loaded."""
        step = Step(self._named(Path(file)), Direction(direction))
        with self._migrating() as connection:
            plan = self._plan(connection, self.files, None, allow_missing=True)
            self._tracking.prepare(connection, [converted.key for converted in plan.converted])
            is_applied = step.file.key in {name.lower() for name in self._tracking.read(connection)}
            if is_applied == (step.direction is Direction.DOWN):
                self._apply(connection, load(step.file), step.direction, step.file.name, self._record(step))

    def plan(self, target: int | None = None) -> Plan:
        """Return what :meth:`run` would do. Creates and locks nothing, converts nothing, loads no file."""
        check_number("target", target)
        with self._reading() as connection:
            return self._plan(connection, self.files, target)

    def applied(self) -> tuple[str, ...]:
        """Return the recorded file names, sorted; what a conversion would record is not among them. Writes nothing."""
        with self._reading() as connection:
            return self._tracking.read(connection)

    @property
    def _tracking(self) -> FilenameTable:
        return FilenameTable(self.table, self.column, self.schema)

    def is_reached(self, plan: Plan) -> bool:
        return not plan.steps

    def _plan(
        self,
        connection: sa.Connection,
        files: tuple[MigrationFile, ...],
        target: int | None,
        *,
        allow_missing: bool = False,
    ) -> Plan:
        return timestamp_plan(
            files,
            self._tracking.read(connection),
            target=target,
            allow_missing=allow_missing or self.allow_missing_migration_files,
            converted=converted_files(files, self._integer_version(connection)),
        )

    def _integer_version(self, connection: sa.Connection) -> int | None:
        """Return the version to take over; None once there is a table of names, or where ``schema_info`` is not ours to read."""
        if self._tracking.exists(connection):
            return None
        return VersionTable(schema=self.schema).read_alone(connection)

    def _record(self, step: Step) -> Record:
        tracking = self._tracking
        write = tracking.add if step.direction is Direction.UP else tracking.remove
        return partial(write, name=step.file.name)

    def _named(self, path: Path) -> MigrationFile:
        """Return the file of that path, or of that name in the directory."""
        if not self.directory.is_dir():
            raise InvalidMigrationsDirectory(self.directory)
        if path.parent != Path() and path.parent.resolve() != self.directory.resolve():
            raise BrokenMigrationFile(path, f"is not in {self.directory}")
        if not FILE_NAME.fullmatch(path.name):
            raise BrokenMigrationFile(path, "is not named like a migration, 20260101120000_create_artists.py")
        return parse_names([path.name], self.directory)[0]

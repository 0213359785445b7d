"""The integer migrator: versions 1, 2, 3…, of which ``schema_info`` remembers the last."""

from __future__ import annotations

from functools import partial

from sequent_py.schema_migrations.connections import scope
from sequent_py.schema_migrations.files import MigrationFile
from sequent_py.schema_migrations.migrator import Migrator
from sequent_py.schema_migrations.plans import Plan, check_integer_files, check_number, integer_plan
from sequent_py.schema_migrations.tracking import VERSION_TABLE, VersionTable


class IntegerMigrator(Migrator):
    """Files without gaps or duplicates, run in order; the database is at one version.

    Several applications can share a tracking table, each with a ``column`` of its own.
    """

    default_table = VERSION_TABLE
    default_column = "version"

    def run(
        self, target: int | None = None, *, relative: int | None = None, current: int | None = None
    ) -> int:
        """Migrate to ``target``, or by ``relative`` versions, or to the latest; return the version reached.

        Targets beyond the ends are clamped. ``current`` is believed instead of the recorded version. Where a migration
        fails, those before it stay applied and recorded, and the error is the migration's own.

        Raises
        ------
        MigrationFilesError
            The files cannot be run as they are; nothing was applied.
        MigrationLockHeld
            Another run is under way; nothing was done.
        IrreversibleMigration
            A migration on the way has no way back; nothing of it was run.
        """
        return self.migrate(target, relative=relative, current=current).target or 0

    def migrate(
        self, target: int | None = None, *, relative: int | None = None, current: int | None = None
    ) -> Plan:
        """Do what :meth:`run` does, and return the plan that was carried out."""
        self._check_numbers(target, relative, current)
        files = self._checked_files()
        with self._migrating() as connection:
            tracking = self._tracking
            tracking.prepare(connection)
            known = tracking.read(connection) if current is None else current
            plan = self._plan(files, known or 0, target, relative)
            for step, migration in zip(plan.steps, self._load(plan.steps), strict=True):
                record = partial(tracking.write, version=step.version_after or 0)
                self._apply(connection, migration, step.direction, f"version {step.file.version}", record)
            if not plan.steps and plan.final_version != plan.current:
                with scope(connection, transactional=True):
                    tracking.write(connection, plan.final_version or 0)
        return plan

    def plan(
        self, target: int | None = None, *, relative: int | None = None, current: int | None = None
    ) -> Plan:
        """Return what :meth:`run` would do. Creates and locks nothing; checks the files as a run does, but loads none."""
        self._check_numbers(target, relative, current)
        files = self._checked_files()
        known = self.version() if current is None else current
        return self._plan(files, known or 0, target, relative)

    def version(self) -> int | None:
        """Return the recorded version; None before the first run. Writes nothing."""
        with self._reading() as connection:
            return self._tracking.read(connection)

    @property
    def _tracking(self) -> VersionTable:
        return VersionTable(self.table, self.column, self.schema)

    def is_reached(self, plan: Plan) -> bool:
        return plan.current == plan.target

    def _check_numbers(self, target: int | None, relative: int | None, current: int | None) -> None:
        for name, value in (("target", target), ("relative", relative), ("current", current)):
            check_number(name, value)

    def _checked_files(self) -> tuple[MigrationFile, ...]:
        files, others = self._list()
        check_integer_files(
            files, self.directory, allow_missing=self.allow_missing_migration_files, near_misses=others
        )
        return files

    def _plan(
        self, files: tuple[MigrationFile, ...], current: int, target: int | None, relative: int | None
    ) -> Plan:
        return integer_plan(
            files, current, target=target, relative=relative, allow_missing=self.allow_missing_migration_files
        )

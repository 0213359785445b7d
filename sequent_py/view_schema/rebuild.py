"""The view schema of an application, as an object: every command of a view migration is one method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sequent_py.arguments import checked_aggregate_ids
from sequent_py.config import Config
from sequent_py.progress import SILENT, Progress
from sequent_py.replay import fence
from sequent_py.replay.limits import UNLIMITED, Limits
from sequent_py.replay.pools import LocalPool, PoolFactory
from sequent_py.replay.quarantine import DEFAULT_LIMIT
from sequent_py.roles.rules import RoleKind
from sequent_py.view_schema import inspection
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.building.dry_run import run_dry
from sequent_py.view_schema.building.joining import PauseReport, run_pause, run_resume, run_worker
from sequent_py.view_schema.building.online import run_online
from sequent_py.view_schema.comparison.accept_code import AcceptCodeReport, run_accept_code
from sequent_py.view_schema.comparison.diff import DiffReport, run_diff
from sequent_py.view_schema.comparison.verify import VerifyReport, run_verify
from sequent_py.view_schema.context import Context, Replaying, shadow_blueprints
from sequent_py.view_schema.ddl import executor
from sequent_py.view_schema.going_live.golive import CutOverLimits, GoliveReport, run_golive
from sequent_py.view_schema.going_live.offline import run_offline
from sequent_py.view_schema.repair import mend_transaction_ids, run_repair
from sequent_py.view_schema.reports import (
    AbortReport,
    CheckReport,
    DryRunReport,
    OfflineReport,
    OnlineReport,
    PlanReport,
    StatusReport,
)
from sequent_py.view_schema.retired.prune import PruneReport, run_prune
from sequent_py.view_schema.retired.rollback import RollbackReport, run_rollback
from sequent_py.view_schema.retired.rollback_preview import RollbackPlanReport, report_rollback_plan
from sequent_py.view_schema.states import Command, MigrationState, require, settled


class ViewSchema:
    """Plans and runs view migrations. Holds no connection; several processes may use it at once.

    All methods raise ``DatabaseUnavailable`` when no server answers.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def plan(self) -> PlanReport:
        """Say what a migration to the code's version would do; writes nothing.

        Raises
        ------
        DefinitionError, TableFileError, InvalidTransition, DependentObjects
            Why it could not work.
        """
        return inspection.report_plan(self._context)

    def dry_run(self, *, sample: int = 1_000, progress: Progress = SILENT) -> DryRunReport:
        """Try the migration on a sample of aggregates and leave no trace; see :mod:`sequent_py.view_schema.building.dry_run`."""
        return run_dry(self._context, sample=sample, progress=progress)

    def online(
        self,
        *,
        workers: int | None = None,
        group_target_events: int | None = None,
        quarantine: bool | None = None,
        quarantine_limit: int = DEFAULT_LIMIT,
        pool: PoolFactory = LocalPool,
        limits: Limits = UNLIMITED,
        read_from: str | None = None,
        progress: Progress = SILENT,
    ) -> OnlineReport:
        """Build the shadow tables while the application goes on; resumes what an earlier run left.

        ``workers`` 0 replays inside this process. ``quarantine`` sets up to ``quarantine_limit`` aggregates aside whose events cannot be
        projected, in this and every later command of the migration; None: as an earlier run said, else not. ``pool`` is where workers run, ``limits`` what they may take, ``read_from`` the URL of a standby to
        read events from (default: the setting ``standby_url``). See :mod:`sequent_py.view_schema.building.online` for guarantees and errors.
        """
        config = self._context.config
        return run_online(
            self._replaying(pool, limits, standby_url=self._standby_url(read_from)),
            workers=config.workers if workers is None else workers,
            group_target_events=config.group_target_events
            if group_target_events is None
            else group_target_events,
            quarantine=quarantine,
            quarantine_limit=quarantine_limit,
            progress=progress,
        )

    def offline(
        self,
        *,
        workers: int | None = None,
        drain_timeout_seconds: float | None = None,
        lock_timeout_seconds: float | None = None,
        lock_budget_seconds: float | None = None,
        verify_sample: int | None = None,
        accept_quarantined: Collection[UUID] = (),
        accept_differences: bool = False,
        pool: PoolFactory = LocalPool,
        limits: Limits = UNLIMITED,
        progress: Progress = SILENT,
    ) -> OfflineReport:
        """Close the gate, replay the rest, verify, swap; see :mod:`sequent_py.view_schema.going_live.offline` for guarantees and errors.

        ``accept_quarantined`` names the aggregates that may be left behind; ``accept_differences`` promotes tables that fail the
        verification, and records what it had found.
        """
        config = self._context.config
        return run_offline(
            replace(self._replaying(pool, limits), accepts_differences=accept_differences),
            workers=config.workers if workers is None else workers,
            group_target_events=config.group_target_events,
            drain_timeout_seconds=config.drain_timeout_seconds
            if drain_timeout_seconds is None
            else drain_timeout_seconds,
            lock_timeout_seconds=config.lock_timeout_seconds
            if lock_timeout_seconds is None
            else lock_timeout_seconds,
            lock_budget_seconds=config.lock_budget_seconds
            if lock_budget_seconds is None
            else lock_budget_seconds,
            verify_sample=config.verify_sample if verify_sample is None else verify_sample,
            accept_quarantined=frozenset(checked_aggregate_ids(accept_quarantined)),
            progress=progress,
        )

    def golive(
        self,
        *,
        workers: int | None = None,
        max_delta_events: int | None = None,
        max_lag_seconds: float | None = None,
        lock_timeout_seconds: float | None = None,
        lock_budget_seconds: float | None = None,
        verify_sample: int | None = None,
        max_seconds: float | None = None,
        accept_quarantined: Collection[UUID] = (),
        accept_differences: bool = False,
        pool: PoolFactory = LocalPool,
        limits: Limits = UNLIMITED,
        progress: Progress = SILENT,
    ) -> GoliveReport:
        """Replay the rest, verify, swap, while the application runs; see :mod:`sequent_py.view_schema.going_live.golive` for guarantees and errors.

        ``max_seconds``: when it is to stop, at a point where nothing is lost, if it has not swapped by then; None: as long as it takes.
        ``accept_quarantined`` names the aggregates that may be left behind; ``accept_differences`` promotes tables that fail the
        verification, and records what it had found.
        """
        config = self._context.config
        return run_golive(
            replace(self._replaying(pool, limits), accepts_differences=accept_differences),
            workers=config.workers if workers is None else workers,
            group_target_events=config.group_target_events,
            limits=_limits(
                config,
                max_delta_events=max_delta_events,
                max_lag_seconds=max_lag_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
                lock_budget_seconds=lock_budget_seconds,
                verify_sample=verify_sample,
                max_seconds=max_seconds,
            ),
            accept_quarantined=frozenset(checked_aggregate_ids(accept_quarantined)),
            progress=progress,
        )

    def verify(
        self,
        *,
        sample: int | None = None,
        is_all: bool = False,
        aggregate_ids: Sequence[UUID] = (),
        tables: Sequence[str] = (),
        workers: int | None = None,
        is_once: bool = False,
        progress: Progress = SILENT,
    ) -> VerifyReport:
        """Compare the tables with the log: the shadow tables of an unfinished migration, else the live ones, while the application writes.

        A sample of aggregates, those given, or ``is_all``; ``is_once`` leaves out the search for nondeterministic handlers. Differences
        are in the report, not raised. ``workers`` 0 folds inside this process. See :mod:`sequent_py.view_schema.comparison.verify`.
        """
        config = self._context.config
        return run_verify(
            self._context,
            sample=config.verify_sample if sample is None else sample,
            is_all=is_all,
            aggregate_ids=checked_aggregate_ids(aggregate_ids),
            tables=tables,
            workers=config.workers if workers is None else workers,
            is_once=is_once,
            progress=progress,
        )

    def diff(
        self, *, tables: Sequence[str] = (), examples: int = 5, progress: Progress = SILENT
    ) -> DiffReport:
        """Compare the old with the new version of each rebuilt table; see :mod:`sequent_py.view_schema.comparison.diff`."""
        return run_diff(self._context, tables=tables, examples=examples, progress=progress)

    def abort(self) -> AbortReport:
        """Drop the unfinished migration's shadow tables, by their recorded names, and forget its replay.

        Raises
        ------
        InvalidTransition
            No migration is unfinished.
        ConcurrentMigration
            It is being worked on: stop that process first.
        """
        context = self._context
        with context.coordinating("abort", needs_own_transaction_ids=False) as connection:
            current = context.versions.current(connection)
            state = settled(current.state, is_held=False) if current else None
            require(state, Command.ABORT)
            assert current is not None
            fence.evict_workers(connection, context.schema)
            with connection.transaction():
                migration = context.versions.settle(connection, current)
                blueprints = shadow_blueprints(context, connection, migration.id).values()
                names = [blueprint.physical_name for blueprint in blueprints]
                executor.drop_blueprints(connection, context.config.view_schema, blueprints)
                context.relations.forget(connection, names)
                context.ledger.forget(connection, migration.id)
                context.quarantine.forget(connection, migration.id)
                context.versions.transition(
                    connection, migration.id, (migration.state,), MigrationState.ABORTED
                )
                serial_order.release(context, connection)
            return AbortReport(migration.id, migration.target_version, tuple(names))

    def rollback(
        self,
        *,
        workers: int | None = None,
        max_delta_events: int | None = None,
        max_lag_seconds: float | None = None,
        lock_timeout_seconds: float | None = None,
        lock_budget_seconds: float | None = None,
        stall_limit_seconds: float | None = None,
        verify_sample: int | None = None,
        pool: PoolFactory = LocalPool,
        limits: Limits = UNLIMITED,
        progress: Progress = SILENT,
    ) -> RollbackReport:
        """Let this code's version serve again, with what was written since; see :mod:`sequent_py.view_schema.retired.rollback` for guarantees and errors."""
        config = self._context.config
        return run_rollback(
            self._replaying(pool, limits),
            workers=config.workers if workers is None else workers,
            group_target_events=config.group_target_events,
            limits=_limits(
                config,
                max_delta_events=max_delta_events,
                max_lag_seconds=max_lag_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
                lock_budget_seconds=lock_budget_seconds,
                verify_sample=verify_sample,
            ),
            stall_limit_seconds=stall_limit_seconds,
            progress=progress,
        )

    def rollback_plan(self) -> RollbackPlanReport:
        """Say what :meth:`rollback` would do; writes nothing.

        Raises
        ------
        InvalidTransition, PlanChanged, DependentObjects, DefinitionError, ForeignTransactionIds
            Why it could not work.
        """
        return report_rollback_plan(self._context)

    def prune(
        self,
        *,
        keep: int | None = None,
        version: int | None = None,
        orphaned: bool = False,
        dry_run: bool = False,
        progress: Progress = SILENT,
    ) -> PruneReport:
        """Drop retired tables, the newest ``keep`` generations or all but one ``version`` excepted; see :mod:`sequent_py.view_schema.retired.prune`."""
        return run_prune(
            self._context,
            keep=keep,
            version=version,
            orphaned=orphaned,
            is_dry_run=dry_run,
            progress=progress,
        )

    def status(self) -> StatusReport:
        """Say where the view schema stands and what to run next; writes nothing, works before ``sequent init``."""
        return inspection.report_status(self._context, self._context.definition.version)

    def check(self) -> CheckReport:
        """Say whether code and database fit together; writes nothing."""
        return inspection.report_check(self._context)

    def current_version(self) -> int:
        """Return the live version; 0 before the first migration and before ``sequent init``."""
        with self._context.reporting("migrate current-version") as connection:
            if connection is None:
                return 0
            return self._context.gate.read(connection).live_version

    def repair_transaction_ids(self) -> int:
        """Mend a store that was restored from another cluster; return how many events were changed.

        Raises
        ------
        InvalidTransition
            A migration is unfinished: its snapshots are the other cluster's, too.
        ConcurrentMigration, MaintenanceModeActive
            Nothing was changed.
        """
        context = self._context
        with context.coordinating(
            "repair", needs_own_transaction_ids=False, role=RoleKind.OWNER
        ) as connection:
            return mend_transaction_ids(context, connection)

    def repair(self, *, progress: Progress = SILENT) -> tuple[str, ...]:
        """Mend what ``doctor --repair`` can mend; return what was. See :mod:`sequent_py.view_schema.repair` for guarantees and errors."""
        return run_repair(self._context, progress)

    def accept_code(self) -> AcceptCodeReport:
        """Record that the present code makes the same rows as the code that built the live tables.

        Raises
        ------
        ConcurrentMigration
            A migration is at work; nothing was changed.
        """
        return run_accept_code(self._context)

    def work(self, *, read_from: str | None = None, progress: Progress = SILENT) -> int:
        """Join the replay that is running now, from this or any other host; return how many groups this process replayed.

        ``read_from`` is the URL of a standby. See :mod:`sequent_py.view_schema.building.joining`.

        Raises
        ------
        ConfigurationError
            No replay is running that this code could join, or its code is another.
        """
        return run_worker(
            self._replaying(LocalPool, UNLIMITED, standby_url=self._standby_url(read_from)), progress=progress
        )

    def pause(self, reason: str | None = None) -> PauseReport:
        """Let no worker on any host begin another group, and no cut-over begin, until :meth:`resume`, whatever is restarted; returns at once."""
        return run_pause(self._context, reason)

    def resume(self) -> PauseReport:
        """Let replays go on."""
        return run_resume(self._context)

    def _replaying(self, pool: PoolFactory, limits: Limits, *, standby_url: str | None = None) -> Context:
        return replace(self._context, replaying=Replaying(pool, limits, standby_url))

    def _standby_url(self, read_from: str | None) -> str | None:
        if read_from is not None:
            # Empty: from the primary, whatever is configured.
            return read_from or None
        setting = self._context.config.standby_url
        return (setting.get_secret_value() or None) if setting is not None else None


def _limits(config: Config, **given: Any) -> CutOverLimits:
    """Return what a cut-over may take: what is given, else what is configured, else what is usual."""
    limits = CutOverLimits(lock_budget_seconds=config.lock_budget_seconds, verify_sample=config.verify_sample)
    given = {name: value for name, value in given.items() if value is not None}
    configured = config.lock_timeout_seconds
    # None of them configured: a cut-over during which writers wait has less time than one that refuses them.
    return replace(limits, **({"lock_timeout_seconds": configured} if configured is not None else {}) | given)

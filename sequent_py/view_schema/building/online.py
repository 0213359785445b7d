"""``online``: build the shadow tables beside the live ones, while the application goes on.

Steps, each of which may be the last that this process lives to see; the same command goes on from there:

1. plan, and prove the table files in a transaction that is rolled back: nothing has been written when anything is wrong;
2. one transaction: the migration's row and its empty shadow tables, recorded by name;
3. the first pass: snapshot, groups, workers (:mod:`sequent_py.replay`);
4. indexes, table by table, each with its mark in one transaction; ANALYZE;
5. a sample is folded again, traced: no handler may meet rows of other aggregates than its projector's ordering says. Most often that is done sooner, while the server builds
   indexes or, where this process is to help its workers, before it does;
6. ``online_done``.

Run again in ``online_done`` it replays one more window, so that less is left for the cut-over. The application notices nothing: no lock
that writers or readers of the live tables could wait for is ever taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from psycopg.errors import DeadlockDetected, LockNotAvailable

from sequent_py.collector import collector_paused
from sequent_py.errors import DefinitionError, SequentError
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.ordering_check import check_orderings
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema import guards
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.building.beginning import begin_or_resume
from sequent_py.view_schema.building.early_start import early_workers
from sequent_py.view_schema.building.passes import Passes
from sequent_py.view_schema.context import (
    Context,
    replayed_event_names,
    replayed_projectors,
    shadow_blueprints,
)
from sequent_py.view_schema.ddl import executor, index_builds
from sequent_py.view_schema.planning import current_plan
from sequent_py.view_schema.plans import Plan, ResolvedPlan, resolve
from sequent_py.view_schema.reports import OnlineReport
from sequent_py.view_schema.states import MigrationState
from sequent_py.view_schema.tables.blueprints import TableBlueprint


def run_online(
    context: Context,
    *,
    workers: int,
    group_target_events: int,
    quarantine: bool | None,
    quarantine_limit: int,
    progress: Progress,
) -> OnlineReport:
    """Begin, go on with, or catch up the migration to the code's version.

    Raises
    ------
    ConcurrentMigration, DefinitionError, TableFileError, DependentObjects, PlanChanged, UnknownEventTypes, UnsoundInstallation
        Nothing was changed. So with an InvalidPayload that a sample of the events shows.
    ProjectionFailed, InvalidPayload, WorkerFailed, DrainTimeout
        Finished groups are kept.
    OrderingViolated
        The shadow tables are built, but not right.
    """
    started = time.monotonic()
    if workers > 0:
        context.require_importable()
    with context.coordinating("online") as connection:
        progress.step("planning")
        plan = current_plan(context, connection)
        if plan.is_noop:
            return _noop(plan)
        resolved = resolve(plan, context.definition)
        if quarantine:
            require_quarantine(resolved)
        guards.require_connections(connection, workers=workers)
        with early_workers(context, connection, workers if plan.replays else 0) as equipped:
            if plan.replays:
                _require_covered(equipped, connection, resolved, quarantine, progress)
            migration, is_resumed, warnings = begin_or_resume(equipped, connection, plan, resolved, progress)
            if quarantine is not None:
                migration = context.versions.record_quarantine_limit(
                    connection, migration.id, quarantine_limit if quarantine else None
                )
            events = _build(equipped, connection, migration, resolved, workers, group_target_events, progress)
        return OnlineReport(
            migration_id=migration.id,
            from_version=plan.from_version,
            target_version=plan.target_version,
            is_noop=False,
            is_resumed=is_resumed,
            events=events,
            groups=_groups(context, connection, migration),
            seconds=time.monotonic() - started,
            rows=context.ledger.row_counts(connection, migration.id),
            warnings=warnings,
            quarantined=context.quarantine.listed(connection, migration.id),
        )


def _build(
    context: Context,
    connection: Connection,
    migration: ViewMigration,
    resolved: ResolvedPlan,
    workers: int,
    group_target_events: int,
    progress: Progress,
) -> int:
    """Take the migration to ``online_done``; return the events replayed."""
    passes = Passes(
        context,
        connection,
        migration,
        resolved,
        workers=workers,
        group_target_events=group_target_events,
        progress=progress,
    )
    with context.noting_errors(connection, migration.id):
        events = _replay(context, connection, migration, resolved, passes, workers, progress)
        with connection.transaction():
            context.versions.transition(
                connection, migration.id, (migration.state,), MigrationState.ONLINE_DONE
            )
    return events


@collector_paused()
def _require_covered(
    context: Context,
    connection: Connection,
    resolved: ResolvedPlan,
    quarantine: bool | None,
    progress: Progress,
) -> None:
    progress.step("checking the events")
    guards.require_covered(
        connection,
        schema=context.schema,
        event_types=context.event_types,
        definition=context.definition,
        handled=replayed_event_names(resolved),
        allows_undecodable=_has_quarantine(context, connection, quarantine),
        may_quarantine=allows_quarantine(resolved),
        progress=progress,
    )


def _replay(
    context: Context,
    connection: Connection,
    migration: ViewMigration,
    resolved: ResolvedPlan,
    passes: Passes,
    workers: int,
    progress: Progress,
) -> int:
    """Replay what there is, and finish the tables, unless that is done; return the events replayed."""
    passes.take_over()
    passes.require_unedited()
    events = 0
    if migration.state is MigrationState.ONLINE_DONE:
        progress.step("catching up")
        events = passes.catch_up(tries_quarantined=True) if resolved.plan.replays else 0
    else:
        # Set aside by an earlier run, perhaps with other code: they are tried again once the tables have their indexes.
        tries_quarantined = bool(context.quarantine.listed(connection, migration.id))
        orderings = _OrderingsCheck(context, connection, resolved, passes)
        progress.step("replaying")
        if resolved.plan.replays:
            events = passes.first() if tries_quarantined else passes.first(orderings.try_early)
        passes.wait_while_held()
        is_due = resolved.plan.replays and not tries_quarantined and not orderings.is_done
        _index_and_analyse(
            context,
            connection,
            migration,
            resolved,
            workers,
            progress,
            meanwhile=orderings.try_early if is_due else None,
        )
        if tries_quarantined:
            progress.step("trying what was set aside")
            events += passes.catch_up(tries_quarantined=True)
        if resolved.plan.replays and not orderings.is_done:
            progress.step("checking the orderings")
            orderings.require()
    passes.require_unedited()
    return events


def _has_quarantine(context: Context, connection: Connection, asked: bool | None) -> bool:
    """Whether events that cannot be projected are set aside: as asked for now, else as the unfinished migration remembers."""
    if asked is not None:
        return asked
    unfinished = context.versions.unfinished(connection)
    return unfinished is not None and unfinished.quarantine_limit is not None


def allows_quarantine(resolved: ResolvedPlan) -> bool:
    """Whether single aggregates could be set aside."""
    return not _other_orderings(resolved)


def _other_orderings(resolved: ResolvedPlan) -> list[str]:
    return [item.name for item in resolved.projectors if item.ordering != "aggregate"]


def require_quarantine(resolved: ResolvedPlan) -> None:
    """Refuse a quarantine of single aggregates where rows depend on several.

    Raises
    ------
    DefinitionError
        A replayed projector is not ordered by aggregate.
    """
    others = _other_orderings(resolved)
    if others:
        raise DefinitionError(
            f"Rows of {', '.join(others)} depend on several aggregates: setting one aside would make the others' rows wrong.",
            remedy="Run online without --quarantine: it stops at the event that cannot be projected.",
        )


def _index_and_analyse(
    context: Context,
    connection: Connection,
    migration: ViewMigration,
    resolved: ResolvedPlan,
    workers: int,
    progress: Progress,
    *,
    meanwhile: Callable[[], object] | None,
) -> None:
    """Finish the tables; ``meanwhile`` is called while the server builds indexes, not where there are none left to build."""
    relations, view_schema = context.relations, context.config.view_schema
    analysed: set[str] = set()

    def analyse(built: Connection, blueprint: TableBlueprint) -> None:
        # What is built is committed. An ANALYZE that fails for others' locks is tried again below, where it is said.
        with suppress(LockNotAvailable, DeadlockDetected):
            executor.analyse(built, view_schema, [blueprint.physical_name])
            analysed.add(blueprint.physical_name)

    unindexed = relations.unindexed(connection, migration.id)
    files = [files for _, files in context.table_files(resolved) if files.table in unindexed]
    if files:
        progress.step("building indexes")
        index_builds.build_indexes(
            context.connect_builder,
            view_schema=view_schema,
            files=files,
            blueprints=shadow_blueprints(context, connection, migration.id),
            target_version=resolved.plan.target_version,
            parallel=max(workers, 1),
            on_built=lambda built, blueprint: relations.mark_indexed(built, migration.id, blueprint),
            # A small table's takes as long as a large one's; so it is not left for the end.
            beside_others=analyse,
            meanwhile=meanwhile,
        )
    progress.step("analysing")
    executor.analyse(
        connection,
        view_schema,
        [step.shadow_name for step in resolved.plan.replays if step.shadow_name not in analysed],
    )


@dataclass
class _OrderingsCheck:
    """Refuses to call it done where handlers meet rows of other scopes than declared: in a parallel replay such rows are wrong."""

    context: Context
    connection: Connection
    resolved: ResolvedPlan
    passes: Passes
    is_done: bool = False

    @collector_paused()
    def require(self, on_event: Callable[[], object] = lambda: None) -> None:
        """Fold a sample of the first pass; ``on_event`` is called before each event.

        Raises
        ------
        OrderingViolated
            It has such rows.
        ProjectionFailed, InvalidPayload
            It cannot be folded.
        """
        context, connection = self.context, self.connection
        with context.connect("reading") as reader:
            check_orderings(
                connection,
                reader,
                schema=context.schema,
                projectors=replayed_projectors(self.resolved),
                tables=context.shadow_tables(connection, self.resolved),
                event_types=context.event_types,
                stored_types=stored_event_types(connection, context.schema),
                until=self.passes.last().until,
                left_out=self.passes.set_aside(),
                on_event=on_event,
            ).require_none()
        self.is_done = True

    def try_early(self, report: Callable[[], object] = lambda: None) -> None:
        """Do it while others are at work. What is wrong is not said yet: workers that replay may set the aggregate aside, or say more, and indexes that are being built are to be finished."""
        with suppress(SequentError):
            self.require(report)


def _groups(context: Context, connection: Connection, migration: ViewMigration) -> int:
    last = context.ledger.latest_pass(connection, migration.id)
    return 0 if last is None else context.ledger.progress(connection, migration.id, last.number).groups_total


def _noop(plan: Plan) -> OnlineReport:
    return OnlineReport(
        migration_id=None,
        from_version=plan.from_version,
        target_version=plan.target_version,
        is_noop=True,
        is_resumed=False,
        events=0,
        groups=0,
        seconds=0.0,
        rows={},
    )

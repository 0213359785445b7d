"""What can be said of a view schema without changing it: plan, status, check.

Everything here runs on a read-only connection, takes no lock that a backup could block, and answers on a database where nothing has been
installed yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from sequent_py.declared.groups import described, replayed_by_handlers
from sequent_py.errors import SequentError
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.health import coverage, coverage_findings
from sequent_py.health.code import check_code
from sequent_py.health.findings import Verdict
from sequent_py.health.left_behind import check_left_behind
from sequent_py.progress import ReplayProgress
from sequent_py.replay import fence
from sequent_py.replay.estimate import current_snapshot, estimate_history
from sequent_py.replay.ledger import Connection
from sequent_py.replay.limits import UNLIMITED
from sequent_py.replay.quarantine import QuarantinedAggregate, accepting_options, waiting
from sequent_py.view_schema.bookkeeping.code_records import tables_of_plan
from sequent_py.view_schema.bookkeeping.generations import generations
from sequent_py.view_schema.bookkeeping.moment import at_one_moment
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.building.passes import pending_events
from sequent_py.view_schema.comparison.acceptance import accepted_differences
from sequent_py.view_schema.context import (
    Context,
    replayed_event_names,
    replayed_projectors,
)
from sequent_py.view_schema.planning import (
    all_tables,
    check_swap,
    current_plan,
    current_rollback,
    require_tables,
)
from sequent_py.view_schema.plans import Plan, ResolvedPlan, resolve
from sequent_py.view_schema.reports import CheckReport, MigrationReport, PlanReport, StatusReport
from sequent_py.view_schema.retired.return_passes import pending_return
from sequent_py.view_schema.rollback_plan import RollbackOutlook
from sequent_py.view_schema.states import Command, MigrationState, next_commands, settled
from sequent_py.view_schema.tables import dependents


def report_plan(context: Context) -> PlanReport:
    """Plan, check that the files are there and nothing depends on the tables, and size the replay.

    Raises
    ------
    DefinitionError, TableFileError, InvalidTransition, DependentObjects
        Why the migration could not work.
    """
    with context.reporting("migrate plan") as connection:
        if connection is None:
            plan = current_plan(context, None)
            resolved = _with_files(context, plan)
            return PlanReport(plan, 0, True, (*plan.warnings, *_left_to_handlers(resolved)))
        plan, resolved, warnings = at_one_moment(
            connection, context.schema, lambda: _checked_plan(context, connection)
        )
        events, is_exact = 0, True
        if plan.replays:
            warnings += _coverage_warnings(context, connection)
            stored = stored_event_types(connection, context.schema)
            ids = [stored[name] for name in replayed_event_names(resolved) if name in stored]
            samples, is_exact = estimate_history(
                connection, context.schema, until=current_snapshot(connection), event_type_ids=ids
            )
            events = sum(sample.estimated_events for sample in samples.values())
        return PlanReport(plan, events, is_exact, warnings)


def _checked_plan(context: Context, connection: Connection) -> tuple[Plan, ResolvedPlan, tuple[str, ...]]:
    plan = current_plan(context, connection)
    resolved = _with_files(context, plan)
    warnings = check_swap(context, connection, plan, tries_views=False)
    warnings += _code_warnings(context, connection, plan)
    return plan, resolved, (*plan.warnings, *_left_to_handlers(resolved), *warnings)


def _left_to_handlers(resolved: ResolvedPlan) -> tuple[str, ...]:
    return described(replayed_by_handlers(replayed_projectors(resolved)))


def _with_files(context: Context, plan: Plan) -> ResolvedPlan:
    """Resolve a plan; its files are there, and can be read."""
    resolved = resolve(plan, context.definition)
    context.table_files(resolved)
    context.alter_scripts(resolved)
    return resolved


def report_status(context: Context, code_version: int | None) -> StatusReport:
    """Say where the view schema stands, who is at work, and what to run next."""
    with context.reporting("migrate status") as connection:
        if connection is None:
            return StatusReport(
                installed=False,
                code_version=code_version,
                live_version=0,
                migration=None,
                state=None,
                holder=None,
                replay=None,
                passes=0,
                pending_events=None,
                gate=None,
                retired_tables=(),
                next_commands=("sequent init",),
            )
        return at_one_moment(connection, context.schema, lambda: _status(context, connection, code_version))


def _status(context: Context, connection: Connection, code_version: int | None) -> StatusReport:
    gate = context.gate.read(connection)
    migration = context.versions.current(connection)
    holder = fence.coordinator(connection, context.schema)
    state = settled(migration.state, is_held=holder is not None) if migration else None
    retired = tuple(table.physical_name for table in context.relations.retired(connection))
    replay, passes = _replay_progress(context, connection, migration)
    outlook = rollback_outlook(context, connection)
    can_roll_back = outlook is not None and outlook.is_possible
    is_pending = code_version is not None and code_version > gate.live_version and not can_roll_back
    quarantined = context.quarantine.reported(connection, migration.id) if migration else ()
    standing = context.control.read(connection)
    is_limited = holder is not None and standing.limits != UNLIMITED
    return StatusReport(
        installed=True,
        code_version=code_version,
        live_version=gate.live_version,
        migration=_migration_report(context, connection, migration),
        state=state.value if state else None,
        holder=holder,
        replay=replay,
        passes=passes,
        pending_events=_pending(context, connection, migration),
        gate=gate,
        retired_tables=retired,
        next_commands=(
            *(("sequent migrate resume",) if standing.pause else ()),
            *_next_commands(
                state, can_roll_back, is_pending, is_held=holder is not None, set_aside=waiting(quarantined)
            ),
        ),
        generations=tuple(generations(context.versions.history(connection), all_tables(context, connection))),
        rollback=outlook,
        quarantined=quarantined,
        pause=standing.pause,
        limits=standing.limits if is_limited else None,
    )


def rollback_outlook(context: Context, connection: Connection) -> RollbackOutlook | None:
    """Say what a rollback with this code would do; None where its version serves or never has."""
    version = context.definition.version
    live_version = context.gate.read(connection).live_version
    has_been_live = any(
        migration.state is MigrationState.ROLLED_BACK and migration.target_version == version
        for migration in context.versions.history(connection)
    )
    if version == live_version or (version > live_version and not has_been_live):
        return None
    try:
        plan = current_rollback(context, connection)
        if plan is None:
            return None
        require_tables(context, connection, plan)
        events = pending_return(context, connection, plan)
    except SequentError as error:
        return RollbackOutlook(
            False, f"Version {version}, this code's, cannot be had back by a rollback: {error}"
        )
    names = [f"{physical} as {name}" for name, physical in plan.exchange.returning.items()]
    names += [f"{name}, which nobody has kept up to date" for name in plan.exchange.managed]
    tables = f"with {', '.join(names)}" if names else "no table comes back"
    return RollbackOutlook(
        True,
        f"Version {version}, this code's, can serve again instead of {live_version} ({tables}); {events}"
        f" event{'s'[: events != 1]} would be replayed.",
        events,
    )


def _next_commands(
    state: MigrationState | None,
    can_roll_back: bool,
    is_pending: bool,
    *,
    is_held: bool,
    set_aside: Sequence[QuarantinedAggregate],
) -> tuple[str, ...]:
    lines = next_commands(state, can_roll_back, is_pending=is_pending, is_held=is_held)
    if set_aside and state is MigrationState.ONLINE_DONE and not is_held:
        lines = _but_for(lines, set_aside)
    # The latest migration may be an aborted one; the one that can be rolled back is behind it then.
    back = f"sequent migrate {Command.ROLLBACK}"
    return (*lines, back) if can_roll_back and not is_held and back not in lines else tuple(lines)


def _but_for(lines: Sequence[str], set_aside: Sequence[QuarantinedAggregate]) -> list[str]:
    """Put first what tries again those that were set aside, and name them to a promotion, which is refused otherwise."""
    online = f"sequent migrate {Command.ONLINE}"
    promotions = [f"sequent migrate {command}" for command in (Command.OFFLINE, Command.GOLIVE)]
    others = [
        f"{line} {accepting_options(set_aside)}" if line in promotions else line
        for line in lines
        if line != online
    ]
    return [online, *others]


def report_check(context: Context) -> CheckReport:
    """Say whether code and database fit: versions, tables, files."""
    with context.reporting("migrate check") as connection:
        if connection is None:
            return CheckReport(
                context.definition.version,
                0,
                ("The event store is not installed, or older than this library.",),
            )
        return at_one_moment(connection, context.schema, lambda: _check(context, connection))


def _check(context: Context, connection: Connection) -> CheckReport:
    code_version = context.definition.version
    live_version = context.gate.read(connection).live_version
    problems: list[str] = []
    plan: Plan | None = None
    if live_version != code_version:
        problems.append(f"The code is at version {code_version}, the database at {live_version}.")
    outlook = rollback_outlook(context, connection)
    if outlook is not None:
        remedy = " Run: sequent migrate rollback" if outlook.is_possible else ""
        problems.append(f"{outlook.message}{remedy}")
    else:
        try:
            plan = current_plan(context, connection)
            resolved = resolve(plan, context.definition)
            context.table_files(resolved)
        except SequentError as error:
            problems.append(str(error))
    live = context.relations.live_tables(connection)
    problems += dependents.missing_tables(
        connection,
        context.config.view_schema,
        sorted(name for name in live if context.definition.projectors_of(name)),
    )
    if plan is not None:
        problems += _code_warnings(context, connection, plan)
    notices = [f"{it.message} {it.remedy}" for it in check_left_behind(connection, context.schema)]
    return CheckReport(code_version, live_version, tuple(problems), tuple(notices))


def _code_warnings(context: Context, connection: Connection, plan: Plan | None) -> tuple[str, ...]:
    """Say which projectors changed without a new version, tables that the plan builds or alters aside."""
    found = check_code(
        connection,
        context.schema,
        context.definition,
        context.config.sql_path,
        except_tables=tables_of_plan(plan) if plan is not None else (),
    )
    return tuple(f"{it.message} {it.remedy}" for it in found if it.verdict is Verdict.PROBLEM)


def _coverage_warnings(context: Context, connection: Connection) -> tuple[str, ...]:
    """Say what a sample of the log shows that online would refuse."""
    sampled = coverage.sample(
        connection,
        context.schema,
        context.event_types,
        ignored=context.definition.ignored_event_types,
    )
    found = [
        coverage_findings.describe_unknown(sampled.unknown),
        coverage_findings.describe_undecodable(sampled.undecodable()),
    ]
    return tuple(f"{it.message} {it.remedy}" for it in found if it is not None)


def _migration_report(
    context: Context, connection: Connection, migration: ViewMigration | None
) -> MigrationReport | None:
    if migration is None:
        return None
    return MigrationReport(
        id=migration.id,
        from_version=migration.from_version,
        target_version=migration.target_version,
        state=migration.state.value,
        started_at=migration.started_at,
        finished_at=migration.finished_at,
        error=migration.error,
        accepted_differences=accepted_differences(connection, context.schema, migration.id),
    )


def _replay_progress(
    context: Context, connection: Connection, migration: ViewMigration | None
) -> tuple[ReplayProgress | None, int]:
    if migration is None:
        return None, 0
    last = context.ledger.latest_pass(connection, migration.id)
    if last is None:
        return None, 0
    done = context.ledger.progress(connection, migration.id, last.number)
    seen = ReplayProgress(
        events_done=done.events_done,
        events_total=last.estimated_events,
        groups_done=done.groups_done,
        groups_total=done.groups_total,
        workers=fence.worker_count(connection, context.schema),
        seconds=done.seconds_elapsed,
        is_exact=last.is_exact,
    )
    return seen, last.number + 1


def _pending(context: Context, connection: Connection, migration: ViewMigration | None) -> int | None:
    """Count what no pass covers, for the types that the migration's projectors handle; None when that cannot be asked."""
    if migration is None or migration.state.is_finished:
        return None
    last = context.ledger.latest_pass(connection, migration.id)
    if last is None:
        return None
    stored = stored_event_types(connection, context.schema)
    ids = [stored[name] for name in migration.plan.event_types if name in stored]
    return pending_events(context, connection, since=last.until, event_type_ids=ids)

"""The beginning of a view migration: its row and its empty shadow tables, in one transaction; or the unfinished one that this code may go on with."""

from __future__ import annotations

from sequent_py.collector import collector_paused
from sequent_py.errors import InvalidTransition, PlanChanged
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.context import Context, live_blueprints
from sequent_py.view_schema.ddl import executor, table_files
from sequent_py.view_schema.planning import check_swap
from sequent_py.view_schema.plans import Plan, ResolvedPlan
from sequent_py.view_schema.states import Command, require


def resume(context: Context, connection: Connection, plan: Plan, command: Command) -> ViewMigration | None:
    """Return the unfinished migration in its settled state, provided that it is the one this code plans; None when there is none.

    Raises
    ------
    InvalidTransition
        It leads to another version.
    PlanChanged
        The declaration or a table file changed since it began.
    """
    versions = context.versions
    unfinished = versions.unfinished(connection)
    if unfinished is None:
        require(versions.latest_state(connection), command)
        return None
    if unfinished.target_version != plan.target_version:
        raise InvalidTransition(
            f"A view migration to version {unfinished.target_version} is unfinished ({unfinished.state}); this code plans version"
            f" {plan.target_version}.",
            remedy=f"Finish it with the code of version {unfinished.target_version}, or run: sequent migrate abort",
        )
    changed = ["the declaration"] if unfinished.plan != plan else []
    if not changed:
        changed = table_files.changed_files(unfinished.files_fingerprint, context.fingerprint(plan))
    if changed:
        raise PlanChanged(
            f"Since the migration to version {plan.target_version} began, this has changed: {', '.join(changed)}.",
            remedy="Restore it, or begin anew: sequent migrate abort, then sequent migrate online",
        )
    if unfinished.state.is_cut_over:
        # Its process died during the cut-over, and with it its closing of the gate.
        with connection.transaction():
            unfinished = versions.settle(connection, unfinished)
    require(unfinished.state, command)
    return unfinished


@collector_paused()
def begin_or_resume(
    context: Context, connection: Connection, plan: Plan, resolved: ResolvedPlan, progress: Progress
) -> tuple[ViewMigration, bool, tuple[str, ...]]:
    """Return the migration to build, whether it was begun before, and what its swap will not carry over.

    Raises
    ------
    InvalidTransition, PlanChanged
        As :func:`resume` does.
    DefinitionError, TableFileError, DependentObjects
        The table files do not work, or something is in the way of the swap. Nothing was written.
    """
    migration = resume(context, connection, plan, Command.ONLINE)
    if migration is not None:
        progress.note(f"Going on with migration {migration.id} ({migration.state}).")
        return migration, True, ()
    progress.step("checking the table files")
    live = live_blueprints(context, connection)
    # Writes nothing: whatever is wrong with the files, or in the way of the swap, is found here.
    proved = executor.trial(
        connection,
        view_schema=context.config.view_schema,
        replays=context.table_files(resolved),
        alters=context.alter_scripts(resolved),
        target_version=plan.target_version,
        live=live,
    )
    warnings = check_swap(context, connection, plan)
    for warning in warnings:
        progress.note(warning)
    progress.step("creating the shadow tables")
    return _begin(context, connection, plan, resolved, proved), False, warnings


def _begin(
    context: Context,
    connection: Connection,
    plan: Plan,
    resolved: ResolvedPlan,
    proved: executor.TrialResult,
) -> ViewMigration:
    """Write the migration's row and its empty shadow tables, all or nothing."""
    with connection.transaction():
        migration = context.versions.begin(connection, plan, context.fingerprint(plan))
        serial_order.record_need(context, connection, migration.id)
        created = executor.create_shadow_tables(
            connection,
            view_schema=context.config.view_schema,
            replays=context.table_files(resolved),
            blueprints=proved.blueprints,
            target_version=plan.target_version,
            outside=proved.outside,
        )
        orderings = {step.table_name: step.ordering for step in plan.replays}
        for blueprint in created:
            context.relations.record_shadow(
                connection, migration.id, blueprint, plan.target_version, orderings[blueprint.table]
            )
    return migration

"""The way from what serves to what this code declares: the plan of a migration or of a rollback, and whether something stands in its way.

Decided anew by every command; all of it reads, but for ``check_swap``, which tries views in a transaction that is rolled back.
"""

from __future__ import annotations

from sequent_py.errors import InvalidTransition
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.relations import TableRole, ViewTable
from sequent_py.view_schema.context import Context, live_blueprints
from sequent_py.view_schema.ddl import swap, table_files
from sequent_py.view_schema.ddl.view_trial import prove_views
from sequent_py.view_schema.planner import plan as make_plan
from sequent_py.view_schema.plans import Plan, resolve
from sequent_py.view_schema.rollback_plan import RollbackPlan, decide
from sequent_py.view_schema.tables import dependents


def current_plan(context: Context, connection: Connection | None) -> Plan:
    """Plan the way from the live version to the code's; from version 0 where no store is installed, which None stands for.

    Raises
    ------
    DefinitionError, InvalidTransition
        As the planner does.
    """
    plan = make_plan(
        context.definition,
        current_version=context.gate.read(connection).live_version if connection else 0,
        live=context.relations.live_tables(connection) if connection else {},
        available_alter_files=table_files.alter_files(context.config.sql_path),
    )
    if connection is not None and not plan.is_noop:
        _refuse_kept_version(context, connection, plan)
    return plan


def current_rollback(context: Context, connection: Connection) -> RollbackPlan | None:
    """Decide how the code's version comes to serve again; None where it does.

    Raises
    ------
    InvalidTransition, PlanChanged
        As :func:`sequent_py.view_schema.rollback_plan.decide` does.
    """
    versions = context.versions
    return decide(
        context.definition,
        live_version=context.gate.read(connection).live_version,
        history=versions.history(connection),
        tables=all_tables(context, connection),
    )


def all_tables(context: Context, connection: Connection) -> list[ViewTable]:
    """Return the recorded tables of every role."""
    return [table for role in TableRole for table in context.relations.tables(connection, role)]


def _refuse_kept_version(context: Context, connection: Connection, plan: Plan) -> None:
    """Tables of the target version itself that a rollback retired have the names that the shadow tables would need."""
    kept = [
        table.physical_name
        for table in context.relations.retired(connection)
        if table.version == plan.target_version
    ]
    if kept:
        raise InvalidTransition(
            f"Version {plan.target_version} was live and has been rolled back; its tables are kept: {', '.join(kept)}.",
            remedy="Go forth to it with this code: sequent migrate rollback; or drop them and build anew:"
            f" sequent migrate prune --version {plan.target_version}",
        )


def check_swap(
    context: Context, connection: Connection, plan: Plan, *, tries_views: bool = True
) -> tuple[str, ...]:
    """Show that nothing stands in the way of the swap; return what it will not carry over.

    ``tries_views`` reads the queries of views again over tables made from this code's files, in a transaction that is rolled back;
    commands that only report, on connections that cannot create anything, do without.

    Raises
    ------
    DependentObjects, DefinitionError
        What does.
    """
    live = live_blueprints(context, connection)
    warnings = dependents.check(connection, context.config.view_schema, plan, live)
    if tries_views:
        prove_views(
            connection,
            view_schema=context.config.view_schema,
            files=[files for _, files in context.table_files(resolve(plan, context.definition))],
            target_version=plan.target_version,
            live=live,
        )
    swap.check_retired_names(connection, view_schema=context.config.view_schema, plan=plan, live=live)
    return warnings


def require_tables(context: Context, connection: Connection, plan: RollbackPlan) -> None:
    """Refuse a rollback whose tables are recorded, and gone.

    Raises
    ------
    InvalidTransition
        Somebody dropped or renamed them.
    """
    missing = dependents.missing_tables(connection, context.config.view_schema, plan.physical_names)
    if missing:
        raise InvalidTransition(
            f"Version {plan.from_version} cannot be rolled back: {' '.join(missing)}",
            remedy="Put it back from a backup; or forget the generation that it belongs to:"
            f" sequent migrate prune --version {plan.target_version}",
        )

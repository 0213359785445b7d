"""What ``rollback`` would do, and whether anything stands in its way: looked at before, by the command itself and by ``rollback --plan``. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sequent_py.replay.ledger import Connection
from sequent_py.view_schema.bookkeeping.moment import at_one_moment
from sequent_py.view_schema.context import Context, live_blueprints
from sequent_py.view_schema.planning import check_swap, current_rollback, require_tables
from sequent_py.view_schema.retired.return_passes import pending_return
from sequent_py.view_schema.rollback_plan import RollbackPlan
from sequent_py.view_schema.tables import dependents


@dataclass(frozen=True, kw_only=True)
class RollbackPlanReport:
    """What ``rollback`` would do; see :mod:`sequent_py.view_schema.rollback_plan`."""

    migration_id: int | None = None
    """None when there is nothing to do."""
    from_version: int
    target_version: int
    is_forth: bool = False
    """Whether a version that was rolled back is to go live again."""
    returning: Mapping[str, str] = field(default_factory=dict)
    """Tables that come back, with the names under which they are kept."""
    retiring: Mapping[str, str] = field(default_factory=dict)
    """Tables that leave, with the names that they will be kept under."""
    in_place: tuple[str, ...] = ()
    """Tables that nobody kept up to date under their plain names, and that will be."""
    projectors: tuple[str, ...] = ()
    """Those that replay what was written since."""
    pending_events: int = 0
    """What they have to replay as of now."""
    warnings: tuple[str, ...] = ()

    @property
    def is_noop(self) -> bool:
        """Whether the code's version serves already."""
        return self.migration_id is None


def report_rollback_plan(context: Context) -> RollbackPlanReport:
    """Say what a rollback with this code would do; writes nothing.

    Raises
    ------
    InvalidTransition, PlanChanged, DependentObjects, DefinitionError, ForeignTransactionIds
        Why it could not work.
    """
    with context.reading("migrate rollback --plan") as connection:
        context.require_installed(connection)
        return at_one_moment(connection, context.schema, lambda: _rollback_plan(context, connection))


def _rollback_plan(context: Context, connection: Connection) -> RollbackPlanReport:
    plan = current_rollback(context, connection)
    if plan is None:
        version = context.definition.version
        return RollbackPlanReport(from_version=version, target_version=version)
    return RollbackPlanReport(
        migration_id=plan.migration.id,
        from_version=plan.from_version,
        target_version=plan.target_version,
        is_forth=plan.is_forth,
        returning=plan.exchange.returning,
        retiring=plan.exchange.leaving,
        in_place=plan.exchange.managed,
        projectors=plan.replay.projectors,
        warnings=check_rollback(context, connection, plan),
        pending_events=pending_return(context, connection, plan),
    )


def check_rollback(context: Context, connection: Connection, plan: RollbackPlan) -> tuple[str, ...]:
    """Show that every table is there and nothing stands in the way of the swap; return warnings."""
    require_tables(context, connection, plan)
    live = live_blueprints(context, connection)
    schema = context.config.view_schema
    left_alone = dependents.dependents(connection, schema, list(plan.introduced), live=live)
    dependents.refuse(left_alone, have_successors=False)
    # The tables that come back are there already, and need not be as this code's files would make them: the swap itself tries the views.
    return check_swap(context, connection, plan.leaving, tries_views=False)

"""What every cut-over shares: the way to it, the checks on the way, and the transaction that promotes the shadow tables.

``offline`` does it with the gate closed to writers, ``golive`` while they wait for a moment. Until the promotion has committed the old tables serve,
and whatever fails before leaves ``online_done`` with all of its work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from sequent_py.errors import InvalidTransition, SwapLockTimeout, VerificationFailed
from sequent_py.event_store.event_types import stored_event_types
from sequent_py.health.store_rows import require_append_order
from sequent_py.progress import Progress
from sequent_py.replay.ledger import Connection
from sequent_py.replay.quarantine import QuarantinedAggregate
from sequent_py.verification import SAMPLED_EVENTS, Verification
from sequent_py.view_schema import guards, states
from sequent_py.view_schema.bookkeeping import code_records
from sequent_py.view_schema.bookkeeping.versions import ViewMigration
from sequent_py.view_schema.building import serial_order
from sequent_py.view_schema.building.beginning import resume
from sequent_py.view_schema.building.passes import Passes
from sequent_py.view_schema.building.time_limit import TimeLimit
from sequent_py.view_schema.comparison.acceptance import accepting
from sequent_py.view_schema.comparison.schema_check import require_shadow_schemas
from sequent_py.view_schema.context import Context, live_blueprints, replayed_projectors, shadow_blueprints
from sequent_py.view_schema.ddl import swap
from sequent_py.view_schema.ddl.alter_trial import AlterScript
from sequent_py.view_schema.planning import check_swap
from sequent_py.view_schema.plans import Plan, ResolvedPlan, resolve
from sequent_py.view_schema.states import Command, MigrationState
from sequent_py.view_schema.tables import blockers, dependents, prepared
from sequent_py.view_schema.tables.blueprints import TableBlueprint
from sequent_py.view_schema.tables.outside_tables import OutsideTable

SMALL_WINDOW_EVENTS = 200
"""Catching up with the gate open may stop below this: the rest takes some tens of milliseconds."""
MOST_CATCH_UP_PASSES = 5
"""Where writers are faster than the replay, more passes would not help."""


@dataclass
class Stopwatch:
    """Seconds per named step, and since it was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    latest: str = ""
    """The step that began last."""
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds_in_all(self) -> float:
        """The time since this was made, between steps included."""
        return time.monotonic() - self._started

    @contextmanager
    def step(self, name: str, progress: Progress) -> Iterator[None]:
        """Announce a step and time it; a name that comes again is added up."""
        progress.step(name)
        self.latest = name
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def resumed(
    context: Context,
    connection: Connection,
    plan: Plan,
    command: Command,
    *,
    workers: int,
    group_target_events: int,
    watch: Stopwatch,
    progress: Progress,
    accept_quarantined: Collection[UUID],
    limit: TimeLimit | None = None,
) -> Promotion:
    """Return the promotion of the unfinished migration; changes nothing but a state to be settled.

    ``accept_quarantined`` names the aggregates that may be left behind, set aside as they are.

    Raises
    ------
    MigrationNotStarted, InvalidTransition, PlanChanged, UnknownEventTypes
        It cannot be promoted by this code, or not now.
    """
    resolved = resolve(plan, context.definition)
    migration = resume(context, connection, plan, command)
    assert migration is not None, "require() refuses a cut-over when nothing is unfinished"
    if plan.replays:
        # Types can have come since online.
        guards.require_known_types(
            connection,
            schema=context.schema,
            event_types=context.event_types,
            definition=context.definition,
        )
    passes = Passes(
        context,
        connection,
        migration,
        resolved,
        workers=workers,
        group_target_events=group_target_events,
        progress=progress,
        limit=limit,
    )
    return Promotion(
        context, connection, migration, resolved, passes, command, watch, progress, accept_quarantined
    )


class Promotion:
    """One migration on its way from ``online_done`` to ``live``."""

    def __init__(
        self,
        context: Context,
        connection: Connection,
        migration: ViewMigration,
        resolved: ResolvedPlan,
        passes: Passes,
        command: Command,
        watch: Stopwatch,
        progress: Progress,
        accept_quarantined: Collection[UUID],
    ) -> None:
        self.context, self.connection, self.migration = context, connection, migration
        self.resolved, self.passes = resolved, passes
        self.watch, self.progress = watch, progress
        self._command = command
        self._state = states.require(MigrationState.ONLINE_DONE, command).to_state
        """In which the command cuts over."""
        self._accept_quarantined = frozenset(accept_quarantined)
        self.left_behind: tuple[QuarantinedAggregate, ...] = ()
        self.catch_up_events = 0
        self.verified = 0
        self.rows: dict[str, int] = {}
        self.not_compared: tuple[str, ...] = ()
        """Warnings: tables that no sample could be compared of."""
        self._shadows: Mapping[str, TableBlueprint] = {}
        self._live: Mapping[str, TableBlueprint] = {}
        self._alters: Sequence[AlterScript] = ()
        self._views: Sequence[tuple[str, str]] = ()
        self._outside: Sequence[OutsideTable] = ()

    # On the way

    def enter(self) -> tuple[str, ...]:
        """Take over the workers, and refuse what can be seen to be in the way; return what the swap will not carry over.

        Raises
        ------
        AggregatesQuarantined, EventsEdited, DependentObjects, DefinitionError
            What is in the way.
        """
        self.passes.take_over()
        self.require_accepted()
        self.passes.require_unedited()
        with self.watch.step("checking", self.progress):
            # Checked at the door again: views, keys and names can have come since online.
            return check_swap(self.context, self.connection, self.resolved.plan)

    def require_accepted(self) -> None:
        """Refuse a promotion that would leave behind what nobody has accepted by name.

        Raises
        ------
        AggregatesQuarantined
            Naming them.
        """
        self.context.quarantine.require_accepted(self.connection, self.migration.id, self._accept_quarantined)

    def catch_up(self, is_enough: Callable[[], bool]) -> bool:
        """Replay window after window until ``is_enough``; False when it was not so after :data:`MOST_CATCH_UP_PASSES`."""
        with self.watch.step("catching up", self.progress):
            self.catch_up_events += self.passes.finish()
            for _ in range(MOST_CATCH_UP_PASSES):
                if is_enough():
                    return True
                self.catch_up_events += self.passes.catch_up()
            return is_enough()

    def verify(self, *, until: str, since: str | None, size: int, most_events: int = SAMPLED_EVENTS) -> None:
        """Compare a sample of the aggregates with a fresh fold.

        Raises
        ------
        VerificationFailed
            They differ.
        """
        if size == 0:
            return
        verification = self._verification()
        aggregates = verification.sample(
            self.connection,
            until=until,
            size=size,
            since=since,
            most_events=most_events,
            is_any_length=since is None,
        )
        with self.context.connect("verifying") as reader, self.accepting():
            self.verified += verification.check_aggregates(
                self.connection, reader, aggregates, until=until, most_events=most_events
            )
        if since is None:
            self.not_compared = verification.not_compared

    def check_counts(self) -> None:
        """Compare the row counts with what the groups say they wrote; exact between two passes, for nobody else writes these tables.

        Raises
        ------
        VerificationFailed
            They differ.
        """
        with self.accepting():
            self.rows = self._verification().check_counts(
                self.connection, self.context.ledger.row_counts(self.connection, self.migration.id)
            )

    def accepting(self) -> AbstractContextManager[None]:
        """Let a failed verification inside the block pass, on the record, if this command accepts differences."""
        return accepting(self.context, self.connection, self.migration.id, self.progress)

    def _verification(self) -> Verification:
        return Verification(
            event_store_schema=self.context.schema,
            projectors=replayed_projectors(self.resolved),
            tables=self.context.shadow_tables(self.connection, self.resolved),
            event_types=self.context.event_types,
            stored_types=stored_event_types(self.connection, self.context.schema),
            left_out=self.passes.set_aside(),
        )

    # The cut-over

    def prepare(self) -> None:
        """Read what the swap needs and nobody but a coordinator, which we are, can change: blueprints and alter files; check the schema.

        Raises
        ------
        VerificationFailed
            The shadow tables are not as their files create them.
        SwapLockTimeout
            Somebody holds a table that the files refer to.
        """
        self._shadows = shadow_blueprints(self.context, self.connection, self.migration.id)
        self._live = live_blueprints(self.context, self.connection)
        self._alters = self.context.alter_scripts(self.resolved)
        self._views = swap.serving_views(
            self.connection,
            view_schema=self.context.config.view_schema,
            tables=[step.table_name for step in self.resolved.plan.replays],
            live=self._live,
        )
        self._outside = swap.outside(
            self.connection,
            view_schema=self.context.config.view_schema,
            plan=self.resolved.plan,
            shadows=self._shadows,
            live=self._live,
        )
        with self.accepting(), self._naming_holders():
            require_shadow_schemas(self.context, self.connection, self.resolved)

    @contextmanager
    def _naming_holders(self) -> Iterator[None]:
        """Say who holds what the table files refer to: to run them locks that, too."""
        try:
            yield
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            found = blockers.outside_holders(
                self.connection, event_store_schema=self.context.schema, outside=self._outside
            )
            raise SwapLockTimeout(
                "The table files could not be tried, for they refer to tables that somebody holds; nothing was swapped. In the way:"
                f" {blockers.listed(found)}.",
                remedy=f"Let them finish, or end them; then: sequent migrate {self._command}",
            ) from error

    def rehearse(self) -> None:
        """Plan the statements of the swap, so that they are quick when everybody waits for them; for this session's life."""
        prepared.keep_plans(self.connection)
        swap.rehearse(
            self.connection,
            view_schema=self.context.config.view_schema,
            shadows=self._shadows,
            live=self._live,
        )

    def begin(self) -> None:
        """Enter the state of the command, in the caller's transaction."""
        self.context.versions.transition(
            self.connection, self.migration.id, (MigrationState.ONLINE_DONE,), self._state
        )

    def give_up(self, error: BaseException) -> None:
        """Go back to ``online_done`` and open the gate; where the connection is lost it is open already, for the lock died with it."""
        try:
            with self.connection.transaction():
                self.context.gate.reopen(self.connection)
                self.context.versions.transition(
                    self.connection,
                    self.migration.id,
                    (self._state,),
                    MigrationState.ONLINE_DONE,
                    error=str(error) or type(error).__name__,
                )
        except (psycopg.Error, InvalidTransition):
            self.progress.note("The state could not be written back; the next command settles it.")

    def serving_tables(self) -> list[str]:
        """Return the physical names of the tables that serve and will retire or be altered; one that somebody dropped keeps nobody from anything."""
        present = dependents.present_tables(self.connection, self.context.config.view_schema)
        return [name for name in swap.serving_tables(self.resolved.plan, self._live) if name in present]

    def shadow_tables(self) -> list[str]:
        """Return the physical names of the tables that will serve."""
        return [step.shadow_name for step in self.resolved.plan.replays]

    def serving_views(self) -> Sequence[tuple[str, str]]:
        """Return schema and name of the views that read those tables, in the order in which they must be locked, before the tables."""
        return self._views

    def outside_tables(self) -> Sequence[OutsideTable]:
        """Return the tables that stay and that foreign keys of those refer to, in the order in which they must be locked, before the gate."""
        return self._outside

    def promote(self) -> swap.SwapResult:
        """Swap, and record it, in the caller's transaction and under its ``lock_timeout``; :meth:`prepare` comes before.

        Raises
        ------
        psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected
            Not now; roll back and try again.
        AggregatesQuarantined
            As :meth:`require_accepted`: the last window may have set one aside.
        LostRow
            Appends formed no line.
        """
        context, connection, plan = self.context, self.connection, self.resolved.plan
        if context.ledger.has_unfinished(connection, self.migration.id):
            raise VerificationFailed(
                "Groups of the replay are unfinished; nothing was promoted.",
                remedy=f"Run: sequent migrate {self._command}",
            )
        require_append_order(connection, context.schema)
        self.left_behind = context.quarantine.accept(connection, self.migration.id, self._accept_quarantined)
        result = swap.swap(
            connection,
            view_schema=context.config.view_schema,
            plan=plan,
            shadows=self._shadows,
            live=self._live,
            alters=self._alters,
            view_locks=self._views,
            outside_locks=self._outside,
        )
        context.relations.promote(connection, self.migration.id, plan)
        code_records.hand_over(connection, context.schema, self.migration.id)
        context.versions.record_cut_over(connection, self.migration.id)
        for blueprint in (*result.live, *result.retired_blueprints):
            context.relations.record_names(connection, blueprint.physical_name, blueprint.to_json())
        context.gate.go_live(connection, plan.target_version)
        context.versions.transition(connection, self.migration.id, (self._state,), MigrationState.LIVE)
        serial_order.release(context, connection)
        return result

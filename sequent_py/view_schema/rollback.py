"""``rollback``: let the version of this code serve again, back or forth, without losing what was written meanwhile.

1. decide (:mod:`sequent_py.view_schema.rollback_plan`), and check that the tables are there and nothing stands in the way of the swap;
2. replay into the retired tables what has been written since they retired, pass after pass, until little is left;
3. compare a sample of aggregates with a fresh fold, and row counts with the ledger;
4. cut over without maintenance mode (:mod:`sequent_py.view_schema.cut_over`): while writers wait, the last window; then, in one transaction,
   the swap, the records, the gate's version, the state, and the snapshot from which the way in the other direction begins.

Until that transaction commits the version that serves goes on serving, and the migration's state does not change: a command that failed
or was killed leaves passes behind, which are right whatever comes next, and the same command goes on with them. So does, later, the
next one: ``online`` to another version does not care, and coming back through that version finds the passes again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sequent_py.errors import VerificationFailed
from sequent_py.progress import Progress
from sequent_py.replay import fence
from sequent_py.replay.ledger import Connection
from sequent_py.view_schema import executor, swap
from sequent_py.view_schema.context import (
    Context,
    live_blueprints,
    retired_blueprints,
)
from sequent_py.view_schema.cut_over import Stall, cut_over
from sequent_py.view_schema.inspection import check_swap, current_rollback, require_tables
from sequent_py.view_schema.plans import resolve
from sequent_py.view_schema.return_passes import ReturnPasses, pending_return
from sequent_py.view_schema.rollback_plan import RollbackPlan

SMALL_WINDOW_EVENTS = 200
"""Catching up stops below this: the rest takes some tens of milliseconds while writers wait."""
MOST_CATCH_UP_PASSES = 20
"""Where writers are faster than the replay, more passes would not help. The first has most of the work, and each is shorter than the last."""


@dataclass(frozen=True)
class RollbackPlanReport:
    """What ``rollback`` would do; see :mod:`sequent_py.view_schema.rollback_plan`."""

    migration_id: int | None
    """None when there is nothing to do."""
    from_version: int
    target_version: int
    is_forth: bool
    """Whether a version that was rolled back is to go live again."""
    returning: Mapping[str, str]
    """Tables that come back, with the names under which they are kept."""
    retiring: Mapping[str, str]
    """Tables that leave, with the names that they will be kept under."""
    in_place: tuple[str, ...]
    """Tables that nobody kept up to date under their plain names, and that will be."""
    projectors: tuple[str, ...]
    """Those that replay what was written since."""
    pending_events: int
    """What they have to replay as of now."""
    warnings: tuple[str, ...] = ()

    @property
    def is_noop(self) -> bool:
        """Whether the code's version serves already."""
        return self.migration_id is None


@dataclass(frozen=True)
class RollbackReport:
    """What ``rollback`` did."""

    migration_id: int | None
    from_version: int
    target_version: int
    is_noop: bool
    is_forth: bool
    catch_up_events: int
    """Events replayed by this run before the cut-over."""
    window_events: int
    """Events replayed while writers waited."""
    verified_aggregates: int
    rows: Mapping[str, int]
    """Of the tables that were brought up to date, before the last window."""
    returned_tables: tuple[str, ...]
    retired_tables: tuple[str, ...]
    seconds: float
    writers_stalled_milliseconds: float
    readers_stalled_milliseconds: float
    warnings: tuple[str, ...] = ()


def report_rollback_plan(context: Context) -> RollbackPlanReport:
    """Say what a rollback with this code would do; writes nothing.

    Raises
    ------
    InvalidTransition, PlanChanged, DependentObjects, DefinitionError, ForeignTransactionIds
        Why it could not work.
    """
    with context.reading("migrate rollback --plan") as connection:
        context.require_installed(connection)
        plan = current_rollback(context, connection)
        if plan is None:
            return _nothing_planned(context.definition.version)
        return RollbackPlanReport(
            migration_id=plan.migration.id,
            from_version=plan.from_version,
            target_version=plan.target_version,
            is_forth=plan.is_forth,
            returning=plan.exchange.returning,
            retiring=plan.exchange.leaving,
            in_place=plan.exchange.managed,
            projectors=plan.replay.projectors,
            warnings=_check(context, connection, plan),
            pending_events=pending_return(context, connection, plan),
        )


def run_rollback(
    context: Context,
    *,
    workers: int,
    group_target_events: int,
    lock_timeout_seconds: float,
    lock_budget_seconds: float,
    verify_sample: int,
    progress: Progress,
) -> RollbackReport:
    """Bring the retired tables up to date and swap them in.

    Raises
    ------
    InvalidTransition, PlanChanged, DependentObjects, DefinitionError, ConcurrentMigration
        Nothing was changed.
    ProjectionFailed, InvalidPayload, EventsEdited, VerificationFailed, SwapLockTimeout, WorkerFailed
        The version that served serves on; finished groups are kept.
    """
    started = time.monotonic()
    if workers > 0:
        context.require_importable()
    with context.coordinating("rollback") as connection:
        plan = current_rollback(context, connection)
        if plan is None:
            return _nothing_done(context.definition.version)
        progress.step("checking")
        warnings = _check(context, connection, plan)
        for warning in warnings:
            progress.note(warning)
        with context.noting_errors(connection, plan.migration.id):
            # Also where nothing is to be replayed: what a killed run left behind must not hold the tables.
            fence.evict_workers(connection, context.schema)
            run = _Run(context, connection, plan, workers, group_target_events, progress)
            run.approach(verify_sample)
            result, stall = run.cut_over(lock_timeout_seconds, lock_budget_seconds)
        return RollbackReport(
            migration_id=plan.migration.id,
            from_version=plan.from_version,
            target_version=plan.target_version,
            is_noop=False,
            is_forth=plan.is_forth,
            catch_up_events=run.catch_up_events,
            window_events=run.window_events,
            verified_aggregates=run.verified,
            rows=run.rows,
            returned_tables=tuple(plan.exchange.returning),
            retired_tables=result.retired,
            seconds=time.monotonic() - started,
            writers_stalled_milliseconds=stall.writers_milliseconds,
            readers_stalled_milliseconds=stall.readers_milliseconds,
            warnings=(*warnings, *result.warnings),
        )


@dataclass
class _Run:
    """One run of the command, from the first pass to the commit."""

    context: Context
    connection: Connection
    plan: RollbackPlan
    workers: int
    group_target_events: int
    progress: Progress
    catch_up_events: int = 0
    window_events: int = 0
    verified: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Nothing to replay: every table that returns was stale when it left, or none does. Then nobody asks for the cut-over's snapshot.
        self.passes = (
            ReturnPasses(
                self.context,
                self.connection,
                self.plan,
                resolve(self.plan.replay, self.context.definition),
                workers=self.workers,
                group_target_events=self.group_target_events,
                progress=self.progress,
            )
            if self.plan.replay.replays
            else None
        )

    def approach(self, verify_sample: int) -> None:
        """Do all that can be done while writers and readers go on."""
        if self.passes is None:
            return
        self.passes.take_over()
        self.passes.require_unedited()
        self._catch_up(self.passes)
        self.progress.step("verifying")
        with _named(self.plan):
            self._verify(self.passes, verify_sample)
            # Writers went on while we compared.
            self._catch_up(self.passes)
            # Counted here, not behind the cut-over's locks: nobody but our passes writes to these tables.
            self.rows = self.passes.verification().check_counts(self.connection, self.passes.expected_rows())
        if self.catch_up_events:
            self.progress.step("analysing")
            names = [step.shadow_name for step in self.plan.replay.replays]
            executor.analyse(self.connection, self.context.config.view_schema, names)

    def _catch_up(self, passes: ReturnPasses) -> None:
        self.progress.step("catching up")
        self.catch_up_events += passes.finish()
        for _ in range(MOST_CATCH_UP_PASSES):
            # One pass there is in any case: with it the tables' row counts are recorded.
            if passes.has_begun and passes.pending_events() <= SMALL_WINDOW_EVENTS:
                break
            self.catch_up_events += passes.catch_up()

    def _verify(self, passes: ReturnPasses, size: int) -> None:
        if size == 0:
            return
        until = passes.last().until
        verification = passes.verification()
        aggregates = verification.sample(self.connection, until=until, size=size)
        with self.context.connect("verifying") as reader:
            self.verified = verification.check_aggregates(self.connection, reader, aggregates, until=until)

    def cut_over(
        self, lock_timeout_seconds: float, lock_budget_seconds: float
    ) -> tuple[swap.SwapResult, Stall]:
        """Replay the last window and swap, while nobody writes."""
        self.progress.step("swapping")
        with self.context.connect("rollback, last window") as own:
            passes = None if self.passes is None else self.passes.on(own)

            def last_window() -> None:
                # A try that does not get all of its locks is repeated: what it has committed was right, and less is left.
                if passes is not None:
                    passes.require_unedited()
                    self.window_events += passes.catch_up()

            result, stall = cut_over(
                self.context,
                self.connection,
                tables=tuple(self.plan.exchange.leaving),
                last_window=last_window,
                promote=self._promote,
                lock_timeout_seconds=lock_timeout_seconds,
                budget_seconds=lock_budget_seconds,
                progress=self.progress,
                command="rollback",
            )
        self.context.versions.record_stall(
            self.connection, self.plan.migration.id, stall.writers_milliseconds
        )
        return result, stall

    def _promote(self, connection: Connection) -> swap.SwapResult:
        """Swap and record, in the caller's transaction: from its commit on the code of the target version may append."""
        context, plan = self.context, self.plan
        if context.ledger.unfinished_groups(connection, plan.migration.id) > 0:
            raise VerificationFailed(
                "Groups of the replay are unfinished; nothing was swapped.",
                remedy="Run: sequent migrate rollback",
            )
        result = swap.swap(
            connection,
            view_schema=context.config.view_schema,
            plan=plan.swap,
            shadows=retired_blueprints(context, connection, plan.migration.id),
            live=live_blueprints(context, connection),
            leaving=plan.introduced,
        )
        context.versions.exchange(connection, plan.migration.id, plan.exchange)
        for blueprint in (*result.live, *result.retired_blueprints):
            context.versions.record_names(connection, blueprint.physical_name, blueprint.to_json())
        context.gate.set_live_version(connection, plan.target_version)
        context.versions.transition(connection, plan.migration.id, (plan.migration.state,), plan.to_state)
        return result


def _check(context: Context, connection: Connection, plan: RollbackPlan) -> tuple[str, ...]:
    """Show that every table is there and nothing stands in the way of the swap; return warnings."""
    require_tables(context, connection, plan)
    return check_swap(context, connection, plan.leaving)


@contextmanager
def _named(plan: RollbackPlan) -> Iterator[None]:
    """Say of tables that differ from the log whose they are, and what is left to do: there is nothing to abort."""
    try:
        yield
    except VerificationFailed as error:
        raise VerificationFailed(
            f"The kept tables of version {plan.target_version} are not equal to the log, and version {plan.from_version} serves on:"
            f" {error.message}",
            remedy=f"Is this the code that was deployed as version {plan.target_version}? If it is, somebody else changed those tables: build"
            " them anew by listing their projectors under a newer version, then sequent migrate online",
        ) from error


def _nothing_planned(version: int) -> RollbackPlanReport:
    return RollbackPlanReport(
        migration_id=None,
        from_version=version,
        target_version=version,
        is_forth=False,
        returning={},
        retiring={},
        in_place=(),
        projectors=(),
        pending_events=0,
    )


def _nothing_done(version: int) -> RollbackReport:
    return RollbackReport(
        migration_id=None,
        from_version=version,
        target_version=version,
        is_noop=True,
        is_forth=False,
        catch_up_events=0,
        window_events=0,
        verified_aggregates=0,
        rows={},
        returned_tables=(),
        retired_tables=(),
        seconds=0.0,
        writers_stalled_milliseconds=0.0,
        readers_stalled_milliseconds=0.0,
    )
